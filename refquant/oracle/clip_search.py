"""The clip search of GPTQ and QuaRot: shrink the range step by step, keep the shrinkage with the least error.

For ``i = 0 .. 79`` both ends of the group's range are multiplied by ``p = 1 - i/100``, the grid is computed anew, and
``sum |Q(x) - x|^2.4`` is taken; the first of the least sums wins. The power is irrational, but which of two sums is
smaller can still be decided: every term lies between two fractions, and the fractions are narrowed until the sums'
intervals part.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from refquant.errors import NumericalError, UsageError
from refquant.oracle.ieee import floor_log2
from refquant.oracle.rational import Row
from refquant.oracle.uniform import Uniform, UniformGrid

START_BITS = 64
MOST_BITS = 2048


@dataclass(frozen=True, slots=True)
class ClipChoice:
    """What the search found.

    `index` is the step that won and `shrink` its factor; `errors` are the error sums of all steps, as fractions from
    below, good to 60 bits relative to the largest term of any; `margin` is how much larger the least sum among grids
    other than the winner's is, relative to the winner's (None if there is none, or if the winner's is 0):
    implementations in floating point may differ where it is tiny.
    """

    index: int
    shrink: float
    grid: UniformGrid
    errors: Row
    margin: Fraction | None


def search_clip(
    values: Sequence[Fraction],
    scheme: Uniform,
    steps: int = 80,
    divisions: int = 100,
    power: Fraction = Fraction(12, 5),
) -> ClipChoice:
    """Search the clipping range of one group.

    Parameters
    ----------
    values : sequence of Fraction
        The group.
    scheme : Uniform
        Gives the grids; the shrink factor is computed in binary64 and rounded to the scheme's working format.
    steps : int
        Shrinkages tried, at least 1.
    divisions : int
        One step shrinks by ``1 / divisions``; more than ``steps - 1``, so that no range is empty.
    power : Fraction
        Of the absolute errors; positive.

    Returns
    -------
    ClipChoice

    Raises
    ------
    UsageError
        If the steps, divisions or power are out of range.
    NumericalError
        If two sums are too close to be told apart with `MOST_BITS` bits and not equal term by term.

    Examples
    --------
    >>> values = [Fraction(n, 8) for n in (-3, -2, -1, 0, 1, 2, 3, 5)]
    >>> search_clip(values, Uniform("sym_narrow", 3)).index
    6
    """
    if not 1 <= steps <= divisions or power <= 0:
        raise UsageError(f"{steps} steps of 1/{divisions} with power {power}: 1 <= steps <= divisions and power > 0 are needed")
    grids, terms = [], []
    for step in range(steps):
        # Python's floats are binary64, and this is how the published code computes the factor.
        grid = scheme.fit(values, 1 - step / divisions)
        grids.append(grid)
        terms.append(sorted(abs(scheme.decode(scheme.encode(x, grid), grid) - x) for x in values))
    best = 0
    for step in range(1, steps):
        if _is_less(terms[step], terms[best], power):
            best = step
    largest = max(errors[-1] for errors in terms)
    unit = power_from_below(largest, power, START_BITS) / 2**START_BITS if largest else Fraction(1)
    sums = [sum((_to_unit(error, power, unit) for error in errors), Fraction(0)) for errors in terms]
    others = [total for total, grid in zip(sums, grids, strict=True) if grid != grids[best]]
    margin = min(others) / sums[best] - 1 if others and sums[best] else None
    return ClipChoice(best, 1 - best / divisions, grids[best], sums, margin)


def power_from_below(x: Fraction, power: Fraction, bits: int) -> Fraction:
    """Return the largest fraction ``k / 2^bits`` (relative to the result's size) that is at most ``x ** power``.

    Parameters
    ----------
    x : Fraction
        Not negative.
    power : Fraction
        ``m / r``: the integer part of the `r`-th root of ``x^m`` times a power of two is taken, exactly.
    bits : int
        The result is less than ``2^-bits`` of itself below the true value.

    Returns
    -------
    Fraction

    Examples
    --------
    >>> float(power_from_below(Fraction(2), Fraction(12, 5), 60)) == 2 ** 2.4
    True
    """
    if x == 0:
        return Fraction(0)
    raised = x**power.numerator
    shift = bits + 1 - floor_log2(raised) // power.denominator
    scaled = raised * Fraction(2) ** (shift * power.denominator)
    return Fraction(_integer_root(scaled.numerator // scaled.denominator, power.denominator)) / Fraction(2) ** shift


def _integer_root(n: int, degree: int) -> int:
    """The largest integer whose power `degree` is at most `n`, bit by bit from the top."""
    root = 0
    for bit in range(n.bit_length() // degree, -1, -1):
        if (root | 1 << bit) ** degree <= n:
            root |= 1 << bit
    return root


def _to_unit(x: Fraction, power: Fraction, unit: Fraction) -> Fraction:
    return power_from_below(x, power, START_BITS) // unit * unit


def _is_less(left: Row, right: Row, power: Fraction) -> bool:
    """Whether the sum of powers of `left` is less than that of `right`; both sorted."""
    if left == right:
        return False
    # Terms that both have do not matter.
    left, right = _without(left, right), _without(right, left)
    bits = START_BITS
    while bits <= MOST_BITS:
        low_left, low_right = (sum((power_from_below(x, power, bits) for x in side), Fraction(0)) for side in (left, right))
        room = 1 + Fraction(1, 2**bits)
        if low_left * room <= low_right:
            return True
        if low_right * room <= low_left:
            return False
        bits *= 4
    raise NumericalError(f"two error sums agree to {MOST_BITS} bits, which of them is smaller is not decided")


def _without(terms: Row, others: Row) -> Row:
    """The terms that are left when each of `others` has cancelled one equal to it."""
    left = list(terms)
    for other in others:
        if other in left:
            left.remove(other)
    return left
