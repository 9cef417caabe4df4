"""Rollouts of the full-precision model, recorded state by state."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from model import Transformer, denoise
from refquant.apply.corpus import CalibrationLine, generated_length, split_line
from refquant.apply.recipe import Calibration
from refquant.errors import InputError
from refquant.methods.diffusion.tmas import RecordedState
from refquant.numerics.arrays import Array
from refquant.numerics.draws import uniforms

Progress = Callable[[str, int, int], None]


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
    """Uniform numbers for the sampler from a bit generator's raw words, so that rollouts do not depend on NumPy's version."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng

    def random(self, size: tuple[int, ...], dtype: type[np.floating] = np.float64) -> Array:
        """Numbers in [0, 1) of the shape and dtype asked for."""
        drawn = uniforms(self.rng, size)
        # 24 leading bits: rounding 53 of them to float32 could give 1.
        return drawn if np.dtype(dtype) == np.float64 else (np.floor(drawn * 2**24) / 2**24).astype(dtype)


def roll_out(
    m: Transformer,
    lines: Sequence[CalibrationLine],
    order: Sequence[int],
    plan: Calibration,
    rng: np.random.Generator,
    eos_id: int | None,
    progress: Progress | None = None,
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
        rollouts = _roll_out_lines(m, lines, batch, plan, rng, eos_id, progress)
        accepted += [rollout for rollout in rollouts if rollout.distinct_share(eos_id) >= plan.min_distinct]
    if not accepted:
        raise InputError(f"all {tried} rollouts repeat themselves (share of distinct tokens under {plan.min_distinct}); none is left")
    return accepted, tried - len(accepted)


def _roll_out_lines(
    m: Transformer,
    lines: Sequence[CalibrationLine],
    chosen: Sequence[int],
    plan: Calibration,
    rng: np.random.Generator,
    eos_id: int | None,
    progress: Progress | None,
) -> list[Rollout]:
    """Lines whose prompts and responses are equally long share a batch; the result is in the order of `chosen`."""
    shapes: dict[tuple[int, int], list[int]] = defaultdict(list)
    prompts: dict[int, tuple[int, ...]] = {}
    for index in chosen:
        length = generated_length(lines[index], plan.gen_length, plan.block_length)
        if length == 0:
            raise InputError(f"calibration line {index + 1} has {len(lines[index].ids)} tokens; a rollout needs {2 * plan.block_length}")
        prompts[index] = split_line(lines[index], plan.gen_length, plan.block_length, eos_id)[0]
        shapes[len(prompts[index]), length].append(index)
    total = sum(length // plan.tokens_per_step for _, length in shapes)
    done = 0
    found: dict[int, Rollout] = {}
    for (_, length), members in shapes.items():
        steps = length // plan.tokens_per_step
        sampler = denoise(
            m,
            np.array([prompts[i] for i in members]),
            gen_length=length,
            block_length=plan.block_length,
            steps=steps,
            temperature=plan.temperature,
            rng=RawUniforms(rng) if plan.temperature else None,
        )
        trajectory = []
        for step in sampler:
            trajectory.append((step.before, step.masked, step.block))
            after = step.after
            done += 1
            if progress is not None:
                progress("rollouts", done, total)
        for row, index in enumerate(members):
            ids = np.stack([before[row] for before, _, _ in trajectory])
            masked = np.stack([mask[row] for _, mask, _ in trajectory])
            blocks = [block for _, _, block in trajectory]
            places = _places(index, masked, blocks, len(prompts[index]), plan.block_length, length)
            found[index] = Rollout(
                line=index, prompt_length=len(prompts[index]), ids=ids, masked=masked, final_ids=after[row], places=places
            )
    return [found[index] for index in chosen]


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
