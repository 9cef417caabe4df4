"""The product of two matrices of integer codes with int32 accumulators, exactly and at the speed of BLAS.

NumPy multiplies integer matrices in plain loops. BLAS multiplies floats, and a float product of integers is exact as long as no number
on the way leaves the integers that the float format holds without a gap: up to ``2^24`` in float32, up to ``2^53`` in float64. With
``K`` terms a sum, every product is at most ``max|a| max|w|`` and every partial sum, in whatever order, over whatever blocks, fused with
its product or not, is an integer of magnitude at most ``B = K max|a| max|w|``. So if ``B <= 2^24`` (``2^53``), each of these numbers is a
float32 (float64), each operation's exact result is representable, and an operation that IEEE 754 rounds correctly returns it: nothing is
ever rounded. (This holds for sums of products in any order; a product of Strassen's kind, which adds operands first, is not one, and
neither OpenBLAS, MKL nor Accelerate uses it.) An int32 accumulator needs ``B <= 2^31 - 1``, which is far below ``2^53``: one of the two
float formats always serves.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from refquant.errors import InputError, UsageError
from refquant.numerics import FAST, Arithmetic
from refquant.numerics.arrays import Array

INT32_MAX = (1 << 31) - 1
FLOAT32_INTEGERS = 1 << 24
FLOAT64_INTEGERS = 1 << 53


def accumulator_bound(terms: int, a_max: int, w_max: int) -> int:
    """Largest magnitude that a sum of `terms` products can have, ``terms * a_max * w_max``, if an int32 holds it.

    Parameters
    ----------
    terms : int
        Products in one sum.
    a_max, w_max : int
        Largest magnitudes of the two operands.

    Raises
    ------
    UsageError
        If the bound exceeds ``2^31 - 1``.

    Examples
    --------
    >>> accumulator_bound(4096, 128, 128)
    67108864
    """
    bound = int(terms) * int(a_max) * int(w_max)
    if bound > INT32_MAX:
        raise UsageError(
            f"{terms} products of codes of magnitude up to {a_max} and {w_max} may sum to {bound}; an int32 accumulator holds at most "
            f"{INT32_MAX}: use narrower codes or shorter groups"
        )
    return bound


def exact_dtype(bound: int) -> np.dtype[Any]:
    """The floating dtype in which sums of magnitude up to `bound` are exact: float32 up to ``2^24``, float64 up to ``2^53``.

    Raises
    ------
    UsageError
        If `bound` exceeds ``2^53``.

    Examples
    --------
    >>> exact_dtype(2**24), exact_dtype(2**24 + 1)
    (dtype('float32'), dtype('float64'))
    """
    if bound > FLOAT64_INTEGERS:
        raise UsageError(f"sums of integers may reach {bound}; float64 holds every integer up to 2^53 = {FLOAT64_INTEGERS} only")
    return np.dtype(np.float32 if bound <= FLOAT32_INTEGERS else np.float64)


def largest_magnitude(codes: Array) -> int:
    """``max |code|`` as a Python integer, in which the lowest code of two's complement does not wrap; 0 of nothing.

    Examples
    --------
    >>> largest_magnitude(np.array([-128, 5], dtype=np.int8))
    128
    """
    return max(int(codes.max()), -int(codes.min())) if codes.size else 0


def integer_matmul(a_codes: Array, w_codes: Array, arithmetic: Arithmetic = FAST) -> Array:
    """Multiply integer matrices exactly, ``acc[t, o] = sum_k a[t, k] w[o, k]``.

    Parameters
    ----------
    a_codes : integer ndarray ``[tokens, in]``
    w_codes : integer ndarray ``[out, in]``
    arithmetic : Arithmetic
        Its product; exact, hence the same bytes in every lane.

    Returns
    -------
    int32 ndarray ``[tokens, out]``

    Raises
    ------
    InputError
        If an operand is not a matrix of integers, or they differ in ``in``.
    UsageError
        If the accumulator might overflow: ``in * max|a| * max|w| > 2^31 - 1``.

    Examples
    --------
    >>> integer_matmul(np.array([[-128, 127]], dtype=np.int8), np.array([[-8, 7], [1, 1]], dtype=np.int8))
    array([[1913,   -1]], dtype=int32)
    """
    a_codes, w_codes = np.asarray(a_codes), np.asarray(w_codes)
    for what, codes in (("activation codes", a_codes), ("weight codes", w_codes)):
        if codes.ndim != 2 or codes.dtype.kind not in "iu":
            raise InputError(f"{what} are a matrix of integers, not {codes.dtype} of shape {codes.shape}")
    if a_codes.shape[1] != w_codes.shape[1]:
        raise InputError(f"activation codes of shape {a_codes.shape} and weight codes of shape {w_codes.shape} differ in their last axis")
    bound = accumulator_bound(a_codes.shape[1], largest_magnitude(a_codes), largest_magnitude(w_codes))
    working = exact_dtype(bound)
    return arithmetic.matmul(a_codes.astype(working), w_codes.astype(working).T).astype(np.int32)
