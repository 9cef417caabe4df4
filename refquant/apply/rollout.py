"""Rollouts of the full-precision model, recorded state by state.

Sequences of one shape go through the model a few at a time, and such a batch is a task for workers. What a batch is made of does not
depend on who computes, and a sequence draws the numbers that it would draw if all went through together.
"""

from __future__ import annotations

import copy
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import PCG64

from model import Transformer, denoise
from refquant.apply.corpus import CalibrationLine, generated_length, split_line
from refquant.apply.recipe import Calibration
from refquant.apply.whole_model import WholeModel, packed, reached, unpacked
from refquant.apply.workforce import HERE, Workforce
from refquant.errors import InputError
from refquant.methods.diffusion.tmas import RecordedState
from refquant.numerics.arrays import Array
from refquant.numerics.draws import uniforms, words

Progress = Callable[[str, int, int], None]
BATCH_TOKENS = 512
"""Tokens that go through the model together: enough that a narrow one is not held up by calls, few enough that workers have their share."""
SKIPPED = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rollout:
    """One denoising trajectory.

    Parameters
    ----------
    line : int
        Index of the calibration line.
    prompt_length : int
    ids : int ndarray ``[steps, T]``
        The sequence before each step.
    masked : bool ndarray ``[steps, T]``
    final_ids : int ndarray ``[T]``
    places : tuple of RecordedState
        Where each state stands.
    """

    line: int
    prompt_length: int
    ids: Array
    masked: Array
    final_ids: Array
    places: tuple[RecordedState, ...]

    def distinct_share(self, eos_id: int | None) -> float:
        """Share of distinct tokens in the response before its first end token; 0 for an empty response.

        A response that loops, or that is all end tokens, starves a calibration of variety.
        """
        response = self.final_ids[self.prompt_length :].tolist()
        if eos_id in response:
            response = response[: response.index(eos_id)]
        return len(set(response)) / len(response) if response else 0.0


class RawUniforms:
    """Uniform numbers for the sampler from a bit generator's raw words, so that rollouts do not depend on NumPy's version.

    Parameters
    ----------
    rng : numpy.random.Generator
    before, behind : int
        Rows of a larger batch, before and behind those that ask; what they would draw is left out.
    """

    def __init__(self, rng: np.random.Generator, before: int = 0, behind: int = 0) -> None:
        self.rng, self.before, self.behind = rng, before, behind

    def random(self, size: tuple[int, ...], dtype: type[np.floating] = np.float64) -> Array:
        """Numbers in [0, 1) of the shape and dtype asked for."""
        row = math.prod(size[1:])
        skip(self.rng, self.before * row)
        drawn = uniforms(self.rng, size)
        skip(self.rng, self.behind * row)
        # 24 leading bits: rounding 53 of them to float32 could give 1.
        return drawn if np.dtype(dtype) == np.float64 else (np.floor(drawn * 2**24) / 2**24).astype(dtype)


def skip(rng: np.random.Generator, count: int) -> None:
    """Leave out `count` raw words.

    Examples
    --------
    >>> rng, other = np.random.default_rng(5), np.random.default_rng(5)
    >>> skip(rng, 2)
    >>> bool(words(rng, 1)[0] == words(other, 3)[2])
    True
    """
    if isinstance(rng.bit_generator, PCG64):
        rng.bit_generator.advance(count)
        return
    for start in range(0, count, SKIPPED):
        words(rng, min(SKIPPED, count - start))


def roll_out(
    m: Transformer,
    lines: Sequence[CalibrationLine],
    order: Sequence[int],
    plan: Calibration,
    rng: np.random.Generator,
    eos_id: int | None,
    progress: Progress | None = None,
    workers: Workforce = HERE,
) -> tuple[list[Rollout], int]:
    """Roll out prompts until ``plan.prompts`` of them are accepted.

    Parameters
    ----------
    m : Transformer
    lines : sequence of CalibrationLine
    order : sequence of int
        Lines in the order in which they are tried.
    plan : Calibration
    rng : numpy.random.Generator
        Used at temperatures above 0.
    eos_id : int or None
    progress : callable, optional
    workers : Workforce
        The same states whoever it is; in the fast lane if BLAS multiplies alike everywhere.

    Returns
    -------
    rollouts : list of Rollout
        In the order in which their lines were tried.
    rejected : int
        Rollouts with a smaller share of distinct tokens than ``plan.min_distinct``.

    Raises
    ------
    InputError
        If no rollout is accepted.
    """
    accepted: list[Rollout] = []
    tried = 0
    while len(accepted) < plan.prompts and tried < len(order):
        batch = order[tried : tried + plan.prompts - len(accepted)]
        tried += len(batch)
        rollouts = _roll_out_lines(m, lines, batch, plan, rng, eos_id, progress, reached(workers, m))
        accepted += [rollout for rollout in rollouts if rollout.distinct_share(eos_id) >= plan.min_distinct]
    if not accepted:
        raise InputError(f"all {tried} rollouts repeat themselves (share of distinct tokens under {plan.min_distinct}); none is left")
    return accepted, tried - len(accepted)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Batch:
    """A task: lines of one shape that go through the model together."""

    source: Transformer | WholeModel
    members: tuple[int, ...]
    prompts: Array
    length: int
    plan: Calibration
    draws: RawUniforms | None

    @property
    def steps(self) -> int:
        return self.length // self.plan.tokens_per_step


