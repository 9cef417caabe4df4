"""Shares of right answers: Wilson's interval, and McNemar's exact test of two models on the same items.

Both are exact arithmetic, or arithmetic that IEEE 754 fixes to the bit, so they are the same everywhere.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from refquant.numerics.arrays import Array

_Z = 1.959963984540054  # 97.5th percentile of the standard normal distribution


@dataclass(frozen=True, slots=True, kw_only=True)
class Proportion:
    """`hits` of `n`, and Wilson's 95% interval of the share; None where there is nothing to count."""

    hits: int
    n: int
    share: float | None
    low: float | None
    high: float | None


def proportion(right: Array) -> Proportion:
    """Count True.

    Parameters
    ----------
    right : ndarray of bool [n]

    Examples
    --------
    >>> p = proportion(np.arange(100) < 90)
    >>> p.share, round(p.low, 4), round(p.high, 4)
    (0.9, 0.8256, 0.9448)
    """
    hits, n = int(np.count_nonzero(right)), len(right)
    if n == 0:
        return Proportion(hits=0, n=0, share=None, low=None, high=None)
    share = hits / n
    centre = (share + _Z * _Z / (2 * n)) / (1 + _Z * _Z / n)
    half = _Z * math.sqrt(share * (1 - share) / n + _Z * _Z / (4 * n * n)) / (1 + _Z * _Z / n)
    # Where none or all are right, Wilson's end point is exactly 0 or 1; rounding would leave a few ulps.
    low = 0.0 if hits == 0 else centre - half
    high = 1.0 if hits == n else centre + half
    return Proportion(hits=hits, n=n, share=share, low=low, high=high)


@dataclass(frozen=True, slots=True, kw_only=True)
class McNemar:
    """Two models on the same items: how many only one of them got right, and the exact two-sided p-value of "equally often"."""

    lost: int  # right by the reference only
    gained: int  # right by the candidate only
    n: int
    p_value: float


def mcnemar(reference: Array, candidate: Array) -> McNemar:
    """Exact (binomial) McNemar test.

    Parameters
    ----------
    reference, candidate : ndarray of bool [n]
        Which items each got right, in the same order.

    Returns
    -------
    McNemar
        The p-value is ``min(1, 2 P(X <= min(lost, gained)))`` with X binomial of ``lost + gained`` and 1/2; 1 if no item differs.

    Examples
    --------
    >>> mcnemar(np.array([True] * 10), np.array([True] * 4 + [False] * 6))
    McNemar(lost=6, gained=0, n=10, p_value=0.03125)
    """
    lost = int(np.count_nonzero(reference & ~candidate))
    gained = int(np.count_nonzero(candidate & ~reference))
    differing = lost + gained
    ways = sum(math.comb(differing, k) for k in range(min(lost, gained) + 1))
    p_value = min(1.0, 2 * ways / (1 << differing))  # integers divide with one rounding
    return McNemar(lost=lost, gained=gained, n=len(reference), p_value=p_value)
