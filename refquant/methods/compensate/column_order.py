"""The order in which columns are quantized, and matrices in that order."""

from __future__ import annotations

import numpy as np

from refquant.errors import InputError
from refquant.numerics.arrays import Array, Float64Array, IntArray

SQUARE = 128  # rows and columns that are moved at a time


def column_order(diagonal: Array, act_order: bool | Array) -> IntArray:
    """The order in which columns are quantized."""
    columns = np.arange(len(diagonal))
    if isinstance(act_order, bool | np.bool_):
        return np.argsort(-diagonal, kind="stable") if act_order else columns
    order = np.asarray(act_order)
    if order.shape != columns.shape or order.dtype.kind not in "iu" or not np.array_equal(np.sort(order), columns):
        raise InputError(f"act_order is True, False or an ordering of {len(columns)} columns")
    return order.astype(np.intp)


def permuted(h: Float64Array, order: IntArray) -> Float64Array:
    """Rows and columns of a matrix in another order; the matrix itself where that is its own."""
    if np.array_equal(order, np.arange(len(order))):
        return h
    found = np.empty_like(h)
    for start in range(0, len(h), SQUARE):  # rows first, then columns of a few rows: both stay in the cache
        found[start : start + SQUARE] = np.take(h[order[start : start + SQUARE]], order, axis=1)
    return found


def columns_first(weight: Array, order: IntArray) -> Array:
    """The transposed weight with its columns, now rows, in another order: each column is contiguous."""
    rows, columns = weight.shape
    found = np.empty((columns, rows), dtype=weight.dtype)
    for i in range(0, rows, SQUARE):  # square by square, as both sides of a transposition cannot be walked along
        some = np.take(weight[i : i + SQUARE], order, axis=1)
        for j in range(0, columns, SQUARE):
            found[j : j + SQUARE, i : i + SQUARE] = some[:, j : j + SQUARE].T
    return found