def _roll_out_lines(
    m: Transformer,
    lines: Sequence[CalibrationLine],
    chosen: Sequence[int],
    plan: Calibration,
    rng: np.random.Generator,
    eos_id: int | None,
    progress: Progress | None,
    workers: Workforce,
) -> list[Rollout]:
    """Lines whose prompts and responses are equally long share batches; the result is in the order of `chosen`."""
    shapes: dict[tuple[int, int], list[tuple[int, tuple[int, ...]]]] = defaultdict(list)
    for index in chosen:
        length = generated_length(lines[index], plan.gen_length, plan.block_length)
        if length == 0:
            raise InputError(f"calibration line {index + 1} has {len(lines[index].ids)} tokens; a rollout needs {2 * plan.block_length}")
        prompt = split_line(lines[index], plan.gen_length, plan.block_length, eos_id)[0]
        shapes[len(prompt), length].append((index, prompt))
    source = packed(workers, m)
    tasks = [task for (_, length), members in shapes.items() for task in _batches(source, m, members, length, plan, rng)]
    total, done = sum(task.steps for task in tasks), 0

    def tell() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress("rollouts", done, total)

    found: dict[int, Rollout] = {}
    results = (_roll(task, tell) for task in tasks) if workers.here else workers.map(_roll, tasks)
    for task, rollouts in zip(tasks, results, strict=True):
        found |= {rollout.line: rollout for rollout in rollouts}
        for _ in () if workers.here else range(task.steps):
            tell()
    return [found[index] for index in chosen]


def _batches(
    source: Transformer | WholeModel,
    m: Transformer,
    members: Sequence[tuple[int, tuple[int, ...]]],
    length: int,
    plan: Calibration,
    rng: np.random.Generator,
) -> list[_Batch]:
    """Cut lines of one shape into batches; `rng` is left behind all that they draw."""
    tokens, tasks = len(members[0][1]) + length, list[_Batch]()
    rows = max(1, BATCH_TOKENS // tokens)
    for start in range(0, len(members), rows):
        part = members[start : start + rows]
        behind = len(members) - start - len(part)
        tasks.append(
            _Batch(
                source=source,
                members=tuple(line for line, _ in part),
                prompts=np.array([prompt for _, prompt in part], dtype=np.int64).reshape(len(part), -1),
                length=length,
                plan=plan,
                draws=RawUniforms(copy.deepcopy(rng), start, behind) if plan.temperature else None,
            )
        )
    if plan.temperature:  # a step draws one number for every token that might stand anywhere
        skip(rng, tasks[0].steps * len(members) * tokens * m.config.embedding_rows)
    return tasks


def _roll(task: _Batch, tell: Callable[[], None] = lambda: None) -> list[Rollout]:
    """Carry a task out, wherever it has come to; `tell` is called behind each step."""
    plan, start = task.plan, task.prompts.shape[1]
    sampler = denoise(
        unpacked(task.source),
        task.prompts,
        gen_length=task.length,
        block_length=plan.block_length,
        steps=task.steps,
        temperature=plan.temperature,
        rng=task.draws,
    )
    trajectory = []
    for step in sampler:
        trajectory.append((step.before, step.masked, step.block))
        after = step.after
        tell()
    found = []
    for row, line in enumerate(task.members):
        ids = np.stack([before[row] for before, _, _ in trajectory])
        masked = np.stack([mask[row] for _, mask, _ in trajectory])
        places = _places(line, masked, [block for _, _, block in trajectory], start, plan.block_length, task.length)
        found.append(Rollout(line=line, prompt_length=start, ids=ids, masked=masked, final_ids=after[row], places=places))
    return found


def _places(
    line: int, masked: Array, blocks: Sequence[int], prompt_length: int, block_length: int, length: int
) -> tuple[RecordedState, ...]:
    places = []
    for step, (mask, block) in enumerate(zip(masked, blocks, strict=True)):
        start = prompt_length + block * block_length
        places.append(
            RecordedState(
                prompt=line,
                step=step,
                steps=len(masked),
                block=block,
                block_masked=int(np.count_nonzero(mask[start : start + block_length])),
                block_length=block_length,
                masked=int(np.count_nonzero(mask[prompt_length:])),
                response=length,
            )
        )
    return tuple(places)
