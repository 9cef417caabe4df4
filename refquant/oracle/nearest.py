"""The nearest member of a finite set, and rounding to integers, by named rules.

Rules for integers: ``half_even``, ``half_away``, ``trunc_half`` (``trunc(x + 1/2)``: what a C cast after adding a
half does; not symmetric, and not even the nearest integer below zero), ``floor``, ``ceil``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise

from refquant.errors import UsageError

HALF = Fraction(1, 2)
RULES = ("half_even", "half_away", "trunc_half", "floor", "ceil")


def round_to_integer(x: Fraction, rule: str = "half_even") -> int:
    """Round a fraction to an integer.

    Parameters
    ----------
    x : Fraction
        What is rounded.
    rule : str
        One of `RULES`.

    Returns
    -------
    int

    Raises
    ------
    UsageError
        If there is no such rule.

    Examples
    --------
    >>> [round_to_integer(Fraction(-5, 2), rule) for rule in RULES]
    [-2, -3, -2, -3, -2]
    """
    below = math.floor(x)
    past = x - below  # 0 <= past < 1
    if rule == "half_even":
        if past == HALF:
            return below if below % 2 == 0 else below + 1
        return below if past < HALF else below + 1
    if rule == "half_away":
        if past == HALF:
            return below + 1 if x > 0 else below
        return below if past < HALF else below + 1
    if rule == "trunc_half":
        return math.trunc(x + HALF)
    if rule == "floor":
        return below
    if rule == "ceil":
        return below if past == 0 else below + 1
    raise UsageError(f"unknown rounding {rule!r}, allowed are {', '.join(RULES)}")


def nearest_member(x: Fraction, members: Sequence[Fraction], rule: str = "half_even") -> int:
    """Return the index of the member that `x` is rounded to; beyond the ends, the end (saturation).

    Parameters
    ----------
    x : Fraction
        What is rounded.
    members : sequence of Fraction
        Strictly increasing, at least one.
    rule : {"half_even", "half_away", "floor", "ceil"}
        Ties go to the member with the even index (``half_even``: the code's last bit is 0), or to the member farther
        from zero (``half_away``; the upper one if both are equally far). ``floor`` and ``ceil`` take the neighbour
        below or above. ``trunc_half`` has no meaning for sets other than the integers.

    Returns
    -------
    int

    Raises
    ------
    UsageError
        If the rule is unknown, or `members` are empty or not strictly increasing.

    Examples
    --------
    >>> members = [Fraction(m) for m in (-6, -1, 0, 2, 4)]
    >>> [members[nearest_member(Fraction(3), members, rule)] == 4 for rule in ("half_even", "half_away", "floor", "ceil")]
    [True, True, False, True]
    """
    if rule not in RULES or rule == "trunc_half":
        raise UsageError(f"rounding {rule!r} to members of a set, allowed are half_even, half_away, floor, ceil")
    if not members or any(low >= high for low, high in pairwise(members)):
        raise UsageError("the members of a set must be at least one, and strictly increasing")
    if x <= members[0]:
        return 0
    if x >= members[-1]:
        return len(members) - 1
    upper = next(index for index, member in enumerate(members) if member >= x)
    if members[upper] == x or rule == "ceil":
        return upper
    lower = upper - 1
    if rule == "floor":
        return lower
    to_lower, to_upper = x - members[lower], members[upper] - x
    if to_lower != to_upper:
        return lower if to_lower < to_upper else upper
    if rule == "half_even":
        return lower if lower % 2 == 0 else upper
    return lower if abs(members[lower]) > abs(members[upper]) else upper
