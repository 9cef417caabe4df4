"""How a kernel on short float64 vectors becomes a function of float32 and float64 arrays of any shape."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from refquant.errors import InputError
from refquant.numerics.arrays import Array, Float64Array

BLOCK = 8192  # elements; a kernel's dozen float64 temporaries then stay in the second-level cache
ALLOWED = (np.dtype(np.float32), np.dtype(np.float64))

Kernel = Callable[..., Float64Array]


def working_dtype(name: str, *operands: Any) -> np.dtype[Any]:
    """The dtype of the result: float32 or float64, with NumPy's promotion (a Python number takes the dtype of the array beside it).

    Raises
    ------
    InputError
        If an operand is of any other dtype; integers are refused, since a wrong array is likelier than a wanted cast.

    Examples
    --------
    >>> working_dtype("power", np.ones(3, dtype=np.float32), 0.5)
    dtype('float32')
    """
    for operand in operands:
        dtype = operand.dtype if isinstance(operand, (np.ndarray, np.generic)) else np.asarray(operand).dtype
        plain = isinstance(operand, (int, float)) and not isinstance(operand, (bool, np.generic))
        if not plain and dtype not in ALLOWED:
            raise InputError(f"{name} of an array of dtype {dtype}; allowed are float32 and float64")
    dtype = np.result_type(*operands)
    return dtype if dtype in ALLOWED else np.dtype(np.float64)  # Python integers alone


def elementwise(name: str, single: Kernel, double: Kernel, *operands: Any) -> Array:
    """Apply a kernel to every element, block by block.

    Parameters
    ----------
    name : str
        For messages.
    single, double : callable
        Kernels for float32 and float64 operands. Both take and return float64 vectors (operands of one element stay one element), never
        write into an operand, and have no NumPy warnings to care about.
    *operands : ndarray or float
        They broadcast against each other.

    Returns
    -------
    ndarray
        C-contiguous, of the operands' common dtype (:func:`working_dtype`). Its NaNs have sign and payload zero.

    Raises
    ------
    InputError
        For operands of another dtype.
    """
    dtype = working_dtype(name, *operands)
    arrays = [np.asarray(operand, dtype=dtype) for operand in operands]
    shape = np.broadcast_shapes(*(a.shape for a in arrays))
    kernel = single if dtype == np.float32 else double
    flat = [(a if a.size == 1 else np.broadcast_to(a, shape)).reshape(-1) for a in arrays]
    out = np.empty(shape, dtype=dtype)
    results = out.reshape(-1)
    with np.errstate(all="ignore"):
        for start in range(0, results.size, BLOCK):
            block = slice(start, start + BLOCK)
            parts = ((f if f.size == 1 else f[block]).astype(np.float64, copy=False) for f in flat)
            result = results[block]
            result[...] = kernel(*parts)  # rounds to the dtype, once
            np.copyto(result, np.nan, where=result != result)
    return out
