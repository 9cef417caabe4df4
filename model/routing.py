"""The router of a mixture: which experts a token goes to, and with what weights."""

from __future__ import annotations

import numpy as np

from model.architecture import RouterPlan
from refquant.numerics import Arithmetic
from refquant.numerics.arrays import Array
from refquant.numerics.ordering import top_k_indices


def route(logits: Array, plan: RouterPlan, bias: Array | None, arithmetic: Arithmetic) -> tuple[Array, Array]:
    """Choose experts by score; of equal ones the lowest index.

    Scores are the softmax over all experts or the sigmoid of each. The bias is added to what the choice goes by. In LLaDA-MoE
    (`bias_enters_weights`) it so ends up in the mixing weights; in LLaDA2 the weights are the scores without it, divided by their sum
    and scaled. With groups, the sum of a group's two best decides which groups stay.

    Parameters
    ----------
    logits : ndarray [N, E]
    plan : RouterPlan
    bias : ndarray [E], optional
    arithmetic : Arithmetic

    Returns
    -------
    chosen : ndarray of int64 [N, k]
        The best first.
    weights : ndarray [N, k]

    Examples
    --------
    >>> from refquant.numerics import FAST
    >>> plan = RouterPlan(weight="w", bias="b", experts=4, width=1, top_k=2, score="sigmoid", bias_enters_weights=False, normalize=True)
    >>> chosen, weights = route(np.zeros((1, 4)), plan, np.array([0.0, 0.3, 0.0, 0.1]), FAST)
    >>> chosen.tolist(), weights.tolist()
    ([[1, 3]], [[0.5, 0.5]])
    """
    scores = _sigmoid(logits, arithmetic) if plan.score == "sigmoid" else arithmetic.softmax(logits)
    ranked = scores if bias is None else scores + bias  # [N, E]
    chosen = top_k_indices(_within_groups(ranked, plan), plan.top_k)  # [N, k]
    weights = np.take_along_axis(ranked if plan.bias_enters_weights else scores, chosen, axis=-1)
    if plan.normalize:
        weights = weights / (arithmetic.sum(weights, axis=-1, keepdims=True) + 1e-20)
    return chosen, np.asarray(weights * plan.scale if plan.scale != 1 else weights)


def _sigmoid(x: Array, arithmetic: Arithmetic) -> Array:
    with np.errstate(over="ignore"):  # exp(-x) = inf far on the left, where 1 / inf = 0 is the right limit
        return np.asarray(1 / (1 + arithmetic.exp(-x)))


def _within_groups(ranked: Array, plan: RouterPlan) -> Array:
    """Strike all experts outside of the best groups."""
    if plan.kept_groups == plan.groups:
        return ranked
    grouped = ranked.reshape(len(ranked), plan.groups, -1)  # [N, G, E / G]
    best = np.sort(grouped, axis=-1)[..., -2:]
    kept = top_k_indices(best[..., 0] + best[..., 1], plan.kept_groups)  # [N, kept]
    stays = np.zeros(grouped.shape[:2], dtype=bool)
    np.put_along_axis(stays, kept, True, axis=-1)
    return np.where(stays[..., None], grouped, -np.inf).astype(ranked.dtype).reshape(ranked.shape)
