"""The order in which columns are quantized, and the weight in that order."""

from __future__ import annotations

import numpy as np

from refquant.errors import InputError
from refquant.numerics.arrays import Array, IntArray

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


def columns_first(weight: Array, order: IntArray) -> Array:
    """The transposed weight with its columns, now rows, in another order: each column is contiguous."""
    rows, columns = weight.shape
    found = np.empty((columns, rows), dtype=weight.dtype)
    for i in range(0, rows, SQUARE):  # square by square, as both sides of a transposition cannot be walked along
        some = np.take(weight[i : i + SQUARE], order, axis=1)
        for j in range(0, columns, SQUARE):
            found[j : j + SQUARE, i : i + SQUARE] = some[:, j : j + SQUARE].T
    return found
