"""Local fidelity of one tensor or layer: how far is `approximation` from `reference`.

All compute in float64, take arrays of equal shape with at least one element, and refuse NaN and infinities (InputError): a measure of
broken numbers would hide them.
"""

from __future__ import annotations

import numpy as np

from refquant.errors import InputError
from refquant.numerics import FAST, Arithmetic
from refquant.numerics.arrays import Array, Float64Array
from refquant.numerics.casting import as_float64


def _pair(reference: Array, approximation: Array) -> tuple[Float64Array, Float64Array]:
    a, b = as_float64(reference), as_float64(approximation)
    if a.shape != b.shape:
        raise InputError(f"the two arrays have shapes {a.shape} and {b.shape}; they must agree")
    if not a.size:
        raise InputError("an error measure of empty arrays is not defined")
    for what, array in (("reference", a), ("approximation", b)):
        if not np.isfinite(array).all():
            index = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
            raise InputError(f"the {what} holds {array[index]} at index {index}; an error measure needs finite numbers")
    return a, b


def mean_squared_error(reference: Array, approximation: Array, arithmetic: Arithmetic = FAST) -> float:
    """Mean of ``(reference - approximation)^2``; infinite if it exceeds float64.

    Examples
    --------
    >>> mean_squared_error(np.array([1.0, 2.0]), np.array([1.0, 4.0]))
    2.0
    """
    a, b = _pair(reference, approximation)
    with np.errstate(over="ignore", under="ignore"):
        delta = a - b
        return float(arithmetic.mean(delta * delta))


def noise_to_signal(reference: Array, approximation: Array, arithmetic: Arithmetic = FAST) -> float:
    """Relative squared error ``|reference - approximation|^2 / |reference|^2``; 0/0 is 0 and x/0 infinite.

    Both arrays are first divided by the power of two next above their largest magnitude, so that no square overflows and none that
    matters underflows.

    Examples
    --------
    >>> noise_to_signal(np.array([3e200, 4e200]), np.array([3e200, 3e200]))
    0.04
    """
    a, b = _pair(reference, approximation)
    _, exponent = np.frexp(max(np.abs(a).max(), np.abs(b).max()))
    with np.errstate(over="ignore", under="ignore"):
        a, b = np.ldexp(a, -exponent), np.ldexp(b, -exponent)
        delta = a - b
        noise, signal = float(arithmetic.sum(delta * delta)), float(arithmetic.sum(a * a))
    if signal == 0:
        return 0.0 if noise == 0 else np.inf
    return noise / signal


def signal_to_quantization_noise(reference: Array, approximation: Array, arithmetic: Arithmetic = FAST) -> float:
    """SQNR in decibels, ``-10 log10`` of :func:`noise_to_signal`; infinite for equal arrays, minus infinite for a reference of zeros.

    Examples
    --------
    >>> round(signal_to_quantization_noise(np.array([1.0]), np.array([0.9])), 6)
    20.0
    """
    ratio = noise_to_signal(reference, approximation, arithmetic)
    if ratio == 0:
        return np.inf
    if ratio == np.inf:
        return -np.inf
    return float(-10 * arithmetic.log(np.asarray(ratio)) / arithmetic.log(np.asarray(10.0)))


def output_error(weight: Array, approximation: Array, hessian: Array, arithmetic: Arithmetic = FAST) -> float:
    """Squared output error of a linear, ``tr((W - W') H (W - W')^T)``: what GPTQ minimizes.

    Parameters
    ----------
    weight, approximation : ndarray ``[out, in]``
    hessian : ndarray ``[in, in]``

    Examples
    --------
    >>> output_error(np.array([[1.0, 2.0]]), np.array([[1.0, 1.0]]), np.diag([1.0, 3.0]))
    3.0
    """
    a, b = _pair(weight, approximation)
    h = as_float64(hessian)
    if a.ndim != 2 or h.shape != (a.shape[1],) * 2:
        raise InputError(f"a weight [out, in] and a Hessian [in, in] are needed; found {a.shape} and {h.shape}")
    with np.errstate(over="ignore", under="ignore"):
        delta = a - b
        return float(arithmetic.sum(arithmetic.matmul(delta, h) * delta))
