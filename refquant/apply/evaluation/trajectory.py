"""Denoising trajectories of several models in lockstep: how far each is from the reference, on the reference's states and on its own.

Greedy low-confidence decoding, the response as one block, a fixed number of tokens a step, all ties to the lowest index.
Per sequence and step:

* **teacher-forced**: the candidate sees the reference's state; compared at the positions masked there.
* **free-running**: the candidate sees its own state; compared with the reference on its own one, at the positions masked in both. How many
  are left is part of the result: late in a diverged trajectory there may be none.
* error is the relative squared error of the logits, ``sum (z_q - z)^2 / sum z^2`` over the compared positions and all tokens; KL is
  KL(p_reference || p_candidate), mean over the compared positions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from model import Step, Transformer, denoise
from model.commit import Rules, most_confident, predict
from refquant.apply.evaluation.batches import Models, Progress, alike, blaming, finite_logits, in_batches, mask_id, rows_at_once, run_all
from refquant.apply.evaluation.distances import Distributions, kl_divergence, ratio, row_means, row_sums
from refquant.numerics import Arithmetic
from refquant.numerics.arrays import Array

MEASURES = ("forced_error", "forced_kl", "free_error", "free_kl", "left", "frontier_flips", "selection")


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """Where a trajectory starts: a prompt, and how many tokens to make."""

    prompt: tuple[int, ...]
    gen_length: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Traces:
    """One model's trajectories beside the reference's; NaN where something is not defined, and beyond a sequence's last step.

    Attributes
    ----------
    steps : ndarray of int64 [N]
        Steps of each sequence.
    measures : mapping of str to ndarray of float64 [N, S]
        By `MEASURES`: the two errors and divergences; `left`, the share of the reference's masked positions that are masked in both;
        `frontier_flips`, the share of the positions that the reference commits at this step where the candidate, on the same state,
        predicts another token; `selection`, the Jaccard index of the sets of positions that both would commit on that state.
    diverged : ndarray of int64 [N]
        The first step after which the two sequences differ, from 0; the number of steps where they never do.
    agrees : ndarray of float64 [N, G]
        1 where the final tokens are equal, 0 where not.
    """

    steps: Array
    measures: dict[str, Array]
    diverged: Array
    agrees: Array


def trajectories(
    models: Models, starts: Sequence[Start], tokens_per_step: int = 1, workers: int = 1, progress: Progress | None = None
) -> list[Traces]:
    """Run all models from all starts.

    Parameters
    ----------
    models : mapping of str to Transformer
        The first is the reference.
    starts : sequence of Start
        Prompts without masks. Those of equal lengths run together.
    tokens_per_step : int
        Divides every ``gen_length``.
    workers, progress
        As in :func:`~refquant.apply.evaluation.likelihood.likelihoods`.

    Returns
    -------
    list of Traces
        One a model; the reference's compares it with itself.

    Raises
    ------
    NumericalError
        If a model's logits are not finite.
    """
    reference = next(iter(models.values()))
    longest = max((start.gen_length for start in starts), default=0)
    jobs: list[Array] = []
    for (length, gen_length), group in alike([(len(start.prompt), start.gen_length) for start in starts]).items():
        jobs += in_batches(group, rows_at_once(length + gen_length, reference.config.embedding_rows))

    def run(members: Array) -> list[Traces]:
        prompts = np.array([starts[i].prompt for i in members.tolist()], dtype=np.int64).reshape(len(members), -1)
        return lockstep(models, prompts, starts[int(members[0])].gen_length, tokens_per_step)

    empty = [_empty(len(starts), longest // tokens_per_step, longest) for _ in models]
    for members, found in zip(jobs, run_all(run, jobs, workers, "trajectories", progress)):
        for whole, part in zip(empty, found):
            _put(whole, members, part)
    return empty


def _empty(count: int, steps: int, gen_length: int) -> Traces:
    return Traces(
        steps=np.zeros(count, dtype=np.int64),
        measures={name: np.full((count, steps), np.nan) for name in MEASURES},
        diverged=np.zeros(count, dtype=np.int64),
        agrees=np.full((count, gen_length), np.nan),
    )


def _put(whole: Traces, members: Array, part: Traces) -> None:
    whole.steps[members], whole.diverged[members] = part.steps, part.diverged
    whole.agrees[members, : part.agrees.shape[1]] = part.agrees
    for name, values in part.measures.items():
        whole.measures[name][members, : values.shape[1]] = values


def lockstep(models: Models, prompts: Array, gen_length: int, tokens_per_step: int = 1) -> list[Traces]:
    """Run all models from prompts of one length, step by step, so that no logits are kept.

    Parameters
    ----------
    models : mapping of str to Transformer
    prompts : ndarray of int [B, P]
    gen_length, tokens_per_step : int

    Returns
    -------
    list of Traces
        One a model.
    """
    steps = gen_length // tokens_per_step
    traces = [_empty(len(prompts), steps, gen_length) for _ in models]
    for trace in traces:
        trace.steps[:] = trace.diverged[:] = steps
    streams = [_stream(name, model, prompts, gen_length, steps) for name, model in models.items()]
    arithmetic = next(iter(models.values())).arithmetic
    for number, now in enumerate(zip(*streams, strict=True)):
        reference = now[0]
        true = Distributions.of(reference.logits[reference.masked], arithmetic)
        for (name, model), own, trace in zip(models.items(), now, traces):
            found = _measure(name, model, own, reference, true, arithmetic)
            for key, values in found.items():
                trace.measures[key][:, number] = values
            fresh = (trace.diverged == steps) & np.any(own.after != reference.after, axis=1)
            trace.diverged[fresh] = number
            trace.agrees[:] = (own.after == reference.after)[:, -gen_length:]  # what stands there last is final
    return traces


def _stream(name: str, model: Transformer, prompts: Array, gen_length: int, steps: int) -> Iterator[Step]:
    with blaming(name):
        yield from denoise(model, prompts, gen_length=gen_length, block_length=gen_length, steps=steps)


def _measure(name: str, model: Transformer, own: Step, reference: Step, true: Distributions, arithmetic: Arithmetic) -> dict[str, Array]:
    """Everything in `MEASURES` at one step, each float64 [B]."""
    masked = reference.masked
    both = masked & own.masked
    shared = true.at(both[masked])
    free = Distributions.of(own.logits[both], arithmetic)
    logits, predicted, committed = _forced(name, model, own, reference)
    forced = Distributions.of(logits[masked], arithmetic)
    frontier = reference.committed
    flipped = (predicted != reference.predicted)[frontier]
    overlap = np.count_nonzero(committed & frontier, axis=1) / 1.0
    return {
        "forced_error": _relative_error(true, forced, masked, arithmetic),
        "forced_kl": row_means(kl_divergence(true, forced, arithmetic), masked, arithmetic),
        "free_error": _relative_error(shared, free, both, arithmetic),
        "free_kl": row_means(kl_divergence(shared, free, arithmetic), both, arithmetic),
        "left": ratio(np.count_nonzero(both, axis=1) / 1.0, np.count_nonzero(masked, axis=1) / 1.0),
        "frontier_flips": row_means(flipped, frontier, arithmetic),
        "selection": ratio(overlap, np.count_nonzero(committed | frontier, axis=1) / 1.0),
    }


def _forced(name: str, model: Transformer, own: Step, reference: Step) -> tuple[Array, Array, Array]:
    """What the candidate makes of the reference's states: logits [B, T, rows], predictions [B, T], positions to commit [B, T].

    Where its own state is the reference's, that has been computed already.
    """
    apart = np.any(own.before != reference.before, axis=1)
    if not apart.any():
        return own.logits, own.predicted, own.committed
    logits, predicted, committed = own.logits.copy(), own.predicted.copy(), own.committed.copy()
    logits[apart] = finite_logits(name, model, reference.before[apart])
    predicted[apart], confidence = predict(model, logits[apart], _greedy(model))
    candidates = np.where(reference.masked[apart], confidence, -np.inf)  # one block, so every mask is a candidate
    committed[apart] = most_confident(candidates, np.count_nonzero(reference.committed[apart], axis=1))
    return logits, predicted, committed


def _greedy(model: Transformer) -> Rules:
    """The sampler's rules as far as a prediction depends on them."""
    return Rules(
        mask_id=mask_id(model),
        gen_length=1,
        block_length=1,
        steps=1,
        temperature=0.0,
        cfg_scale=0.0,
        remasking="low_confidence",
        no_eos=None,
        doubtful=None,
        rng=None,
    )


def _relative_error(true: Distributions, found: Distributions, where: Array, arithmetic: Arithmetic) -> Array:
    """``sum (found - true)^2 / sum true^2`` of logits over the marked positions of each row, [B].

    0 where both sums are 0; NaN where nothing is marked or only the reference's sum is 0.
    """
    off = found.logits - true.logits
    error = row_sums(arithmetic.sum(off * off, axis=-1), where, arithmetic)
    power = row_sums(arithmetic.sum(true.logits * true.logits, axis=-1), where, arithmetic)
    both_zero = (error == 0) & (power == 0) & where.any(axis=1)
    return np.asarray(np.where(both_zero, 0.0, ratio(error, power)))
