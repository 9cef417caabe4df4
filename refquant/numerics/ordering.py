"""Orders that are the same on every machine: stable sorts, and ties that go to the lowest index."""

from __future__ import annotations

import operator

import numpy as np
from numpy.typing import NDArray

from refquant.errors import InputError, UsageError
from refquant.numerics.arrays import Array


def argsort_ascending(values: Array) -> NDArray[np.int64]:
    """Indices that sort the last axis from small to large; equal values keep their order (and -0 equals +0).

    Parameters
    ----------
    values : ndarray of real numbers, at least one axis

    Returns
    -------
    int64 ndarray, the shape of `values`

    Raises
    ------
    InputError
        If `values` has no axis, is not real, or holds NaN, which has no place in an order.

    Examples
    --------
    >>> argsort_ascending(np.array([2.0, 1.0, 2.0, 1.0])).tolist()
    [1, 3, 0, 2]
    """
    return np.asarray(np.argsort(_orderable(values), axis=-1, kind="stable"), dtype=np.int64)


def argsort_descending(values: Array) -> NDArray[np.int64]:
    """Indices that sort the last axis from large to small; equal values keep their order.

    This is not the reverse of an ascending order, which would put the *last* of equal values first, and it does not negate, which
    would wrap unsigned integers and the lowest signed one. Parameters and errors as in :func:`argsort_ascending`.

    Examples
    --------
    >>> argsort_descending(np.array([2.0, 1.0, 2.0, 1.0])).tolist()
    [0, 2, 1, 3]
    """
    backwards = _orderable(values)[..., ::-1]
    order = np.argsort(backwards, axis=-1, kind="stable")[..., ::-1]
    return np.asarray(backwards.shape[-1] - 1 - order, dtype=np.int64)


def top_k_indices(values: Array, k: int) -> NDArray[np.int64]:
    """Indices of the `k` largest values of the last axis, the largest first; of equal values the lowest index comes first.

    Parameters
    ----------
    values : ndarray of real numbers, ``[..., n]``
    k : int
        0 to n.

    Returns
    -------
    int64 ndarray, ``[..., k]``

    Raises
    ------
    UsageError
        If `k` is not an integer of 0 to n.
    InputError
        As in :func:`argsort_ascending`.

    Examples
    --------
    >>> top_k_indices(np.array([0.5, 0.9, 0.5, 0.1]), 2).tolist()
    [1, 0]
    """
    order = argsort_descending(values)
    if isinstance(k, (bool, np.bool_)) or not isinstance(k, (int, np.integer)) or not 0 <= k <= order.shape[-1]:
        raise UsageError(f"k is an integer of 0 to {order.shape[-1]}, the length of the last axis; not {k!r}")
    return order[..., : operator.index(k)]


def _orderable(values: Array) -> Array:
    values = np.asarray(values)
    if values.ndim == 0:
        raise InputError("cannot order a single number; an array with at least one axis is needed")
    if values.dtype.kind == "V" and values.dtype.name == "bfloat16":
        values = values.astype(np.float32)  # exact
    if values.dtype.kind not in "biuf":
        raise InputError(f"cannot order values of dtype {values.dtype}; real numbers are needed")
    if values.dtype.kind == "f" and np.isnan(values).any():
        index = tuple(int(i) for i in np.argwhere(np.isnan(values))[0])
        raise InputError(f"cannot order NaN, found at index {index}")
    return values
