"""Formats by their definitions: what one code means, and which code one number gets, in fractions and loops.

Two readers of the same data: this file and the array code share the fields of a format and nothing else. A code's meaning is a fraction or
one of the words ``"nan"``, ``"+inf"``, ``"-inf"``; the sign of a zero is asked for by itself.
"""

from __future__ import annotations

from bisect import bisect_left
from fractions import Fraction
from functools import lru_cache

from refquant.errors import InputError, NumericalError, UsageError
from refquant.formats import Codebook, FloatFormat, Format, IntFormat
from refquant.oracle.ieee import BINARY32

Meaning = Fraction | str


def _power(exponent: int) -> Fraction:
    return Fraction(2**exponent) if exponent >= 0 else Fraction(1, 2**-exponent)


def code_meaning(code: int, fmt: Format) -> Meaning:
    """Return what a code stands for; of both zeros, 0.

    Parameters
    ----------
    code : int
        Bit pattern; the integer itself for integer formats.
    fmt : Format

    Raises
    ------
    InputError
        If the format has no such code.

    Examples
    --------
    >>> from refquant.formats import find_format
    >>> [str(code_meaning(code, find_format("e5m2"))) for code in (0x3C, 0x01, 0x7C, 0xFC, 0x7F)]
    ['1', '1/65536', '+inf', '-inf', 'nan']
    """
    if code not in all_codes(fmt):
        raise InputError(f"{fmt.name} has no code {code}")
    if isinstance(fmt, IntFormat):
        return Fraction(code)
    if isinstance(fmt, Codebook):
        return Fraction(fmt.table[code])
    return _float_meaning(code, fmt)


def all_codes(fmt: Format) -> range:
    """Every code of a format."""
    if isinstance(fmt, IntFormat):
        return range(fmt.lo, fmt.hi + 1)
    return range(len(fmt.table)) if isinstance(fmt, Codebook) else range(2**fmt.bits)


def _float_meaning(code: int, fmt: FloatFormat) -> Meaning:
    negative = fmt.signed and code >= 2 ** (fmt.bits - 1)
    magnitude = code - 2 ** (fmt.bits - 1) if negative else code
    sign = -1 if negative else 1
    exponent, mantissa = divmod(magnitude, 2**fmt.mantissa_bits)
    last_exponent, last_mantissa = 2**fmt.exponent_bits - 1, 2**fmt.mantissa_bits - 1
    infinity = "-inf" if negative else "+inf"
    if fmt.nan == "negative_zero" and negative and magnitude == 0:
        return "nan"
    if fmt.nan == "ieee" and exponent == last_exponent:
        return infinity if mantissa == 0 and fmt.infinities else "nan"
    if (exponent, mantissa) == (last_exponent, last_mantissa):
        if fmt.nan == "all_ones":
            return "nan"
        if fmt.infinities:
            return infinity
    if exponent == 0 and fmt.lowest == "zero":
        return Fraction(0)
    fraction = Fraction(mantissa, 2**fmt.mantissa_bits)
    if exponent == 0 and fmt.lowest == "gradual":
        return sign * fraction * _power(1 - fmt.bias)
    return sign * (1 + fraction) * _power(exponent - fmt.bias)


@lru_cache(maxsize=64)
def _members(fmt: Format) -> tuple[tuple[Fraction, int], ...]:
    """Finite members in increasing order, each with the lowest code that stands for it."""
    lowest: dict[Fraction, int] = {}
    for code in all_codes(fmt):
        meaning = code_meaning(code, fmt)
        if isinstance(meaning, Fraction) and meaning not in lowest:
            lowest[meaning] = code
    return tuple(sorted(lowest.items()))


def encode_number(
    x: Fraction | str, fmt: Format, rounding: str = "half_even", *, overflow: str = "saturate", negative: bool | None = None
) -> int:
    """Return the code of one number by looking at every member.

    Parameters
    ----------
    x : Fraction, or one of the words ``"nan"``, ``"+inf"``, ``"-inf"``
    fmt : Format
    rounding : str
        A :class:`refquant.formats.MemberRounding`.
    overflow : {"saturate", "infinity", "nan", "raise"}
    negative : bool, optional
        The sign of a zero or a NaN; by default that of `x`.

    Raises
    ------
    UsageError
        If the format lacks what is asked for.
    NumericalError
        If the number lies outside under ``overflow="raise"``.

    Examples
    --------
    >>> from refquant.formats import find_format
    >>> [encode_number(Fraction(x), find_format("e4m3fn"), overflow="nan") for x in (464, 465)]
    [126, 127]
    """
    members = _members(fmt)
    minus = negative if negative is not None else (x == "-inf" or (isinstance(x, Fraction) and x < 0))
    if x == "nan":
        return _special("nan", minus, fmt)
    if overflow != "saturate" and _outside(x, fmt, rounding):
        if overflow == "raise":
            raise NumericalError(f"{x} lies outside {fmt.name}")
        below_unsigned = x == "-inf" or (isinstance(x, Fraction) and x <= 0)
        wanted = "nan" if below_unsigned and isinstance(fmt, FloatFormat) and not fmt.signed else overflow
        return _special(wanted, minus, fmt)
    if isinstance(x, str):
        value, code = members[-1] if x == "+inf" else members[0]
    else:
        value, code = _choose(x, members, fmt, rounding)
    if value == 0 and isinstance(fmt, FloatFormat) and fmt.signed and fmt.nan != "negative_zero" and minus:
        return code + (1 << (fmt.bits - 1))
    if value == 0 and isinstance(fmt, Codebook) and fmt.zero_from_above is not None and isinstance(x, Fraction) and x > 0:
        return fmt.zero_from_above
    return code


