"""Matrix products as ggml makes them on processors: weights in blocks, and activations quantized on the way.

ggml never multiplies a float with a code. What stands in front of a matrix is brought to a type that goes with the matrix's:

=============================== ===================================================================================================
matrix                          activations
=============================== ===================================================================================================
F32                             as they are
F16, BF16                       rounded to the same
Q8_0, Q4_0, Q5_0, MXFP4         blocks of 32 signed bytes on a float16 scale: ``d = max|x| / 127``, ``code = round(x * (127 / max|x|))``
Q4_1, Q5_1, Q2_K ... Q6_K,      other blocks (Q8_1, Q8_K); not here
TQ1_0, TQ2_0
=============================== ===================================================================================================

Codes are multiplied and added up as integers within a block, and blocks in float32. Here codes times scales are float64 numbers, whose
products are exact, and their sum is rounded to float32 once: the same but for the roundings of ggml's own sum.

The rounding is to even on x86 with AVX2 and on Arm's NEON ties go away; a program that was compiled for neither takes ``1 / d``. Choose
with `ties`.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from refquant.errors import InputError, UsageError
from refquant.layout.gguf.fields import half_away, stored_half
from refquant.layout.gguf.tensor import GgufTensor
from refquant.numerics import FAST, Arithmetic
from refquant.numerics.arrays import Array

Ties = Literal["even", "away"]
INTEGER = ("Q8_0", "Q4_0", "Q5_0", "MXFP4")
PLAIN = ("F32", "F16", "BF16")


def quantized_activations(x: Array, ties: Ties = "even") -> Array:
    """What ggml multiplies integer blocks with: ``[..., n]`` float32 as float64 codes times scales.

    Parameters
    ----------
    x : ndarray ``[..., n]``
        `n` a multiple of 32; rounded to float32 first.
    ties : {"even", "away"}

    Raises
    ------
    UsageError
        If `ties` is another word.
    InputError
        If `n` is not a multiple of 32 or a number is not finite.
    NumericalError
        If a scale overflows float16.

    Examples
    --------
    >>> quantized_activations(np.array([127.0, 0.4, 0.6] + [0.0] * 29))[:3]
    array([127.,   0.,   1.])
    """
    if ties not in ("even", "away"):
        raise UsageError(f"ties go to 'even' or 'away', not {ties!r}")
    if not x.ndim or x.shape[-1] % 32:
        raise InputError(f"activations of shape {x.shape} do not divide into blocks of 32")
    blocks = x.astype(np.float32).reshape(-1, 32)
    if not np.isfinite(blocks).all():
        raise InputError("activations hold numbers that are not finite")
    largest = np.abs(blocks).max(axis=1)
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        per_unit = np.where(largest > 0, np.float32(127) / largest, np.float32(0))
        steps = blocks * per_unit[:, None]
    codes = np.rint(steps) if ties == "even" else half_away(steps)
    scale = stored_half(largest / np.float32(127), "scale of activations")
    codes = np.where(scale[:, None] == 0, np.float32(0), codes)  # whatever they are
    return np.asarray(codes.astype(np.float64) * scale.astype(np.float64)[:, None]).reshape(x.shape)


def activation_margin(x: Array) -> float:
    """How near a number comes to being quantized otherwise: the least distance of ``x * (127 / max|x|)`` from a tie, in codes.

    Two computations of the same model differ in the last bits of their activations. Where one lies that near a tie, it may become another
    code, and logits then differ by what a code is worth: comparing them to more digits means nothing there.

    Examples
    --------
    >>> activation_margin(np.array([127.0, 0.25] + [0.0] * 30))
    0.25
    """
    blocks = x.astype(np.float64).reshape(-1, 32)
    largest = np.abs(blocks).max(axis=1, keepdims=True)
    steps = blocks * (127 / np.where(largest > 0, largest, 1))
    return float(np.abs(steps - np.floor(steps) - 0.5).min(initial=0.5))


class GgmlLinear:
    """A linear of a model as ggml computes it; stands in the place of ``model.DenseLinear``.

    Parameters
    ----------
    weight : GgufTensor ``[out, in]``
    ties : {"even", "away"}
        Of the activations' rounding.
    arithmetic : Arithmetic

    Raises
    ------
    UsageError
        If the weight's type has another product.

    Examples
    --------
    >>> from refquant.layout.gguf import quantize
    >>> layer = GgmlLinear(quantize(np.eye(32), "q8_0"))
    >>> float(layer(np.full((1, 32), 2.0, np.float32))[0, 0])
    1.999755859375
    """

    def __init__(self, weight: GgufTensor, ties: Ties = "even", arithmetic: Arithmetic = FAST) -> None:
        if weight.kind.name not in INTEGER + PLAIN:
            raise UsageError(f"products with {weight.kind.name} are not here; there are {', '.join(INTEGER + PLAIN)}")
        if len(weight.shape) != 2:
            raise UsageError(f"the weight of a linear has shape {weight.shape}; allowed: [out, in]")
        self.kind, self.ties, self.arithmetic = weight.kind, ties, arithmetic
        self._columns = np.ascontiguousarray(weight.dequantize().T, dtype=np.float64)

    def __call__(self, x: Array) -> Array:
        """Apply the layer to ``[..., in]``; float32."""
        rows = x.astype(np.float32).reshape(-1, x.shape[-1])
        if self.kind.name in INTEGER:
            seen = quantized_activations(rows, self.ties)
        else:
            seen = self._rounded(rows)
        return self.arithmetic.matmul(seen, self._columns).astype(np.float32).reshape(*x.shape[:-1], -1)

    def _rounded(self, rows: Array) -> Array:
        out = np.empty((rows.size, 1), np.float32)
        quantize = self.kind.quantize
        if quantize is None:
            raise UsageError(f"{self.kind.name} is only read")
        self.kind.values(quantize(rows.reshape(-1, 1)), out)
        return out.reshape(rows.shape).astype(np.float64)
