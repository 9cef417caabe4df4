"""Local fidelity of one tensor or layer: how far is `approximation` from `reference`."""

from __future__ import annotations

import numpy as np

from refquant.errors import InputError
from refquant.numerics import FAST, Arithmetic
from refquant.numerics.arrays import Array


def _pair(reference: Array, approximation: Array) -> tuple[Array, Array]:
    a, b = np.asarray(reference, dtype=np.float64), np.asarray(approximation, dtype=np.float64)
    if a.shape != b.shape:
        raise InputError(f"the two arrays have shapes {a.shape} and {b.shape}; they must agree")
    if not a.size:
        raise InputError("an error measure of empty arrays is not defined")
    return a, b


def mean_squared_error(reference: Array, approximation: Array, arithmetic: Arithmetic = FAST) -> float:
    """Mean of ``(reference - approximation)^2``."""
    a, b = _pair(reference, approximation)
    return float(arithmetic.mean((a - b) * (a - b)))


def noise_to_signal(reference: Array, approximation: Array, arithmetic: Arithmetic = FAST) -> float:
    """Relative squared error ``|reference - approximation|^2 / |reference|^2``; 0/0 is 0 and x/0 infinite."""
    a, b = _pair(reference, approximation)
    noise, signal = float(arithmetic.sum((a - b) * (a - b))), float(arithmetic.sum(a * a))
    if signal == 0:
        return 0.0 if noise == 0 else np.inf
    return noise / signal


def signal_to_quantization_noise(reference: Array, approximation: Array, arithmetic: Arithmetic = FAST) -> float:
    """SQNR in decibels, ``-10 log10`` of :func:`noise_to_signal`; infinite for equal arrays."""
    ratio = noise_to_signal(reference, approximation, arithmetic)
    if ratio == 0:
        return np.inf
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
    delta = a - b
    return float(arithmetic.sum(arithmetic.matmul(delta, np.asarray(hessian, dtype=np.float64)) * delta))
