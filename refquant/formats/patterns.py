"""Bits of integer codes: two's complement and offset binary. Codes of other formats are their bits already."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from refquant.errors import InputError, UsageError
from refquant.formats.encoding import require_codes
from refquant.formats.integer import IntFormat
from refquant.formats.members import Format

Array = NDArray[Any]
IntegerCode = Literal["twos_complement", "offset_binary"]


def to_patterns(codes: Array, fmt: Format, integers: IntegerCode = "twos_complement") -> Array:
    """Return codes as bit patterns of `fmt.bits` bits.

    Parameters
    ----------
    codes : integer ndarray
    fmt : Format
    integers : {"twos_complement", "offset_binary"}
        How negative integers are written; offset binary adds ``2^(bits-1)`` to signed codes. Unsigned codes are their own patterns.

    Returns
    -------
    ndarray of uint8 or uint16, the shape of `codes`

    Raises
    ------
    InputError
        If a code does not exist in the format.

    Examples
    --------
    >>> four = IntFormat(bits=4, signed=True)
    >>> to_patterns(np.array([-8, -1, 7]), four), to_patterns(np.array([-8, -1, 7]), four, "offset_binary")
    (array([ 8, 15,  7], dtype=uint8), array([ 0,  7, 15], dtype=uint8))
    """
    codes = np.asarray(codes)
    require_codes(codes, fmt)
    wide = codes.astype(np.int64) + _offset(fmt, integers)
    return (wide & ((1 << fmt.bits) - 1)).astype(np.uint8 if fmt.bits <= 8 else np.uint16)


def from_patterns(patterns: Array, fmt: Format, integers: IntegerCode = "twos_complement") -> Array:
    """Return the codes that bit patterns stand for; the inverse of :func:`to_patterns`.

    Raises
    ------
    InputError
        If a pattern has more bits, or stands for a code that the format leaves out.

    Examples
    --------
    >>> from_patterns(np.array([8, 15]), IntFormat(bits=4, signed=True))
    array([-8, -1], dtype=int8)
    """
    patterns = np.asarray(patterns)
    if patterns.dtype.kind not in "iu":
        raise InputError(f"bit patterns are integers, not {patterns.dtype}")
    if patterns.size and not (int(patterns.min()) >= 0 and int(patterns.max()) < 1 << fmt.bits):
        raise InputError(f"patterns of {fmt.name} lie in 0..{(1 << fmt.bits) - 1}; found {int(patterns.min())}..{int(patterns.max())}")
    wide = patterns.astype(np.int64)
    offset = _offset(fmt, integers)
    if offset:
        wide = wide - offset
    elif fmt.signed and isinstance(fmt, IntFormat):
        wide = np.where(wide >> (fmt.bits - 1), wide - (1 << fmt.bits), wide)
    require_codes(wide, fmt)
    return wide.astype(fmt.dtype)


def _offset(fmt: Format, integers: str) -> int:
    if integers not in ("twos_complement", "offset_binary"):
        raise UsageError(f"integers are written as 'twos_complement' or 'offset_binary', not {integers!r}")
    return 1 << (fmt.bits - 1) if integers == "offset_binary" and isinstance(fmt, IntFormat) and fmt.signed else 0
