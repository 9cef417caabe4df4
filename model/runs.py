"""Elementwise chains over runs of rows that stay in the processor's cache.

A chain of NumPy operations over a large array reads and writes memory once for each operation. Cut into runs of rows, it reads and writes
once for all of them; what one operation leaves, the next one finds in the cache.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from refquant.errors import UsageError
from refquant.numerics.arrays import Array

RUN = 1 << 16
"""Elements of a run: 256 KiB of float32, of which a chain holds two or three at a time."""


def in_runs(function: Callable[..., Array], *arrays: Array, out: Array | None = None) -> Array:
    """Apply a function of rows to runs of rows, and put what it gives together.

    Parameters
    ----------
    function : callable(*runs) -> ndarray [n, width out]
        Of the same rows of all arrays, [n, width] each; a row of its result depends on nothing but that row of the arguments.
    *arrays : ndarray [..., width]
        With the same leading axes, and each with a width of its own.
    out : ndarray, optional
        C-contiguous, where the result goes; may be one of the arrays.

    Returns
    -------
    ndarray [..., width out]

    Raises
    ------
    UsageError
        If `out` is not C-contiguous.

    Examples
    --------
    >>> import numpy as np
    >>> in_runs(lambda x, y: x[:, :1] + y, np.ones((3, 2, 8)), np.zeros((3, 2, 1))).shape
    (3, 2, 1)
    """
    if out is not None and not out.flags.c_contiguous:  # its rows would be those of a copy
        raise UsageError(f"the result of runs is to be written to an array with strides {out.strides}; allowed: a C-contiguous one")
    leading = arrays[0].shape[:-1]
    rows = math.prod(leading)
    flat = [array.reshape(rows, array.shape[-1]) for array in arrays]
    step = max(1, RUN // max(1, *(array.shape[-1] for array in flat)))
    first = function(*(array[:step] for array in flat))
    width = first.shape[-1]
    if out is None and rows <= step:
        return first.reshape(*leading, width)
    found = np.empty((rows, width), dtype=first.dtype) if out is None else out.reshape(rows, width)
    found[:step] = first
    for start in range(step, rows, step):
        found[start : start + step] = function(*(array[start : start + step] for array in flat))
    return found.reshape(*leading, width)
