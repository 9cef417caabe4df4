"""What is collected of the inputs that a group of linears shares, over all calibration tokens."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce

from refquant.apply.block_part import each_batch
from refquant.apply.block_view import BlockView
from refquant.apply.experts import check_coverage, expert_numbers, expert_weights
from refquant.apply.layers import online_transforms
from refquant.apply.workforce import HERE, Workforce
from refquant.core import RunningStats, Stats
from refquant.core.transform import through
from refquant.errors import InputError
from refquant.methods.activation.static import Extremes
from refquant.methods.activation.tac import Moments
from refquant.numerics import ORDERED
from refquant.numerics.arrays import Array


def input_extremes(view: BlockView, name: str, workers: Workforce = HERE) -> Extremes:
    """Extremes of the input of a linear, behind its online transforms; InputError if too few tokens reach an expert."""
    looks = list(each_batch(workers, view, _batch_extremes, name))
    _check_expert(view, name, sum(tokens for tokens, _ in looks))
    return reduce(Extremes.merge, [found for _, found in looks if found is not None])


def _batch_extremes(view: BlockView, name: str) -> tuple[int, Extremes | None]:
    """Tokens that reach a linear in a batch, and their extremes: an expert may see nothing of it."""
    (seen,) = view.seen([f"{name}.input"])
    rows = _arriving(view, name, seen)
    return len(rows), Extremes.of(rows, axis=0) if len(rows) else None


def input_statistics(view: BlockView, name: str, quantizer: Callable[[Array], Array] | None, workers: Workforce = HERE) -> Stats:
    """Hessian of the input of a linear, behind its online transforms and `quantizer`; InputError if too few tokens reach an expert.

    In the fast lane the batches' statistics are merged one by one, in order, whoever collected them: a sum that ran on from batch to batch
    would have other last bits for other workers. In the ordered lane any grouping gives the same bits, and each worker sends one sum over
    its share.
    """
    if not view.hidden:
        raise InputError(f"{name}: there are no calibration states to collect statistics of")
    grouped = view.m.arithmetic.name == ORDERED.name
    running = RunningStats(_width(view, name), arithmetic=view.m.arithmetic)
    for one in each_batch(workers, view, _batch_statistics, name, quantizer, grouped=grouped):
        running.take(one)
        del one  # before the next one comes: a Hessian is what decides how much memory a run takes
    total = running.stats()
    _check_expert(view, name, total.tokens)
    return total


def _batch_statistics(view: BlockView, name: str, quantizer: Callable[[Array], Array] | None) -> Stats:
    """What :func:`input_statistics` collects of a view's batches."""
    expert = expert_numbers(view.m, view.index).get(name)
    routing = (f"blocks.{view.index}.routing", f"blocks.{view.index}.routing_weights")

    running = RunningStats(_width(view, name), working=view.recipe.weights.working, arithmetic=view.m.arithmetic)
    for seen, weights in zip(view.seen([f"{name}.input", *(() if expert is None else routing)]), view.token_weights, strict=True):
        if expert is not None:
            weights = expert_weights(expert, seen[routing[0]], seen[routing[1]], weights, view.recipe.tokens.routing)
        rows = _arriving(view, name, seen)
        rows = rows if quantizer is None else quantizer(rows)
        running.add(rows, None if weights is None else weights.reshape(-1))
    return running.stats()


def _width(view: BlockView, name: str) -> int:
    return next(plan.into for plan in view.m.architecture.blocks[view.index].linears if plan.name == name)


def block_output(view: BlockView) -> Array:
    """What the block makes of a batch ``[B, T, d]``."""
    (x,) = view.hidden
    return view.m.block(view.index, x, view.m.context(x.shape[0], x.shape[1]))


def batch_moments(view: BlockView, name: str, block: int) -> Moments:
    """TAC's moments of an array of the block, by its tap's name, over a batch."""
    (seen,) = view.seen([name])
    return Moments.of(seen[name], block, view.m.arithmetic)


def _arriving(view: BlockView, name: str, seen: dict[str, Array]) -> Array:
    """Inputs ``[tokens, features]`` of a linear behind its online transforms: what its quantizers see."""
    x = seen[f"{name}.input"]
    return through(online_transforms(view.linear(name)), x.reshape(-1, x.shape[-1]), view.m.arithmetic)


def _check_expert(view: BlockView, name: str, seen: int) -> None:
    if name in expert_numbers(view.m, view.index):
        total = sum(x.shape[0] * x.shape[1] for x in view.hidden)
        check_coverage(name, seen, total, view.recipe.calibration.min_expert_tokens)
