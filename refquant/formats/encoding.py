"""Numbers to codes of a format and back, without a scale.

Encoding compares each number with the format's exact decision boundaries, so it rounds once, whatever the dtype: there is no way through
float32 on which ties could be made or lost. Codes of floating-point formats and codebooks are bit patterns; those of integer formats are
the integers themselves (:mod:`refquant.formats.patterns` has their bits).
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from refquant.errors import InputError, NumericalError, UsageError
from refquant.formats.codebook import Codebook
from refquant.formats.floating import FloatFormat
from refquant.formats.integer import IntFormat
from refquant.formats.members import Format, float32_buckets, members_of, table_of, thresholds_of
from refquant.formats.rounding import MemberRounding

Array = NDArray[Any]
BUCKETS_PAY = 1 << 12  # numbers from which on a table of 65536 entries is worth making
FormatOverflow = Literal["saturate", "infinity", "nan", "raise"]
FormatNan = Literal["raise", "nan", "zero"]


def encode(
    x: Array,
    fmt: Format,
    rounding: MemberRounding | str | None = None,
    *,
    overflow: FormatOverflow = "saturate",
    nan: FormatNan = "raise",
) -> Array:
    """Round every number to a member of a format and return the members' codes.

    Parameters
    ----------
    x : ndarray of float16, float32 or float64, any shape
    fmt : Format
    rounding : MemberRounding, optional
        By default ties to even, or the codebook's own rule.
    overflow : {"saturate", "infinity", "nan", "raise"}
        What becomes of a number that rounds beyond the last member (IEEE 754: as if the exponent went on), of infinities, and of negative
        numbers in a format without sign.
    nan : {"raise", "nan", "zero"}
        NaN is refused, becomes the format's NaN with its sign, or counts as 0.

    Returns
    -------
    ndarray of `fmt.dtype`
        A number below zero that rounds to 0 becomes -0 where the format has it, and so does -0 itself.

    Raises
    ------
    UsageError
        If a word is unknown, or the format lacks the infinity, NaN or rounding asked for.
    InputError
        If `x` is not of these dtypes, or holds NaN under ``nan="raise"``.
    NumericalError
        If a number lies outside under ``overflow="raise"``.

    Examples
    --------
    >>> from refquant.formats import find_format
    >>> encode(np.array([448.0, 464.0, -0.0, 480.0]), find_format("e4m3fn"), overflow="nan")
    array([126, 126, 128, 127], dtype=uint8)
    """
    mode = rounding_for(fmt, rounding)
    x = np.asarray(x)
    if x.dtype not in (np.float16, np.float32, np.float64):
        raise InputError(f"a format encodes float16, float32 or float64, not {x.dtype}")
    working = np.dtype(np.float64 if x.dtype == np.float64 else np.float32)
    x = x.astype(working, copy=False)
    _require_words(fmt, overflow, nan)
    members, limits = members_of(fmt), thresholds_of(fmt, mode, working)
    missing = np.isnan(x)
    some_missing = bool(missing.any())
    if some_missing and nan == "raise":
        raise InputError(f"NaN at index {_first(missing)}; encode finite numbers, or choose nan='nan' or 'zero'")
    if some_missing and nan == "zero":
        x = np.where(missing, working.type(0), x)
    index = _member_index(x, fmt, mode)
    codes = np.asarray(members.codes[index])
    if isinstance(fmt, FloatFormat) and fmt.negative_zero_code is not None:
        codes[(index == members.zero) & np.signbit(x)] = fmt.negative_zero_code
    if isinstance(fmt, Codebook) and fmt.zero_from_above is not None:
        codes[(index == members.zero) & (x > 0)] = fmt.zero_from_above
    if overflow != "saturate":
        _overflow(codes, x, fmt, overflow, limits.above, limits.below)
    if some_missing and nan == "nan" and isinstance(fmt, FloatFormat) and fmt.nan_code is not None:
        codes[missing] = fmt.nan_code
        codes[missing & np.signbit(x)] |= fmt.dtype.type(fmt.sign_bit)
    return codes


def _member_index(x: Array, fmt: Format, mode: MemberRounding) -> Array:
    """Index of the member that each number rounds to: how many decision boundaries it has reached."""
    buckets = float32_buckets(fmt, mode) if x.dtype == np.float32 and x.size >= BUCKETS_PAY else None
    if buckets is None:
        return np.searchsorted(thresholds_of(fmt, mode, x.dtype).inner, x, side="right")
    first, next_boundary = buckets
    index = first[x.view(np.uint32) >> 16]
    return np.asarray(index + (x >= next_boundary[index]))


def decode(codes: Array, fmt: Format, dtype: Any = np.float32) -> Array:
    """Return the numbers that codes stand for.

    Parameters
    ----------
    codes : integer ndarray
    fmt : Format
    dtype : float32 or float64
        Both hold every member exactly.

    Returns
    -------
    ndarray of `dtype`, the shape of `codes`

    Raises
    ------
    InputError
        If the codes are not integers, or one does not exist.
    UsageError
        If `dtype` is another.

    Examples
    --------
    >>> from refquant.formats import find_format
    >>> decode(np.array([0x7E, 0x80, 1]), find_format("e4m3fn"))
    array([ 4.480000e+02, -0.000000e+00,  1.953125e-03], dtype=float32)
    """
    codes, wanted = np.asarray(codes), np.dtype(dtype)
    if wanted not in (np.float32, np.float64):
        raise UsageError(f"codes decode to float32 or float64, not {wanted}; cast the result")
    require_codes(codes, fmt)
    lowest = fmt.lo if isinstance(fmt, IntFormat) else 0
    return np.asarray(table_of(fmt).astype(wanted)[codes.astype(np.int64) - lowest])


def require_codes(codes: Array, fmt: Format) -> None:
    """Raise InputError unless all codes are integers and codes of the format."""
    if codes.dtype.kind not in "iu":
        raise InputError(f"codes are integers, not {codes.dtype}")
    lo, hi = (fmt.lo, fmt.hi) if isinstance(fmt, IntFormat) else (0, len(table_of(fmt)) - 1)
    if codes.size and not (lo <= int(codes.min()) and int(codes.max()) <= hi):
        raise InputError(f"codes of {fmt.name} lie in {lo}..{hi}; found {int(codes.min())}..{int(codes.max())}")


def round_to_format(
    x: Array,
    fmt: Format,
    rounding: MemberRounding | str | None = None,
    *,
    overflow: FormatOverflow = "saturate",
    nan: FormatNan = "raise",
) -> Array:
    """Round every number to a member of a format; parameters and errors as in :func:`encode`.

    Returns
    -------
    ndarray of float64 if `x` is, else float32

    Examples
    --------
    >>> from refquant.formats import find_format
    >>> round_to_format(np.array([0.3, 2.5, 100.0]), find_format("e2m1"))
    array([0.5, 2. , 6. ])
    """
    wanted = np.float64 if np.asarray(x).dtype == np.float64 else np.float32
    return decode(encode(x, fmt, rounding, overflow=overflow, nan=nan), fmt, wanted)


def rounding_for(fmt: Format, rounding: MemberRounding | str | None) -> MemberRounding:
    """The rule that is meant: the one named, or else the format's usual one.

    Raises
    ------
    UsageError
        If there is no such rule.
    """
    if rounding is None:
        return fmt.ties if isinstance(fmt, Codebook) else MemberRounding.HALF_EVEN
    if rounding not in list(MemberRounding):
        raise UsageError(f"rounding {str(rounding)!r} to {fmt.name}; known are {', '.join(MemberRounding)}")
    return MemberRounding(rounding)


def _require_words(fmt: Format, overflow: str, nan: str) -> None:
    """Check the policies against what the format has."""
    if overflow not in get_args(FormatOverflow):
        raise UsageError(f"overflow is one of {', '.join(get_args(FormatOverflow))}, not {overflow!r}")
    if nan not in get_args(FormatNan):
        raise UsageError(f"nan is one of {', '.join(get_args(FormatNan))}, not {nan!r}")
    if overflow == "infinity" and not (isinstance(fmt, FloatFormat) and fmt.infinities):
        raise UsageError(f"{fmt.name} has no infinities that a number could overflow to; choose 'saturate', 'nan' or 'raise'")
    if "nan" in (overflow, nan) and not (isinstance(fmt, FloatFormat) and fmt.nan_code is not None):
        raise UsageError(f"{fmt.name} has no NaN; choose another overflow or nan policy")


def _overflow(codes: Array, x: Array, fmt: Format, overflow: str, above: float, below: float) -> None:
    """Overwrite the codes of numbers outside the format. NaN is not outside: it compares with nothing."""
    high, low = x >= above, x < below
    if np.isneginf(below):
        low = np.isneginf(x)
    if overflow == "raise":
        if (high | low).any():
            at = _first(high | low)
            raise NumericalError(f"{float(x[at])!r} at index {at} lies outside {fmt.name} ({fmt.lo:g}..{fmt.hi:g})")
        return
    if not isinstance(fmt, FloatFormat):
        return  # policies other than saturation were refused
    code = fmt.infinity_code if overflow == "infinity" else fmt.nan_code
    codes[high] = code
    codes[low] = fmt.nan_code if not fmt.signed else code
    codes[low] |= fmt.dtype.type(fmt.sign_bit)


def _first(where: Array) -> tuple[int, ...]:
    return tuple(int(i) for i in np.argwhere(where)[0])
