"""Sums that no order can change.

The numbers are cut into slices (:mod:`refquant.numerics.slicing`) of ``w = 53 - ceil(log2 n)`` bits for ``n`` terms, so that sums of
slices are exact. As many slices are taken as it needs for what is left over to be at most 2^-9 of the last place that the largest term
has in the dtype: the sum is that of exact arithmetic, rounded, up to that and to the two or three roundings of float64 that put slices
together.
"""

from __future__ import annotations

import numpy as np

from refquant.errors import InputError
from refquant.numerics.arrays import Array
from refquant.numerics.slicing import exponents, largest, peel, width_of_sums

GUARD = 8


def total(x: Array, axis: int | tuple[int, ...] | None = None, keepdims: bool = False) -> Array:
    """Add up along `axis`, in the dtype of `x`.

    Infinities and NaN give what IEEE 754 gives in any order; a sum of zero, the sum of nothing too, is +0.

    Parameters
    ----------
    x : ndarray of float32 or float64; integers and booleans are added as NumPy adds them, exactly

    Raises
    ------
    InputError
        For another dtype.

    Examples
    --------
    >>> total(np.array([1.0, 1e-30, -1.0, 2.0])), total(np.array([[1e90, 1.0, -1e90]]), axis=1)
    (array(2.), array([0.]))
    """
    if x.dtype.kind in "biu":
        return np.asarray(np.sum(x, axis=axis, keepdims=keepdims))
    if x.dtype not in (np.float32, np.float64):
        raise InputError(f"an exact sum takes float32 or float64; found {x.dtype}")
    axes = tuple(range(x.ndim)) if axis is None else tuple(a % x.ndim for a in ((axis,) if isinstance(axis, int) else axis))
    terms = int(np.prod([x.shape[a] for a in axes]))
    if not x.size or not terms or not axes:
        return np.asarray(np.sum(x, axis=axes, keepdims=keepdims) + x.dtype.type(0))
    top = largest(x, axes)
    if not np.isfinite(top).all():
        return _with_infinities(x, axes, keepdims)
    width = width_of_sums(terms)
    count = -(-(np.finfo(x.dtype).nmant + 1 + (terms - 1).bit_length() + GUARD) // width)
    e = exponents(top)
    slices = [np.empty(x.shape) for _ in range(count)]
    peel(x, e, width, slices)
    found = np.sum(slices[-1], axis=axes, keepdims=True)  # exact
    for one in reversed(slices[:-1]):
        found = found * 0.5**width + np.sum(one, axis=axes, keepdims=True)
    found = np.ldexp(found, e - width)
    result = found.astype(x.dtype, copy=False) + x.dtype.type(0)  # the sign of a zero is no one's
    return np.asarray(result if keepdims else np.squeeze(result, axis=axes))


def _with_infinities(x: Array, axes: tuple[int, ...], keepdims: bool) -> Array:
    finite = total(np.where(np.isfinite(x), x, np.zeros((), dtype=x.dtype)), axes, keepdims)
    up, down, nan = (np.any(found, axis=axes, keepdims=keepdims) for found in (x == np.inf, x == -np.inf, np.isnan(x)))
    special = np.where(nan | (up & down), np.nan, np.where(up, np.inf, np.where(down, -np.inf, 0.0))).astype(x.dtype)
    return np.asarray(finite + special)
