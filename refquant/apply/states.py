"""Calibration states: sequences with some positions masked, as the model will meet them.

Each generator is one rung of the calibration ladder: ``clean`` text, ``iid`` masks, a ``ratio_grid`` behind a visible beginning, states of
``rollout`` trajectories drawn uniformly, and ``tmas``. All draw from the same calibration lines with the same lengths, so that they can
be compared at equal numbers of tokens. ``stored`` ones are taken from the file as they are: a model that is too large for rollouts here.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from model import Transformer, aligned
from refquant.apply.corpus import CalibrationLine, split_line
from refquant.apply.recipe import Calibration
from refquant.apply.rollout import Rollout, roll_out
from refquant.apply.whole_model import WholeModel, packed, reached, unpacked
from refquant.apply.workforce import HERE, Workforce
from refquant.errors import InputError, UsageError
from refquant.methods.diffusion.tmas import tmas
from refquant.numerics.arrays import Array, read_only
from refquant.numerics.draws import permutation, sample_without_replacement, uniforms
from refquant.numerics.frozen import by_constructor

Progress = Callable[[str, int, int], None]
LOGITS = 1 << 25
"""Numbers that are held of a vocabulary's probabilities at a time: whole sequences, one at the least."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CalibrationState:
    """One sequence.

    Parameters
    ----------
    ids : int ndarray ``[T]``
        Masks included.
    masked : bool ndarray ``[T]``
    final_ids : int ndarray ``[T]``
        What stands at each position in the end: the data's token, or the one the rollout committed.
    line : int
        Index of the calibration line.
    """

    ids: Array
    masked: Array
    final_ids: Array
    line: int

    __reduce__ = by_constructor

    def __post_init__(self) -> None:
        for name in ("ids", "masked", "final_ids"):
            object.__setattr__(self, name, read_only(getattr(self, name)))


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationSet:
    """The states of one calibration, and how they came about.

    Parameters
    ----------
    states : tuple of CalibrationState
    rejected : int
        Rollouts that were thrown away because they repeat themselves.
    """

    states: tuple[CalibrationState, ...]
    rejected: int = 0

    @property
    def tokens(self) -> int:
        """Number of tokens in all states."""
        return sum(len(state.ids) for state in self.states)

    def limited(self, tokens: int) -> CalibrationSet:
        """The first states up to a number of tokens; the last one is cut short where it has to be.

        Raises
        ------
        InputError
            If there are fewer tokens than asked for.
        """
        if self.tokens < tokens:
            raise InputError(f"{tokens} calibration tokens were asked of states with {self.tokens}")
        kept: list[CalibrationState] = []
        for state in self.states:
            room = tokens - sum(len(s.ids) for s in kept)
            if room <= 0:
                break
            kept.append(
                CalibrationState(ids=state.ids[:room], masked=state.masked[:room], final_ids=state.final_ids[:room], line=state.line)
            )
        return CalibrationSet(states=tuple(kept), rejected=self.rejected)


