"""IEEE 754 rounding of exact fractions: what one correctly rounded operation does, written with integers.

An IEEE operation is the exact result, rounded once. So ``round(a / b)`` with fractions inside *is* the division of an
IEEE machine, and a chain of such calls is the program that such a machine runs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

from refquant.errors import NumericalError
from refquant.oracle.nearest import round_to_integer


@dataclass(frozen=True, slots=True)
class Binary:
    """A binary format: `precision` significant bits, exponents `emin` to `emax`, subnormal numbers below ``2^emin``."""

    name: str
    precision: int
    emin: int
    emax: int

    @property
    def largest(self) -> Fraction:
        """The largest finite number."""
        return (2 - Fraction(2) ** (1 - self.precision)) * Fraction(2) ** self.emax

    @property
    def smallest(self) -> Fraction:
        """The smallest positive number, a subnormal one."""
        return Fraction(2) ** (self.emin - self.precision + 1)

    def __call__(self, x: Fraction) -> Fraction:
        """Round to the nearest number of the format, ties to even, and into the subnormal numbers.

        Parameters
        ----------
        x : Fraction
            The exact result of an operation.

        Returns
        -------
        Fraction

        Raises
        ------
        NumericalError
            If the result is infinite.

        Examples
        --------
        >>> BINARY16(Fraction(2049))
        Fraction(2048, 1)
        """
        if x == 0:
            return Fraction(0)
        quantum = Fraction(2) ** (max(floor_log2(abs(x)), self.emin) - self.precision + 1)
        rounded = round_to_integer(x / quantum, "half_even") * quantum
        if abs(rounded) > self.largest:
            raise NumericalError(f"{float_text(x)} overflows {self.name}, whose largest number is {float_text(self.largest)}")
        return rounded

    def sqrt(self, x: Fraction) -> Fraction:
        """Return the correctly rounded square root of `x`, not negative.

        Examples
        --------
        >>> float(BINARY64.sqrt(Fraction(2))) == 2**0.5
        True
        """
        return self(_sqrt_for_rounding(x, self.precision))


BINARY16 = Binary("binary16", 11, -14, 15)
BFLOAT16 = Binary("bfloat16", 8, -126, 127)
BINARY32 = Binary("binary32", 24, -126, 127)
BINARY64 = Binary("binary64", 53, -1022, 1023)


def exact(x: Fraction) -> Fraction:
    """Do not round at all: the other mode of everything that takes a rounding.

    Examples
    --------
    >>> exact(Fraction(1, 3))
    Fraction(1, 3)
    """
    return x


def floor_log2(x: Fraction) -> int:
    """Return the exponent ``e`` with ``2^e <= x < 2^(e+1)``, for positive `x`.

    Examples
    --------
    >>> [floor_log2(Fraction(x)) for x in ("1", "7/4", "2", "1/3")]
    [0, 0, 1, -2]
    """
    guess = x.numerator.bit_length() - x.denominator.bit_length()
    return guess if Fraction(2) ** guess <= x else guess - 1


def float_text(x: Fraction) -> str:
    """Show a fraction of any size in a few digits, for messages.

    Examples
    --------
    >>> float_text(Fraction(10) ** 400), float_text(Fraction(1, 4))
    ('about 2^1328', '0.25')
    """
    if x and not -1000 < floor_log2(abs(x)) < 1000:
        return f"about {'-' if x < 0 else ''}2^{floor_log2(abs(x))}"
    return f"{float(x):g}"


def _sqrt_for_rounding(x: Fraction, precision: int) -> Fraction:
    """A fraction that rounds, at `precision` bits, as the square root of `x` does.

    ``isqrt`` gives the root's leading bits. If anything is cut off, a "sticky" bit below them stands for it: the
    value is then neither a number of the format nor halfway between two, and on the right side of both.
    """
    if x == 0:
        return Fraction(0)
    # x * 4^shift has a root of at least precision + 2 bits.
    shift = precision + 3 - floor_log2(x) // 2
    scaled = x * Fraction(4) ** shift
    root = math.isqrt(math.floor(scaled))
    sticky = 0 if root * root == scaled else 1
    return Fraction(2 * root + sticky, 2) / Fraction(2) ** shift
