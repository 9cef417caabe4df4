"""Trajectories summed up: curves over steps, quarters of the trajectory, and how long two sequences stay the same."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from refquant.apply.evaluation.distances import ratio
from refquant.apply.evaluation.intervals import Bootstrap, Estimate
from refquant.apply.evaluation.proportions import Proportion, proportion
from refquant.apply.evaluation.trajectory import Traces
from refquant.numerics import Arithmetic
from refquant.numerics.arrays import Array, read_only

QUARTERS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """One quantity along the trajectory. Sequences with fewer steps are no part of later steps; see `n_by_step`."""

    whole: Estimate  # mean over the steps of a sequence, then over sequences
    by_quarter: tuple[Estimate, ...]  # step s of S is in quarter floor(4 s / S)
    by_step: Array  # float64 [S], mean over sequences; NaN where n is 0
    n_by_step: Array  # int64 [S], sequences in which it is defined at that step


@dataclass(frozen=True, slots=True, kw_only=True)
class Divergence:
    """When the sequences part, as a survival curve (Kaplan and Meier): those that never do are censored at their last step."""

    first: Array  # int64 [N], the first step after which they differ, from 0; the number of steps where never
    steps: Array  # int64 [N]
    diverged: int
    n: int
    median: int | None  # the first step after which at most half still agree; None if more than half agree to the end
    survival: Array  # float64 [S], share that agrees after step s
    at_risk: Array  # int64 [S], sequences that have a step s and agree before it


@dataclass(frozen=True, slots=True, kw_only=True)
class Trajectory:
    """One model's trajectories against the reference's; see :mod:`~refquant.apply.evaluation.trajectory` for the definitions."""

    n: int
    forced_error: Curve
    forced_kl: Curve
    free_error: Curve
    free_kl: Curve
    left: Curve
    accumulation_error: tuple[float | None, ...]  # free / forced, by quarter: of the means; 1 where both are 0
    accumulation_kl: tuple[float | None, ...]
    frontier_flips: Curve
    selection: Curve
    final_agreement: Estimate  # share of response positions with the same final token, mean over sequences
    final_agreement_by_position: Array  # float64 [G]
    n_by_position: Array  # int64 [G], sequences with a response that long
    exact_match: Proportion  # the whole response is the same
    divergence: Divergence


def summarise(traces: Traces, bootstrap: Bootstrap) -> Trajectory:
    """Sum up one model's traces.

    Parameters
    ----------
    traces : Traces
    bootstrap : Bootstrap
        Resamples sequences.
    """
    curves = {name: _curve(values, traces.steps, bootstrap) for name, values in traces.measures.items()}
    agreement, defined = _mean(traces.agrees, 0, bootstrap.arithmetic)
    return Trajectory(
        n=len(traces.steps),
        **curves,
        accumulation_error=_accumulation(curves["free_error"], curves["forced_error"]),
        accumulation_kl=_accumulation(curves["free_kl"], curves["forced_kl"]),
        final_agreement=bootstrap.mean(_mean(traces.agrees, 1, bootstrap.arithmetic)[0]),
        final_agreement_by_position=read_only(agreement),
        n_by_position=read_only(defined),
        exact_match=proportion(np.all(traces.agrees != 0, axis=1)),  # NaN, beyond the end, counts as equal
        divergence=_divergence(traces.diverged, traces.steps),
    )


def _mean(values: Array, axis: int, arithmetic: Arithmetic) -> tuple[Array, Array]:
    """Mean of what is defined along `axis`, and how much that is."""
    there = ~np.isnan(values)
    count = np.count_nonzero(there, axis=axis)
    return ratio(arithmetic.sum(np.where(there, values, 0.0), axis=axis), count.astype(np.float64)), np.asarray(count)


def _curve(values: Array, steps: Array, bootstrap: Bootstrap) -> Curve:
    arithmetic = bootstrap.arithmetic
    quarter = QUARTERS * np.arange(values.shape[1]) // np.maximum(steps[:, None], 1)  # [N, S]; 4 and more beyond the end
    by_step, n_by_step = _mean(values, 0, arithmetic)
    return Curve(
        whole=bootstrap.mean(_mean(values, 1, arithmetic)[0]),
        by_quarter=tuple(bootstrap.mean(_mean(np.where(quarter == q, values, np.nan), 1, arithmetic)[0]) for q in range(QUARTERS)),
        by_step=read_only(by_step),
        n_by_step=read_only(n_by_step),
    )


def _accumulation(free: Curve, forced: Curve) -> tuple[float | None, ...]:
    return tuple(_quotient(a.mean, b.mean) for a, b in zip(free.by_quarter, forced.by_quarter))


def _quotient(free: float | None, forced: float | None) -> float | None:
    if free is None or forced is None or (forced == 0 and free != 0):
        return None
    return 1.0 if forced == 0 else free / forced


def _divergence(first: Array, steps: Array) -> Divergence:
    number = np.arange(int(steps.max(initial=0)))[:, None]  # [S, 1]
    at_risk = np.count_nonzero((first >= number) & (steps > number), axis=1)
    parted = np.count_nonzero((first == number) & (steps > number), axis=1)
    survival = np.cumprod(np.where(at_risk > 0, 1 - parted / np.maximum(at_risk, 1), 1.0))
    below = np.flatnonzero(survival <= 0.5)
    return Divergence(
        first=read_only(first),
        steps=read_only(steps),
        diverged=int(np.count_nonzero(first < steps)),
        n=len(first),
        median=int(below[0]) if below.size else None,
        survival=read_only(survival),
        at_risk=read_only(at_risk),
    )
