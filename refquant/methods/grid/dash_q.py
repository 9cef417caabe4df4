"""DASH-Q: scales (and zero points) by least squares weighted with the Hessian's diagonal (arXiv 2604.13806).

Only ``h = diag(H)`` is looked at: with little data the other entries are noise. In every tile codes and grid take turns; the grid is in
closed form. With ``h_j = sum_t c_t^2 x_tj^2`` the tokens count as CGQ says.

[DASHQ-1]  loss of a tile = sum_j h_j (w_j - s (q_j - z))^2,  h = diag(H).
[DASHQ-2]  codes: q = clip(round(w / s) + z), the nearest whatever h.
[DASHQ-3]  scale for given codes and zero:  s = sum h w (q - z) / sum h (q - z)^2.
[DASHQ-4]  with a zero point: s and c = -s z of the weighted line  w ~ s q + c  by its 2x2 normal equations; an integer zero point is
           round(-c / s), clipped to the scheme's range, and the scale then that of [DASHQ-3].

Departures and readings: the paper's code is not public. The start is the grid of the spec (extremes or clip search). A step counts for a
tile only if its loss, with the scale rounded as it is stored, falls, so that the result is never worse than the start; a tile whose
weights h are all 0 keeps its start. Integer formats only.
"""

from __future__ import annotations

import numpy as np

from refquant.core.coding import encode, real_codes
from refquant.core.fitting import fit_grid
from refquant.core.grid import WIDE_ZERO_LIMIT, Grid
from refquant.core.qtensor import Origin, QTensor
from refquant.core.spec import QuantSpec
from refquant.errors import InputError, UsageError
from refquant.methods.card import Card, Equation
from refquant.numerics import FAST, Arithmetic
from refquant.numerics.arrays import Array, Float64Array
from refquant.numerics.casting import as_working, round_scale

CARD = Card(
    name="dash_q",
    title="DASH-Q: weighted least squares with the Hessian's diagonal",
    paper="arXiv 2604.13806; no public code",
    inputs=("weight [out, in]", "importance [in], the diagonal of the Hessian", "spec"),
    equations=(
        Equation("DASHQ-1", "loss = sum h (w - s (q - z))^2, h = diag(H)"),
        Equation("DASHQ-2", "codes: the nearest, whatever h"),
        Equation("DASHQ-3", "s = sum h w (q - z) / sum h (q - z)^2"),
        Equation("DASHQ-4", "s and -s z from the 2x2 normal equations of w ~ s q + c; integer zero points rounded, then DASHQ-3"),
    ),
    departures=(
        "starts from the spec's own grid; keeps a step only where a tile's loss falls, scales rounded as stored",
        "a tile whose importance is 0 throughout keeps its start; integer formats only",
    ),
    guarantees=("no tile's weighted loss exceeds that of RTN with the same spec", "importance h and c h give the same codes"),
    lane="ordered in ORDERED, bounded in FAST",
    cost="per step about ten passes over the weight",
    oracle="least squares in Fractions; brute force over grids",
    laws=tuple(
        (
            "finite codes_in_range decoding hessian_scaling sign_symmetry scaling zero_kept row_permutation batch_independence "
            "determinism inputs_untouched layout_independence nan_policy infinity_policy"
        ).split()
    ),
)


def dash_q(weight: Array, importance: Array, spec: QuantSpec, *, steps: int = 20, arithmetic: Arithmetic = FAST) -> QTensor:
    """Quantize a weight.

    Parameters
    ----------
    weight : ndarray ``[out, in]`` of float16, bfloat16, float32 or float64
        Computed with in float64.
    importance : ndarray ``[in]``
        Not negative; the diagonal of :func:`refquant.hessian`.
    spec : QuantSpec
        Of an integer format.
    steps : int
        Turns at the most; it ends where no tile gains.
    arithmetic : Arithmetic

    Returns
    -------
    QTensor

    Raises
    ------
    InputError
        Shapes that do not fit, an importance that is negative or not finite, a weight that is not finite.
    UsageError
        If the format is not one of integers, or its scales are nested.
    NumericalError
        If a scale overflows its format.

    Examples
    --------
    The second column hardly counts, so the first is met:

    >>> from refquant.core import spec
    >>> w = np.array([[1.0, 0.9, 2.9]])
    >>> dash_q(w, np.array([1e6, 1.0, 1.0]), spec("int2", scheme="sym_narrow")).dequantize().round(3).tolist()
    [[0.0, 0.0, 2.9]]
    """
    w = as_working(weight, "the weight").astype(np.float64)
    h = np.asarray(importance, dtype=np.float64)
    if w.ndim != 2 or h.shape != w.shape[1:]:
        raise InputError(f"a weight [out, in] needs an importance [in]; found shapes {w.shape} and {h.shape}")
    if not (np.isfinite(h) & (h >= 0)).all():
        raise InputError(f"an importance is finite and not negative; found {h[~(np.isfinite(h) & (h >= 0))][0]}")
    if spec.scales is not None:
        raise UsageError("dash_q fits scales as numbers; nested scales are not fitted")
    spec.integers  # noqa: B018  (raises for other formats)
    grid = fit_grid(w, spec, arithmetic)
    values = spec.tiling.by_tile(w, 0.0)
    counts = spec.tiling.by_tile(np.broadcast_to(h, w.shape), 0.0)  # padding counts 0
    for _ in range(steps):
        better, grid = _turn(values, counts, grid, spec, arithmetic)
        if not better:
            break
    origin = Origin(method="dash_q", parameters={"steps": steps})
    return QTensor(codes=encode(w, grid, spec), scale=grid.scale, zero=grid.zero, spec=spec, origin=origin)


