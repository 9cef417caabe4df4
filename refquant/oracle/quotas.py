"""How many samples to take from each bin: largest remainder, and what to do where a bin has too few (DLLMQuant, TMAS)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

from refquant.errors import InputError


def largest_remainder(shares: Sequence[Fraction], total: int) -> list[int]:
    """Split `total` in proportion to `shares`: the whole parts first, then one each to the largest fractional parts.

    Parameters
    ----------
    shares : sequence of Fraction
        Not negative, not all 0; they need not sum to 1. Equal fractional parts: the lower index first.
    total : int
        Not negative.

    Returns
    -------
    list of int
        They sum to `total`.

    Raises
    ------
    InputError
        If shares or total are out of range.

    Examples
    --------
    >>> largest_remainder([Fraction(n, 10) for n in (3, 2, 2, 3)], 128)
    [38, 26, 26, 38]
    """
    if total < 0 or any(share < 0 for share in shares) or sum(shares) <= 0:
        raise InputError("shares and total may not be negative, and one share must be more than 0")
    exact = [share * total / sum(shares, Fraction(0)) for share in shares]
    found = [math.floor(part) for part in exact]
    # sorted() is stable: ties stay in the order of their index.
    by_remainder = sorted(range(len(shares)), key=lambda k: found[k] - exact[k])
    for k in by_remainder[: total - sum(found)]:
        found[k] += 1
    return found


def quotas(shares: Sequence[Fraction], total: int, available: Sequence[int]) -> list[int]:
    """Split `total` by :func:`largest_remainder`, and pass on what a bin cannot give.

    A bin with less than its quota gives all it has. The shortfall is split in the same way over the bins that have
    more to give, and so on until all is placed or nothing is left to give (the sum is then less than `total`). Bins
    with share 0 stay at 0.

    Parameters
    ----------
    shares : sequence of Fraction
        As for :func:`largest_remainder`.
    total : int
        Not negative.
    available : sequence of int
        What each bin has.

    Returns
    -------
    list of int

    Raises
    ------
    InputError
        If shares or total are out of range, or there are not as many bins as shares.

    Examples
    --------
    >>> quotas([Fraction(n, 10) for n in (3, 2, 2, 3)], 128, [1000, 10, 1000, 1000])
    [44, 10, 30, 44]
    """
    if len(available) != len(shares) or any(count < 0 for count in available):
        raise InputError(f"{len(available)} bins for {len(shares)} shares: as many are needed, with no negative count")
    found = [0] * len(shares)
    missing = total
    while missing > 0:
        open_bins = [k for k in range(len(shares)) if shares[k] > 0 and found[k] < available[k]]
        if not open_bins:
            break
        for k, more in zip(open_bins, largest_remainder([shares[k] for k in open_bins], missing), strict=True):
            found[k] = min(found[k] + more, available[k])
        missing = total - sum(found)
    return found