def calibration_states(
    m: Transformer,
    lines: Sequence[CalibrationLine],
    plan: Calibration,
    rng: np.random.Generator,
    *,
    eos_id: int | None,
    tokens: int | None = None,
    progress: Progress | None = None,
    workers: Workforce = HERE,
) -> CalibrationSet:
    """Make the states that a recipe asks for.

    Parameters
    ----------
    m : Transformer
        The full-precision model; rollouts are its.
    lines : sequence of CalibrationLine
    plan : Calibration
    rng : numpy.random.Generator
        Orders the lines, then draws masks or states.
    eos_id : int or None
        Fills the rest of a short response, as in the training of LLaDA; None leaves responses as they are.
    tokens : int, optional
        Stop at this many tokens exactly instead of ``plan.samples`` sequences.
    progress : callable, optional
        Called with what is done, how much, of how much.
    workers : Workforce
        Who rolls out.

    Returns
    -------
    CalibrationSet

    Raises
    ------
    InputError
        If the lines do not suffice.
    """
    if plan.states == "none":
        return CalibrationSet(states=())
    if plan.states == "stored":
        found = CalibrationSet(states=_stored(m, lines, plan.samples))
        return found if tokens is None else found.limited(tokens)
    order = [int(i) for i in permutation(rng, len(lines))]
    if plan.states in ("clean", "iid", "ratio_grid"):
        return _drawn_masks(m, lines, order, plan, rng, eos_id, tokens)
    rollouts, rejected = roll_out(m, lines, order, plan, rng, eos_id, progress, workers)
    recorded = [(rollout, step) for rollout in rollouts for step in range(len(rollout.ids))]
    if plan.states == "rollout":
        if len(recorded) < plan.samples:
            raise InputError(f"{plan.samples} samples were asked of {len(recorded)} recorded states; record more rollouts or draw fewer")
        chosen = sorted(int(i) for i in sample_without_replacement(rng, len(recorded), plan.samples))
    else:
        places = [rollout.places[step] for rollout, step in recorded]
        chosen = tmas(places, plan.samples, rng, proportions=plan.proportions, bins=plan.bins, joint=plan.joint)
    if tokens is not None:  # what is cut off at the end must not be the last rollouts
        chosen = [chosen[int(i)] for i in permutation(rng, len(chosen))]
    found = CalibrationSet(states=tuple(_recorded_state(*recorded[i]) for i in chosen), rejected=rejected)
    return found if tokens is None else found.limited(tokens)


def _stored(m: Transformer, lines: Sequence[CalibrationLine], samples: int) -> tuple[CalibrationState, ...]:
    """The first states that the calibration lines hold."""
    mask_id = m.config.mask_token_id
    if mask_id is None:
        raise InputError("the model's config names no mask_token_id; stored states say where masks stand")
    there = [(number, line.ids, line.masked) for number, line in enumerate(lines) if line.masked is not None]
    if len(there) < samples:
        raise InputError(
            f"{samples} stored states were asked of a calibration file with {len(there)}; "
            f'a stored state is a line {{"ids", "masked"}}, --samples takes fewer'
        )
    states: list[CalibrationState] = []
    for number, ids, places in there[:samples]:
        final = np.array(ids)
        masked = np.zeros(len(ids), dtype=bool)
        masked[list(places)] = True
        states.append(CalibrationState(ids=np.where(masked, mask_id, final), masked=masked, final_ids=final, line=number))
    return tuple(states)


def _recorded_state(rollout: Rollout, step: int) -> CalibrationState:
    return CalibrationState(ids=rollout.ids[step], masked=rollout.masked[step], final_ids=rollout.final_ids, line=rollout.line)


def _drawn_masks(
    m: Transformer,
    lines: Sequence[CalibrationLine],
    order: list[int],
    plan: Calibration,
    rng: np.random.Generator,
    eos_id: int | None,
    tokens: int | None,
) -> CalibrationSet:
    """Clean text, i.i.d. masks or a grid of ratios, round-robin over ``plan.prompts`` lines."""
    usable = [i for i in order if lines[i].response is not None]
    if not usable:
        raise InputError(f"calibration states {plan.states!r} need lines with a text or a response; the file has prompts only")
    usable = usable[: plan.prompts]
    mask_id = m.config.mask_token_id
    if mask_id is None and plan.states != "clean":
        raise InputError(f"the model's config names no mask_token_id; states {plan.states!r} draw masks, 'clean' ones do without")
    texts: list[tuple[int, Array, int]] = []  # a line, its ids, where its response begins
    while (len(texts) < plan.samples) if tokens is None else (sum(len(ids) for _, ids, _ in texts) < tokens):
        line = usable[len(texts) % len(usable)]
        prompt, response = split_line(lines[line], plan.gen_length, plan.block_length, eos_id)
        texts.append((line, np.array(prompt + response), len(prompt)))
    states: list[CalibrationState] = []
    for number, (line, ids, response_start) in enumerate(texts):
        masked = np.zeros(len(ids), dtype=bool)
        if plan.states == "iid":
            ratio, *draws = uniforms(rng, 1 + len(ids) - response_start)
            masked[response_start:] = np.array(draws) < ratio
        elif plan.states == "ratio_grid":  # the ratio of the i-th of N is i/N; prompts beyond the visible beginning are masked, too
            visible = int(plan.visible_share * len(ids))
            masked[visible:] = uniforms(rng, len(ids) - visible) < (number + 1) / len(texts)
        noised = ids if mask_id is None else np.where(masked, mask_id, ids)  # without a mask token nothing is masked
        states.append(CalibrationState(ids=noised, masked=masked, final_ids=ids, line=line))
    found = CalibrationSet(states=tuple(states))
    return found if tokens is None else found.limited(tokens)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Batch:
    """A task: states ``[B, T]`` whose confidences are asked for."""

    source: Transformer | WholeModel
    ids: Array
    final: Array
    whose: str


