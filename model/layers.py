"""The replaceable parts of the transformer: linears, attention products, norms.

A quantizer puts its own objects in the place of :class:`DenseLinear` and :class:`DenseAttentionProduct`; all that the forward pass
asks of them is to be callable.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from model import ops
from model.runs import in_runs
from refquant.errors import UsageError
from refquant.numerics import FAST, Arithmetic
from refquant.numerics.arrays import Array, read_only


class Linear(Protocol):
    """Maps ``[..., in]`` to ``[..., out]`` and leaves its argument alone.

    What it returns belongs to the caller, who may write over it: the forward pass adds and multiplies in place.
    """

    def __call__(self, x: Array) -> Array:
        """Apply the layer."""


class AttentionProduct(Protocol):
    """Maps probabilities ``[B, H, T, T]`` and values ``[B, K, T, h]`` to ``[B, H, T, h]`` and leaves both alone."""

    def __call__(self, probabilities: Array, values: Array) -> Array:
        """Mix the values."""


class ScoreOperands(Protocol):
    """Maps rotated queries ``[B, H, T, h]`` and keys ``[B, K, T, h]`` to what their product sees, and leaves both alone."""

    def __call__(self, queries: Array, keys: Array) -> tuple[Array, Array]:
        """Prepare both operands."""


class DenseLinear:
    """``x W^T + b`` with plain floating-point weights.

    Parameters
    ----------
    weight : ndarray [out, in]
        float32 or float64, as the checkpoint stores it: rows are outputs.
    bias : ndarray [out], optional
    arithmetic : Arithmetic

    Attributes
    ----------
    weight : ndarray [out, in]
        Read-only, and in Fortran order.
    bias : ndarray [out] or None
    arithmetic : Arithmetic

    Raises
    ------
    UsageError
        If the weight is not a matrix or the bias does not fit its rows.

    Examples
    --------
    >>> import numpy as np
    >>> DenseLinear(np.array([[1.0, 2.0]]), np.array([0.5]))(np.array([[[3.0, 4.0]]]))
    array([[[11.5]]])
    """

    __slots__ = ("_bias", "_columns", "arithmetic")

    def __init__(self, weight: Array, bias: Array | None = None, arithmetic: Arithmetic = FAST) -> None:
        if np.ndim(weight) != 2:
            raise UsageError(f"the weight of a linear has shape {np.shape(weight)}; allowed: [out, in]")
        if bias is not None and np.shape(bias) != (weight.shape[0],):
            raise UsageError(f"the bias has shape {np.shape(bias)}; allowed beside this weight: ({weight.shape[0]},)")
        # Kept input-major: BLAS is up to 1.5 times as fast on few tokens when the product needs no transposition.
        self._columns = read_only(weight.T)  # [in, out]
        self._bias = None if bias is None else read_only(bias)
        self.arithmetic = arithmetic

    @property
    def weight(self) -> Array:
        """The weight [out, in], a view."""
        return self._columns.T

    @property
    def bias(self) -> Array | None:
        """The bias [out], if there is one."""
        return self._bias

    def with_weight(self, weight: Array) -> DenseLinear:
        """The same layer with another weight [out, in]."""
        return DenseLinear(weight, self.bias, self.arithmetic)

    def __call__(self, x: Array) -> Array:
        """Apply the layer to ``[..., in]``."""
        # One product over all rows: a stack of small ones would leave BLAS without work to share out.
        y = self.arithmetic.matmul(x.reshape(-1, x.shape[-1]), self._columns)  # [rows, out]
        if self._bias is not None:
            y += self._bias
        return y.reshape(*x.shape[:-1], y.shape[-1])


class DenseAttentionProduct:
    """``probabilities @ values``; each key-value head serves H / K consecutive query heads.

    Examples
    --------
    >>> import numpy as np
    >>> half = np.full((1, 2, 2, 2), 0.5)
    >>> DenseAttentionProduct()(half, np.array([[[[1.0], [3.0]]]])).ravel()
    array([2., 2., 2., 2.])
    """

    __slots__ = ("arithmetic",)

    def __init__(self, arithmetic: Arithmetic = FAST) -> None:
        self.arithmetic = arithmetic

    def __call__(self, probabilities: Array, values: Array) -> Array:
        """Mix the values."""
        batch, heads, length, _ = probabilities.shape
        stacked = probabilities.reshape(batch, values.shape[1], -1, length)  # [B, K, H/K * T, T]
        return self.arithmetic.matmul(stacked, values).reshape(batch, heads, length, -1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Norm:
    """One norm of the model, with its gain and bias where it has them."""

    kind: str
    width: int
    gain: Array | None
    bias: Array | None
    eps: float

    @classmethod
    def build(cls, kind: str, width: int, weight: Array | None, bias: Array | None, eps: float) -> Norm:
        """Resolve what the kinds share: ``gemma_rms`` stores its gain minus one."""
        gain = 1 + weight if kind == "gemma_rms" and weight is not None else weight
        return cls(kind=kind, width=width, gain=gain, bias=bias, eps=eps)

    def __call__(self, x: Array, arithmetic: Arithmetic) -> Array:
        """Normalize the last axis."""
        # `default` and `low_precision` differ only under autocast, which there is none of here.
        norm = ops.rms_norm if self.kind in ("rms", "gemma_rms") else ops.layer_norm
        return in_runs(lambda rows: norm(rows, self.gain, self.bias, self.eps, arithmetic), x)

    def by_runs(self, x: Array, arithmetic: Arithmetic) -> Array:
        """Normalize runs of `width` features of the last axis, each on its own: heads, or all of it at once."""
        if x.shape[-1] == self.width:
            return self(x, arithmetic)
        return self(x.reshape(*x.shape[:-1], -1, self.width), arithmetic).reshape(x.shape)
