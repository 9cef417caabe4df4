"""Q4_0, Q4_1, Q5_0 and Q5_1 with an importance, bit for bit as ggml's C: fits in the place of the formulas of these types.

The mean square in the weights is that of the whole row (:mod:`~refquant.layout.gguf.importance`), and codes are those of the fit, made
before the scale is rounded to float16.
"""

from __future__ import annotations

import numpy as np

from refquant.layout.gguf.fields import Fields, stored_half
from refquant.layout.gguf.group_fits import fit_by_scales, fit_with_minimum, in_groups, in_rows
from refquant.layout.gguf.importance import Importance, row_weights
from refquant.numerics.arrays import Array


def weigh_q4_0(x: Array, importance: Importance) -> Fields:
    """Q4_0 of float32 ``[n, 32]``; NumericalError if a scale overflows float16."""
    return _symmetric(x, importance, 8)


def weigh_q5_0(x: Array, importance: Importance) -> Fields:
    """Q5_0 of float32 ``[n, 32]``; NumericalError if a scale overflows float16."""
    return _symmetric(x, importance, 16)


def weigh_q4_1(x: Array, importance: Importance) -> Fields:
    """Q4_1 of float32 ``[n, 32]``; NumericalError if a scale or minimum overflows float16."""
    return _with_minimum(x, importance, 15)


def weigh_q5_1(x: Array, importance: Importance) -> Fields:
    """Q5_1 of float32 ``[n, 32]``; NumericalError if a scale or minimum overflows float16."""
    return _with_minimum(x, importance, 31)


def _symmetric(x: Array, importance: Importance, half: int) -> Fields:
    codes, d = fit_by_scales(in_groups(x, 32), in_groups(row_weights(x, importance), 32), half)
    return Fields(codes=in_rows(codes, 32).astype(np.int8), d=stored_half(d, "scale"))


def _with_minimum(x: Array, importance: Importance, highest: int) -> Fields:
    w = in_groups(row_weights(x, importance), 32)
    codes, d, minimum = fit_with_minimum(in_groups(x, 32), w, highest, -0.9, 36, step=0.05)
    return Fields(codes=in_rows(codes, 32).astype(np.uint8), d=stored_half(d, "scale"), m=stored_half(-minimum, "minimum"))
