"""Quantizing the softmax output, whose range is known beforehand.

[PROB-1]  unsigned uniform grid on [0, 1]: s = 1 / (2^b - 1), fixed; or on [0, row maximum] by option.
[PROB-2]  p_hat = s round(p / s).

At 4 bits the fixed grid drops every probability under 1/30: attention spread over more than 30 positions vanishes.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from refquant.errors import InputError, UsageError
from refquant.methods.card import Card, Equation
from refquant.numerics.arrays import Array
from refquant.numerics.casting import as_working, round_scale
from refquant.numerics.rounding import round_to_integer

CARD = Card(
    name="probabilities",
    title="Quantization of the softmax output",
    paper="DLLMQuant, arXiv 2508.14090 (its quantizer is not described); readings below",
    inputs=("probabilities [..., keys]", "bits"),
    equations=(
        Equation("PROB-1", "s = 1 / (2^b - 1) fixed, or row maximum / (2^b - 1)"),
        Equation("PROB-2", "p_hat = s round(p / s)"),
    ),
    departures=("the paper does not say how the softmax output is quantized: range='unit' (default) or 'row_max'",),
    guarantees=("0 stays 0; with range='unit' 1 stays 1; a row need not add up to 1 any more",),
    lane="exact",
    cost="one pass",
    oracle="refquant.oracle.nearest",
    laws=tuple(
        (
            "finite nearest_level monotone idempotence zero_kept signed_zero row_permutation column_permutation batch_independence "
            "chunk_independence determinism inputs_untouched layout_independence nan_policy infinity_policy"
        ).split()
    ),
)


def quantize_probabilities(p: Array, bits: int, range: Literal["unit", "row_max"] = "unit") -> Array:
    """Quantize and dequantize probabilities.

    Parameters
    ----------
    p : ndarray ``[..., keys]`` of float16, bfloat16, float32 or float64, values in [0, 1]
        The narrow two are worked in float32.
    bits : int
        1 to 16.
    range : {"unit", "row_max"}
        A fixed grid on [0, 1], or one from 0 to each row's maximum (an all-zero row stays zero).

    Returns
    -------
    ndarray of the same shape and dtype

    Raises
    ------
    UsageError
        If an option is out of range.
    InputError
        If a value lies outside [0, 1] or is NaN, or the dtype is not a floating one.

    Examples
    --------
    >>> quantize_probabilities(np.array([0.03, 0.37, 0.6]), bits=4) * 15
    array([0., 6., 9.])
    """
    if isinstance(bits, bool) or not isinstance(bits, int) or not 1 <= bits <= 16:
        raise UsageError(f"probabilities take 1 to 16 bits, not {bits!r}")
    if p.size and not (p.min() >= 0 and p.max() <= 1 + 1e-5):  # float32 softmax may exceed 1 by rounding
        raise InputError(f"probabilities lie in [0, 1]; found {p.min()} .. {p.max()}")
    x = as_working(p, "the array of probabilities")  # float16 holds neither 2^16 - 1 nor most steps
    steps = x.dtype.type((1 << bits) - 1)
    if range == "unit":
        scale = np.asarray(x.dtype.type(1) / steps)  # [PROB-1]
    elif range == "row_max":
        top = x.max(axis=-1, keepdims=True, initial=0)
        scale = round_scale(top / steps, x.dtype, "softmax output")  # never 0, so that a row of zeros stays zero
    else:
        raise UsageError(f"range is 'unit' or 'row_max', not {range!r}")
    rounded = np.minimum(round_to_integer(x / scale), steps) * scale  # [PROB-2]
    return np.asarray(rounded).astype(p.dtype, copy=False)
