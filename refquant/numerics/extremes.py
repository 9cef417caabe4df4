"""The smallest and the largest number of every row of a matrix, for rows as short as a group of weights.

NumPy reduces along the last axis row by row, and what it spends on beginning a row is more than the row of 32 or 128 numbers costs. Here
the matrix is turned first, four numbers together so that the copy moves whole records of 16 bytes; then rows lie side by side, and each
step compares long runs of them. Comparisons are exact, so order changes nothing but which of -0 and +0 stands for a zero.
"""

from __future__ import annotations

import numpy as np

from refquant.numerics.arrays import Array

RECORD = 16  # bytes that are moved together
LONG = 512  # elements of a row from which on NumPy's own reduction is the faster one


def row_extremes(x: Array) -> tuple[Array, Array]:
    """Smallest and largest number of each row.

    Parameters
    ----------
    x : ndarray ``[n, size]``, size at least 1
        Of any dtype that is ordered. A row with a NaN has NaN for both.

    Returns
    -------
    lo, hi : ndarray ``[n]`` of the same dtype
        A zero may have either sign where a row holds zeros of both.

    Examples
    --------
    >>> row_extremes(np.array([[3, 1, 2], [5, 7, 6]]))
    (array([1, 5]), array([3, 7]))
    """
    rows, size = x.shape
    if size >= LONG:
        return x.min(axis=1), x.max(axis=1)
    together = RECORD // x.itemsize
    if size % together or size == together:
        standing = np.ascontiguousarray(x.T)
        return standing.min(axis=0), standing.max(axis=0)
    records = np.ascontiguousarray(x).view(f"V{RECORD}")
    standing = np.ascontiguousarray(records.T).view(x.dtype)
    lo, hi = (found.reshape(rows, together) for found in (standing.min(axis=0), standing.max(axis=0)))
    return _folded(np.minimum, lo), _folded(np.maximum, hi)


def _folded(smaller: np.ufunc, x: Array) -> Array:
    """Reduce the few columns of a matrix, column by column."""
    found = smaller(x[:, 0], x[:, -1])
    for column in range(1, x.shape[1] - 1):
        smaller(found, x[:, column], out=found)
    return np.asarray(found)
