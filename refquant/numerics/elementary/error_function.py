"""The Gauss error function.

Below 1/4: ``erf(x) = x + x/8 + x q(x^2)`` with q the Maclaurin series of ``erf(x)/x - 9/8`` up to x^20; what is left is below ``2**-69``.
From 1/4 to 6: Taylor's series at the nearest multiple c of 1/32, up to the eighth power; what is left is below ``2**-61``. The row of a
point holds erf(c), as an unevaluated sum of two float64 numbers, and the coefficients. They come from
``g(x) = erf'(x) = 2/sqrt(pi) exp(-x^2)``, whose own coefficients obey ``(n + 1) g[n+1] = -2 (c g[n] + g[n-1])``, all in integers. Beyond 6,
erf is 1 to 53 bits.

Bound: 0.6 units in the last place in float64; 1 below ``2**-1018``, where the terms themselves are rounded to subnormal numbers.
"""

from __future__ import annotations

import math
from fractions import Fraction
from functools import cache

import numpy as np

from refquant.numerics.arrays import Array, Float64Array
from refquant.numerics.elementary import series
from refquant.numerics.elementary.compensated import fast_two_sum, horner
from refquant.numerics.elementary.elementwise import elementwise

_BITS = 192
_UNIT = 1 << _BITS
TWO_OVER_ROOT_PI = (1 << (2 * _BITS + 1)) // math.isqrt(series.pi(_BITS) << _BITS)

POINTS = 32  # a unit
SMALL = 0.25
LARGEST = 6
DEGREE = 8

# Coefficients of erf(x)/x - 9/8 in x^2, the highest power first.
MACLAURIN = tuple(
    ((-1) ** k * TWO_OVER_ROOT_PI // (math.factorial(k) * (2 * k + 1)) - (0 if k else _UNIT + _UNIT // 8)) / _UNIT
    for k in range(10, -1, -1)
)


def _erf(c: Fraction) -> int:
    """``erf(c) * 2**bits`` by ``2/sqrt(pi) exp(-c^2) sum (2 c^2)^k c / (1 3 5 ... (2k + 1))``, whose terms are all positive."""
    square = c * c
    term, total, odd = series.scaled(c, _BITS), 0, 1
    while term:
        total += term
        odd += 2
        term = term * 2 * square.numerator // (square.denominator * odd)
    return (TWO_OVER_ROOT_PI * series.exp_negative(square, _BITS) >> _BITS) * total >> _BITS


def _row(c: Fraction) -> list[float]:
    """erf(c), high and low part, and the coefficients of the powers 1 to `DEGREE`."""
    before, slope = 0, TWO_OVER_ROOT_PI * series.exp_negative(c * c, _BITS) >> _BITS
    coefficients = []
    for n in range(DEGREE):
        coefficients.append(slope / (_UNIT * (n + 1)))
        before, slope = slope, -2 * (c.numerator * slope // c.denominator + before) // (n + 1)
    return [*series.as_pair(_erf(c), _BITS), *coefficients]


FIRST = int(SMALL * POINTS)


@cache
def columns() -> tuple[Float64Array, ...]:
    """The table, as ``DEGREE + 2`` vectors over the points: made when it is first wanted, since it takes a few hundredths of a second."""
    points = range(FIRST, LARGEST * POINTS + 1)
    return tuple(np.array(column) for column in zip(*(_row(Fraction(j, POINTS)) for j in points), strict=True))


def erf(x: Array) -> Array:
    """Gauss error function, elementwise, the same bytes on every machine.

    Parameters
    ----------
    x : ndarray, float32 or float64, any shape

    Returns
    -------
    ndarray
        The same shape and dtype. float64 is within 0.6 ulp (1 where the argument is below ``2**-1018``), float32 within 0.50001 ulp.

    Raises
    ------
    InputError
        If `x` is of another dtype.

    Examples
    --------
    >>> erf(np.array([0.0, 0.5, -1.0, np.inf]))
    array([ 0.        ,  0.52049988, -0.84270079,  1.        ])
    """
    return elementwise("erf", _double, _double, x)


def _double(x: Float64Array) -> Float64Array:
    size = np.abs(x)
    small = size < SMALL
    near = np.where(small, x, 0.0)
    p = horner(near * near, MACLAURIN)
    p *= near
    high, low = fast_two_sum(near, near * 0.125)
    p += low
    p += high
    if not small.all():
        p = np.where(small, p, np.copysign(_by_table(np.maximum(np.minimum(size, float(LARGEST)), SMALL)), x))
    return p


def _by_table(x: Float64Array) -> Float64Array:
    """erf from `SMALL` to `LARGEST`; NaN gives NaN."""
    point = np.rint(np.where(np.isnan(x), SMALL, x) * POINTS)
    d = x - point * (1 / POINTS)  # exact
    rows = point.astype(np.int64) - FIRST
    value, value_low, *coefficients = columns()
    total: Float64Array = coefficients[-1][rows]
    for column in coefficients[-2::-1]:
        total *= d
        total += column[rows]
    total *= d
    total += value_low[rows]
    total += value[rows]
    return total
