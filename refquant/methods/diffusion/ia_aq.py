"""IA-AQ: interaction-aware activation quantization of the attention values (DLLMQuant, arXiv 2508.14090).

The scale of V is chosen by the error of the product that V enters, not by its own extremes alone.

[IAAQ-1]  s0 = (V_max - V_min) / (Q_max - Q_min), z = round(-V_min / s0): extremes over all calibration samples, a head (or a feature).
[IAAQ-2]  L(s) = |A (V_hat(s) - V)|_F^2, summed over samples, with A the dequantized softmax output.
[IAAQ-3]  s = alpha s0 with alpha in {0.80, 0.81, ..., 1.00}: the one with the least loss, ties to the larger; z stays.
[IAAQ-4]  L = tr(dV^T G dV) with G = A^T A: G once a head and sample, then a quadratic form a candidate; features separate.

Sources: a survey restates [IAAQ-2] with its factors the other way round, which does not fit their shapes; A V is what the network
computes. Range 0.8 to 1 is from the survey, the step is ours. Static scales are our reading (with dynamic per-token ones a token's error
depends on its own row alone and nothing is left to weigh); ``per="feature"`` searches every feature by itself; ``gram="mass"`` is the
objective of an independent re-implementation, sum_j (sum_i A_ij) |dV_j|^2, which is another one. The error of A itself is not treated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Literal

import numpy as np

from refquant.core.coding import fake_quantize
from refquant.core.fitting import tile_ranges
from refquant.core.grid import Grid, grid_from_range
from refquant.core.spec import QuantSpec
from refquant.core.tiling import Tiling
from refquant.errors import InputError, UsageError
from refquant.methods.activation.static import Extremes, check_range_only
from refquant.methods.card import Card, Equation
from refquant.numerics import FAST, Arithmetic
from refquant.numerics.arrays import Array, Float64Array
from refquant.numerics.frozen import by_constructor

ALPHAS = tuple(i / 100 for i in range(100, 79, -1))

CARD = Card(
    name="ia_aq",
    title="IA-AQ: interaction-aware quantization of attention values",
    paper="DLLMQuant, arXiv 2508.14090; no public code",
    inputs=("softmax outputs A [heads, T, T], dequantized", "values V [kv heads, T, head_dim]", "spec of V"),
    equations=(
        Equation("IAAQ-1", "s0 and z from the extremes of V over all samples"),
        Equation("IAAQ-2", "L(s) = |A (V_hat(s) - V)|_F^2 summed over samples"),
        Equation("IAAQ-3", "alpha in {0.80, ..., 1.00} with the least loss, ties to the larger, z unchanged"),
        Equation("IAAQ-4", "L = tr(dV^T G dV), G = A^T A"),
    ),
    departures=(
        "the survey's order of the factors does not fit their shapes; A V is taken",
        "per='head' (default) or 'feature'; the paper's elementwise product may mean the latter",
        "gram='exact' (default) or 'mass', the objective of an independent re-implementation",
        "grid step 0.01 is ours; static scales are our reading",
    ),
    guarantees=("the grid holds alpha = 1, so the calibration loss never exceeds that of min/max", "the Gram form equals the direct norm"),
    lane="ordered in ORDERED, bounded in FAST",
    cost="T^2 head_dim for G, then 21 T^2 head_dim, a head and sample",
    oracle="refquant.oracle.attention_loss",
    laws=tuple("finite monotone scaling zero_kept signed_zero determinism inputs_untouched nan_policy infinity_policy".split()),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionSample:
    """One sequence seen by one attention layer.

    Parameters
    ----------
    probabilities : ndarray ``[heads, T, T]``
        Softmax output, already quantized and dequantized if it will be at run time.
    values : ndarray ``[kv_heads, T, head_dim]``
        Each kv head serves ``heads / kv_heads`` consecutive heads.
    query_rows : bool ndarray ``[T]``, optional
        Rows of A that count; all by default.
    """

    probabilities: Array
    values: Array
    query_rows: Array | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class IaAqCandidates:
    """What is chosen from, made of extremes alone: samples may then come one by one, wherever they are.

    Parameters
    ----------
    spec : QuantSpec
        With the tiling that the grids belong to.
    alphas : tuple of float
    grids : tuple of Grid
        One an alpha.
    gram : {"exact", "mass"}
    """

    spec: QuantSpec
    alphas: tuple[float, ...]
    grids: tuple[Grid, ...]
    gram: Literal["exact", "mass"]

    __reduce__ = by_constructor

    @classmethod
    def of(
        cls,
        extremes: Extremes,
        spec: QuantSpec,
        *,
        alphas: Sequence[float] = ALPHAS,
        per: Literal["head", "feature"] = "head",
        gram: Literal["exact", "mass"] = "exact",
    ) -> IaAqCandidates:
        """Candidates from the extremes ``[kv_heads, head_dim]`` of V over all samples; the rest as in :func:`ia_aq`."""
        _check_options(alphas, per, gram)
        check_range_only(spec)
        spec = spec.with_tiling(Tiling((1, None, None if per == "head" else 1)))
        lo, hi = tile_ranges(np.stack([extremes.lo, extremes.hi], axis=1).astype(np.float64), spec)
        widest = grid_from_range(lo, hi, spec)  # [IAAQ-1]
        grids = tuple(Grid(scale=grid_from_range(lo * alpha, hi * alpha, spec).scale, zero=widest.zero) for alpha in alphas)  # [IAAQ-3]
        return cls(spec=spec, alphas=tuple(alphas), grids=grids, gram=gram)

    def losses(self, sample: AttentionSample, arithmetic: Arithmetic = FAST) -> Float64Array:
        """Loss of every candidate on one sample: float64 ``[alphas, kv_heads, features or 1]`` [IAAQ-2] [IAAQ-4]."""
        values = sample.values.astype(np.float64)
        weight = _interaction(sample, self.gram, arithmetic)
        axes = 1 if self.spec.tiling.extents[2] == 1 else (1, 2)
        found = []
        for grid in self.grids:
            delta = fake_quantize(values, grid, self.spec) - values
            weighted = arithmetic.matmul(weight, delta) if self.gram == "exact" else weight[..., None] * delta  # [IAAQ-4]
            found.append(arithmetic.sum(weighted * delta, axis=axes))
        return np.stack(found).reshape(len(self.grids), values.shape[0], -1)

    def choose(self, losses: Float64Array) -> IaAqChoice:
        """The candidate with the least loss in each tile, from the sum of :meth:`losses` over all samples."""
        chosen = np.argmin(losses, axis=0)
        scale = np.take_along_axis(np.stack([g.scale[:, 0] for g in self.grids]), chosen[None], axis=0)[0]
        grid = Grid(scale=scale[:, None], zero=self.grids[0].zero)
        return IaAqChoice(grid=grid, spec=self.spec, alphas=self.alphas, losses=losses, chosen=chosen)


@dataclass(frozen=True, slots=True, kw_only=True)
class IaAqChoice:
    """The chosen grid and how it was chosen.

    Parameters
    ----------
    grid : Grid
        Scale and zero ``[kv_heads, 1, 1]``, or ``[kv_heads, 1, head_dim]`` per feature.
    spec : QuantSpec
        The spec of V with the tiling that `grid` belongs to.
    alphas : tuple of float
    losses : float64 ndarray ``[alphas, kv_heads, features or 1]``
    chosen : int ndarray ``[kv_heads, features or 1]``
        Index into `alphas`.
    """

    grid: Grid
    spec: QuantSpec
    alphas: tuple[float, ...]
    losses: Float64Array
    chosen: Array


def ia_aq(
    samples: Sequence[AttentionSample],
    spec: QuantSpec,
    *,
    alphas: Sequence[float] = ALPHAS,
    per: Literal["head", "feature"] = "head",
    gram: Literal["exact", "mass"] = "exact",
    arithmetic: Arithmetic = FAST,
) -> IaAqChoice:
    """Choose static scales of attention values.

    Parameters
    ----------
    samples : sequence of AttentionSample
    spec : QuantSpec
        Format, scheme and scale format of V; its tiling is replaced by one a head or a feature.
    alphas : sequence of float
        Candidates in (0, 1], tried in this order; the first of equal losses wins. ``(1.0,)`` is min/max.
    per : {"head", "feature"}
    gram : {"exact", "mass"}
    arithmetic : Arithmetic

    Returns
    -------
    IaAqChoice

    Raises
    ------
    InputError
        If there is no sample, shapes do not agree, or a number is not finite.
    UsageError
        If an option is out of range or the spec asks for a clip search.

    Examples
    --------
    >>> from refquant.core import spec
    >>> a, v = np.full((1, 2, 2), 0.5), np.array([[[1.0], [-1.0]]])
    >>> choice = ia_aq([AttentionSample(probabilities=a, values=v)], spec("int4"))
    >>> choice.grid.scale.shape, choice.losses.shape
    ((1, 1, 1), (21, 1, 1))
    """
    _check_options(alphas, per, gram)
    check_range_only(spec)
    _check_samples(samples)
    candidates = IaAqCandidates.of(_extremes(samples), spec, alphas=alphas, per=per, gram=gram)
    return candidates.choose(reduce(np.add, (candidates.losses(sample, arithmetic) for sample in samples)))  # [IAAQ-2]


def _check_options(alphas: Sequence[float], per: str, gram: str) -> None:
    if not alphas or not all(0 < alpha <= 1 for alpha in alphas):
        raise UsageError(f"alphas lie in (0, 1]; got {tuple(alphas)}")
    if per not in ("head", "feature"):
        raise UsageError(f"per is 'head' or 'feature', not {per!r}")
    if gram not in ("exact", "mass"):
        raise UsageError(f"gram is 'exact' or 'mass', not {gram!r}")


def _check_samples(samples: Sequence[AttentionSample]) -> None:
    if not samples:
        raise InputError("IA-AQ needs at least one calibration sample")
    for index, sample in enumerate(samples):
        check_sample(sample, f"sample {index}")
        v, first = sample.values.shape, samples[0].values.shape
        if (v[0], v[2]) != (first[0], first[2]):
            raise InputError(f"sample {index} has values {v}, sample 0 {first}; only T may differ")


def check_sample(sample: AttentionSample, where: str) -> None:
    """Raise InputError, its message beginning with `where`, unless a sample's shapes agree and its numbers are finite."""
    a, v, rows = sample.probabilities, sample.values, sample.query_rows
    fits = a.ndim == 3 and v.ndim == 3 and a.shape[1:] == (v.shape[1],) * 2 and min(v.shape) > 0 and a.shape[0] % v.shape[0] == 0
    if not fits:
        raise InputError(f"{where}: probabilities {a.shape} do not fit values {v.shape}; [heads, T, T], [kv heads, T, head_dim]")
    if rows is not None and (rows.dtype != np.bool_ or rows.shape != (v.shape[1],)):
        raise InputError(f"{where}: query_rows is a boolean array of shape {(v.shape[1],)}, not {rows.dtype} of {rows.shape}")
    for what, array in (("probabilities", a), ("values", v)):
        if not np.isfinite(array.astype(np.float64)).all():
            raise InputError(f"{where}: the {what} hold NaN or an infinity; finite numbers are needed")


def _extremes(samples: Sequence[AttentionSample]) -> Extremes:
    seen = Extremes.of(samples[0].values, axis=1)
    for sample in samples[1:]:
        seen = seen.merge(Extremes.of(sample.values, axis=1))
    return seen


def _interaction(sample: AttentionSample, gram: str, arithmetic: Arithmetic) -> Float64Array:
    """``G = A^T A`` summed over the heads that share a kv head ``[kv, T, T]``, or the column masses ``[kv, T]``."""
    kv_heads, tokens = sample.values.shape[:2]
    a = sample.probabilities.astype(np.float64)
    if sample.query_rows is not None:
        a = a[:, sample.query_rows]
    a = a.reshape(kv_heads, -1, tokens)  # stack the rows of all heads that share this V
    if gram == "mass":
        return arithmetic.sum(a, axis=1)
    return arithmetic.matmul(np.swapaxes(a, 1, 2), a)
