"""CGQ: GPTQ whose Hessian counts tokens by how certain the model is of them (DLLMQuant, arXiv 2508.14090).

[CGQ-1]  multiplier of a token's input:  c_t = masked_weight + sqrt(s_t) if position t is masked, else visible_weight (by option also
         + sqrt(s_t)).
[CGQ-2]  H = sum_t c_t^power x_t x_t^T, then GPTQ as it stands.

The paper's own code is not public. The formula is a survey's restatement, (X (1[masked] + sqrt(s))) (X (1[masked] + sqrt(s)))^T, and the
weights 1 and 0.7 come from a public review; everything below is an option, and the defaults are the readings that serve the stated intent
(errors at confident masked positions decide what is committed; errors at visible ones hardly matter).

Readings and their options:

* ``power``: the multiplier stands on X, so the Hessian sees its square (2, default). An independent re-implementation weighs linearly (1).
* ``visible_confidence``: taken literally, visible tokens get sqrt(s) too, and since they are certain they would outweigh masked ones:
  ``"zero"`` (default) leaves it out, ``"model"`` takes the model's probability, ``"one"`` takes 1.
* what s is, is decided where it is computed: the probability of the argmax (default of the recipes) or of the token finally committed.
* prompt tokens are visible; padding has weight 0.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from refquant.errors import InputError, UsageError
from refquant.methods.card import Card, Equation
from refquant.numerics import FAST, Arithmetic
from refquant.numerics.arrays import Array, Float64Array

VisibleConfidence = Literal["zero", "model", "one"]

CARD = Card(
    name="cgq",
    title="CGQ: certainty-guided token weights for GPTQ's Hessian",
    paper="DLLMQuant, arXiv 2508.14090; no public code",
    inputs=("masked [tokens]", "confidence [tokens] in [0, 1]", "the linear's inputs"),
    equations=(
        Equation("CGQ-1", "c_t = masked_weight + sqrt(s_t) if masked, else visible_weight"),
        Equation("CGQ-2", "H = sum c_t^power x_t x_t^T, then GPTQ"),
    ),
    departures=(
        "power=2: the square of the multiplier enters the Hessian (power=1: linear, as an independent re-implementation has it)",
        "visible_confidence='zero': visible tokens get no sqrt(s) ('model', 'one': they do)",
        "weights 1 and 0.7 are from a public review, not from the paper's text",
    ),
    guarantees=(
        "weights that are all equal give GPTQ's codes; all 1, its bytes",
        "padding changes nothing; visible_weight=0 is GPTQ on the masked rows alone",
        "token weights commute with rotations of the inputs: H of rotated inputs is the rotated H",
    ),
    lane="ordered in ORDERED, bounded in FAST",
    cost="one multiplication a token on top of GPTQ; one full-precision forward pass a snapshot for the confidences",
    oracle="refquant.oracle.hessian",
    laws=tuple(
        (
            "finite monotone signed_zero row_permutation column_permutation batch_independence chunk_independence determinism "
            "inputs_untouched layout_independence nan_policy infinity_policy merge_associativity merge_commutativity "
            "token_permutation"
        ).split()
    ),
)


def certainty_weights(
    masked: Array,
    confidence: Array,
    power: float = 2,
    *,
    visible_weight: float = 0.7,
    masked_weight: float = 1.0,
    visible_confidence: VisibleConfidence = "zero",
    padding: Array | None = None,
    arithmetic: Arithmetic = FAST,
) -> Float64Array:
    """Token weights ``c_t^power`` as they multiply ``x_t x_t^T`` in the Hessian.

    Parameters
    ----------
    masked : bool ndarray, any shape
        Positions that hold the mask token.
    confidence : ndarray of the same shape
        Probability in [0, 1] of the argmax (or of the final token) from the full-precision model on the same sequence.
    power : float
        Positive; 2 squares the multiplier, 1 takes it as it is.
    visible_weight, masked_weight : float
        Not negative.
    visible_confidence : {"zero", "model", "one"}
        What stands under the root for visible tokens.
    padding : bool ndarray of the same shape, optional
        True where a position is padding; its weight is 0.
    arithmetic : Arithmetic
        Used for powers other than 1 and 2.

    Returns
    -------
    float64 ndarray of the same shape

    Raises
    ------
    InputError
        If shapes or types do not agree or a confidence lies outside [0, 1].
    UsageError
        If an option is out of range.

    Examples
    --------
    >>> certainty_weights(np.array([True, False]), np.array([0.25, 0.9]), power=1)
    array([1.5, 0.7])
    """
    masked = _flags(masked, "masked")
    counted = np.ones(masked.shape, dtype=bool) if padding is None else ~_flags(padding, "padding")
    s = np.asarray(confidence, dtype=np.float64)
    if not s.shape == masked.shape == counted.shape:
        raise InputError(f"masked has shape {masked.shape}, confidence {s.shape}, padding {counted.shape}; they must agree")
    if not ((s >= 0) & (s <= 1) | ~counted).all():
        raise InputError(f"a confidence lies in [0, 1]; found {s[~((s >= 0) & (s <= 1)) & counted][0]}")
    for name, value in (("visible_weight", visible_weight), ("masked_weight", masked_weight)):
        if not (np.isfinite(value) and value >= 0):
            raise UsageError(f"{name} is a finite number of at least 0, not {value!r}")
    if not (np.isfinite(power) and power > 0):
        raise UsageError(f"power is a positive number, not {power!r}")
    under_root = np.where(counted, np.where(masked, s, _visible_certainty(s, visible_confidence)), 0.0)
    c = np.where(masked, masked_weight, visible_weight) + np.sqrt(under_root)  # [CGQ-1]
    return np.where(counted, _to_power(c, power, arithmetic), 0.0)  # [CGQ-2]


def _flags(array: Array, what: str) -> Array:
    flags = np.asarray(array)
    if flags.dtype != np.bool_:
        raise InputError(f"{what} is a boolean array, not {flags.dtype}")
    return flags


def _visible_certainty(s: Float64Array, rule: str) -> Float64Array:
    match rule:
        case "zero":
            return np.zeros_like(s)
        case "model":
            return s
        case "one":
            return np.ones_like(s)
    raise UsageError(f"visible_confidence is 'zero', 'model' or 'one', not {rule!r}")


def _to_power(c: Float64Array, power: float, arithmetic: Arithmetic) -> Float64Array:
    """Powers 1 and 2 are exact operations; only others need an elementary function."""
    if power == 1:
        return c
    return c * c if power == 2 else arithmetic.power(c, power)
