"""Quantized stand-ins for the model's linears and attention products.

Most are fake-quantized: codes are turned back into numbers and multiplied in floating point. :class:`IntegerLinear` multiplies the codes;
there is no such attention product: softmax output and V are fake-quantized whatever the linears do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from model import DenseAttentionProduct, DenseLinear
from refquant.core import Grid, QTensor, QuantSpec, Tiling
from refquant.core.qtensor import Quantized
from refquant.core.transform import Transform, through
from refquant.errors import InputError
from refquant.methods.activation.log2_softmax import quantize_log2
from refquant.methods.activation.per_token import quantize_per_token
from refquant.methods.activation.probabilities import quantize_probabilities
from refquant.methods.activation.static import quantize_static
from refquant.methods.activation.tac import AffineCorrection
from refquant.methods.codebook.lloyd_max import lloyd_max
from refquant.methods.kernels.integer_bound import difference_bound
from refquant.methods.kernels.integer_linear import activation_codes, integer_linear
from refquant.methods.kernels.integer_weight import prepare_weight
from refquant.numerics import FAST, Arithmetic
from refquant.numerics.arrays import Array

ActivationQuantizer = Callable[[Array], Array]


class OnlineLinear(DenseLinear):
    """A dense linear whose input goes through transforms first; its weight is the one that undoes them.

    Parameters
    ----------
    weight : ndarray ``[out, in]``
    bias : ndarray ``[out]`` or None
    online : tuple of Transform
        First to last.
    arithmetic : Arithmetic
    """

    __slots__ = ("online",)

    def __init__(self, weight: Array, bias: Array | None, online: tuple[Transform, ...], arithmetic: Arithmetic = FAST) -> None:
        super().__init__(weight, bias, arithmetic)
        self.online = online

    def with_weight(self, weight: Array) -> OnlineLinear:
        """The same layer with another weight ``[out, in]``."""
        return OnlineLinear(weight, self.bias, self.online, self.arithmetic)

    def __call__(self, x: Array) -> Array:
        """Apply the layer to ``[..., in]``."""
        return super().__call__(through(self.online, x, self.arithmetic))


def online_transforms(linear: DenseLinear) -> tuple[Transform, ...]:
    """What a linear's input goes through at run time; nothing for a plain one."""
    return linear.online if isinstance(linear, OnlineLinear) else ()


class QuantizedLinear:
    """A linear with a quantized weight and, if there is one, an activation quantizer before it.

    Parameters
    ----------
    weight : Quantized or ndarray ``[out, in]``
        An array stays in floating point.
    bias : ndarray ``[out]``, optional
    quantize_input : callable, optional
        Maps activations ``[..., in]`` to their quantized and dequantized selves.
    dtype : dtype
        float32 or float64, of the model.
    arithmetic : Arithmetic
    online : tuple of Transform
        What the input goes through before it is quantized.
    hold : bool
        Whether the numbers that a quantized weight stands for are kept, or made anew at every call: a quarter of the memory or less.
    """

    __slots__ = ("_arithmetic", "_bias", "_dtype", "_held", "online", "quantize_input", "weight")

    def __init__(
        self,
        weight: Quantized | Array,
        bias: Array | None,
        quantize_input: ActivationQuantizer | None,
        dtype: np.dtype[Any],
        arithmetic: Arithmetic = FAST,
        online: tuple[Transform, ...] = (),
        hold: bool = True,
    ) -> None:
        self.weight, self.quantize_input, self.online = weight, quantize_input, online
        self._bias, self._dtype, self._arithmetic = bias, dtype, arithmetic
        self._held = self._dense() if hold else None

    def __reduce__(self) -> tuple[Any, ...]:
        hold = self._held is not None  # made anew where it arrives: codes are a quarter of the numbers that they stand for
        return QuantizedLinear, (self.weight, self._bias, self.quantize_input, self._dtype, self._arithmetic, self.online, hold)

    def _dense(self) -> DenseLinear:
        values = self.weight if isinstance(self.weight, np.ndarray) else self.weight.dequantize(self._dtype)
        return DenseLinear(values, self._bias, self._arithmetic)

    def __call__(self, x: Array) -> Array:
        """Apply the layer to ``[..., in]``."""
        x = through(self.online, x, self._arithmetic)
        dense = self._dense() if self._held is None else self._held
        return dense(x if self.quantize_input is None else self.quantize_input(x))


class PerTokenQuantizer:
    """Dynamic per-token quantization of a linear's input."""

    __slots__ = ("spec",)

    def __init__(self, spec: QuantSpec) -> None:
        self.spec = spec

    def __call__(self, x: Array) -> Array:
        """Quantize and dequantize ``[..., features]``."""
        return quantize_per_token(x.reshape(-1, x.shape[-1]), self.spec).reshape(x.shape)


