"""Fitting a grid to data: the range of every tile by the scheme's rule, shrunken by search where the spec asks for it."""

from __future__ import annotations

import numpy as np

from refquant.core.clip_search import search_clip
from refquant.core.grid import RANGE_FLOOR, Grid, grid_from_range
from refquant.core.nested_fitting import coded_grid
from refquant.core.scheme import Scheme
from refquant.core.spec import QuantSpec
from refquant.core.tiling import Tiling
from refquant.errors import InputError
from refquant.numerics import FAST, Arithmetic
from refquant.numerics.arrays import Array
from refquant.numerics.casting import as_working
from refquant.numerics.extremes import row_extremes

RANGE_SLAB = 1 << 17  # elements that are searched for extremes at a time


def fit_grid(x: Array, spec: QuantSpec, arithmetic: Arithmetic = FAST) -> Grid:
    """Choose scale and zero of every tile of `x` by the scheme of `spec`.

    The working dtype is that of `x` (float32 for narrower ones), one rounding an operation, in the order in which the scheme's source
    computes: range, shrinking, scale, rounding of the scale to its stored format, zero from the stored scale.

    Parameters
    ----------
    x : ndarray of float16, bfloat16, float32 or float64
    spec : QuantSpec
    arithmetic : Arithmetic
        Used by the clip search, for its error sums and powers, and for the mean that double quantization takes off.

    Returns
    -------
    Grid

    Raises
    ------
    InputError
        If a tile holds an infinity, or NaN under ``nan="raise"``.
    NumericalError
        If a range or a scale overflows its dtype.

    Examples
    --------
    >>> from refquant.core import spec
    >>> import numpy as np
    >>> grid = fit_grid(np.array([[-1.0, 2.0]]), spec("int4", scheme="asym_incl0"))
    >>> float(grid.scale[0, 0]), int(grid.zero[0, 0])
    (0.2, 5)
    """
    x = as_working(x)
    lo, hi = tile_ranges(x, spec)
    if spec.scales is not None:
        return coded_grid(hi, spec, spec.scales, arithmetic)
    if spec.clip_search is None:
        return grid_from_range(lo, hi, spec)
    return search_clip(x, lo, hi, spec, spec.clip_search, arithmetic)


def tile_ranges(x: Array, spec: QuantSpec) -> tuple[Array, Array]:
    """Lower and upper end of every tile's range, after the scheme's range and empty rules and `spec.range_ratio`.

    Parameters
    ----------
    x : ndarray of float32 or float64
    spec : QuantSpec

    Returns
    -------
    lo, hi : ndarray of the dtype of `x`, one number a tile

    Raises
    ------
    InputError
        If a tile holds an infinity, or NaN under ``nan="raise"``, or the tiling does not fit.

    Examples
    --------
    >>> from refquant.core import spec
    >>> import numpy as np
    >>> tile_ranges(np.array([[1.0, 2.0], [0.0, 0.0]]), spec("int4", scheme="asym_incl0"))
    (array([[ 0.], [-1.]]), array([[2.], [1.]]))
    """
    tiling, scheme = spec.tiling, spec.scheme
    if spec.nan == "zero":
        x = np.where(np.isnan(x), x.dtype.type(0), x)
    lo, hi = _extremes(x, tiling)
    if not (np.isfinite(lo) & np.isfinite(hi)).all():
        tile = tuple(int(i) for i in np.argwhere(~(np.isfinite(lo) & np.isfinite(hi)))[0])
        found = "NaN" if np.isnan(lo[tile]) else "an infinity"
        raise InputError(f"tile {tile} of an array of shape {x.shape} holds {found}; a range needs finite numbers")
    lo, hi = _apply_range_rule(lo, hi, scheme)
    lo, hi = _widen_empty(lo, hi, scheme)
    if spec.range_ratio != 1:
        ratio = x.dtype.type(spec.range_ratio)
        with np.errstate(under="ignore"):
            lo, hi = np.asarray(lo * ratio), np.asarray(hi * ratio)
    return lo, hi


def _extremes(x: Array, tiling: Tiling) -> tuple[Array, Array]:
    """Smallest and largest number of every tile; NaN for both where there is one."""
    size = tiling.run_length(x.shape)
    if size is None or not x.size or not x.flags.c_contiguous:
        axes = tiling.inner_axes
        return np.asarray(tiling.blocks(x, np.inf).min(axis=axes)), np.asarray(tiling.blocks(x, -np.inf).max(axis=axes))
    rows = x.reshape(-1, size)
    lo, hi = np.empty((2, len(rows)), x.dtype)
    step = max(1, RANGE_SLAB // size)
    for start in range(0, len(rows), step):
        lo[start : start + step], hi[start : start + step] = row_extremes(rows[start : start + step])
    shape = tiling.grid_shape(x.shape)
    return lo.reshape(shape), hi.reshape(shape)


def _apply_range_rule(lo: Array, hi: Array, scheme: Scheme) -> tuple[Array, Array]:
    if scheme.range == "minmax":
        return lo, hi
    zero = lo.dtype.type(0)
    if scheme.range == "absmax":
        hi = np.maximum(np.abs(lo), np.abs(hi))
        return -hi, hi
    if scheme.signed_scale:
        # NNCF looks at |lo| even where lo is positive: numbers that are all equal get a positive scale, and clip.
        top = np.where(np.abs(lo) >= hi, -np.abs(lo), hi) if scheme.range == "signed_max_lower" else np.where(-lo > hi, lo, hi)
        return top, -top
    if scheme.range == "lower_with_zero":
        return np.minimum(lo, zero), hi
    lo, hi = np.minimum(lo, zero), np.maximum(hi, zero)
    if scheme.range == "minmax_with_zero":
        return lo, hi
    hi = np.maximum(np.abs(lo), hi)
    return np.where(lo < 0, -hi, lo), hi


def _widen_empty(lo: Array, hi: Array, scheme: Scheme) -> tuple[Array, Array]:
    one, floor = lo.dtype.type(1), lo.dtype.type(RANGE_FLOOR)
    if scheme.empty == "unit_range":
        empty = (lo == 0) & (hi == 0)
        return np.where(empty, -one, lo), np.where(empty, one, hi)
    if scheme.empty == "floor":
        hi = np.maximum(hi, floor)
        return -hi if scheme.range == "absmax" else lo, hi
    return lo, hi
