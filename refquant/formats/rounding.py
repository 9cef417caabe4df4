"""Named rounding of a real number to a member of a format."""

from __future__ import annotations

from enum import StrEnum


class MemberRounding(StrEnum):
    """Which of the two members around a number is taken.

    The ``half_*`` rules take the nearest and differ on ties: ``half_even`` takes the code whose last bit is 0 (IEEE 754's ties to even;
    of two powers of two, where a format has no mantissa bits, the larger, which is the even multiple of the smaller), ``half_away`` the
    larger magnitude, ``half_zero`` the smaller (both the positive one if the magnitudes are equal), ``half_up`` the upper and ``half_down``
    the lower number. ``floor``, ``ceil``, ``trunc`` and ``away`` go down, up, towards zero and away from it.
    """

    HALF_EVEN = "half_even"
    HALF_AWAY = "half_away"
    HALF_ZERO = "half_zero"
    HALF_UP = "half_up"
    HALF_DOWN = "half_down"
    FLOOR = "floor"
    CEIL = "ceil"
    TRUNC = "trunc"
    AWAY = "away"
