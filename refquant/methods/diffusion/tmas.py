"""TMAS: temporal-mask adaptive sampling of calibration states (DLLMQuant, arXiv 2508.14090).

A masked diffusion model meets states from "all masked" to "complete". TMAS records rollouts of the full-precision model and draws
calibration states so that time and mask ratio are covered, more densely at both ends.

[TMAS-1]  bins: four equal parts of a trajectory by time, tau = step / steps (or by the masked share of the response, or of the block).
[TMAS-2]  quotas: 0.3, 0.2, 0.2, 0.3 of the samples, by largest remainder (ties: lower bin).
[TMAS-3]  a bin with fewer states than its quota passes the rest on to the others in proportion to their shares.
[TMAS-4]  inside a bin: without replacement, generation blocks (and, with ``joint``, quartiles of the current block's mask ratio) in turn,
          and from each the state whose prompt was drawn least often so far.

The paper states only that the generation is cut into blocks and states are picked at intervals so that steps and mask ratios are covered;
the shares come from a public review. What the bins are, and [TMAS-3] and [TMAS-4], are our reading, each a named option or stated here.

This module is a pure choice among recorded states; the rollouts are made elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import numpy as np

from refquant.errors import InputError, UsageError
from refquant.methods.card import Card, Equation
from refquant.numerics.draws import permutation

PROPORTIONS = (0.3, 0.2, 0.2, 0.3)
BinRule = Literal["time", "mask_ratio", "block_ratio"]

CARD = Card(
    name="tmas",
    title="TMAS: temporal-mask adaptive sampling of calibration states",
    paper="DLLMQuant, arXiv 2508.14090; no public code",
    inputs=("recorded states of rollouts", "number of samples", "random generator"),
    equations=(
        Equation("TMAS-1", "four equal bins of the trajectory by time or by mask ratio"),
        Equation("TMAS-2", "quotas 0.3, 0.2, 0.2, 0.3 by largest remainder"),
        Equation("TMAS-3", "shortfalls go to the other bins in proportion"),
        Equation("TMAS-4", "inside a bin: blocks in turn, least-drawn prompt first, without replacement"),
    ),
    departures=(
        "what the four shares refer to is not stated: bins='time' (default), 'mask_ratio' or 'block_ratio' (per block)",
        "coverage of the current block's own mask ratio is an option, joint=True",
        "number of rollouts, prompts and sampler settings are not stated: they belong to the recipe",
    ),
    guarantees=("128 samples give quotas 38, 26, 26, 38", "the same generator state gives the same choice on every machine"),
    lane="exact",
    cost="one full-precision rollout a prompt; the choice itself is negligible",
    oracle="refquant.oracle.quotas",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedState:
    """Where a state of a rollout stands; counts, so that every share is exact.

    Parameters
    ----------
    prompt : int
        Which rollout.
    step, steps : int
        Steps done before this state, of how many.
    block : int
        The generation block being filled.
    block_masked, block_length : int
        Masked positions in that block, and its length.
    masked, response : int
        Masked positions in the whole response, and its length.

    Raises
    ------
    InputError
        If a count exceeds its whole.
    """

    prompt: int
    step: int
    steps: int
    block: int
    block_masked: int
    block_length: int
    masked: int
    response: int

    def __post_init__(self) -> None:
        pairs = (("step", "steps"), ("block_masked", "block_length"), ("masked", "response"))
        for part, whole in pairs:
            found, limit = getattr(self, part), getattr(self, whole)
            if limit < 1 or not 0 <= found <= limit:
                raise InputError(
                    f"a recorded state has {part} {found} of {whole} {limit}; 0 <= {part} <= {whole} and {whole} >= 1 are needed"
                )


def tmas(
    states: Sequence[RecordedState],
    samples: int,
    rng: np.random.Generator,
    *,
    proportions: Sequence[float] = PROPORTIONS,
    bins: BinRule = "time",
    joint: bool = False,
) -> list[int]:
    """Choose calibration states.

    Parameters
    ----------
    states : sequence of RecordedState
    samples : int
        How many to choose.
    rng : numpy.random.Generator
        Only the raw words of its bit generator are used, so the choice does not depend on NumPy's version.
    proportions : sequence of float
        Share of each bin, first to last; they need not add up to 1. Their number is the number of bins.
    bins : {"time", "mask_ratio", "block_ratio"}
        Time, the masked share of the response, or that of the current block: the shares then hold inside every block.
    joint : bool
        Also take the quartiles of the current block's mask ratio in turn.

    Returns
    -------
    list of int
        Indices into `states`, increasing, without repetition.

    Raises
    ------
    InputError
        If there are fewer states than samples.
    UsageError
        If an option is out of range.

    Examples
    --------
    >>> states = [RecordedState(prompt=0, step=t, steps=8, block=0, block_masked=8 - t, block_length=8, masked=8 - t, response=8)
    ...           for t in range(8)]
    >>> tmas(states, 8, np.random.Generator(np.random.PCG64(0)))
    [0, 1, 2, 3, 4, 5, 6, 7]
    """
    if isinstance(samples, bool) or not isinstance(samples, int | np.integer) or samples < 1:
        raise UsageError(f"the number of samples is a positive integer, not {samples!r}")
    exact_shares(proportions)
    if len(states) < samples:
        raise InputError(f"{samples} samples were asked of {len(states)} recorded states; record more rollouts or draw fewer")
    count = len(proportions)
    members: list[list[int]] = [[] for _ in range(count)]
    for index, state in enumerate(states):
        members[_bin(state, bins, count)].append(index)  # [TMAS-1]
    taken = capped_quotas(proportions, samples, [len(bin_) for bin_ in members])
    drawn: dict[int, int] = {}
    chosen: list[int] = []
    for candidates, quota in zip(members, taken, strict=True):
        chosen += _balanced_draw(states, candidates, quota, drawn, joint, rng)
    return sorted(chosen)


def quotas(proportions: Sequence[float], samples: int) -> list[int]:
    """Split `samples` by largest remainder [TMAS-2]: floors first, the rest to the largest fractional parts, ties to the lower index.

    A share is read as the decimal number that it prints as, so 0.3 is exactly 3/10.

    Raises
    ------
    UsageError
        If a share is negative or not finite, or all are 0; if `samples` is not a natural number.

    Examples
    --------
    >>> quotas((0.3, 0.2, 0.2, 0.3), 128)
    [38, 26, 26, 38]
    """
    if isinstance(samples, bool) or not isinstance(samples, int | np.integer) or samples < 0:
        raise UsageError(f"the number of samples is an integer of at least 0, not {samples!r}")
    shares = exact_shares(proportions)
    exact = [share * samples / sum(shares) for share in shares]
    result = [int(value) for value in exact]
    by_remainder = sorted(range(len(exact)), key=lambda i: (result[i] - exact[i], i))
    for i in by_remainder[: samples - sum(result)]:  # [TMAS-2]
        result[i] += 1
    return result


def exact_shares(proportions: Sequence[float]) -> list[Fraction]:
    """Return each share as the decimal number that it prints as; errors as in :func:`quotas`.

    Examples
    --------
    >>> exact_shares((0.3, 0.7))
    [Fraction(3, 10), Fraction(7, 10)]
    """
    if not all(np.isfinite(p) and p >= 0 for p in proportions) or not any(proportions):
        raise UsageError(f"proportions are finite, not negative and not all 0; got {tuple(proportions)}")
    return [Fraction(str(p)) for p in proportions]


def capped_quotas(proportions: Sequence[float], samples: int, available: Sequence[int]) -> list[int]:
    """Quotas that no bin is too small for [TMAS-3].

    Raises
    ------
    InputError
        If all bins together are too small.
    UsageError
        If a share is negative or not finite, or all are 0, or their number is not that of the bins.

    Examples
    --------
    >>> capped_quotas((0.3, 0.2, 0.2, 0.3), 10, (1, 9, 9, 9))
    [1, 3, 2, 4]
    """
    if samples > sum(available):
        raise InputError(f"{samples} samples were asked of {sum(available)} states")
    if len(proportions) != len(available):
        raise UsageError(f"{len(proportions)} proportions were given for {len(available)} bins")
    exact_shares(proportions)
    taken = [0] * len(proportions)
    missing = samples
    while missing:
        has_room = [taken[i] < available[i] for i in range(len(taken))]
        open_shares = [p if room else 0.0 for p, room in zip(proportions, has_room, strict=True)]
        if not any(open_shares):  # only bins with a share of 0 are left
            open_shares = [float(room) for room in has_room]
        for i, more in enumerate(quotas(open_shares, missing)):  # [TMAS-3]
            taken[i] = min(taken[i] + more, available[i])
        missing = samples - sum(taken)
    return taken


def _bin(state: RecordedState, rule: str, count: int) -> int:
    match rule:
        case "time":
            return min(state.step * count // state.steps, count - 1)
        case "mask_ratio":
            return min((state.response - state.masked) * count // state.response, count - 1)
        case "block_ratio":
            return min((state.block_length - state.block_masked) * count // state.block_length, count - 1)
    raise UsageError(f"bins is 'time', 'mask_ratio' or 'block_ratio', not {rule!r}")


def _balanced_draw(
    states: Sequence[RecordedState], candidates: list[int], quota: int, drawn: dict[int, int], joint: bool, rng: np.random.Generator
) -> list[int]:
    """[TMAS-4]; `drawn` counts draws a prompt over all bins and is brought up to date."""
    if not candidates:
        return []
    shuffled = [candidates[int(i)] for i in permutation(rng, len(candidates))]
    strata: dict[tuple[int, int], list[int]] = {}
    for index in shuffled:
        state = states[index]
        quartile = min((state.block_length - state.block_masked) * 4 // state.block_length, 3) if joint else 0
        strata.setdefault((state.block, quartile), []).append(index)
    queues = [strata[key] for key in sorted(strata)]
    chosen: list[int] = []
    while len(chosen) < quota:
        for queue in queues:
            if queue and len(chosen) < quota:  # [TMAS-4]
                place = min(range(len(queue)), key=lambda j: drawn.get(states[queue[j]].prompt, 0))
                index = queue.pop(place)
                drawn[states[index].prompt] = drawn.get(states[index].prompt, 0) + 1
                chosen.append(index)
    return chosen
