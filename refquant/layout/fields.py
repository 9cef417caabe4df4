"""What integer layouts store: unsigned codes and unsigned zero points, one field each, on 16-bit scales.

Signed codes are written in offset binary: code ``c`` as ``c + 2^(bits-1)`` on a constant zero point of ``2^(bits-1)``, so that
``scale * (code - zero)`` is the same number. Reading needs the spec to know which of the two was meant; with it nothing is lost.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from refquant.core import Origin, QTensor, QuantSpec
from refquant.errors import InputError
from refquant.formats import IntFormat
from refquant.numerics.arrays import Array


@dataclass(frozen=True, slots=True, kw_only=True)
class Fields:
    """A quantized matrix as unsigned fields.

    Parameters
    ----------
    codes : uint8 ndarray ``[rows, columns]``
    zero : int64 ndarray ``[rows, tiles]``
    scale : ndarray ``[rows, tiles]`` of the dtype that is stored
    """

    codes: Array
    zero: Array
    scale: Array


def column_tiles(spec: QuantSpec, shape: tuple[int, ...]) -> int | None:
    """Columns that share a scale within one row, or None if tiles of the spec are not runs of one row."""
    if len(spec.tiling.extents) != 2 or len(shape) != 2:
        return None
    rows, columns = spec.tiling.extents
    if rows != 1 and not (rows is None and shape[0] == 1):
        return None
    return shape[1] if columns is None else columns


def why_not_fields(q: QTensor, widths: tuple[int, ...], scales: tuple[str, ...], *, zero_low: int = 0, zero_high: int = 0) -> str | None:
    """Say what keeps a tensor from being written as fields, or None.

    Parameters
    ----------
    q : QTensor
    widths : tuple of int
        Bits that the layout knows.
    scales : tuple of str
        Dtypes of scales that it knows.
    zero_low, zero_high : int
        Zero points lie in ``zero_low .. 2^bits - 1 + zero_high``.
    """
    fmt = q.spec.format
    if not isinstance(fmt, IntFormat):
        return f"codes of {fmt.name}; it holds integers"
    if fmt.bits not in widths:
        return f"codes of {fmt.bits} bits; it holds {', '.join(map(str, widths))}"
    if column_tiles(q.spec, q.shape) is None:
        return f"tiles {q.spec.tiling.extents} of a tensor of shape {q.shape}; it holds matrices with a scale for each run of a row"
    if q.scale.dtype.name not in scales:
        return f"scales of {q.scale.dtype.name}; it holds {' or '.join(scales)}"
    if q.zero is None:
        return None
    if q.zero.dtype.kind not in "iu":
        return "zero points that are not integers"
    zero = fields_of(q).zero
    low, high = zero_low, (1 << fmt.bits) - 1 + zero_high
    outside = (zero < low) | (zero > high)
    if outside.any():
        row, tile = (int(i) for i in np.argwhere(outside)[0])
        return f"the zero point {int(zero[row, tile])} of row {row}, tile {tile}; it holds {low}..{high}"
    return None


def fields_of(q: QTensor) -> Fields:
    """Codes and zero points of an integer tensor as unsigned fields."""
    offset = _offset(q.spec)
    codes = (q.codes.astype(np.int64) + offset).astype(np.uint8)
    zero = np.full(q.scale.shape, offset, dtype=np.int64) if q.zero is None else q.zero.astype(np.int64) + offset
    return Fields(codes=codes, zero=zero, scale=q.scale)


def tensor_of(fields: Fields, spec: QuantSpec, *, permutation: Array | None = None, method: str = "imported") -> QTensor:
    """Read fields as a tensor of a spec; the inverse of :func:`fields_of`.

    Raises
    ------
    InputError
        If a code or a zero point is not one of the spec's: symmetric schemes have zero points of ``2^(bits-1)`` only.
    """
    offset = _offset(spec)
    codes = (fields.codes.astype(np.int64) - offset).astype(spec.format.dtype)
    zero: Array | None = fields.zero.astype(np.int64) - offset
    if spec.scheme.zero == "none":
        if zero is not None and zero.any():
            row, tile = (int(i) for i in np.argwhere(zero)[0])
            raise InputError(
                f"the zero point of row {row}, tile {tile} is {int(fields.zero[row, tile])}; scheme {spec.scheme.name} has {offset}"
            )
        zero = None
    elif zero is not None:
        middle = 1 << (spec.format.bits - 1)
        if spec.scheme.zero == "midpoint" and (zero != middle).any():
            row, tile = (int(i) for i in np.argwhere(zero != middle)[0])
            raise InputError(f"the zero point of row {row}, tile {tile} is {int(zero[row, tile])}; scheme {spec.scheme.name} has {middle}")
        zero = zero.astype(zero_dtype(zero, spec))
    return QTensor(codes=codes, scale=fields.scale, zero=zero, spec=spec, permutation=permutation, origin=Origin(method=method))


def zero_dtype(zero: Array, spec: QuantSpec) -> np.dtype[Any]:
    """The dtype that a scheme keeps zero points in: the codes' if that holds them, else int16."""
    limits = np.iinfo(spec.format.dtype)
    low, high = (int(zero.min()), int(zero.max())) if zero.size else (0, 0)
    inside = limits.min <= low and high <= limits.max
    return np.dtype(np.int16) if spec.scheme.zero == "integer_wide" or not inside else np.dtype(spec.format.dtype)


def _offset(spec: QuantSpec) -> int:
    return 1 << (spec.format.bits - 1) if spec.format.signed else 0