class CodebookQuantizer:
    """Dynamic quantization of a linear's input with a Lloyd-Max codebook on root mean squares.

    Parameters
    ----------
    spec : QuantSpec
        As :func:`refquant.methods.codebook.lloyd_max.lloyd_max_spec` makes it.
    correction : bool
        Whether scales make a token unbiased along itself.
    arithmetic : Arithmetic
    """

    __slots__ = ("arithmetic", "correction", "spec")

    def __init__(self, spec: QuantSpec, correction: bool, arithmetic: Arithmetic = FAST) -> None:
        self.spec, self.correction, self.arithmetic = spec, correction, arithmetic

    def __call__(self, x: Array) -> Array:
        """Quantize and dequantize ``[..., features]``."""
        coded = lloyd_max(x.reshape(-1, x.shape[-1]), self.spec, correction=self.correction, arithmetic=self.arithmetic)
        return coded.dequantize(x.dtype).reshape(x.shape)


class StaticQuantizer:
    """Static quantization of a linear's input on a calibrated grid."""

    __slots__ = ("grid", "spec")

    def __init__(self, grid: Grid, spec: QuantSpec) -> None:
        self.grid, self.spec = grid, spec

    def __call__(self, x: Array) -> Array:
        """Quantize and dequantize ``[..., features]``."""
        return quantize_static(x.reshape(-1, x.shape[-1]), self.grid, self.spec).reshape(x.shape)


class IntegerLinear:
    """The linear of :class:`QuantizedLinear`, computed from the codes: int32 sums of products, scaled group by group.

    Both see the same codes and grids; :meth:`difference_bound` says how far their results can be apart.

    Parameters
    ----------
    weight : QTensor ``[out, in]``
    bias : ndarray ``[out]``, optional
        Of `dtype`.
    quantize_input : PerTokenQuantizer or StaticQuantizer
    dtype : dtype
        float32 or float64, of the model: the format that sums are scaled in.
    arithmetic : Arithmetic
    online : tuple of Transform
        What the input goes through before it is coded.

    Raises
    ------
    UsageError
        If integers cannot do it: a weight without codes, real zero points, formats so wide that an int32 might overflow.
    """

    __slots__ = ("_prepared", "arithmetic", "bias", "online", "quantize_input", "weight")

    def __init__(
        self,
        weight: QTensor,
        bias: Array | None,
        quantize_input: PerTokenQuantizer | StaticQuantizer,
        dtype: np.dtype[Any],
        arithmetic: Arithmetic = FAST,
        online: tuple[Transform, ...] = (),
    ) -> None:
        self.weight, self.bias, self.quantize_input, self.arithmetic = weight, bias, quantize_input, arithmetic
        self.online = online
        self._prepared = prepare_weight(weight, quantize_input.spec, dtype, arithmetic)

    def __call__(self, x: Array) -> Array:
        """Apply the layer to ``[..., in]``; InputError if `x` has another dtype than the layer."""
        y = integer_linear(*self._codes(x), self._prepared, self.bias, self.arithmetic)
        return y.reshape(*x.shape[:-1], y.shape[-1])

    def difference_bound(self, x: Array) -> Array:
        """Bound on the distance to the fake-quantized layer's result for `x`, element by element, float64 ``[..., out]``."""
        bound = difference_bound(*self._codes(x), self._prepared, self.bias, self.arithmetic)
        return bound.reshape(*x.shape[:-1], bound.shape[-1])

    @property
    def accumulator_bound(self) -> int:
        """No int32 sum exceeds it in magnitude, whatever the input."""
        return self._prepared.bound

    def _codes(self, x: Array) -> tuple[Array, Grid]:
        if x.dtype != self._prepared.dtype:
            raise InputError(f"the input has dtype {x.dtype}; this layer works in {self._prepared.dtype}")
        x = through(self.online, x, self.arithmetic)
        grid = self.quantize_input.grid if isinstance(self.quantize_input, StaticQuantizer) else None
        return activation_codes(x.reshape(-1, x.shape[-1]), self.quantize_input.spec, grid)


class TransformedScoreOperands:
    """Queries ``q T`` and keys ``k T^-T``, whose products are those of ``q`` and ``k``; then quantized, if the recipe says so.

    Parameters
    ----------
    transform : Transform
        Of one head's features.
    arithmetic : Arithmetic
    quantized : QuantizedScoreOperands, optional
    """

    __slots__ = ("arithmetic", "quantized", "transform")

    def __init__(self, transform: Transform, arithmetic: Arithmetic = FAST, quantized: QuantizedScoreOperands | None = None) -> None:
        self.transform, self.arithmetic, self.quantized = transform, arithmetic, quantized

    def __call__(self, queries: Array, keys: Array) -> tuple[Array, Array]:
        """Transform both, ``[B, heads, T, h]``."""
        pair = self.transform.apply(queries, self.arithmetic), self.transform.undo(keys, self.arithmetic)
        return pair if self.quantized is None else self.quantized(*pair)


