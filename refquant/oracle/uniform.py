"""Uniform grids, scheme by scheme, one group of numbers at a time.

Every scheme codes ``clip(rn(x / s) + z)`` and decodes ``s * (code - z)``; they differ in how the range gives ``s``
and ``z``:

=============== ================================================= =========================================
================ scheme          scale                                             zero
codes =============== ================================================= =========================================
================ asym_incl0      (max(hi,0) - min(lo,0)) / (2^b - 1)               clip(rn(-min(lo,0) / s), 0, 2^b - 1)
0 .. 2^b-1 asym_minmax     max(hi - lo, 1e-5) / (2^b - 1)                    clip(-rn(lo / s), 0, 2^b - 1)
0 .. 2^b-1 asym_omni       clip((hi - lo) / (2^b - 1), 1e-5, 1e4)            rn(clip(-lo / s, -1e4, 1e4)), not limited
0 .. 2^b-1 sym_full        max|x| / (2^(b-1) - 1)                            0
-2^(b-1) .. 2^(b-1)-1 sym_narrow      max|x| / (2^(b-1) - 1)                            0
without -2^(b-1) sym_gptq        2 max|x| / (2^b - 1)                              2^(b-1)
0 .. 2^b-1 sym_gptq_compat like sym_gptq; half of that scale if no x < 0     2^(b-1)
0 .. 2^b-1 =============== ================================================= =========================================
================

Every operation is exact or rounded once by the same callable (`refquant.oracle.ieee`), in the order written:
difference, product with the shrink factor, division by the number of steps, rounding of the scale to its stored
format, and only then the zero, from the stored scale. Constants such as 1e-5 are the binary64 numbers, rounded to the
working format.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from refquant.errors import InputError, UsageError
from refquant.formats import IntFormat
from refquant.oracle.ieee import Binary, exact
from refquant.oracle.nearest import round_to_integer

Rounding = Callable[[Fraction], Fraction]

EMPTY_RULE = {
    "asym_incl0": "unit_range",
    "asym_minmax": "own",
    "asym_omni": "own",
    "sym_full": "floor",
    "sym_narrow": "floor",
    "sym_gptq": "unit_range",
    "sym_gptq_compat": "unit_range",
}
"""Each scheme's rule for groups without a range.

