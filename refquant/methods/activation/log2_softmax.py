"""Powers of two for the softmax output: most probabilities are small, and a shift is cheaper than a product (FQ-ViT, arXiv 2111.13824).

[LOG2-1]  code = round(-log2 p),  p_hat = 2^-code.
[LOG2-2]  of 2^b codes the last stands for 0: everything below 2^-(2^b - 1.5) is 0. With ``last="power"`` it stands for 2^-(2^b - 1), and
          smaller numbers, 0 among them, become that.

-log2 p never lies halfway between two integers (2^(1/2) is irrational), so comparing the mantissa with the root of one half rounds exactly:
no logarithm is computed.

Departure from the authors' code: it writes 0 for what lies beyond the last code and the last power for that code itself, which takes
2^b + 1 values; here there are 2^b.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from refquant.errors import InputError, UsageError
from refquant.methods.card import Card, Equation
from refquant.numerics.arrays import Array
from refquant.numerics.casting import as_working

LastCode = Literal["zero", "power"]
MOST_BITS = 7  # 2^-126 is a normal float32 number

CARD = Card(
    name="log2_softmax",
    title="Softmax output as powers of two",
    paper="FQ-ViT, arXiv 2111.13824",
    inputs=("probabilities [..., keys]", "bits"),
    equations=(
        Equation("LOG2-1", "code = round(-log2 p), p_hat = 2^-code"),
        Equation("LOG2-2", "the last code stands for 0 (last='zero') or for its own power (last='power')"),
    ),
    departures=("the last code is either 0 or a power; the authors' code uses it for both",),
    guarantees=("powers of two inside the range stay; 1 stays 1; last='zero': 0 stays 0", "exact: the same bytes on every machine"),
    lane="exact",
    cost="one pass",
    oracle="mpmath; exact comparison of p^2 with 2^-(2k + 1) in Fractions",
    laws=tuple(
        (
            "finite monotone idempotence zero_kept signed_zero row_permutation column_permutation batch_independence "
            "chunk_independence determinism inputs_untouched layout_independence nan_policy infinity_policy"
        ).split()
    ),
)


def quantize_log2(p: Array, bits: int, last: LastCode = "zero") -> Array:
    """Quantize and dequantize probabilities.

    Parameters
    ----------
    p : ndarray ``[..., keys]`` of float16, bfloat16, float32 or float64, values in [0, 1]
    bits : int
        1 to 7; float16 holds the powers of 4 bits.
    last : {"zero", "power"}

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
    >>> quantize_log2(np.array([0.9, 0.6, 0.2, 0.001, 0.0]), bits=3)
    array([1.  , 0.5 , 0.25, 0.  , 0.  ])
    """
    if isinstance(bits, bool) or not isinstance(bits, int) or not 1 <= bits <= MOST_BITS:
        raise UsageError(f"powers of two take 1 to {MOST_BITS} bits, not {bits!r}")
    if last not in ("zero", "power"):
        raise UsageError(f"the last code is 'zero' or 'power', not {last!r}")
    if p.size and not (p.min() >= 0 and p.max() <= 1 + 1e-5):  # float32 softmax may exceed 1 by rounding
        raise InputError(f"probabilities lie in [0, 1]; found {p.min()} .. {p.max()}")
    x = as_working(p, "the array of probabilities")
    mantissa, exponent = np.frexp(x.astype(np.float64, copy=False))  # x = mantissa 2^exponent, mantissa in [1/2, 1)
    top = (1 << bits) - 1
    code = np.where(mantissa < math.sqrt(0.5), 1 - exponent, -exponent)  # [LOG2-1]
    code = np.clip(np.where(x > 0, code, top), 0, top)
    powers = np.ldexp(np.ones((), dtype=np.float64), -code)
    powers = np.where((code == top) & (last == "zero"), 0.0, powers)  # [LOG2-2]
    return np.asarray(powers).astype(p.dtype, copy=False)
