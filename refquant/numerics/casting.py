"""Casts with a defined outcome: which dtype to compute in, clip before cast, rounding a scale to its stored format."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

from refquant.errors import InputError, NumericalError, UsageError
from refquant.numerics.arrays import Array, Float64Array

FLOAT_DTYPES: dict[str, np.dtype[Any]] = {
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float32": np.dtype(np.float32),
    "float64": np.dtype(np.float64),
}


def float_dtype(name: str) -> np.dtype[Any]:
    """Return the dtype called `name`: ``float16``, ``bfloat16``, ``float32`` or ``float64``.

    Raises
    ------
    UsageError
        For any other name.
    """
    if name not in FLOAT_DTYPES:
        raise UsageError(f"unknown floating dtype {name!r}; known are {', '.join(FLOAT_DTYPES)}")
    return FLOAT_DTYPES[name]


def as_working(x: Any, what: str = "the array") -> Array:
    """Return `x` as float32 or float64, exactly.

    float64 stays float64; float32, float16 and bfloat16 become float32, which holds each of their values.

    Raises
    ------
    InputError
        If `x` is not an array of one of these dtypes (integers are refused: a wrong array is likelier than a wanted cast).

    Examples
    --------
    >>> as_working(np.array([1.5], dtype=np.float16)).dtype
    dtype('float32')
    """
    array = np.asarray(x)
    if array.dtype not in FLOAT_DTYPES.values():
        raise InputError(f"{what} has dtype {array.dtype}; allowed are {', '.join(FLOAT_DTYPES)}")
    with np.errstate(invalid="ignore"):  # a signalling NaN is quietened, nothing else happens
        return array if array.dtype == np.float64 else array.astype(np.float32, copy=False)


def as_float64(x: Any) -> Float64Array:
    """Return real numbers as float64: exact for every floating dtype, and silent about signalling NaNs.

    Examples
    --------
    >>> as_float64([1, 2])
    array([1., 2.])
    """
    with np.errstate(invalid="ignore"):
        return np.asarray(x).astype(np.float64, copy=False)


def _finfo(dtype: np.dtype[Any]) -> Any:
    return ml_dtypes.finfo(dtype)  # type: ignore[no-untyped-call]


def smallest_positive(dtype: np.dtype[Any]) -> float:
    """Smallest positive (subnormal) number of a floating dtype."""
    return float(_finfo(dtype).smallest_subnormal)


def smallest_normal(dtype: np.dtype[Any]) -> float:
    """Smallest positive number of a floating dtype that has all of its bits."""
    return float(_finfo(dtype).smallest_normal)


def round_scale(scale: Array, dtype: np.dtype[Any], where: str) -> Array:
    """Round positive scales to the dtype they are stored in (nearest, ties to even).

    A scale that underflows to zero becomes the smallest positive number that both its dtype and `dtype` hold, so that no division by zero
    can occur. (The new scale is at least twice the old one: the tile's numbers use fewer codes, and none is clipped.)

    Parameters
    ----------
    scale : ndarray of float32 or float64, all > 0 or 0 by underflow
    dtype : numpy dtype
        One of :data:`FLOAT_DTYPES`.
    where : str
        What the scales belong to, for the message.

    Raises
    ------
    NumericalError
        If a scale overflows `dtype`.
    """
    with np.errstate(over="ignore", under="ignore"):
        stored = scale.astype(dtype)
    top = float(_finfo(dtype).max)
    too_large = ~(stored.astype(np.float64) <= top)
    if too_large.any():
        index = tuple(int(i) for i in np.argwhere(too_large)[0])
        raise NumericalError(
            f"{where}: scale {float(scale[index]):g} of tile {index} exceeds the largest {dtype.name} number {top:g}; "
            "store scales as float32 or rescale the tensor"
        )
    smallest = max(smallest_positive(dtype), smallest_positive(scale.dtype))  # a float32 tile is divided in float32
    return np.where(stored == 0, np.asarray(smallest, dtype=dtype), stored)
