"""The exponential.

Reduction: ``x = n log(2)/64 + r`` with an integer n and ``|r| <= log(2)/128``; log(2)/64 is held in two parts, the first so short that its
product with n is exact. Then ``exp(x) = 2**(n // 64) * T[n % 64] * exp(r)``, where T holds ``2**(j/64)`` as unevaluated sums of two float64
numbers, made by integer square roots. Polynomial: Taylor's; after r^6/720 what is left is below ``2**-64``. As ``|exp(r) - 1| < 0.0055``,
its rounding errors count for little beside the last addition, ``T + (T_low + T (exp(r) - 1))``.

Bound: 0.53 units in the last place in float64; 0.8 where the result is subnormal, because it is rounded twice.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from refquant.numerics.arrays import Array, Float64Array
from refquant.numerics.elementary import series
from refquant.numerics.elementary.compensated import horner
from refquant.numerics.elementary.elementwise import elementwise

STEP_BITS = 6
_BITS = 160
_STEP = series.log(Fraction(2), _BITS) >> STEP_BITS  # log(2) / 64
STEP_HIGH = series.leading(_STEP, _BITS, 34)  # n has at most 17 bits
STEP_LOW = (_STEP - int(STEP_HIGH * 2**80) * 2 ** (_BITS - 80)) / 2**_BITS
STEPS_PER_UNIT = 2**_BITS / _STEP
_ROOTS = [series.as_pair(series.root_of_two(j, STEP_BITS, _BITS), _BITS) for j in range(1 << STEP_BITS)]
ROOTS_HIGH = np.array([high for high, _ in _ROOTS])
ROOTS_LOW = np.array([low for _, low in _ROOTS])

# Coefficients of (exp(r) - 1 - r) / r^2, the highest power first.
TAYLOR = (1 / 720, 1 / 120, 1 / 24, 1 / 6, 1 / 2)

# Adding it leaves an integer of up to 51 bits, of either sign, in the low bits of the sum; subtracting it again gives that integer.
TO_INTEGER = float(3 * 2**51)
_INTEGER_ZERO = np.array([TO_INTEGER]).view(np.int64)[0]
_INDEX = np.int64((1 << STEP_BITS) - 1)
_MANTISSA_BITS = np.int64(52)
_BIAS = np.int64(1023)

# Beyond these every result has long been 0 or infinite.
DOUBLE_LIMIT = 800.0
SINGLE_LIMIT = 200.0


def exp(x: Array) -> Array:
    """Exponential, elementwise, the same bytes on every machine.

    Parameters
    ----------
    x : ndarray, float32 or float64, any shape

    Returns
    -------
    ndarray
        The same shape and dtype. float64 is within 0.53 ulp (0.8 where subnormal); float32 is within 0.50001 ulp.

    Raises
    ------
    InputError
        If `x` is of another dtype.

    Examples
    --------
    >>> exp(np.array([0.0, 1.0, -np.inf, 1000.0]))
    array([1.        , 2.71828183, 0.        ,        inf])
    """
    return elementwise("exp", _single, _double, x)


def _reduced(x: Float64Array) -> tuple[Array, Float64Array]:
    """``n``, in the low bits of integers whose high bits are those of `TO_INTEGER` (of NaN: any), and ``r``."""
    steps = x * STEPS_PER_UNIT
    steps += TO_INTEGER
    n = steps.view(np.int64)
    steps = steps - TO_INTEGER
    r = x - steps * STEP_HIGH
    steps *= STEP_LOW
    r -= steps
    return n, r


def _single(x: Float64Array) -> Float64Array:
    """For float32: nothing can leave float64's normal range, so the power of two is added to the exponent bits of the table's entry."""
    n, r = _reduced(np.minimum(np.maximum(x, -SINGLE_LIMIT), SINGLE_LIMIT))
    root = ROOTS_HIGH.view(np.int64)[n & _INDEX]
    n >>= STEP_BITS
    n <<= _MANTISSA_BITS  # the high bits fall off
    root += n
    scale = root.view(np.float64)
    p = horner(r, TAYLOR[1:])
    p *= r
    p *= r
    p += r
    p *= scale
    p += scale
    return p


def _double(x: Float64Array) -> Float64Array:
    return exp_of_pair(x, None)


def exp_of_pair(high: Float64Array, low: Float64Array | None) -> Float64Array:
    """``exp(high + low)`` where `low` is below ``2**-40``. Without `low`, ``exp(high)``."""
    n, r = _reduced(np.minimum(np.maximum(high, -DOUBLE_LIMIT), DOUBLE_LIMIT))
    index = n & _INDEX
    if low is not None:
        r += low  # loses 2**-62 at most: an absolute error, since exp(r) is next to 1
    p = horner(r, TAYLOR)
    p *= r
    p *= r
    p += r
    root = ROOTS_HIGH[index]
    p *= root
    p += ROOTS_LOW[index]
    p += root
    n -= _INTEGER_ZERO
    n >>= STEP_BITS
    return _scaled(p, n)


def _scaled(value: Float64Array, exponent: Array) -> Float64Array:
    """``value * 2**exponent`` in two factors, of which only the second can round or overflow; `value` is overwritten."""
    first = exponent >> 1
    second = exponent - first
    for part in (first, second):
        part += _BIAS
        part <<= _MANTISSA_BITS
    value *= first.view(np.float64)
    value *= second.view(np.float64)
    return value
