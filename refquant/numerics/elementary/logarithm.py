"""The natural logarithm.

Reduction: ``x = 2**e m`` with m in [sqrt(1/2), sqrt(2)) by the bits; j is m rounded to 8 binary places and ``c = 256/j`` to 18, so that
``z = c m - 1`` is exact as a sum of two numbers and ``|z| < 0.0028``. Then ``log(x) = e log(2) - log(c) + log(1 + z)``. For m next to 1,
c is 1 and z is x - 1: nothing cancels. Polynomial: ``z - z^2/2`` with the rounding errors kept, Taylor's from z^3/3 to z^9/9 without; what
is left is below ``2**-78`` of z. The tables of -log(c) are made by the series of atanh in integers.

Bound: the unevaluated sum that :func:`log_as_pair` gives is within ``2**-66`` of the logarithm, relatively; rounded, that is 0.501 units in
the last place in float64.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from refquant.numerics.arrays import Array, Float64Array
from refquant.numerics.elementary import series
from refquant.numerics.elementary.compensated import fast_two_sum, halves, horner, two_product, two_sum
from refquant.numerics.elementary.elementwise import elementwise

_BITS = 192
_LOG2 = series.log(Fraction(2), _BITS)
LOG2_HIGH = series.leading(_LOG2, _BITS, 42)  # e has at most 11 bits
LOG2_LOW = (_LOG2 - int(LOG2_HIGH * 2**80) * 2 ** (_BITS - 80)) / 2**_BITS

PLACES = 256
FIRST, LAST = 181, 363  # m rounded to 1/256
_RECIPROCAL_UNIT = 1 << 18
_RECIPROCALS = [Fraction((2 * _RECIPROCAL_UNIT * PLACES + j) // (2 * j), _RECIPROCAL_UNIT) for j in range(FIRST, LAST + 1)]
RECIPROCALS = np.array([float(c) for c in _RECIPROCALS])
_LOGS = [series.as_pair(-series.log(c, _BITS), _BITS) for c in _RECIPROCALS]
LOGS_HIGH = np.array([high for high, _ in _LOGS])
LOGS_LOW = np.array([low for _, low in _LOGS])

# Coefficients of (log(1 + z) - z + z^2/2) / z^3, the highest power first.
TAYLOR = (1 / 9, -1 / 8, 1 / 7, -1 / 6, 1 / 5, -1 / 4, 1 / 3)

_LOWEST = np.array([0.5]).view(np.int64)[0] + np.int64(0x6A09E667F3BCD)  # the bits of sqrt(1/2)
_MANTISSA_BITS = np.int64(52)
_SMALLEST_NORMAL = 1 / 2**1022
_LIFT = 54  # of subnormal numbers, in powers of two


def log(x: Array) -> Array:
    """Natural logarithm, elementwise, the same bytes on every machine.

    Parameters
    ----------
    x : ndarray, float32 or float64, any shape

    Returns
    -------
    ndarray
        The same shape and dtype; -inf for zeros of either sign, NaN for negative numbers. float64 is within 0.501 ulp, float32 within
        0.50001 ulp.

    Raises
    ------
    InputError
        If `x` is of another dtype.

    Examples
    --------
    >>> log(np.array([1.0, 10.0, 0.0, -1.0]))
    array([0.        , 2.30258509,       -inf,        nan])
    """
    return elementwise("log", _single, _double, x)


def _exponent_and_mantissa(x: Float64Array) -> tuple[Float64Array, Float64Array]:
    """``e`` and ``m`` of positive normal numbers; of anything else any integer, and any m of the right range."""
    bits = x.view(np.int64)
    exponent = bits - _LOWEST
    exponent >>= _MANTISSA_BITS
    m = bits - (exponent << _MANTISSA_BITS)
    return exponent.astype(np.float64), m.view(np.float64)


def _table_index(m: Float64Array) -> Array:
    return np.rint(m * PLACES).astype(np.int64) - FIRST


def _single(x: Float64Array) -> Float64Array:
    """For float32: m has 24 bits, so ``c m`` is exact, and float64 has bits to spare."""
    e, m = _exponent_and_mantissa(x)
    index = _table_index(m)
    z = m * RECIPROCALS[index]
    z -= 1.0
    square = z * z
    p = horner(z, TAYLOR)
    p *= z
    p -= 0.5
    p *= square
    p += e * LOG2_LOW
    p += z
    e *= LOG2_HIGH
    e += LOGS_HIGH[index]
    p += e
    return _with_special_values(x, p)


def _double(x: Float64Array) -> Float64Array:
    return _with_special_values(x, log_as_pair(x)[0])


def log_as_pair(x: Float64Array) -> tuple[Float64Array, Float64Array]:
    """Logarithm of finite numbers above 0 as an unevaluated sum, the first part of which is the rounded sum; of others any numbers."""
    subnormal = x < _SMALLEST_NORMAL
    lifted = bool(subnormal.any())
    e, m = _exponent_and_mantissa(np.where(subnormal, x * float(2**_LIFT), x) if lifted else x)
    if lifted:
        e -= np.where(subnormal, float(_LIFT), 0.0)
    index = _table_index(m)
    c = RECIPROCALS[index]
    m1, m2 = halves(m)
    z, z_low = two_sum(c * m1 - 1.0, c * m2)  # each product is exact, and so is the difference
    square, square_low = two_product(z, z)
    square_low += 2.0 * (z * z_low)
    low = horner(z, TAYLOR)
    low *= z
    low *= square
    high, error = two_sum(e * LOG2_HIGH, LOGS_HIGH[index])
    e *= LOG2_LOW
    e += LOGS_LOW[index]
    error += e
    high, lost = two_sum(high, z)
    error += lost
    high, lost = two_sum(high, -0.5 * square)
    error += lost
    error += z_low
    error -= 0.5 * square_low
    low += error
    return fast_two_sum(high, low)


def _with_special_values(x: Float64Array, logarithm: Float64Array) -> Float64Array:
    ordinary = (x > 0) & (x < np.inf)
    if ordinary.all():
        return logarithm
    special = np.where(x == 0, -np.inf, np.where(x > 0, np.inf, np.nan))
    return np.where(ordinary, logarithm, special)
