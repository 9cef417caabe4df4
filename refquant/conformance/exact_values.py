"""Inputs that are short binary fractions, and what the oracle's many digits come to in a dtype."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from refquant.conformance.extras import precise
from refquant.conformance.streams import words
from refquant.numerics.arrays import Array
from refquant.oracle import BINARY32, BINARY64
from refquant.oracle.transformer import lift, rounded

BITS = 200
FORMS = {"float32": BINARY32, "float64": BINARY64}


def context() -> Any:
    """An mpmath context of 200 bits, far more than any case loses.

    Raises
    ------
    UsageError
        If mpmath is not installed.
    """
    numbers = precise().MPContext()
    numbers.prec = BITS
    return numbers


def lifted(numbers: Any, array: Array) -> Any:
    """An array as nested lists of the context's numbers, exactly."""
    return lift(numbers, array.astype(np.float64).tolist())


def nearest(values: Any, dtype: str) -> Array:
    """Nested lists of the context's numbers as an array of the nearest numbers of float32 or float64.

    Examples
    --------
    >>> mp = context()
    >>> nearest([mp.mpf(1) / 3, mp.mpf(2)], "float32")
    array([0.33333334, 2.        ], dtype=float32)
    """
    return np.array(_nearest(values, dtype), dtype=dtype)


def _nearest(values: Any, dtype: str) -> Any:
    if isinstance(values, Sequence):
        return [_nearest(value, dtype) for value in values]
    return rounded(values, FORMS[dtype])


def spread(seed: int, shape: tuple[int, ...], largest: float = 1.0) -> Array:
    """Numbers from ``-largest`` up to below it in steps of ``largest / 1024``, from the stream of words `seed`; float64.

    Few bits, so that float32 and float16 hold them and sums of products of them are short.

    Examples
    --------
    >>> spread(0, (2, 2))
    array([[ 0.76660156, -0.13769531],
           [-0.94726562,  0.94140625]])
    """
    upper = (words(seed, 0, int(np.prod(shape))) >> np.uint64(53)).astype(np.float64)
    return np.asarray(((upper - 1024) / 1024 * largest).reshape(shape))
