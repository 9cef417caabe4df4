"""Powers.

``|x|**y = exp(y log|x|)`` with the logarithm and its product with y as unevaluated sums of two float64 numbers. The relative error of the
logarithm, ``2**-66``, becomes an absolute one of at most ``745 * 2**-66`` of the exponent, 0.1 units in the last place of the result. The
error before the last rounding is therefore well below half a unit, and powers that are float64 numbers come out exactly.

float32 operands take the same way: a product of two float32 numbers can lie exactly between two float32 numbers, and only a float64 result
that is exact then rounds to even.

Bound: 0.6 units in the last place in float64 (0.8 where the result is subnormal).
"""

from __future__ import annotations

import numpy as np

from refquant.numerics.arrays import Array, Float64Array
from refquant.numerics.elementary.compensated import two_product
from refquant.numerics.elementary.elementwise import elementwise
from refquant.numerics.elementary.exponential import DOUBLE_LIMIT, exp_of_pair
from refquant.numerics.elementary.logarithm import log_as_pair


def power(x: Array, exponent: Array | float) -> Array:
    """``x ** exponent``, elementwise, the same bytes on every machine.

    Parameters
    ----------
    x : ndarray, float32 or float64, any shape
    exponent : ndarray of float32 or float64, or a number
        It broadcasts against `x`. A Python number takes the dtype of `x`.

    Returns
    -------
    ndarray
        Of the broadcast shape and common dtype. Special values are those of C's ``pow``: anything to the power 0 is 1, even NaN; a negative
        `x` has integer powers only (NaN for others). float64 is within 0.6 ulp (0.8 where subnormal), float32 within 0.50001 ulp.

    Raises
    ------
    InputError
        If an array is of another dtype.

    Examples
    --------
    >>> power(np.array([4.0, 2.0, 0.0]), np.array([0.5, 10.0, -1.0]))
    array([   2., 1024.,   inf])
    """
    return elementwise("power", _double, _double, x, exponent)


def _double(x: Float64Array, y: Float64Array) -> Float64Array:
    size = np.abs(x)
    high, low = log_as_pair(size)
    product, error = two_product(y, high)
    error += y * low
    # Beyond the limit the power is 0 or infinite whatever the error, which may have overflowed.
    result = exp_of_pair(product, np.where(np.abs(product) < DOUBLE_LIMIT, error, 0.0))
    ordinary = (x > 0) & (x < np.inf) & (np.abs(y) < np.inf)
    return result if ordinary.all() else np.where(ordinary, result, _special(x, size, y, result))


def _special(x: Float64Array, size: Float64Array, y: Float64Array, result: Float64Array) -> Float64Array:
    """Powers where `x` is not positive and finite or `y` not finite; `result` is the power of the magnitude where that is finite."""
    result = np.where(np.isnan(x) | np.isnan(y), np.nan, result)
    vanishes = ((size == 0) & (y > 0)) | ((size == np.inf) & (y < 0)) | ((size < 1) & (y == np.inf)) | ((size > 1) & (y == -np.inf))
    explodes = ((size == 0) & (y < 0)) | ((size == np.inf) & (y > 0)) | ((size < 1) & (y == -np.inf)) | ((size > 1) & (y == np.inf))
    result = np.where(vanishes, 0.0, np.where(explodes, np.inf, result))
    half = 0.5 * y
    integer = np.rint(y) == y  # infinities count as even
    odd = integer & (np.rint(half) != half)
    result = np.where(np.signbit(x) & odd, -result, result)
    result = np.where((x < 0) & (x > -np.inf) & ~integer, np.nan, result)
    return np.where((y == 0) | (x == 1) | ((size == 1) & np.isinf(y)), 1.0, result)
