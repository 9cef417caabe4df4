"""Floating-point numbers as short integers, so that BLAS can add products of them without rounding.

A row (or column, or whatever is added up) with largest magnitude below ``2^e`` is cut into slices of ``w`` bits:

    x = 2^e (S_0 2^-w + S_1 2^-2w + ... + S_k-1 2^-kw) + rest,   |rest| <= 2^(e - kw - 1),

integers with ``|S_0| <= 2^w`` and, since the remainder of rounding to the nearest is at most a half, ``|S_i| <= 2^(w-1)`` after it. All
steps are exact: scaling by a power of two, rounding to an integer, and subtracting what was rounded off. Sums of slices, and of products
of slices, stay integers; while they are at most 2^53 float64 holds every partial sum, and nobody can see in what order they were added.

The price is that a row has one exponent for all its numbers: what is more than ``kw`` bits below the largest of them is lost.

Ozaki, Ogita, Oishi, Rump: Error-free transformations of matrix multiplication, Numerical Algorithms 59 (2012).
"""

from __future__ import annotations

import numpy as np

from refquant.numerics.arrays import Array, Float64Array, IntArray

EXACT_BITS = 53
"""Every integer up to 2^53 is a float64."""


def width_of_products(terms: int, slices: int) -> int:
    """Bits a slice may have so that sums of products of two slices stay exact.

    All products of slices ``i`` and ``j`` with equal ``i + j`` are added up together, over `terms` each. The largest such sum has two
    products with a leading slice, ``2 terms 2^w 2^(w-1)``, and up to ``slices - 2`` without one, ``terms 2^(2w-2)``.

    Examples
    --------
    >>> width_of_products(1024, slices=2), width_of_products(1024, slices=3), width_of_products(1, slices=1)
    (21, 21, 26)
    """
    quarters = terms * (4 + max(slices - 2, 0))  # the bound is quarters * 4^(w-1)
    return (EXACT_BITS - (quarters - 1).bit_length()) // 2 + 1


def width_of_sums(terms: int) -> int:
    """Bits a slice may have so that sums of `terms` slices stay exact.

    Examples
    --------
    >>> width_of_sums(1000), width_of_sums(1)
    (43, 53)
    """
    return EXACT_BITS - (terms - 1).bit_length()


def largest(x: Array, axis: int | tuple[int, ...]) -> Array:
    """Largest magnitudes along `axis`, which stays with length 1 and must not be empty; not finite where an infinity or NaN is met."""
    return np.asarray(np.max(np.abs(x), axis=axis, keepdims=True))


def exponents(magnitudes: Array) -> IntArray:
    """Smallest ``e`` with ``magnitude < 2^e``; 0 for 0.

    Examples
    --------
    >>> exponents(largest(np.array([[0.5, -4.0], [0.0, 0.0]]), axis=1)).tolist()
    [[3], [0]]
    """
    return np.asarray(np.frexp(magnitudes)[1])


def peel(x: Array, exponent: IntArray, width: int, slices: list[Float64Array]) -> None:
    """Write the slices of `x` into `slices`, the leading one first.

    Parameters
    ----------
    x : float32 or float64 ndarray
    exponent : int ndarray that broadcasts against `x`
        ``|x| < 2^exponent``.
    width : int
    slices : list of float64 ndarrays, each of the shape of `x`

    Examples
    --------
    >>> into = [np.empty(2), np.empty(2)]
    >>> peel(np.array([1.0, -0.3]), np.array([1]), 4, into)
    >>> into  # 1 = 2 * 8/16, -0.3 = 2 * (-2/16 - 6.4/256)
    [array([ 8., -2.]), array([ 0., -6.])]
    """
    with np.errstate(under="ignore"):  # what underflows here is far below the last slice
        rest = np.ldexp(x.astype(np.float64, copy=False), width - exponent)
    for i, out in enumerate(slices):
        if i:
            rest -= slices[i - 1]
            rest *= 2**width
        np.rint(rest, out=out)
