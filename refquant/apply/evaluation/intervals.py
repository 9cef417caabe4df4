"""Intervals of a mean over sequences, by resampling the sequences."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from refquant.numerics import FAST, Arithmetic
from refquant.numerics.arrays import Array
from refquant.numerics.draws import integers_below

RESAMPLING_STREAM = 2
LEVEL = 0.95
"""Confidence level of every interval in this package."""

_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A mean over `n` sequences and its 95% interval; None where it is not defined (no interval with fewer than two sequences)."""

    mean: float | None
    low: float | None
    high: float | None
    n: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Bootstrap:
    """Percentile bootstrap of a mean.

    The same `seed` and number of sequences give the same resamples, whatever is estimated: intervals are reproducible, and those of
    different rows share their luck. Indices come from raw words, so no NumPy release changes them.

    Attributes
    ----------
    seed : int
        At least 0.
    resamples : int
    arithmetic : Arithmetic
        Who sums.

    Examples
    --------
    >>> Bootstrap(seed=0).mean(np.array([1.0, 2.0, 3.0, 4.0]))
    Estimate(mean=2.5, low=1.5, high=3.5, n=4)
    """

    seed: int
    resamples: int = 10_000
    arithmetic: Arithmetic = FAST

    def mean(self, values: Array) -> Estimate:
        """Estimate the mean of one number a sequence.

        Parameters
        ----------
        values : ndarray of float64 [sequences]
            NaN where a sequence has no such number (no position to compare, say): it is left out, and out of `n`.

        Returns
        -------
        Estimate
            The interval is between the 2.5th and 97.5th percentiles of the resampled means, interpolated linearly.
        """
        values = values[~np.isnan(values)]
        n = len(values)
        if n == 0:
            return Estimate(mean=None, low=None, high=None, n=0)
        mean = float(self.arithmetic.mean(values))
        if n == 1:
            return Estimate(mean=mean, low=None, high=None, n=1)
        # Averages of deviations: a resampled mean then rounds to 0 difference where all values are equal.
        centred = values - mean
        means = mean + np.concatenate([self.arithmetic.mean(centred[rows], axis=1) for rows in self._resampled(n)])
        low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        return Estimate(mean=mean, low=float(low), high=float(high), n=n)

    def _resampled(self, n: int) -> Iterator[Array]:
        """Yield indices [some resamples, n]; words are drawn one after the other, so the chunks do not matter."""
        rng = np.random.Generator(np.random.PCG64([self.seed, RESAMPLING_STREAM]))
        at_once = max(1, _CHUNK // n)
        for start in range(0, self.resamples, at_once):
            rows = min(at_once, self.resamples - start)
            yield integers_below(rng, n, rows * n).reshape(rows, n)