def state_confidences(
    m: Transformer, states: Sequence[CalibrationState], whose: str, batch_tokens: int = 4096, workers: Workforce = HERE
) -> list[Array]:
    """Confidence of every position of every state under the full-precision model, float64.

    Parameters
    ----------
    m : Transformer
    states : sequence of CalibrationState
    whose : {"argmax", "final_token", "margin"}
        Probability of the likeliest token; of the token that stands there in the end; or of the likeliest minus the second likeliest.
    batch_tokens : int
        Tokens a forward pass at the most.
    workers : Workforce
    """
    workers = reached(workers, m)
    source, grouping = packed(workers, m), list(batches(states, batch_tokens))
    tasks = (
        _Batch(
            source=source,
            ids=np.stack([states[i].ids for i in batch]),
            final=np.stack([states[i].final_ids for i in batch]),
            whose=whose,
        )
        for batch in grouping
    )
    found: dict[int, Array] = {}
    for batch, rows in zip(grouping, workers.map(_batch_confidences, tasks), strict=True):
        found |= zip(batch, rows, strict=True)
    return [found[index] for index in range(len(states))]


def _batch_confidences(task: _Batch) -> list[Array]:
    m = unpacked(task.source)
    hidden, found = _final_hidden(m, task.ids), list[Array]()
    step = max(1, LOGITS // (hidden.shape[1] * m.config.embedding_rows))
    for start in range(0, len(hidden), step):
        part = slice(start, start + step)
        logits = aligned(m, m.head(hidden[part])).astype(np.float64)
        picked = _confidence(m.arithmetic.softmax(logits), task.final[part], task.whose)
        found += list(np.minimum(picked, 1.0))
    return found


def _final_hidden(m: Transformer, ids: Array) -> Array:
    """Residual stream behind the last block, ``[B, T, d]``."""
    x = m.embed(ids)
    context = m.context(x.shape[0], x.shape[1])
    for index in range(m.config.n_layers):
        x = m.block(index, x, context)
    return x


def _confidence(probabilities: Array, final: Array, whose: str) -> Array:
    """One number a position from ``[B, T, rows]``."""
    match whose:
        case "argmax":
            return np.asarray(probabilities.max(axis=-1))
        case "final_token":
            return np.asarray(np.take_along_axis(probabilities, final[..., None], -1)[..., 0])
        case "margin":
            second, first = np.moveaxis(np.sort(probabilities, axis=-1, kind="stable")[..., -2:], -1, 0)
            return np.asarray(first - second)
    raise UsageError(f"confidence is 'argmax', 'final_token' or 'margin', not {whose!r}")


def batches(states: Sequence[CalibrationState], batch_tokens: int) -> Iterable[list[int]]:
    """Indices of states of equal length, together up to a number of tokens; no padding is ever needed."""
    by_length: dict[int, list[int]] = defaultdict(list)
    for index, state in enumerate(states):
        by_length[len(state.ids)].append(index)
    for length, members in sorted(by_length.items()):
        rows = max(1, batch_tokens // max(length, 1))
        for start in range(0, len(members), rows):
            yield members[start : start + rows]