class QuantizedScoreOperands:
    """Queries and keys, or keys alone, quantized a token at a time, before their product.

    Parameters
    ----------
    spec : QuantSpec
        Of one operand ``[tokens, features]``.
    operands : {"both", "keys"}
    per : {"head", "token"}
        A scale a head and token, or one for all heads of a token.
    """

    __slots__ = ("_quantizer", "operands", "per")

    def __init__(self, spec: QuantSpec, operands: Literal["both", "keys"] = "both", per: Literal["head", "token"] = "head") -> None:
        self._quantizer, self.operands, self.per = PerTokenQuantizer(spec), operands, per

    def __call__(self, queries: Array, keys: Array) -> tuple[Array, Array]:
        """Quantize and dequantize, ``[B, heads, T, h]``."""
        return queries if self.operands == "keys" else self._quantize(queries), self._quantize(keys)

    def _quantize(self, x: Array) -> Array:
        return self._quantizer(x) if self.per == "head" else over_heads(self._quantizer, x)


def over_heads(change: Callable[[Array], Array], x: Array) -> Array:
    """Let something that looks at ``[B, T, heads * h]`` change all heads of a token ``[B, heads, T, h]`` together."""
    batch, heads, tokens, width = x.shape
    together = np.ascontiguousarray(x.swapaxes(1, 2)).reshape(batch, tokens, heads * width)
    return np.ascontiguousarray(change(together).reshape(batch, tokens, heads, width).swapaxes(1, 2))


class QuantizedAttentionProduct:
    """The product of softmax output and V with one or both operands quantized, and what its result is corrected by.

    Parameters
    ----------
    probability_bits : int
        0 leaves the softmax output alone.
    probability_range : {"unit", "row_max", "log2", "log2_power"}
    value_spec : QuantSpec, optional
        None leaves V alone.
    value_grid : Grid, optional
        Static scales ``[kv_heads, 1, 1]`` or ``[kv_heads, 1, head_dim]``; without them V is quantized per token, dynamically.
    arithmetic : Arithmetic
    value_per : {"head", "token"}
        Without static scales: a scale a head and token, or one for all heads of a token.
    correction : AffineCorrection, optional
        Of all heads' results of a token, side by side.
    """

    __slots__ = ("_product", "arithmetic", "correction", "probability_bits", "probability_range", "value_grid", "value_per", "value_spec")

    def __init__(
        self,
        probability_bits: int,
        probability_range: Literal["unit", "row_max", "log2", "log2_power"],
        value_spec: QuantSpec | None,
        value_grid: Grid | None,
        arithmetic: Arithmetic = FAST,
        *,
        value_per: Literal["head", "token"] = "head",
        correction: AffineCorrection | None = None,
    ) -> None:
        self._product, self.arithmetic = DenseAttentionProduct(arithmetic), arithmetic
        self.value_per, self.correction = value_per, correction
        self.probability_bits, self.probability_range = probability_bits, probability_range
        self.value_spec, self.value_grid = value_spec, value_grid

    def __call__(self, probabilities: Array, values: Array) -> Array:
        """Mix the values: ``[B, H, T, T]`` and ``[B, K, T, h]`` to ``[B, H, T, h]``."""
        mixed = self._product(self.quantize_probabilities(probabilities), self.quantize_values(values))
        correction = self.correction
        return mixed if correction is None else over_heads(lambda x: correction.apply(x, self.arithmetic), mixed)

    def quantize_probabilities(self, probabilities: Array) -> Array:
        """The softmax output as the product sees it."""
        if not self.probability_bits:
            return probabilities
        if self.probability_range == "log2" or self.probability_range == "log2_power":
            return quantize_log2(probabilities, self.probability_bits, "zero" if self.probability_range == "log2" else "power")
        return quantize_probabilities(probabilities, self.probability_bits, self.probability_range)

    def quantize_values(self, values: Array) -> Array:
        """V as the product sees it."""
        if self.value_spec is None:
            return values
        if self.value_grid is None:
            quantizer = PerTokenQuantizer(self.value_spec.with_tiling(Tiling.token()))
            return quantizer(values) if self.value_per == "head" else over_heads(quantizer, values)
        batch, heads, tokens, width = values.shape
        stacked = np.moveaxis(values, 1, 0).reshape(heads, batch * tokens, width)  # a head's tokens in a row, whichever sequence
        quantized = quantize_static(stacked, self.value_grid, self.value_spec)
        return np.ascontiguousarray(np.moveaxis(quantized.reshape(heads, batch, tokens, width), 0, 1))
