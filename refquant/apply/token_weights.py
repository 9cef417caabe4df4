"""How much each calibration token counts, as a recipe says."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from model import Transformer
from refquant.apply.recipe import Tokens
from refquant.apply.states import CalibrationState, state_confidences
from refquant.apply.workforce import HERE, Workforce
from refquant.methods.diffusion.cgq import certainty_weights
from refquant.methods.diffusion.fair_weights import fair_weights
from refquant.numerics.arrays import Array


def token_weights(
    m: Transformer, plan: Tokens, states: Sequence[CalibrationState], grouping: Sequence[Sequence[int]], workers: Workforce = HERE
) -> list[Array | None]:
    """Weights of every batch of states ``[sequences, tokens]``; None where all count alike.

    Parameters
    ----------
    m : Transformer
        In full precision; its confidences decide.
    plan : Tokens
    states : sequence of CalibrationState
    grouping : sequence of sequence of int
        Indices of the states of each batch.
    workers : Workforce
        Who takes the confidences.
    """
    if plan.weighting == "uniform":
        return [None] * len(grouping)
    confidences = state_confidences(m, states, plan.confidence, workers=workers)
    return [_weights(m, plan, np.stack([states[i].masked for i in batch]), np.stack([confidences[i] for i in batch])) for batch in grouping]


def _weights(m: Transformer, plan: Tokens, masked: Array, confidence: Array) -> Array:
    if plan.weighting == "fair_adaptation":
        return fair_weights(
            masked,
            confidence,
            frontier=plan.frontier,
            frontier_weight=plan.frontier_weight,
            early_boost=plan.early_boost,
            masked_weight=plan.masked_weight,
            floor=plan.floor,
            normalize=plan.normalize,
            arithmetic=m.arithmetic,
        )
    return certainty_weights(
        masked,
        confidence,
        plan.power,
        visible_weight=plan.visible_weight,
        masked_weight=plan.masked_weight,
        visible_confidence=plan.visible_confidence,
        arithmetic=m.arithmetic,
    )