@lru_cache(maxsize=256)
def _special(word: str, minus: bool, fmt: Format) -> int:
    """The code of NaN or an infinity: among the format's codes, the one with the right meaning."""
    if not isinstance(fmt, FloatFormat):
        raise UsageError(f"{fmt.name} has no {word}")
    meaning = "nan" if word == "nan" else "-inf" if minus else "+inf"
    found = [code for code in all_codes(fmt) if code_meaning(code, fmt) == meaning]
    if not found:
        raise UsageError(f"{fmt.name} has no {meaning}")
    if meaning == "nan":
        half = 2 ** (fmt.bits - 1)
        side = [code for code in found if fmt.signed and (code >= half) == minus] or found
        # IEEE 754: a quiet NaN has the mantissa's first bit set; the plainest one has no other.
        return side[len(side) // 2] if fmt.nan == "ieee" else side[0]
    return found[0]


def _outside(x: Fraction | str, fmt: Format, rounding: str) -> bool:
    """Whether a number rounds beyond the last member, if the members went on as they end."""
    members = _members(fmt)
    if isinstance(x, str):
        return True
    (bottom, _), (top, _) = members[0], members[-1]
    if isinstance(fmt, FloatFormat) and not fmt.signed and x <= 0:
        return x < 0 or bottom > 0
    if bottom <= x <= top or (isinstance(fmt, FloatFormat) and not fmt.signed and x < bottom):
        return False
    last, beyond = (top, 1) if x > top else (bottom, -1)
    towards_inside = rounding in (("floor", "trunc") if beyond > 0 else ("ceil", "trunc"))
    if isinstance(fmt, IntFormat):
        ends = sorted([(last, int(last)), (last + beyond, int(last) + beyond)])
        return abs(x - last) >= 1 or _choose(x, tuple(ends), fmt, rounding)[0] != last
    if towards_inside:
        return False
    if isinstance(fmt, Codebook) or rounding in ("floor", "ceil", "away"):
        return True
    step = _power(_exponent_of_last(fmt, abs(last)) - fmt.mantissa_bits)
    tie = abs(last) + step / 2
    if abs(x) != tie:
        return abs(x) > tie
    match rounding:
        case "half_away":
            return True
        case "half_zero":
            return False
        case "half_up":
            return beyond > 0
        case "half_down":
            return beyond < 0
    return fmt.mantissa_bits == 0 or int(abs(last) / step) % 2 == 1


def _exponent_of_last(fmt: FloatFormat, last: Fraction) -> int:
    """Exponent of the binade of the last member; that of the subnormal numbers if it is one."""
    exponent = (0 if fmt.lowest == "normal" else 1) - fmt.bias
    while _power(exponent + 1) <= last:
        exponent += 1
    return exponent


def _choose(x: Fraction, members: tuple[tuple[Fraction, int], ...], fmt: Format, rounding: str) -> tuple[Fraction, int]:
    """The member that `x` goes to; beyond the ends, the end."""
    if x <= members[0][0]:
        return members[0]
    if x >= members[-1][0]:
        return members[-1]
    at = bisect_left(members, x, key=lambda member: member[0])
    upper = members[at]
    lower = upper if upper[0] == x else members[at - 1]
    if lower == upper:
        return lower
    smaller, larger = sorted((upper, lower), key=lambda member: abs(member[0]))  # stable: of equal magnitudes the upper one is first
    if abs(smaller[0]) == abs(larger[0]):
        larger = upper
    match rounding:
        case "floor":
            return lower
        case "ceil":
            return upper
        case "trunc":
            if lower[0] < 0 < upper[0]:
                raise UsageError(f"trunc has no meaning between {lower[0]} and {upper[0]}")
            return smaller
        case "away":
            return (upper if x >= 0 else lower) if lower[0] < 0 < upper[0] else larger
    tie = (lower[0] + upper[0]) / 2
    if isinstance(fmt, Codebook) and fmt.midpoints == "float32":
        tie = BINARY32(tie)
    if x != tie:
        return lower if x < tie else upper
    match rounding:
        case "half_up":
            return upper
        case "half_down":
            return lower
        case "half_away":
            return larger
        case "half_zero":
            return smaller
        case "half_even":
            return _even(lower, upper, fmt)
    raise UsageError(f"unknown rounding {rounding!r}")


def _even(lower: tuple[Fraction, int], upper: tuple[Fraction, int], fmt: Format) -> tuple[Fraction, int]:
    """Ties to even. Of floats: the even multiple of the finer spacing; of everything else: the even code."""
    if isinstance(fmt, FloatFormat):
        gap = upper[0] - lower[0]
        if fmt.lowest == "zero" and 0 in (lower[0], upper[0]):
            return lower if lower[0] == 0 else upper
        # Around a tie both neighbours are multiples of their distance.
        return lower if (lower[0] / gap) % 2 == 0 else upper
    if lower[1] % 2 == upper[1] % 2:
        raise UsageError(f"half_even has no meaning between codes {lower[1]} and {upper[1]} of {fmt.name}")
    return lower if lower[1] % 2 == 0 else upper
