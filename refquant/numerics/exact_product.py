"""Products of matrices that are the same bits on every machine: the Ozaki scheme.

Rows of the left factor and columns of the right one are cut into ``k`` slices of ``w`` bits (:mod:`refquant.numerics.slicing`). BLAS
multiplies slices, which are integers small enough for every partial sum to be exact, in whatever order it likes. With ``i + j = d``

    P_d = sum_i S_i T_(d-i)      (one BLAS call: slices lie side by side, so the inner axis is d + 1 times as long)
    C   = 2^(e+f-2w) (P_0 + 2^-w (P_1 + 2^-w (... P_k-1)))

for a row with ``|a| < 2^e`` and a column with ``|b| < 2^f``. Terms with ``d >= k`` are left out. Inner axes longer than 1024 are cut in
runs of that length, which are added in order, so ``w`` is never below 21.

What is promised, for K terms in R runs, before the result is rounded to its dtype:

    |C - A B| <= (1 + k/4) K 2^(e + f - kw)  +  (R + k) 2^-53 |A| |B|

The first term is what was cut off: ``K 2^-kw`` for what no slice holds, a quarter of it for each left-out product of two slices. Two
slices hold 42 bits, far more than the 24 of float32: such a result is the exact one, rounded, except where terms cancel. Three hold 63,
so that the cut is below the roundings; float64 needs them, since 42 bits are fewer than 53. The bound is relative to the largest entries
of row and column: a small entry beside a large one keeps fewer bits.

A row's result depends on that row and the whole right factor, not on other rows: batches may be cut anywhere.
"""

from __future__ import annotations

import numpy as np

from refquant.errors import InputError
from refquant.numerics.arrays import Array, Float64Array, IntArray
from refquant.numerics.slicing import exponents, largest, peel, width_of_products

RUN = 1024
"""Longest inner axis that is multiplied at once."""


def slices_for(dtype: np.dtype[np.floating]) -> int:
    """Slices that a product with results of a dtype takes: 2 for float32, 3 for float64."""
    return 2 if dtype == np.float32 else 3


def product(a: Array, b: Array, slices: int | None = None) -> Array:
    """Multiply stacks of matrices ``[..., M, K] x [..., K, N] -> [..., M, N]``.

    Infinities and NaN give what IEEE 754 gives: they reach the entries of their row or column, and no other. A result of zero is +0.

    Parameters
    ----------
    a, b : ndarray of float32 or float64
        The result has the wider dtype of the two.
    slices : int, optional
        1 or more; 2 for float32 and 3 for float64 by default.

    Raises
    ------
    InputError
        For shapes or dtypes that do not fit.

    Examples
    --------
    >>> x = np.array([[1.0, 2.0**-52]])
    >>> product(x, x.T) == 1, product(np.array([[np.inf, 1.0]]), np.array([[0.5], [2.0]]))
    (array([[ True]]), array([[inf]]))
    """
    dtype = np.dtype(np.result_type(a, b))
    if dtype not in (np.float32, np.float64):
        raise InputError(f"an exact product takes float32 or float64; found {a.dtype} and {b.dtype}")
    if a.ndim < 2 or b.ndim < 2 or a.shape[-1] != b.shape[-2]:
        raise InputError(f"a product needs shapes [..., M, K] and [..., K, N]; found {a.shape} and {b.shape}")
    if not a.size or not b.size:
        return np.zeros((*np.broadcast_shapes(a.shape[:-2], b.shape[:-2]), a.shape[-2], b.shape[-1]), dtype=dtype)
    count = slices_for(dtype) if slices is None else slices
    rows, columns = largest(a, -1), largest(b, -2)
    if np.isfinite(rows).all() and np.isfinite(columns).all():
        found = _finite_product(a, b, exponents(rows), exponents(columns), count).astype(dtype, copy=False)
        found += 0  # which zero BLAS or an underflow gave is its own affair
        return found
    clean = product(_without_infinite(a), _without_infinite(b), count)
    return np.asarray(clean + _infinite_terms(a, b).astype(dtype))


def _finite_product(a: Array, b: Array, e: IntArray, f: IntArray, slices: int) -> Float64Array:
    inner = a.shape[-1]
    width = width_of_products(min(inner, RUN), slices)
    total = _run(a[..., :RUN], b[..., :RUN, :], e, f, width, slices)
    for start in range(RUN, inner, RUN):
        total += _run(a[..., start : start + RUN], b[..., start : start + RUN, :], e, f, width, slices)
    return np.asarray(np.ldexp(total, e + f - 2 * width, out=total))


def _run(a: Array, b: Array, e: IntArray, f: IntArray, width: int, slices: int) -> Float64Array:
    """``P_0 + 2^-w (P_1 + ...)`` over one run of the inner axis."""
    inner = a.shape[-1]
    left = np.empty((*a.shape[:-1], slices * inner))  # S_0 | S_1 | ...
    right = np.empty((*b.shape[:-2], slices * inner, b.shape[-1]))  # ... T_1 over T_0
    blocks = [slice(i * inner, (i + 1) * inner) for i in range(slices)]
    peel(a, e, width, [left[..., block] for block in blocks])
    peel(b, f, width, [right[..., block, :] for block in reversed(blocks)])
    total = np.asarray(np.matmul(left, right))  # P_k-1, exact as all that follow
    for d in reversed(range(slices - 1)):
        total *= 0.5**width
        total += np.matmul(left[..., : (d + 1) * inner], right[..., (slices - 1 - d) * inner :, :])
    return total


def _without_infinite(x: Array) -> Array:
    return np.where(np.isfinite(x), x, np.zeros((), dtype=x.dtype))


def _infinite_terms(a: Array, b: Array) -> Float64Array:
    """What terms with an infinity or NaN add up to: 0, an infinity, or NaN; by counting, so that no BLAS is asked what 0 times inf is."""
    positive, negative = a > 0, a < 0
    up, down = b > 0, b < 0
    one = _count(positive, b == np.inf) + _count(negative, b == -np.inf) + _count(a == np.inf, up) + _count(a == -np.inf, down)
    other = _count(positive, b == -np.inf) + _count(negative, b == np.inf) + _count(a == np.inf, down) + _count(a == -np.inf, up)
    nans = _count(np.isnan(a), np.ones_like(b)) + _count(np.ones_like(a), np.isnan(b))
    nans += _count(np.isinf(a), b == 0) + _count(a == 0, np.isinf(b))
    found = np.where(one > 0, np.inf, np.where(other > 0, -np.inf, 0.0))
    return np.where((nans > 0) | ((one > 0) & (other > 0)), np.nan, found)


def _count(a: Array, b: Array) -> Float64Array:
    return np.asarray(np.matmul(a.astype(np.float64), b.astype(np.float64)))  # exact: fewer than 2^53 ones
