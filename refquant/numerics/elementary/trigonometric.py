"""Sine and cosine.

Reduction: ``x = n pi/2 + r`` with ``|r| <= pi/4``, r an unevaluated sum of two float64 numbers. Up to ``2**20``, pi/2 is held in four
parts, three of 33 bits, whose products with n are exact (Cody and Waite); beyond that, for every finite float64 number, in Python's
integers with 1300 bits of pi. Polynomials: Taylor's, of sine up to r^17/17! and of cosine up to r^18/18!; what is left is below ``2**-62``.
The squares and cubes of the first terms are those of the upper 17 bits of r, which are exact, and a correction.

Bound: 0.7 units in the last place for either in float64, everywhere.
"""

from __future__ import annotations

import math

import numpy as np

from refquant.numerics.arrays import Array, Float64Array
from refquant.numerics.elementary import series
from refquant.numerics.elementary.compensated import fast_two_sum, horner, two_sum
from refquant.numerics.elementary.elementwise import elementwise

_BITS = 1300  # float64 numbers reach 2**1024 and come as near as 2**-62 to multiples of pi/2; two parts of 53 bits are wanted
_HALF_PI = series.pi(_BITS) >> 1
_INVERSE = (1 << (2 * _BITS)) // _HALF_PI  # 2/pi
COMMON_LIMIT = float(2**20)


def _parts() -> tuple[float, float, float, float]:
    """pi/2 as three parts of 33 bits and one of 53."""
    rest, parts = _HALF_PI, []
    for _ in range(3):
        parts.append(series.leading(rest, _BITS, 33))
        rest -= int(parts[-1] * 2**160) << (_BITS - 160)
    return parts[0], parts[1], parts[2], rest / (1 << _BITS)


PARTS = _parts()
QUADRANTS_PER_UNIT = _INVERSE / (1 << _BITS)

SHORT = np.int64(-(1 << 36))  # keeps 17 significant bits

# Coefficients of (sin(r) - r + r^3/6) / r^5 and of (cos(r) - 1 + r^2/2) / r^4 in r^2, the highest power first.
SINE_TAYLOR = tuple((-1) ** k / math.factorial(2 * k + 1) for k in range(8, 1, -1))
COSINE_TAYLOR = tuple((-1) ** k / math.factorial(2 * k) for k in range(9, 1, -1))


def sin(x: Array) -> Array:
    """Sine, elementwise, the same bytes on every machine.

    Parameters
    ----------
    x : ndarray, float32 or float64, any shape
        Radians, as large as may be; arrays are fast while their numbers are below ``2**20``.

    Returns
    -------
    ndarray
        The same shape and dtype; NaN for infinities. float64 is within 0.7 ulp, float32 within 0.50001 ulp.

    Raises
    ------
    InputError
        If `x` is of another dtype.

    Examples
    --------
    >>> sin(np.array([0.0, 0.5, 1e22]))
    array([ 0.        ,  0.47942554, -0.85220085])
    """
    return elementwise("sin", _sine, _sine, x)


def cos(x: Array) -> Array:
    """Cosine, elementwise, the same bytes on every machine. Parameters, result, bounds and errors as those of :func:`sin`.

    Examples
    --------
    >>> cos(np.array([0.0, 0.5]))
    array([1.        , 0.87758256])
    """
    return elementwise("cos", _cosine, _cosine, x)


def _sine(x: Float64Array) -> Float64Array:
    # Of zeros the sign is kept, which the reduction loses.
    return np.where(x == 0, x, _wave(x, 0))


def _cosine(x: Float64Array) -> Float64Array:
    return _wave(x, 1)


def _wave(x: Float64Array, quarter_turns: int) -> Float64Array:
    """``sin(x + quarter_turns pi/2)``."""
    quadrant, r, r_low = _reduced(x)
    quadrant += quarter_turns
    short = (r.view(np.int64) & SHORT).view(np.float64)
    parts = (r, r_low, r * r, short, r - short)
    value = np.where(quadrant & 1, _near_one(*parts), _near_zero(*parts))
    return np.where(quadrant & 2, -value, value)


def _near_zero(r: Float64Array, r_low: Float64Array, square: Float64Array, short: Float64Array, rest: Float64Array) -> Float64Array:
    """Sine of ``r + r_low``, where ``r = short + rest``."""
    p = horner(square, SINE_TAYLOR)
    p *= square
    p *= square
    p *= r
    p += r_low * (1.0 - 0.5 * square)
    p -= rest * (square + short * (r + short)) * (1 / 6)
    p -= short * short * short / 6.0  # one rounding
    p += r
    return p


def _near_one(r: Float64Array, r_low: Float64Array, square: Float64Array, short: Float64Array, rest: Float64Array) -> Float64Array:
    """Cosine of ``r + r_low``, where ``r = short + rest``."""
    p = horner(square, COSINE_TAYLOR)
    p *= square
    p *= square
    p -= r * r_low
    p -= 0.5 * (rest * (r + short))
    half = 0.5 * (short * short)  # exact
    top = 1.0 - half
    p += (1.0 - top) - half
    p += top
    return p


def _reduced(x: Float64Array) -> tuple[Array, Float64Array, Float64Array]:
    """The quadrant, as an integer that is right modulo 4, and the two parts of r. Infinities give NaN."""
    common = np.abs(x) <= COMMON_LIMIT
    everywhere = bool(common.all())
    near = x if everywhere else np.where(common, x, 0.0)
    n = np.rint(near * QUADRANTS_PER_UNIT)
    r, low = two_sum(near - n * PARTS[0], n * -PARTS[1])  # the difference is exact
    r, lost = two_sum(r, n * -PARTS[2])
    low += lost
    r, lost = two_sum(r, n * -PARTS[3])
    low += lost
    r, low = fast_two_sum(r, low)
    quadrant = n.astype(np.int64)
    if not everywhere:
        for i in np.flatnonzero(~common):
            quadrant[i], r[i], low[i] = _reduced_far(float(x[i]))
    return quadrant, r, low


def _reduced_far(x: float) -> tuple[int, float, float]:
    """The same for one number of any size, in integers."""
    if not math.isfinite(x):
        return 0, math.nan, 0.0
    numerator, denominator = x.as_integer_ratio()
    turns = numerator * _INVERSE // denominator
    n = (turns + (1 << (_BITS - 1))) >> _BITS
    rest = (turns - (n << _BITS)) * _HALF_PI >> _BITS
    high, low = series.as_pair(rest, _BITS)
    return n & 3, high, low
