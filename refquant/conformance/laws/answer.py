"""Reading whatever a function returns: numbers, codes with their scales, or an object that dequantizes itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from refquant.conformance.laws.law import Subject, UnreadableAnswerError, broken
from refquant.core import QuantSpec, Tiling
from refquant.formats import IntFormat
from refquant.numerics.arrays import Array, Float64Array
from refquant.numerics.casting import as_float64

FLOAT64 = np.dtype(np.float64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a quantizer said of an array.

    Parameters
    ----------
    values : float64 ndarray
        The numbers after quantization.
    codes : int64 ndarray of the same shape, optional
    scale, zero : float64 ndarray, broadcastable to the shape, optional
    dtype : dtype
        Of the numbers as they were returned; float64 where they were decoded here.
    """

    values: Float64Array
    codes: Array | None = None
    scale: Float64Array | None = None
    zero: Float64Array | None = None
    dtype: np.dtype[Any] = FLOAT64


def ask(subject: Subject, *arguments: Array) -> Answer:
    """Call the function and read its answer.

    Parameters
    ----------
    subject : Subject
        Its function may return numbers; ``(codes, scale)`` or ``(codes, scale, zero)``, with one scale a tile of the traits' tiling, or
        of any shape that broadcasts, and decoded as ``scale * (codes - zero)``; or an object with a method ``dequantize()`` and, if it
        likes, attributes ``codes``, ``scale``, ``zero``.
    *arguments : ndarray

    Returns
    -------
    Answer

    Raises
    ------
    UnreadableAnswerError
        If it returned something else.
    BrokenLawError
        If scales do not fit codes.
    """
    return read_answer(subject.call(*arguments), subject.traits.tiling)


def read_answer(found: Any, tiling: Tiling | None = None) -> Answer:
    """Read what a function returned; errors as :func:`ask`.

    Examples
    --------
    >>> read_answer((np.array([[1, -2]]), np.array([[0.5]]))).values
    array([[ 0.5, -1. ]])
    """
    if hasattr(found, "dequantize"):
        return _read_object(found, tiling)
    if isinstance(found, tuple | list) and len(found) in (2, 3) and all(part is None or _is_array(part) for part in found):
        return _read_parts(np.asarray(found[0]), found[1], found[2] if len(found) == 3 else None, tiling)
    if _is_array(found):
        return Answer(values=as_float64(found), dtype=np.asarray(found).dtype)
    raise UnreadableAnswerError(
        f"the function returned a {type(found).__name__}; allowed are an array of numbers, (codes, scale), (codes, scale, zero), "
        "or an object with dequantize()"
    )


def _is_array(found: object) -> bool:
    return isinstance(found, np.ndarray | np.generic | float | int)


def _read_object(found: Any, tiling: Tiling | None) -> Answer:
    returned = np.asarray(found.dequantize())
    values, dtype = as_float64(returned), returned.dtype
    codes, scale, zero = (getattr(found, name, None) for name in ("codes", "scale", "zero"))
    spec = getattr(found, "spec", None)
    other_codes = isinstance(spec, QuantSpec) and not isinstance(spec.format, IntFormat)  # numbers of members, not steps
    if codes is None or scale is None or other_codes or getattr(found, "permutation", None) is not None:
        return Answer(values=values, dtype=dtype)
    parts = _read_parts(np.asarray(codes), scale, zero, tiling)
    return Answer(values=values, codes=parts.codes, scale=parts.scale, zero=parts.zero, dtype=dtype)


def _read_parts(codes: Array, scale: Any, zero: Any, tiling: Tiling | None) -> Answer:
    if codes.dtype.kind not in "iu":
        raise UnreadableAnswerError(f"the first of (codes, scale, zero) holds integers, not {codes.dtype}")
    wide = codes.astype(np.int64)
    step = _expanded(as_float64(scale), wide.shape, tiling, "scales")
    offset = None if zero is None else _expanded(as_float64(zero), wide.shape, tiling, "zero points")
    values = step * (wide if offset is None else wide - offset)
    return Answer(values=np.asarray(values, dtype=np.float64), codes=wide, scale=step, zero=offset)


def _expanded(part: Float64Array, shape: tuple[int, ...], tiling: Tiling | None, what: str) -> Float64Array:
    """One number a tile, or any shape that broadcasts, spread over the elements."""
    if tiling is not None and len(tiling.extents) == len(shape) and part.shape == tiling.grid_shape(shape):
        return np.broadcast_to(tiling.expand(part, shape), shape)
    try:
        return np.broadcast_to(part, shape)
    except ValueError:
        broken(f"{what} of shape {part.shape} fit neither codes of shape {shape} nor the tiling {tiling and tiling.extents}")
