"""Constants to any number of bits, in Python's integers: what the tables of the elementary functions are made of.

A number v is held as the integer nearest to or just beside v * 2**bits; every function here is within a few hundred of those units,
which `GUARD` extra bits inside cover. The only conversions to float64 are quotients of integers, which Python rounds correctly.
"""

from __future__ import annotations

import math
from fractions import Fraction

GUARD = 32


def scaled(value: Fraction, bits: int) -> int:
    """``floor(value * 2**bits)``."""
    return (value.numerator << bits) // value.denominator


def atanh(value: Fraction, bits: int) -> int:
    """``atanh(value) * 2**bits`` for ``|value| < 1`` by its series; cheap for small values only.

    Examples
    --------
    >>> round(1000 * atanh(Fraction(1, 2), 64) / 2**64)
    549
    """
    return _odd_series(value, bits, sign=1)


def atan(value: Fraction, bits: int) -> int:
    """``atan(value) * 2**bits`` for ``|value| < 1`` by its series."""
    return _odd_series(value, bits, sign=-1)


def _odd_series(value: Fraction, bits: int, sign: int) -> int:
    """``sum (sign value^2)^k value / (2k + 1)``."""
    top, bottom = value.numerator * value.numerator * sign, value.denominator * value.denominator
    power = scaled(value, bits + GUARD)
    total, odd = 0, 1
    while power not in (0, -1):  # floors of what has become negligible
        total += power // odd
        power = power * top // bottom
        odd += 2
    return total >> GUARD


def log(value: Fraction, bits: int) -> int:
    """``log(value) * 2**bits`` for a positive value near 1: twice the atanh of ``(value - 1) / (value + 1)``.

    Examples
    --------
    >>> log(Fraction(2), 20) / 2**20
    0.69314...
    """
    return 2 * atanh((value - 1) / (value + 1), bits + 1) >> 1


def pi(bits: int) -> int:
    """``pi * 2**bits`` by Machin's formula, ``pi = 16 atan(1/5) - 4 atan(1/239)``.

    Examples
    --------
    >>> pi(20) / 2**20
    3.14159...
    """
    wide = bits + GUARD
    return (16 * atan(Fraction(1, 5), wide) - 4 * atan(Fraction(1, 239), wide)) >> GUARD


def root_of_two(numerator: int, halvings: int, bits: int) -> int:
    """``2**(numerator / 2**halvings) * 2**bits``, rounded down: as many integer square roots as there are halvings.

    Examples
    --------
    >>> root_of_two(1, 1, 20) == math.isqrt(2 << 40)
    True
    """
    root = 1 << (numerator + (bits << halvings))
    for _ in range(halvings):
        root = math.isqrt(root)
    return root


def exp_negative(value: Fraction, bits: int) -> int:
    """``exp(-value) * 2**bits`` for a value of 0 or more: one over the series of ``exp(value)``, whose terms are all positive."""
    wide = bits + GUARD
    term, total, k = 1 << wide, 0, 0
    while term:
        total += term
        k += 1
        term = term * value.numerator // (value.denominator * k)
    return (1 << (wide + bits)) // total


def as_pair(value: int, bits: int) -> tuple[float, float]:
    """The float64 nearest to ``value / 2**bits``, and the float64 nearest to what it lacks.

    Examples
    --------
    >>> as_pair(2**100 + 1, 100) == (1.0, 2.0**-100)
    True
    """
    high = value / (1 << bits)
    numerator, denominator = high.as_integer_ratio()
    return high, (value * denominator - (numerator << bits)) / (denominator << bits)


def leading(value: int, bits: int, kept: int) -> float:
    """``value / 2**bits`` cut to `kept` significant bits: the part of a constant whose product with a short integer is exact."""
    drop = abs(value).bit_length() - kept
    return (value >> drop << drop) / (1 << bits)
