"""Sums and products that keep what rounding took away, and polynomials: the building blocks, on float64 arrays."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from refquant.numerics.arrays import Float64Array

# Clears the lower 27 of the 52 stored bits: 26 significant bits stay, and products of two such halves are exact.
UPPER_HALF = np.int64(-(1 << 27))


def two_sum(a: Float64Array, b: Float64Array) -> tuple[Float64Array, Float64Array]:
    """``a + b`` rounded, and the exact error (Knuth's two-sum, for any order of magnitudes).

    Examples
    --------
    >>> two_sum(np.array([1.0]), np.array([2.0**-60]))
    (array([1.]), array([8.67361738e-19]))
    """
    total = a + b
    b_seen = total - a
    return total, (a - (total - b_seen)) + (b - b_seen)


def fast_two_sum(a: Float64Array, b: Float64Array) -> tuple[Float64Array, Float64Array]:
    """``a + b`` rounded, and the exact error, where ``a`` is 0 or not smaller in magnitude than ``b`` (Dekker)."""
    total = a + b
    return total, b - (total - a)


def halves(a: Float64Array) -> tuple[Float64Array, Float64Array]:
    """Two numbers of 26 and at most 27 bits whose sum is `a` exactly. Cutting bits cannot overflow, as Veltkamp's splitting can."""
    upper = (a.view(np.int64) & UPPER_HALF).view(np.float64)
    return upper, a - upper


def two_product(a: Float64Array, b: Float64Array) -> tuple[Float64Array, Float64Array]:
    """``a * b`` rounded, and its error to within ``2**-105 |a b|`` (Dekker's product on :func:`halves`)."""
    product = a * b
    a1, a2 = halves(a)
    b1, b2 = halves(b)
    error = a1 * b1
    error = error - product
    error = error + a1 * b2
    error = error + a2 * b1
    return product, error + a2 * b2


def horner(x: Float64Array, coefficients: Sequence[float]) -> Float64Array:
    """The polynomial with these coefficients, the one of the highest power first, in Horner's order.

    Examples
    --------
    >>> horner(np.array([2.0]), [3.0, 0.0, 1.0])
    array([13.])
    """
    total = x * coefficients[0]
    for coefficient in coefficients[1:-1]:
        total += coefficient
        total *= x
    total += coefficients[-1]
    return total
