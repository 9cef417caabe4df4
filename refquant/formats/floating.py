"""Small binary floating-point formats: sign, exponent, mantissa, and what is done with the codes that IEEE 754 gives to infinities and NaN.

A code is ``sign | exponent field E | mantissa field M``, the sign bit on top. With ``m`` mantissa bits and a bias,

    E > 0:  (1 + M / 2^m) * 2^(E - bias)          E = 0:  M / 2^m * 2^(1 - bias)    (gradual underflow)

Formats of the same widths differ in four answers, and each is a field: the bias, whether there are infinities, which codes are NaN, and
how the exponent field 0 is read. Sources: IEEE 754-2019; OCP 8-bit Floating Point (OFP8) 1.0; OCP Microscaling Formats 1.0; the names of
ml_dtypes for the ``fnuz`` kinds.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from refquant.errors import UsageError

NanCodes = Literal["none", "ieee", "all_ones", "negative_zero"]
LowestExponent = Literal["gradual", "normal", "zero"]
NAME = re.compile(r"(u?)e(\d+)m(\d+)(?:b(\d+))?(ieee|fnuz|fn|finite|)")


@dataclass(frozen=True, kw_only=True)
class FloatFormat:
    """A floating-point format of at most 16 bits whose members are all float32 numbers.

    Parameters
    ----------
    name : str
    exponent_bits, mantissa_bits : int
        Widths of the fields.
    bias : int
    infinities : bool
        With ``nan="ieee"`` they have the top exponent and mantissa 0, otherwise the codes of all ones below the sign.
    nan : {"none", "ieee", "all_ones", "negative_zero"}
        No code; the top exponent with a mantissa that is not 0; all ones below the sign (OCP's e4m3, e8m0); the code of -0, which the
        format then lacks (the ``fnuz`` kinds).
    signed : bool
        Whether there is a sign bit.
    lowest : {"gradual", "normal", "zero"}
        Exponent field 0 holds subnormal numbers; is an exponent like any other, so that there is no zero (e8m0); or holds nothing but
        zeros, of which only mantissa 0 is ever written.

    Raises
    ------
    UsageError
        If the widths do not make 2 to 16 bits, two answers contradict each other, or a member is not a float32 number.

    Examples
    --------
    >>> e4m3 = FloatFormat(name="e4m3fn", exponent_bits=4, mantissa_bits=3, bias=7, nan="all_ones")
    >>> e4m3.hi, e4m3.smallest, e4m3.bits
    (448.0, 0.001953125, 8)
    """

    name: str
    exponent_bits: int
    mantissa_bits: int
    bias: int
    infinities: bool = False
    nan: NanCodes = "none"
    signed: bool = True
    lowest: LowestExponent = "gradual"

    def __post_init__(self) -> None:
        widths = (self.exponent_bits, self.mantissa_bits, self.bias)
        if not isinstance(self.name, str) or any(isinstance(w, bool) or not isinstance(w, int) for w in widths):
            raise UsageError(
                f"a floating-point format has a name and integers for exponent bits, mantissa bits and bias; got {self.name!r}, {widths}"
            )
        if min(widths[:2]) < 0 or not 2 <= self.bits <= 16:
            raise UsageError(
                f"format {self.name}: {self.exponent_bits} exponent and {self.mantissa_bits} mantissa bits do not make 2 to 16 bits"
            )
        if self.nan not in get_args(NanCodes) or self.lowest not in get_args(LowestExponent):
            raise UsageError(
                f"format {self.name}: nan is one of {', '.join(get_args(NanCodes))} and lowest one of "
                f"{', '.join(get_args(LowestExponent))}; "
                f"got {self.nan!r} and {self.lowest!r}"
            )
        if not (isinstance(self.signed, bool) and isinstance(self.infinities, bool)):
            raise UsageError(f"format {self.name}: signed and infinities are True or False")
        if self.infinities and self.nan == "all_ones":
            raise UsageError(
                f"format {self.name}: infinities and NaN cannot both have the code of all ones; use nan='ieee' or 'negative_zero'"
            )
        if self.nan == "negative_zero" and (not self.signed or self.lowest == "normal"):
            raise UsageError(f"format {self.name}: it has no negative zero that could stand for NaN")
        if self.nan == "ieee" and (self.exponent_bits == 0 or self.mantissa_bits == 0):
            raise UsageError(f"format {self.name}: IEEE's NaN needs an exponent field and a mantissa field")
        if self.exponent_bits == 0 and self.lowest != "gradual":
            raise UsageError(f"format {self.name}: without an exponent field every number is subnormal; lowest must be 'gradual'")
        self._require_float32()

    def _require_float32(self) -> None:
        top = (1 << self.exponent_bits) - 1 - self.bias
        if self.nan == "ieee" or (self.nan == "all_ones" and self.mantissa_bits == 0):
            top -= 1  # the last exponent holds no number
        bottom = (0 if self.lowest == "normal" else 1) - self.bias - self.mantissa_bits
        if top > 127 or bottom < -149:
            raise UsageError(f"format {self.name}: exponents {bottom} to {top} do not all fit float32, in which formats are decoded")
        if not (np.isfinite(self.table) & (self.table > 0)).any():
            raise UsageError(f"format {self.name} holds no positive finite number")

    @property
    def bits(self) -> int:
        """Width of a code."""
        return int(self.signed) + self.exponent_bits + self.mantissa_bits

    @property
    def dtype(self) -> np.dtype[np.integer]:
        """Smallest unsigned NumPy integer dtype that holds every code."""
        return np.dtype(np.uint8 if self.bits <= 8 else np.uint16)

    @property
    def sign_bit(self) -> int:
        """The code's sign bit, 0 without one."""
        return 1 << (self.bits - 1) if self.signed else 0

    @property
    def infinity_code(self) -> int | None:
        """Code of +infinity."""
        if not self.infinities:
            return None
        top = ((1 << self.exponent_bits) - 1) << self.mantissa_bits
        return top if self.nan == "ieee" else top | ((1 << self.mantissa_bits) - 1)

    @property
    def nan_code(self) -> int | None:
        """The NaN code that is written (IEEE: the quiet one); its sign bit is 0 unless it is the code of -0."""
        top = ((1 << self.exponent_bits) - 1) << self.mantissa_bits
        match self.nan:
            case "none":
                return None
            case "ieee":
                return top | (1 << (self.mantissa_bits - 1))
            case "all_ones":
                return top | ((1 << self.mantissa_bits) - 1)
            case "negative_zero":
                return self.sign_bit

    @property
    def negative_zero_code(self) -> int | None:
        """Code of -0, if the format has one."""
        return self.sign_bit if self.signed and self.nan != "negative_zero" and self.lowest != "normal" else None

    @cached_property
    def table(self) -> NDArray[np.float64]:
        """Value of every code, NaN and infinities included; read-only."""
        codes = np.arange(1 << self.bits)
        magnitude = codes & ~self.sign_bit if self.signed else codes
        exponent, mantissa = magnitude >> self.mantissa_bits, magnitude & ((1 << self.mantissa_bits) - 1)
        implicit = np.where((exponent > 0) | (self.lowest == "normal"), 1 << self.mantissa_bits, 0)
        floor = 0 if self.lowest == "normal" else 1
        values = np.ldexp((implicit + mantissa).astype(np.float64), np.maximum(exponent, floor) - self.bias - self.mantissa_bits)
        if self.lowest == "zero":
            values = np.where(exponent == 0, 0.0, values)
        if self.nan == "ieee":
            values = np.where(exponent == (1 << self.exponent_bits) - 1, np.nan, values)
        elif self.nan == "all_ones":
            values = np.where(magnitude == self.nan_code, np.nan, values)
        if self.infinities:
            values = np.where(magnitude == self.infinity_code, np.inf, values)
        values = np.where(codes & self.sign_bit, -values, values)
        if self.nan == "negative_zero":
            values[self.sign_bit] = np.nan
        values.flags.writeable = False
        return np.asarray(values, dtype=np.float64)

    @property
    def hi(self) -> float:
        """Largest finite member."""
        return float(self.table[np.isfinite(self.table)].max())

    @property
    def lo(self) -> float:
        """Smallest finite member: ``-hi`` with a sign bit, else 0 or the smallest positive one."""
        return float(self.table[np.isfinite(self.table)].min())

    @property
    def smallest(self) -> float:
        """Smallest positive member."""
        return float(self.table[self.table > 0].min())

    @property
    def smallest_normal(self) -> float:
        """Smallest positive member whose mantissa has its full precision."""
        return float(np.ldexp(1.0, (0 if self.lowest == "normal" else 1) - self.bias))

    @property
    def emax(self) -> int:
        """Exponent of the largest finite member."""
        return int(np.frexp(self.hi)[1]) - 1

    @property
    def spacing_at_top(self) -> float:
        """How far behind the largest member the next one would lie."""
        emin = int(np.frexp(self.smallest_normal)[1]) - 1
        return float(np.ldexp(1.0, max(self.emax, emin) - self.mantissa_bits))


def parse_float(name: str) -> FloatFormat | None:
    """Make a format of the general family from its name, or None if the name is not one of them.

    Parameters
    ----------
    name : str
        ``[u]e<exponent bits>m<mantissa bits>[b<bias>][suffix]``: ``u`` leaves out the sign; the usual bias is ``2^(E-1) - 1``, and one more
        under ``fnuz``. Suffixes: ``ieee`` infinities and NaN as IEEE 754; ``fn`` no infinities, all ones is NaN; ``fnuz`` no infinities, -0
        is NaN; ``finite`` neither. Without one, formats of 8 bits and more are ``ieee`` and smaller ones ``finite``, as ml_dtypes has them.

    Raises
    ------
    UsageError
        If the name has this form and there is no such format.

    Examples
    --------
    >>> parse_float("e3m2").hi, parse_float("e4m3").hi, parse_float("nf4")
    (28.0, 240.0, None)
    """
    found = NAME.fullmatch(name)
    if found is None:
        return None
    unsigned, exponent, mantissa, bias, kind = found.groups()
    width = int(exponent) + int(mantissa) + (not unsigned)
    kind = kind or ("ieee" if width >= 8 else "finite")
    usual = (1 << max(int(exponent) - 1, 0)) - 1 + (kind == "fnuz") if int(exponent) <= 16 else 0
    codes: dict[str, NanCodes] = {"ieee": "ieee", "fn": "all_ones", "fnuz": "negative_zero", "finite": "none"}
    return FloatFormat(
        name=name,
        exponent_bits=int(exponent),
        mantissa_bits=int(mantissa),
        bias=int(bias) if bias else usual,
        infinities=kind == "ieee",
        nan=codes[kind],
        signed=not unsigned,
    )
