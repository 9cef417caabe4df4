"""What is collected of the inputs that a group of linears shares, over all calibration tokens."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce

from refquant.apply.block_view import BlockView
from refquant.apply.experts import check_coverage, expert_numbers, expert_weights
from refquant.apply.layers import online_transforms
from refquant.core import Stats
from refquant.core.transform import through
from refquant.errors import InputError
from refquant.methods.activation.static import Extremes
from refquant.numerics.arrays import Array


def input_extremes(view: BlockView, name: str) -> Extremes:
    """Extremes of the input of a linear, behind its online transforms; InputError if too few tokens reach an expert."""
    found: list[Extremes] = []
    tokens = 0
    for seen in view.seen([f"{name}.input"]):
        rows = _arriving(view, name, seen)
        tokens += len(rows)
        if len(rows):  # an expert may see nothing of a batch
            found.append(Extremes.of(rows, axis=0))
    _check_expert(view, name, tokens)
    return reduce(Extremes.merge, found)


def input_statistics(view: BlockView, name: str, quantizer: Callable[[Array], Array] | None) -> Stats:
    """Hessian of the input of a linear, behind its online transforms and `quantizer`; InputError if too few tokens reach an expert."""
    expert = expert_numbers(view.m, view.index).get(name)
    routing = (f"blocks.{view.index}.routing", f"blocks.{view.index}.routing_weights")
    total: Stats | None = None
    for seen, weights in zip(view.seen([f"{name}.input", *(() if expert is None else routing)]), view.token_weights, strict=True):
        if expert is not None:
            weights = expert_weights(expert, seen[routing[0]], seen[routing[1]], weights, view.recipe.tokens.routing)
        rows = _arriving(view, name, seen)
        rows = rows if quantizer is None else quantizer(rows)
        one = Stats.of(rows, None if weights is None else weights.reshape(-1), view.m.arithmetic)
        total = one if total is None else total.merge(one)
    if total is None:
        raise InputError(f"{name}: there are no calibration states to collect statistics of")
    _check_expert(view, name, total.tokens)
    return total


def _arriving(view: BlockView, name: str, seen: dict[str, Array]) -> Array:
    """Inputs ``[tokens, features]`` of a linear behind its online transforms: what its quantizers see."""
    x = seen[f"{name}.input"]
    return through(online_transforms(view.linear(name)), x.reshape(-1, x.shape[-1]), view.m.arithmetic)


def _check_expert(view: BlockView, name: str, seen: int) -> None:
    if name in expert_numbers(view.m, view.index):
        total = sum(x.shape[0] * x.shape[1] for x in view.hidden)
        check_coverage(name, seen, total, view.recipe.calibration.min_expert_tokens)