def _turn(values: Float64Array, h: Float64Array, grid: Grid, spec: QuantSpec, arithmetic: Arithmetic) -> tuple[bool, Grid]:
    """One turn for every tile; the tiles that it does not help keep their grid."""
    codes, before = _coded(values, h, grid, spec, arithmetic)
    scale, zero = least_squares(values, codes, h, grid, spec, arithmetic)
    usable = np.isfinite(scale) & (scale > 0)
    new = Grid(scale=round_scale(np.where(usable, scale, grid.scale.astype(np.float64)), grid.scale.dtype, "dash_q"), zero=zero)
    _, after = _coded(values, h, new, spec, arithmetic)
    better = usable & (after < before)
    kept = None if new.zero is None or grid.zero is None else np.where(better, new.zero, grid.zero)
    return bool(better.any()), Grid(scale=np.where(better, new.scale, grid.scale), zero=kept)


def _coded(values: Float64Array, h: Float64Array, grid: Grid, spec: QuantSpec, arithmetic: Arithmetic) -> tuple[Float64Array, Float64Array]:
    """Codes of every tile [DASHQ-2] and its loss [DASHQ-1]."""
    scale, zero = grid.in_dtype(np.dtype(np.float64))
    scale, zero = scale[..., None], None if zero is None else zero[..., None]
    codes = real_codes(values, scale, zero, spec)  # [DASHQ-2]
    error = values - scale * (codes if zero is None else codes - zero)
    return codes, arithmetic.sum(h * (error * error), axis=-1)  # [DASHQ-1]


def least_squares(
    values: Float64Array, codes: Float64Array, h: Float64Array, grid: Grid, spec: QuantSpec, arithmetic: Arithmetic = FAST
) -> tuple[Float64Array, Array | None]:
    """Scale and zero of every tile that are least for given codes; NaN where no scale is.

    Parameters
    ----------
    values, codes, h : float64 ndarray ``[..., elements of a tile]``
    grid : Grid
        Its zero points stay where the scheme fixes them, or where none can be found.
    spec : QuantSpec
    arithmetic : Arithmetic
    """
    zero = grid.zero
    with np.errstate(divide="ignore", invalid="ignore"):
        if zero is not None and spec.scheme.zero != "midpoint":
            total, first, second = (arithmetic.sum(term, axis=-1) for term in (h, h * codes, h * (codes * codes)))
            flat, slanted = (arithmetic.sum(term, axis=-1) for term in (h * values, h * (codes * values)))
            slope = (total * slanted - first * flat) / (total * second - first * first)
            offset = (second * flat - first * slanted) / (total * second - first * first)  # [DASHQ-4]
            found = -offset / slope
            zero = _as_zero(np.where(np.isfinite(found), found, zero.astype(np.float64)), zero, spec)
        steps = codes if zero is None else codes - zero[..., None].astype(np.float64)
        scale = arithmetic.sum(h * (values * steps), axis=-1) / arithmetic.sum(h * (steps * steps), axis=-1)  # [DASHQ-3]
    return scale, zero


def _as_zero(found: Float64Array, like: Array, spec: QuantSpec) -> Array:
    match spec.scheme.zero:
        case "real":
            return found.astype(like.dtype)
        case "integer_wide":
            return np.clip(np.rint(found), -WIDE_ZERO_LIMIT, WIDE_ZERO_LIMIT).astype(like.dtype)
    return np.clip(np.rint(found), spec.integers.lo, spec.integers.hi).astype(like.dtype)
