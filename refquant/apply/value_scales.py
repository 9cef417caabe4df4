"""Static scales of V, from what the attention of a block sees: batch by batch, so that no more than one batch's softmax output is held."""

from __future__ import annotations

from functools import reduce
from typing import Literal

import numpy as np

from refquant.apply.block_part import each_batch
from refquant.apply.block_view import BlockView
from refquant.apply.quantized import attention_product
from refquant.apply.workforce import HERE, Workforce
from refquant.errors import InputError
from refquant.methods.activation.static import Extremes
from refquant.methods.diffusion.ia_aq import AttentionSample, IaAqCandidates, IaAqChoice, check_sample
from refquant.numerics.arrays import Float64Array


def find_value_scales(view: BlockView, workers: Workforce = HERE) -> IaAqChoice:
    """Choose a block's scales of V as :func:`~refquant.methods.diffusion.ia_aq.ia_aq` does, from two looks at every batch.

    Parameters
    ----------
    view : BlockView
        The block as it stands, partly quantized; its recipe's ``values`` say how.
    workers : Workforce
        Losses are added up in the order of the sequences, whoever found them.

    Raises
    ------
    InputError
        If V or the softmax output is not finite.
    """
    plan = view.recipe.values
    per: Literal["head", "feature"] = "feature" if plan.per == "feature" else "head"
    extremes = reduce(Extremes.merge, each_batch(workers, view, _batch_extremes))
    candidates = IaAqCandidates.of(extremes, plan.spec(), alphas=plan.alphas, per=per, gram=plan.gram)
    if len(candidates.alphas) == 1:  # nothing to choose from: no second look
        return candidates.choose(np.zeros((1, *candidates.grids[0].scale[:, 0].shape)))
    losses = (one for batch in each_batch(workers, view, _batch_losses, candidates) for one in batch)
    return candidates.choose(reduce(np.add, losses))


def _batch_extremes(view: BlockView) -> Extremes:
    """Extremes ``[kv_heads, head_dim]`` of V over a batch."""
    name = f"blocks.{view.index}.v"
    (seen,) = view.seen([name])
    found = reduce(Extremes.merge, (Extremes.of(values, axis=1) for values in seen[name]))
    if not (np.isfinite(found.lo).all() and np.isfinite(found.hi).all()):
        raise InputError(f"block {view.index}: the values hold NaN or an infinity; finite numbers are needed")
    return found


def _batch_losses(view: BlockView, candidates: IaAqCandidates) -> list[Float64Array]:
    """Losses of the candidates on each sequence of a batch."""
    product = attention_product(view.recipe.replace(values={"method": "none"}), view.m, None)
    names = f"blocks.{view.index}.probabilities", f"blocks.{view.index}.v"
    (seen,), (masked,) = view.seen(names), view.masked
    found = []
    for probabilities, values, rows in zip(seen[names[0]], seen[names[1]], masked, strict=True):
        a = probabilities if product is None else product.quantize_probabilities(probabilities)
        sample = AttentionSample(probabilities=a, values=values, query_rows=rows if view.recipe.values.rows == "masked" else None)
        check_sample(sample, f"block {view.index}")
        found.append(candidates.losses(sample, view.m.arithmetic))
    return found
