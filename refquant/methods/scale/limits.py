"""The second stage of AWQ: a clipping limit for every row and group of a weight, by the error of the group's own output.

Equations [AWQ-4] and [AWQ-5] and the departures from the authors' code stand in :mod:`refquant.methods.scale.awq`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from refquant.core import QuantSpec, fake_quantize, fit_grid
from refquant.errors import InputError, UsageError
from refquant.numerics import FAST, Arithmetic
from refquant.numerics.arrays import Array, Float64Array, read_only
from refquant.numerics.casting import as_working

STEPS = 20


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LimitSearch:
    """What the search for limits found.

    Parameters
    ----------
    limits : ndarray ``[out, groups]``
    losses : float64 ndarray ``[candidates, out, groups]``
    """

    limits: Array
    losses: Float64Array

    def __post_init__(self) -> None:
        for name in ("limits", "losses"):
            object.__setattr__(self, name, read_only(getattr(self, name)))


def search_limits(
    weight: Array,
    x: Array,
    spec: QuantSpec,
    *,
    steps: int = STEPS,
    max_shrink: float = 0.5,
    sample_tokens: int = 512,
    token_weights: Array | None = None,
    arithmetic: Arithmetic = FAST,
) -> LimitSearch:
    """Search the limit of every row and group of a weight.

    Parameters
    ----------
    weight : ndarray ``[out, in]``
        float32 or float64.
    x : ndarray ``[tokens, in]``
        Of the same dtype.
    spec : QuantSpec
        How the weight will be quantized: rows, or groups along the input axis.
    steps, max_shrink
        Limits are ``1 - i / steps`` of the maximum, for whole ``i`` below ``max_shrink * steps``.
    sample_tokens : int
        Every ``tokens // sample_tokens``-th token is looked at.
    token_weights : ndarray ``[tokens]``, optional
    arithmetic : Arithmetic

    Returns
    -------
    LimitSearch

    Raises
    ------
    InputError
        If shapes or dtypes do not agree, there is no token, or something is not finite.
    UsageError
        If an option is out of range, or the spec tiles rows together.

    Examples
    --------
    >>> from refquant.core import spec
    >>> weight = np.array([[0.1, -0.2, 0.3, 4.0]])
    >>> x = np.array([[1.0, 1.0, 1.0, 0.1]])
    >>> search_limits(weight, x, spec("int2", scheme="asym_minmax")).limits
    array([[4.]])
    """
    shrunk = int(max_shrink * steps) if steps >= 1 and 0 < max_shrink <= 1 else 0
    if not shrunk or sample_tokens < 1:
        raise UsageError(f"steps {steps}, max_shrink {max_shrink} and sample_tokens {sample_tokens} leave nothing to try")
    if spec.tiling.extents[0] != 1 or len(spec.tiling.extents) != 2:
        raise UsageError(f"limits are searched row by row; this spec's tiles are {spec.tiling.extents}")
    x, token_weights = checked_inputs(x, [weight], token_weights)
    stride = max(1, len(x) // sample_tokens)
    x, token_weights = x[::stride], None if token_weights is None else token_weights[::stride]
    grams = _group_grams(x, token_weights, spec, arithmetic)  # [groups, g, g]
    top = np.abs(spec.tiling.blocks(weight, 0.0)).max(axis=spec.tiling.inner_axes)  # [out, groups]
    losses = np.full((shrunk, *top.shape), np.inf)
    limits, least = top.copy(), np.full(top.shape, np.inf)
    for index in range(shrunk):
        limit = top * top.dtype.type(1 - index / steps)  # [AWQ-4]
        clipped = clip_to_limits(weight, limit, spec)
        change = fake_quantize(clipped, fit_grid(clipped, spec, arithmetic), spec) - weight
        losses[index] = _group_losses(change, grams, spec, arithmetic)  # [AWQ-5]
        better = losses[index] < least
        least, limits = np.where(better, losses[index], least), np.where(better, limit, limits)
    return LimitSearch(limits=limits, losses=losses)


def clip_to_limits(weight: Array, limits: Array, spec: QuantSpec) -> Array:
    """Clip a weight ``[out, in]`` to +- the limit of each row and group, ``[out, groups]``."""
    bound = spec.tiling.expand(limits, weight.shape)
    return np.clip(weight, -bound, bound)


def checked_inputs(x: Array, weights: Sequence[Array], token_weights: Array | None) -> tuple[Array, Array | None]:
    """Inputs ``[tokens, channels]`` in float32 or float64 and token weights in float64; InputError if something does not fit."""
    x = as_working(x, "the input")
    if x.ndim != 2 or not len(x):
        raise InputError(f"inputs have shape [tokens, channels] with at least one token; found {x.shape}")
    if not weights:
        raise InputError("a search needs at least one weight")
    for w in weights:
        if w.ndim != 2 or w.shape[1] != x.shape[1] or w.dtype != x.dtype:
            raise InputError(f"weights are {x.dtype} [out, {x.shape[1]}] beside this input; found {w.dtype} {w.shape}")
        if not np.isfinite(w).all():
            raise InputError("a weight holds a number that is not finite")
    if not np.isfinite(x).all():
        raise InputError("an input holds a number that is not finite")
    if token_weights is None:
        return x, None
    counted = np.asarray(token_weights, dtype=np.float64)
    if counted.shape != x.shape[:1] or not (np.isfinite(counted) & (counted >= 0)).all() or not counted.any():
        raise InputError(f"token weights are {len(x)} finite numbers of at least 0, not all 0; found shape {counted.shape}")
    return x, counted


def _group_grams(x: Array, token_weights: Array | None, spec: QuantSpec, arithmetic: Arithmetic) -> Float64Array:
    """``X_G^T X_G`` over the tokens of every group, divided by their number (or their weights' sum), float64."""
    rows = x.astype(np.float64)
    if token_weights is not None:
        rows = rows * np.sqrt(token_weights)[:, None]
    total = float(len(x)) if token_weights is None else float(arithmetic.sum(token_weights))
    groups = np.ascontiguousarray(np.moveaxis(spec.tiling.blocks(rows, 0.0)[:, 0], 0, 1))  # [groups, tokens, g]
    return np.asarray(arithmetic.matmul(groups.swapaxes(-1, -2), groups) / total)


def _group_losses(change: Array, grams: Float64Array, spec: QuantSpec, arithmetic: Arithmetic) -> Float64Array:
    """``d^T M_G d`` of every row and group, ``[out, groups]``."""
    groups = np.ascontiguousarray(np.moveaxis(spec.tiling.blocks(change.astype(np.float64), 0.0)[:, 0], 0, 1))  # [groups, out, g]
    return np.asarray(arithmetic.sum(arithmetic.matmul(groups, grams) * groups, axis=-1).T)
