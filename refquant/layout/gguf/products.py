"""Matrix products as ggml makes them on processors: weights in blocks, and activations quantized on the way.

ggml never multiplies a float with a code. What stands in front of a matrix is brought to a form that goes with the matrix's type
(:mod:`~refquant.layout.gguf.activations`); codes are multiplied and added up as integers within a block, and blocks in float32:

    y = sum over blocks of  d dx sum(q qx) + m sx                        with a minimum: Q4_1, Q5_1; sx is the rounded sum of Q8_1
    y = sum over blocks of  d dx sum(s q qx) - dmin dx sum(min qx)       super-blocks and Q8_K; s and min are integers, one a group
    y = sum over blocks of  d dx sum(q qx)                               the others

Here codes times scales are float64 numbers, exact as they stand, and their sum is rounded to float32 once: the same but for the roundings
of ggml's own sum.
"""

from __future__ import annotations

import numpy as np

from refquant.errors import UsageError
from refquant.layout.gguf.activations import FORM_FOR, Seen, Ties, seen_as
from refquant.layout.gguf.fields import scaled_values
from refquant.layout.gguf.tensor import GgufTensor
from refquant.numerics import FAST, Arithmetic
from refquant.numerics.arrays import Array, Float64Array
from refquant.numerics.casting import as_float64


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
        If the weight is no matrix.

    Examples
    --------
    >>> from refquant.layout.gguf import quantize
    >>> layer = GgmlLinear(quantize(np.eye(32), "q8_0"))
    >>> float(layer(np.full((1, 32), 2.0, np.float32))[0, 0])
    1.999755859375
    """

    def __init__(self, weight: GgufTensor, ties: Ties = "even", arithmetic: Arithmetic = FAST) -> None:
        if len(weight.shape) != 2:
            raise UsageError(f"the weight of a linear has shape {weight.shape}; allowed: [out, in]")
        self.kind, self.ties, self.arithmetic = weight.kind, ties, arithmetic
        self.form = FORM_FOR[weight.kind.name]
        apart = self.form == "Q8_1"  # minima have an operand of their own
        self._columns = np.ascontiguousarray(exact_numbers(weight, with_minima=not apart).T)
        self._minima = as_float64(weight.fields().m).reshape(weight.shape[0], -1).T if apart else None

    def __call__(self, x: Array) -> Array:
        """Apply the layer to ``[..., in]``: float32 numbers, in the dtype of `x`, which the model goes on to compute in."""
        found = self.product(self.seen(x.reshape(-1, x.shape[-1])))
        return found.astype(x.dtype, copy=False).reshape(*x.shape[:-1], -1)

    def seen(self, rows: Array) -> Seen:
        """What becomes of activations ``[rows, in]``."""
        return seen_as(rows, self.form, self.ties, self.arithmetic)

    def product(self, seen: Seen) -> Array:
        """What comes out of that, ``[rows, out]`` in float32."""
        found = self.arithmetic.matmul(seen.numbers, self._columns)
        if seen.sums is not None and self._minima is not None:
            found = found + self.arithmetic.matmul(seen.sums, self._minima)
        return np.asarray(found.astype(np.float32))


def exact_numbers(weight: GgufTensor, *, with_minima: bool = True) -> Float64Array:
    """A tensor's numbers with no operation rounded: what codes, scales and minima say, before float32.

    Parameters
    ----------
    weight : GgufTensor
    with_minima : bool
        Whether minima are in it.

    Returns
    -------
    float64 ndarray of the tensor's shape

    Examples
    --------
    >>> from refquant.layout.gguf import quantize
    >>> weight = quantize(np.linspace(1000.0, 1000.001, 32), "q4_1")
    >>> float(exact_numbers(weight)[5]), float(weight.dequantize()[5])
    (1000.0001952648163, 1000.0001831054688)
    """
    fields = weight.fields()
    if fields.d is None or weight.kind.values is not scaled_values:
        # Exact in float32 as they are: codes of MXFP4, NVFP4 and of points have 8 bits at most, scales 5, d 11.
        return weight.dequantize(np.dtype(np.float64))
    groups = 1 if fields.scales is None else fields.scales.shape[1]
    scale = fields.d.astype(np.float64)[:, None]
    if fields.scales is not None:
        scale = scale * fields.scales
    found = fields.codes.astype(np.float64).reshape(len(fields.codes), groups, -1) * scale[..., None]
    if fields.m is not None and with_minima:
        low = fields.m.astype(np.float64)[:, None]
        found = found + low[..., None] if fields.mins is None else found - (low * fields.mins)[..., None]
    return np.asarray(found.reshape(weight.shape))
