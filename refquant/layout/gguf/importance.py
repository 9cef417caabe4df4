"""How much the columns of a matrix matter, and the weights that ggml's searches make of it.

ggml's *importance matrix* is a row of numbers for each weight: the mean square of what a linear's input held in each column while text
went through the model. An element's weight in a least-squares fit is then

    w = importance * sqrt(mean + x^2)

where `mean` is the mean square of the block, or twice that, or the mean square of the whole row, as the type has it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from refquant.errors import InputError, NumericalError
from refquant.numerics.arrays import Array


@dataclass(frozen=True, slots=True, kw_only=True)
class Importance:
    """What the quantizer of some blocks is told of their elements.

    Parameters
    ----------
    elements : float32 ndarray ``[n, size]``
        Not negative.
    row_means : float32 ndarray ``[n]``
        Mean square of the row that a block lies in.
    """

    elements: Array
    row_means: Array


def checked_importance(importance: Array, columns: int) -> Array:
    """One float32 number a column; InputError if they are others, or one is negative or not finite.

    Examples
    --------
    >>> checked_importance(np.array([1, 2.5]), 2)
    array([1. , 2.5], dtype=float32)
    """
    found = np.asarray(importance)
    if found.shape != (columns,) or not (np.issubdtype(found.dtype, np.floating) or np.issubdtype(found.dtype, np.integer)):
        raise InputError(f"the importance is {found.dtype} of shape {found.shape}; wanted is one number for each of {columns} columns")
    with np.errstate(over="ignore", under="ignore"):
        numbers = np.ascontiguousarray(found, dtype=np.float32)
    bad = ~(np.isfinite(numbers) & (numbers >= 0))
    if bad.any():
        where = int(np.argmax(bad))
        raise InputError(f"the importance of column {where} is {float(found[where])!r}; numbers from 0 up that float32 holds are needed")
    return numbers


def mean_squares(x: Array, over: int) -> Array:
    """Squares of the rows of `x`, added up one after the other, over `over`: ``[n]``."""
    with np.errstate(over="ignore", under="ignore"):
        return np.asarray(np.cumsum(x * x, axis=1)[:, -1] / np.float32(over))


def block_weights(x: Array, importance: Importance, over: int) -> Array:
    """Weights ``[n, size]`` of blocks ``[n, size]``, the mean square taken over the block: its sum of squares over `over`.

    Raises
    ------
    NumericalError
        As :func:`checked_weights`.
    """
    return _weights(x, importance.elements, mean_squares(x, over))


def row_weights(x: Array, importance: Importance) -> Array:
    """Weights ``[n, size]`` of blocks ``[n, size]``, the mean square taken over the row that the block lies in.

    Raises
    ------
    NumericalError
        As :func:`checked_weights`.
    """
    return _weights(x, importance.elements, importance.row_means)


def _weights(x: Array, importance: Array, means: Array) -> Array:
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        return checked_weights(x, importance * np.sqrt(means[:, None] + x * x))


def checked_weights(x: Array, w: Array) -> Array:
    """The weights `w` of blocks ``[n, size]``, as they are.

    Raises
    ------
    NumericalError
        If sums of weighted squares, of numbers or of codes, may exceed float32. ggml aborts there, or writes zeros and NaN.
    """
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        largest = np.abs(x).max(axis=1)
        bound = w.max(axis=1) * np.maximum(largest * largest, np.float32(1)) * np.float32(2**22)  # codes to 2^7 and 2^8 elements
    if not np.isfinite(bound).all():
        block = int(np.argmin(np.isfinite(bound)))
        raise NumericalError(f"weighted squares of block {block} exceed float32; rescale the tensor or its importance")
    return w
