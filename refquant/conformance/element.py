"""One number of a tensor in every form that people debug with."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np

from refquant.numerics.arrays import Array


def element_forms(array: Array) -> Iterator[tuple[tuple[int, ...], tuple[str, str, str]]]:
    """Index of every element, and its decimal, hexadecimal and exact text.

    Examples
    --------
    >>> list(element_forms(np.array([0.1], dtype=np.float32)))
    [((0,), ('0.1', '0x1.99999a0000000p-4', '13421773/134217728'))]
    """
    for index in np.ndindex(array.shape):
        yield index, forms(array[index])


def forms(value: Any) -> tuple[str, str, str]:
    """Decimal (the shortest that reads back in its dtype), hexadecimal and exact fraction of a NumPy number.

    Examples
    --------
    >>> forms(np.int8(-3)), forms(np.float64("nan"))
    (('-3', '-0x3', '-3'), ('nan', 'nan', 'nan'))
    """
    if np.asarray(value).dtype.kind in "iub":
        return str(int(value)), hex(int(value)), str(int(value))
    wide = float(value)  # exact: no format here is wider than float64
    exact = str(Fraction(wide)) if np.isfinite(wide) else str(wide)
    return str(value), wide.hex(), exact
