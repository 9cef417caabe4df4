"""The error of each linear: its own, on full-precision inputs, and the one that arrives behind everything before it as quantized."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from model import Transformer
from refquant.apply.quantized import QuantizedModel
from refquant.numerics import Arithmetic
from refquant.numerics.arrays import Array


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerError:
    """Relative squared error ``|Y' - Y|^2 / |Y|^2`` of a linear's output.

    Parameters
    ----------
    linear : str
    isolated : float
        With full precision's input, in the rewritten model's basis.
    propagated : float
        With the input that the quantized model hands to it.
    """

    linear: str
    isolated: float
    propagated: float


def layer_errors(m: Transformer, quantized: QuantizedModel, candidate: Transformer, ids: Array) -> tuple[LayerError, ...]:
    """Measure all linears, in causal order.

    Parameters
    ----------
    m : Transformer
        In full precision.
    quantized : QuantizedModel
    candidate : Transformer
        ``quantized.attach(m)``.
    ids : ndarray of int ``[B, T]``
    """
    whole = quantized.rewritten.attach(m)
    true, found = _inputs(whole, ids), _inputs(candidate, ids)
    errors = []
    for name in candidate.linears:
        output = whole.linears[name](true[name])
        own, arriving = candidate.linears[name](true[name]), candidate.linears[name](found[name])
        errors.append(
            LayerError(
                linear=name,
                isolated=relative_error(own, output, m.arithmetic),
                propagated=relative_error(arriving, output, m.arithmetic),
            )
        )
    return tuple(errors)


def relative_error(found: Array, true: Array, arithmetic: Arithmetic) -> float:
    """``|found - true|^2 / |true|^2`` in float64; 0 where both are 0, infinite where only `true` is.

    Examples
    --------
    >>> from refquant.numerics import FAST
    >>> relative_error(np.array([1.0, 3.0]), np.array([1.0, 2.0]), FAST)
    0.2
    """
    wide = true.astype(np.float64)
    off = found.astype(np.float64) - wide
    error, power = float(arithmetic.sum(off * off)), float(arithmetic.sum(wide * wide))
    return error / power if power else (0.0 if error == 0 else float("inf"))


def _inputs(m: Transformer, ids: Array) -> dict[str, Array]:
    found: dict[str, Array] = {}

    def keep(name: str, array: Array) -> None:
        if name.endswith(".input") and name.removesuffix(".input") in m.linears:
            found[name.removesuffix(".input")] = array

    m.logits(ids, observer=keep)
    return found
