"""AWQ's limits for the weights of a block, while a model is quantized."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from refquant.apply.block_view import BlockView
from refquant.apply.quantized import is_skipped
from refquant.apply.recipe import Recipe
from refquant.methods.scale.limits import search_limits
from refquant.numerics.arrays import Array


def limited(recipe: Recipe, names: Sequence[str], inputs: str) -> list[str]:
    """Which linears the recipe clips by limits from these inputs, ``"float"`` or ``"quantized"``."""
    plan = recipe.weights
    if plan.limits == "none" or plan.limit_inputs != inputs:
        return []
    return [name for name in names if not is_skipped(recipe, name) and name.rpartition(".")[2] not in plan.limit_skip]


def find_limits(view: BlockView, names: Sequence[str], shared: bool = False) -> dict[str, Array]:
    """Limits ``[out, groups]`` of linears by name, in float64 as they are quantized.

    Parameters
    ----------
    view : BlockView
        Its weights are clipped, its inputs looked at.
    names : sequence of str
    shared : bool
        The linears share the first one's input.

    Raises
    ------
    InputError
        If too few calibration tokens reach an expert.
    """
    plan, found = view.recipe.weights, {}
    rows = view.rows(names[:1] if shared else names, plan.limit_weighted) if names else {}
    for name in names:
        x, token_weights = rows[names[0] if shared else name]
        found[name] = search_limits(
            view.linear(name).weight.astype(np.float64),
            x.astype(np.float64),
            plan.spec(),
            steps=plan.limit_steps,
            max_shrink=plan.limit_shrink,
            sample_tokens=plan.limit_tokens,
            token_weights=token_weights,
            arithmetic=view.m.arithmetic,
        ).limits
    return found
