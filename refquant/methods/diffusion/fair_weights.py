"""Token weights after FAIR-Calib: tokens about to be committed count more, masked ones by how reliable they are (arXiv 2606.06547).

An adaptation, not the method: FAIR-Calib trains FlatQuant's transforms on a loss of hidden states that these weights stand in, averaged
over rollouts with random commit order. Here they multiply tokens in GPTQ's Hessian, as CGQ's do, and are taken from the one state that a
calibration sequence is.

[FAIRW-1]  frontier C: the `frontier` masked positions of a sequence in which the model is most confident.
[FAIRW-2]  reliability: confidence at masked positions over its mean there (``normalize="mean"``), its largest (``"max"``), or itself.
[FAIRW-3]  w_i = floor + frontier_weight (1 + early_boost r) [i in C] + masked_weight * reliability_i [i masked],  r the share of the
           sequence that is masked, so that early steps, where much is masked, count more.

Readings: the paper's constants and the normalization of the confidence were not found; all are options. Of equally confident positions the
first is nearer to being committed.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from refquant.errors import InputError, UsageError
from refquant.methods.card import Card, Equation
from refquant.numerics import FAST, Arithmetic
from refquant.numerics.arrays import Array, Float64Array

Normalization = Literal["mean", "max", "none"]

CARD = Card(
    name="fair_adaptation",
    title="Token weights after FAIR-Calib, in GPTQ's Hessian: an adaptation",
    paper="FAIR-Calib, arXiv 2606.06547; constants not published",
    inputs=("masked [sequences, tokens]", "confidence [sequences, tokens] in [0, 1]"),
    equations=(
        Equation("FAIRW-1", "frontier: the most confident masked positions"),
        Equation("FAIRW-2", "reliability: confidence at masked positions, normalized in its sequence"),
        Equation("FAIRW-3", "w = floor + frontier_weight (1 + early_boost r) [frontier] + masked_weight * reliability [masked]"),
    ),
    departures=(
        "weights enter GPTQ's Hessian, instead of a loss on hidden states that transforms are trained on",
        "from the state that the sequence is in, not from rollouts with random commit order",
        "every constant is an option: none was published",
    ),
    guarantees=("visible tokens weigh the floor", "a sequence's weights do not depend on the other sequences"),
    lane="ordered in ORDERED, bounded in FAST",
    cost="one full-precision forward pass for the confidences, one sort a sequence",
    oracle="a loop over tokens in Fractions",
    laws=tuple(
        (
            "finite monotone signed_zero row_permutation column_permutation batch_independence chunk_independence determinism "
            "inputs_untouched nan_policy infinity_policy"
        ).split()
    ),
)


def fair_weights(
    masked: Array,
    confidence: Array,
    *,
    frontier: int = 1,
    frontier_weight: float = 1.0,
    early_boost: float = 1.0,
    masked_weight: float = 1.0,
    floor: float = 0.1,
    normalize: Normalization = "mean",
    arithmetic: Arithmetic = FAST,
) -> Float64Array:
    """Token weights as they multiply ``x_t x_t^T`` in the Hessian.

    Parameters
    ----------
    masked : bool ndarray ``[sequences, tokens]``
    confidence : ndarray of the same shape
        Probability in [0, 1] of the argmax from the full-precision model on the same sequence.
    frontier : int
        Tokens that are committed in a step.
    frontier_weight, early_boost, masked_weight, floor : float
        Not negative.
    normalize : {"mean", "max", "none"}
    arithmetic : Arithmetic

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
    >>> masked = np.array([[False, True, True, True]])
    >>> fair_weights(masked, np.array([[0.9, 0.2, 0.6, 0.4]]), early_boost=0)
    array([[0.1, 0.6, 2.6, 1.1]])
    """
    masked, s = np.asarray(masked), np.asarray(confidence, dtype=np.float64)
    if masked.dtype != np.bool_ or masked.ndim != 2 or s.shape != masked.shape:
        raise InputError(f"masked is boolean [sequences, tokens]; found {masked.dtype} {masked.shape}, confidence {s.shape}")
    if not ((s >= 0) & (s <= 1)).all():
        raise InputError(f"a confidence lies in [0, 1]; found {s[~((s >= 0) & (s <= 1))][0]}")
    numbers = {"frontier_weight": frontier_weight, "early_boost": early_boost, "masked_weight": masked_weight, "floor": floor}
    for name, value in numbers.items():
        if not (np.isfinite(value) and value >= 0):
            raise UsageError(f"{name} is a finite number of at least 0, not {value!r}")
    if isinstance(frontier, bool) or not isinstance(frontier, int) or frontier < 0:
        raise UsageError(f"frontier is a number of tokens, not {frontier!r}")
    ranks = np.argsort(np.argsort(np.where(masked, -s, np.inf), axis=1, kind="stable"), axis=1, kind="stable")
    hits = masked & (ranks < frontier)  # [FAIRW-1]
    at_masks = np.where(masked, s, 0.0)
    reliability = at_masks / _norm(at_masks, masked, normalize, arithmetic)  # [FAIRW-2]
    share = np.count_nonzero(masked, axis=1) / max(masked.shape[1], 1)
    boost = frontier_weight * (1 + early_boost * share[:, None])
    return np.asarray(floor + np.where(hits, boost, 0.0) + masked_weight * reliability)  # [FAIRW-3]


def _norm(at_masks: Float64Array, masked: Array, normalize: Normalization, arithmetic: Arithmetic) -> Float64Array:
    """What confidences of a sequence are divided by, ``[sequences, 1]``; 1 where nothing is masked."""
    match normalize:
        case "mean":
            found = arithmetic.sum(at_masks, axis=1, keepdims=True) / np.maximum(np.count_nonzero(masked, axis=1, keepdims=True), 1)
        case "max":
            found = at_masks.max(axis=1, keepdims=True, initial=0.0)
        case "none":
            found = np.ones((len(masked), 1))
        case _:
            raise UsageError(f"normalize is 'mean', 'max' or 'none', not {normalize!r}")
    return np.where(found > 0, found, 1.0)
