"""The clip search of GPTQ's and QuaRot's code: shrink the range step by step, keep the shrinkage with the least error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from refquant.core.coding import BEFORE_ROUNDING, real_codes
from refquant.core.grid import Grid, grid_from_range
from refquant.core.spec import ClipSearch, QuantSpec
from refquant.core.tiling import Tiling
from refquant.formats import IntFormat
from refquant.numerics import Arithmetic
from refquant.numerics.arrays import Array
from refquant.numerics.rounding import Rounding

SLAB = 1 << 16  # elements that are worked on at a time: what they need stays in the cache for all shrinkages
GRIDS = 16  # slabs for which the grids of all shrinkages are made at once


def search_clip(x: Array, lo: Array, hi: Array, spec: QuantSpec, search: ClipSearch, arithmetic: Arithmetic) -> Grid:
    """Grids of the shrunken ranges with the least error sum of each tile; the first (widest) wins ties.

    Source: IST-DASLab/gptq, ``mse``.

    Parameters
    ----------
    x : float32 or float64 ndarray
        NaN counts as 0.
    lo, hi : ndarray, one number a tile
        The whole range.
    spec : QuantSpec
    search : ClipSearch
    arithmetic : Arithmetic
        For powers and error sums.
    """
    if x.ndim == 0:
        one = search_clip(x[None], lo[None], hi[None], spec.with_tiling(Tiling.tensor(1)), search, arithmetic)
        return Grid(scale=one.scale[0], zero=None if one.zero is None else one.zero[0], signed=one.signed)
    if not x.size or len(lo) == 1:
        return _search_slab(x, lo, hi, spec, search, arithmetic)
    # Tiles do not see each other, so the first axis can be cut between them.
    slabs = [
        _search_slab(x[rows], lo[tiles], hi[tiles], spec, search, arithmetic) for rows, tiles in spec.tiling.slabs(x.shape, GRIDS * SLAB)
    ]
    zeros = [slab.zero for slab in slabs if slab.zero is not None]
    scale = np.concatenate([slab.scale for slab in slabs])
    return Grid(scale=scale, zero=np.concatenate(zeros) if zeros else None, signed=spec.scheme.signed_scale)


def _search_slab(x: Array, lo: Array, hi: Array, spec: QuantSpec, search: ClipSearch, arithmetic: Arithmetic) -> Grid:
    spec = replace(spec, overflow="saturate", nan="zero")  # a shrunken range is meant to clip
    grids = []
    with np.errstate(over="ignore", under="ignore"):
        for ratio in search.ratios:
            factor = x.dtype.type(ratio)
            grids.append(grid_from_range(lo * factor, hi * factor, spec))
    losses = _losses(x, grids, spec, search.norm, arithmetic)
    best = np.argmin(np.where(losses < np.inf, losses, np.inf), axis=0)[None]  # the first of several
    zeros = [grid.zero for grid in grids if grid.zero is not None]
    return Grid(
        scale=np.take_along_axis(np.stack([grid.scale for grid in grids]), best, axis=0)[0],
        zero=np.take_along_axis(np.stack(zeros), best, axis=0)[0] if zeros else None,
        signed=spec.scheme.signed_scale,
    )


def _losses(x: Array, grids: Sequence[Grid], spec: QuantSpec, norm: float, arithmetic: Arithmetic) -> Array:
    """``sum |Q(x) - x|^norm`` of every tile on every grid, ``[grids, *tiles]``; infinite where it overflows."""
    values = spec.tiling.by_tile(np.where(np.isnan(x), x.dtype.type(0), x), 0.0)
    padding = None if values.size == x.size else ~spec.tiling.by_tile(np.ones(x.shape, dtype=bool), False)
    candidates = [(g.scale.astype(x.dtype), None if g.zero is None else g.zero.astype(x.dtype)) for g in grids]
    deviations = _deviations_in_place if _is_common(spec) else _deviations
    losses = np.empty((len(grids), *values.shape[:-1]), dtype=x.dtype)
    step = max(1, SLAB * len(values) // max(values.size, 1))
    for start in range(0, len(values), step):
        tiles = slice(start, start + step)
        some = values[tiles]
        errors = np.empty_like(some)
        for (scale, zero), loss in zip(candidates, losses, strict=True):
            # What overflows has an infinite loss, which never wins; what underflows has none.
            with np.errstate(over="ignore", under="ignore"):
                deviations(some, scale[tiles][..., None], None if zero is None else zero[tiles][..., None], spec, errors)
                np.abs(errors, out=errors)
                if padding is not None:
                    errors[padding[tiles]] = 0
                loss[tiles] = arithmetic.sum(arithmetic.power(errors, norm, out=errors), axis=-1)
    return losses


def _deviations(values: Array, scale: Array, zero: Array | None, spec: QuantSpec, out: Array) -> None:
    """``Q(x) - x`` on a grid, for any format and scheme."""
    codes = real_codes(values, scale, zero, spec)
    np.subtract(scale * (codes if zero is None else codes - zero), values, out=out)


def _is_common(spec: QuantSpec) -> bool:
    """Whether codes are ``clip(rint(x / s) + z)``."""
    return (
        isinstance(spec.format, IntFormat)
        and spec.rounding == Rounding.HALF_EVEN
        and not spec.scheme.reciprocal
        and spec.scheme.zero not in BEFORE_ROUNDING
    )


def _deviations_in_place(values: Array, scale: Array, zero: Array | None, spec: QuantSpec, out: Array) -> None:
    """The same bytes as :func:`_deviations`, operation for operation, without temporary arrays: they would take most of the time."""
    np.divide(values, scale, out=out)
    np.rint(out, out=out)
    if zero is not None:
        out += zero
    np.clip(out, spec.integers.lo, spec.integers.hi, out=out)
    if zero is not None:
        out -= zero
    out *= scale
    out -= values