``unit_range``: if both ends are 0, the range is [-1, 1]. ``floor``: the largest magnitude is at least 1e-5 (the upper
end, if the scheme is asymmetric). ``unit_scale``: if the largest magnitude is 0, the scale is 1. ``own``: the formula
above has its floor inside.
"""

SCHEMES = tuple(EMPTY_RULE)


@dataclass(frozen=True, slots=True)
class UniformGrid:
    """Scale, zero and the lowest and highest code of one group."""

    scale: Fraction
    zero: int
    lo: int
    hi: int


@dataclass(frozen=True, slots=True)
class Uniform:
    """How groups are given their grids, and numbers their codes.

    Parameters
    ----------
    scheme : str
        One of `SCHEMES`.
    bits : int
        2 to 16.
    rounded : callable
        Rounds the exact result of every operation: ``exact``, ``BINARY32``, ``BINARY64``.
    scale_format : Binary, optional
        The scale is rounded to it before anything is divided by it.
    rule : str
        Rounding of ``x / s`` to an integer; the zero is always rounded half to even.
    empty : str, optional
        Another rule for groups without a range than the scheme's own; see `EMPTY_RULE`.
    reciprocal : bool
        Multiply by the rounded ``1 / s`` where the definition divides by ``s``.
    """

    scheme: str
    bits: int
    rounded: Rounding = exact
    scale_format: Binary | None = None
    rule: str = "half_even"
    empty: str | None = None
    reciprocal: bool = False

    def __post_init__(self) -> None:
        if self.scheme not in SCHEMES:
            raise UsageError(f"unknown scheme {self.scheme!r}, allowed are {', '.join(SCHEMES)}")
        if not 2 <= self.bits <= 16:
            raise UsageError(f"{self.bits} bits, allowed are 2 to 16")
        if self.empty not in (None, "unit_range", "floor", "unit_scale", "own"):
            raise UsageError(f"unknown rule {self.empty!r} for empty ranges, allowed are unit_range, floor, unit_scale, own")

    @property
    def format(self) -> IntFormat:
        """The codes' format."""
        signed = self.scheme in ("sym_full", "sym_narrow")
        return IntFormat(bits=self.bits, signed=signed, narrow=self.scheme == "sym_narrow")

    def fit(self, values: Sequence[Fraction], shrink: float = 1.0) -> UniformGrid:
        """Give one group its grid.

        Parameters
        ----------
        values : sequence of Fraction
            The group, at least one number, each a number of the working format.
        shrink : float
            Factor on both ends of the range, after the rule for empty ranges.

        Returns
        -------
        UniformGrid

        Raises
        ------
        InputError
            If the group is empty or a value is not a number of the working format.
        NumericalError
            If the range or the scale overflows.

        Examples
        --------
        >>> Uniform("asym_incl0", 4).fit([Fraction(-1), Fraction(2)])
        UniformGrid(scale=Fraction(1, 5), zero=5, lo=0, hi=15)
        """
        if not values:
            raise InputError("a group without numbers has no grid")
        for value in values:
            if self.rounded(value) != value:
                raise InputError(f"{float(value)!r} is not a number of the working format")
        low, high = self._range(values)
        if shrink != 1:
            factor = self._constant(shrink)
            low, high = self.rounded(low * factor), self.rounded(high * factor)
        scale = self._stored(self._scale(low, high))
        return UniformGrid(scale, self._zero(low, scale), self.format.lo, self.format.hi)

    def encode(self, x: Fraction, grid: UniformGrid) -> int:
        """Return the code of one number.

        Examples
        --------
        >>> scheme = Uniform("asym_incl0", 4)
        >>> scheme.encode(Fraction(1, 2), scheme.fit([Fraction(-1), Fraction(2)]))
        7
        """
        # A quotient a whole step outside is clipped under every rule, even one that overflows to an infinity.
        quotient = x / grid.scale
        if not self.reciprocal:
            if quotient >= grid.hi + 1 - grid.zero:
                return grid.hi
            if quotient <= grid.lo - 1 - grid.zero:
                return grid.lo
            steps = self.rounded(quotient)
        else:
            steps = self.rounded(x * self.rounded(1 / grid.scale))
        return min(max(round_to_integer(steps, self.rule) + grid.zero, grid.lo), grid.hi)

    def decode(self, code: int, grid: UniformGrid) -> Fraction:
        """Return the number that a code stands for: the difference is exact, the product is rounded once.

        Examples
        --------
        >>> Uniform("asym_incl0", 4).decode(7, UniformGrid(Fraction(1, 5), 5, 0, 15))
        Fraction(2, 5)
        """
        return self.rounded(grid.scale * (code - grid.zero))

    def _constant(self, value: float) -> Fraction:
        return self.rounded(Fraction(value))

    def _range(self, values: Sequence[Fraction]) -> tuple[Fraction, Fraction]:
        """Both ends of the range, after the rules for zero, symmetry and empty ranges."""
        low = high = values[0]
        for value in values:
            low, high = min(low, value), max(high, value)
        if self.scheme == "sym_gptq_compat":
            low, high = min(low, Fraction(0)), max(-low, high, Fraction(0))
            if low < 0:
                low = -high
        elif self.scheme.startswith("sym"):
            high = max(-low, high)
            low = -high
        elif self.scheme == "asym_incl0":
            low, high = min(low, Fraction(0)), max(high, Fraction(0))
        empty = self.empty or EMPTY_RULE[self.scheme]
        if empty == "unit_range" and low == high == 0:
            low, high = Fraction(-1), Fraction(1)
        if empty == "floor":
            high = max(high, self._constant(1e-5))
            if self.scheme.startswith("sym"):
                low = -high
        return low, high

    def _scale(self, low: Fraction, high: Fraction) -> Fraction:
        """The scale before it is stored; 0 only where it underflows or the range is empty."""
        levels, half = 2**self.bits - 1, 2 ** (self.bits - 1) - 1
        if (self.empty or EMPTY_RULE[self.scheme]) == "unit_scale" and low == high == 0:
            return Fraction(1)
        if self.scheme in ("sym_full", "sym_narrow"):
            return self.rounded(high / half)
        width = self.rounded(high - low)
        if self.scheme == "asym_minmax":
            width = max(width, self._constant(1e-5))
        scale = self.rounded(width / levels)
        if self.scheme == "asym_omni":
            scale = min(max(scale, self._constant(1e-5)), self._constant(1e4))
        return scale

    def _stored(self, scale: Fraction) -> Fraction:
        """Round the scale to its stored format; one that underflows to 0 becomes the format's smallest number."""
        stored = self.rounded if self.scale_format is None else self.scale_format
        scale = stored(scale)
        if scale == 0:
            if not isinstance(stored, Binary):
                raise InputError("a group without a range has no scale in exact arithmetic; choose a rule for empty ranges")
            return stored.smallest
        return scale

    def _zero(self, low: Fraction, scale: Fraction) -> int:
        if self.scheme in ("sym_full", "sym_narrow"):
            return 0
        if self.scheme.startswith("sym_gptq"):
            return self.format.hi // 2 + 1
        steps = self.rounded(-low / scale)
        if self.scheme in ("asym_incl0", "asym_minmax"):  # for asym_incl0 it matters where the scale was rounded down coarsely
            return min(max(round_to_integer(steps), 0), self.format.hi)
        limit = Fraction(10000)
        return round_to_integer(min(max(steps, -limit), limit))
