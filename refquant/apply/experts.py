"""Calibrating the experts of a mixture: which tokens reach an expert, how much they count, and whether they are enough."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from model import Transformer
from model.architecture import ExpertsPlan
from refquant.errors import InputError
from refquant.numerics.arrays import Array


def expert_numbers(m: Transformer, index: int) -> dict[str, int]:
    """Which expert each linear of block `index` belongs to; linears that every token goes through are not in it."""
    mlp = m.architecture.blocks[index].mlp
    if not isinstance(mlp, ExpertsPlan):
        return {}
    return {linear.name: number for number, expert in enumerate(mlp.experts) for linear in expert.linears}


def expert_weights(expert: int, routing: Array, mixing: Array, token_weights: Array | None, counted_as: str) -> Array | None:
    """Weights of the tokens that reach an expert, in the order in which it sees them.

    Parameters
    ----------
    expert : int
    routing : int ndarray ``[B, T, k]``
        Experts chosen for each token.
    mixing : ndarray ``[B, T, k]``
        What their outputs are multiplied by.
    token_weights : ndarray ``[B, T]``, optional
        What each token counts in a Hessian without routing; None is 1.
    counted_as : {"routed", "mixing"}
        A token counts in full wherever it is sent, or times the square of its mixing weight: what an error of the expert's output
        contributes to the error of the layer's.

    Returns
    -------
    float64 ndarray ``[tokens of the expert]``, or None where all are 1
    """
    tokens, slots = np.nonzero(routing.reshape(-1, routing.shape[-1]) == expert)
    weights = None if token_weights is None else token_weights.reshape(-1)[tokens].astype(np.float64)
    if counted_as == "routed":
        return weights
    share = mixing.reshape(-1, mixing.shape[-1])[tokens, slots].astype(np.float64)
    return share * share if weights is None else weights * (share * share)


def check_coverage(name: str, seen: int, total: int, needed: int) -> None:
    """Refuse an expert that saw too few calibration tokens to be quantized by them.

    Raises
    ------
    InputError
        Naming the linear, how many tokens reached it, and about how many calibration tokens would be needed at that share.
    """
    if seen >= needed:
        return
    if seen:
        advice = f"at this share about {-(-total * needed // seen)} calibration tokens are needed"
    else:
        advice = "at no share can it be said how many are needed; calibrate on more, and other, sequences"
    raise InputError(
        f"{name}: {seen} of {total} calibration tokens were routed to this expert; {needed} are needed (min_expert_tokens), {advice}"
    )


def coverage(m: Transformer, tokens: Mapping[str, int]) -> dict[int, list[int]]:
    """Calibration tokens of every expert, by block; blocks without experts are left out.

    Parameters
    ----------
    m : Transformer
    tokens : mapping of str to int
        By the linear's name, as in :class:`~refquant.apply.quantized.LinearRecord`.
    """
    found = {}
    for index in range(m.config.n_layers):
        first = {expert: name for name, expert in reversed(expert_numbers(m, index).items()) if name in tokens}
        if first:
            found[index] = [tokens[first[expert]] for expert in sorted(first)]
    return found
