"""AWQ's limits for the weights of a block, while a model is quantized."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from model.streaming import StreamedLinear
from refquant.apply.block_view import BlockView
from refquant.apply.quantized import is_skipped
from refquant.apply.recipe import Recipe
from refquant.apply.weight_parts import Weights
from refquant.apply.workforce import HERE, Workforce
from refquant.methods.scale.limits import search_limits
from refquant.numerics import Arithmetic
from refquant.numerics.arrays import Array


def limited(recipe: Recipe, names: Sequence[str], inputs: str) -> list[str]:
    """Which linears the recipe clips by limits from these inputs, ``"float"`` or ``"quantized"``."""
    plan = recipe.weights
    if plan.limits == "none" or plan.limit_inputs != inputs:
        return []
    return [name for name in names if not is_skipped(recipe, name) and name.rpartition(".")[2] not in plan.limit_skip]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LimitTask:
    """Everything that decides the limits of one linear; the weight of a streamed one is read where the task is carried out."""

    weight: Array | StreamedLinear
    x: Array
    token_weights: Array | None
    plan: Weights
    arithmetic: Arithmetic


def search_task(task: LimitTask) -> Array:
    """Limits ``[out, groups]``, searched in float64."""
    plan = task.plan
    weight = task.weight.weight if isinstance(task.weight, StreamedLinear) else task.weight
    return search_limits(
        weight.astype(np.float64),
        task.x.astype(np.float64),
        plan.spec(),
        steps=plan.limit_steps,
        max_shrink=plan.limit_shrink,
        sample_tokens=plan.limit_tokens,
        token_weights=task.token_weights,
        arithmetic=task.arithmetic,
    ).limits


def find_limits(view: BlockView, names: Sequence[str], shared: bool = False, workers: Workforce = HERE) -> dict[str, Array]:
    """Limits ``[out, groups]`` of linears by name, in float64 as they are quantized.

    Parameters
    ----------
    view : BlockView
        Its weights are clipped, its inputs looked at.
    names : sequence of str
    shared : bool
        The linears share the first one's input.
    workers : Workforce
        Each linear is a task.

    Raises
    ------
    InputError
        If too few calibration tokens reach an expert.
    """
    plan = view.recipe.weights
    rows = view.rows(names[:1] if shared else names, plan.limit_weighted) if names else {}

    def task(name: str) -> LimitTask:
        linear, (x, token_weights) = view.linear(name), rows[names[0] if shared else name]
        weight = linear if isinstance(linear, StreamedLinear) and workers.shared_files else linear.weight
        return LimitTask(weight=weight, x=x, token_weights=token_weights, plan=plan, arithmetic=view.m.arithmetic)

    return dict(zip(names, workers.map(search_task, map(task, names)), strict=True))
