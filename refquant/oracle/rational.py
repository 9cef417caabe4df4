"""The border of the oracle: numbers come in as exact fractions.

A binary float is a fraction already, so nothing is lost; what is no number at all (NaN, an infinity) is refused here
and nowhere else. Signed zero is lost: the oracle speaks of values, and ``-0.0`` and ``0.0`` are one value.
"""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from typing import Any

from refquant.errors import InputError

Row = list[Fraction]
Matrix = list[Row]


def fraction(value: Any) -> Fraction:
    """Return `value` exactly, as a fraction.

    Parameters
    ----------
    value : int, float, Fraction, Decimal, NumPy or ml_dtypes scalar
        Finite.

    Returns
    -------
    Fraction

    Raises
    ------
    InputError
        If `value` is not a finite number.

    Examples
    --------
    >>> fraction(0.1) == Fraction(3602879701896397, 2**55)
    True
    """
    try:
        if isinstance(value, int | Fraction):
            return Fraction(value)
        if hasattr(value, "as_integer_ratio"):
            return Fraction(*value.as_integer_ratio())
        if hasattr(value, "__float__"):  # ml_dtypes: every one of its formats fits into binary64
            return Fraction(*float(value).as_integer_ratio())
        raise TypeError
    except (OverflowError, ValueError, TypeError) as error:
        raise InputError(f"found {value!r}, a finite number is needed") from error


def row(values: Iterable[Any]) -> Row:
    """Return numbers, or a one-dimensional array, as a list of exact fractions.

    Parameters
    ----------
    values : iterable of numbers
        Each as for :func:`fraction`.

    Returns
    -------
    list of Fraction

    Raises
    ------
    InputError
        Naming the index of what is not a finite number.

    Examples
    --------
    >>> row([0.5, 3])
    [Fraction(1, 2), Fraction(3, 1)]
    """
    found = []
    for index, value in enumerate(values):
        try:
            found.append(fraction(value))
        except InputError as error:
            raise InputError(f"index {index}: {error}") from error
    return found


def matrix(values: Iterable[Iterable[Any]]) -> Matrix:
    """Return rows of equal length, or a two-dimensional array, as lists of exact fractions.

    Parameters
    ----------
    values : iterable of iterables of numbers
        Each number as for :func:`fraction`.

    Returns
    -------
    list of list of Fraction

    Raises
    ------
    InputError
        If the rows differ in length or hold something that is not a finite number.

    Examples
    --------
    >>> matrix([[1, 2], [3, 4.5]])[1]
    [Fraction(3, 1), Fraction(9, 2)]
    """
    found = []
    for index, values_of_row in enumerate(values):
        try:
            found.append(row(values_of_row))
        except InputError as error:
            raise InputError(f"row {index}, {error}") from error
        if len(found[index]) != len(found[0]):
            raise InputError(f"row {index} has {len(found[index])} numbers, row 0 has {len(found[0])}")
    return found
