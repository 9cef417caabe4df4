"""A whole row in groups, and how close a code was to being another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from refquant.errors import UsageError
from refquant.oracle.rational import Row
from refquant.oracle.uniform import Uniform, UniformGrid


@dataclass(frozen=True, slots=True)
class CodedRow:
    """Codes and decoded values of a row, and the grid of each of its groups in order."""

    codes: list[int]
    values: Row
    grids: list[UniformGrid]


def quantize_row(values: Sequence[Fraction], scheme: Uniform, group: int | None = None) -> CodedRow:
    """Quantize a row in groups of `group` neighbours; the last group takes what is left.

    Parameters
    ----------
    values : sequence of Fraction
        The row.
    scheme : Uniform
        How.
    group : int, optional
        At least 1; the whole row by default.

    Returns
    -------
    CodedRow

    Raises
    ------
    UsageError
        If `group` is less than 1.
    InputError, NumericalError
        As :meth:`Uniform.fit`.

    Examples
    --------
    >>> quantize_row([Fraction(n) for n in (-8, 3, 7, 100, 0)], Uniform("sym_narrow", 4), group=3).codes
    [-7, 3, 6, 7, 0]
    """
    if group is not None and group < 1:
        raise UsageError(f"group size {group}, at least 1 is needed")
    codes: list[int] = []
    decoded: Row = []
    grids = []
    start = 0
    while start < len(values):
        end = len(values) if group is None else min(start + group, len(values))
        grid = scheme.fit(values[start:end])
        grids.append(grid)
        for index in range(start, end):
            codes.append(scheme.encode(values[index], grid))
            decoded.append(scheme.decode(codes[index], grid))
        start = end
    return CodedRow(codes, decoded, grids)


def margin(x: Fraction, code: int, grid: UniformGrid) -> Fraction:
    """Return the distance, in steps, from `x` to the nearest number with another code, under rounding to nearest.

    Two correct implementations may differ in a code only where their rounding errors exceed this. A code at an end of
    the range has one boundary only.

    Parameters
    ----------
    x : Fraction
        What was coded.
    code : int
        Its code.
    grid : UniformGrid
        With at least two codes.

    Returns
    -------
    Fraction

    Examples
    --------
    >>> margin(Fraction(9, 4), 2, UniformGrid(Fraction(1), 0, 0, 3))
    Fraction(1, 4)
    """
    place = x / grid.scale + grid.zero
    distances = []
    if code > grid.lo:
        distances.append(place - (code - Fraction(1, 2)))
    if code < grid.hi:
        distances.append(code + Fraction(1, 2) - place)
    return min(distances)
