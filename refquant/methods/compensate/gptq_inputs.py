"""What GPTQ is given, checked: weight and Hessian, compatibility names, the order of the columns."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from refquant.core.spec import QuantSpec
from refquant.errors import InputError, UsageError
from refquant.numerics.arrays import Array, Float64Array, IntArray
from refquant.numerics.casting import as_working

QUIRKS = ("lazy_groups", "half_range_sym", "grid_before_dead")
PRESETS: dict[str, tuple[str, ...]] = {"istdaslab": QUIRKS, "lazy": ("lazy_groups",), "llmcompressor": ()}


def checked_inputs(weight: Array, hessian: Array, spec: QuantSpec, damping: float, block_size: int) -> tuple[Float64Array, Float64Array]:
    """Float64 copies of weight and Hessian, after everything about them was checked."""
    w = as_working(weight, "the weight").astype(np.float64)
    h = np.array(hessian, dtype=np.float64, order="C")
    if w.ndim != 2:
        raise InputError(f"GPTQ quantizes a matrix [out, in]; the weight has shape {w.shape}")
    if h.shape != (w.shape[1], w.shape[1]):
        raise InputError(f"a weight of shape {w.shape} needs a Hessian of shape {(w.shape[1],) * 2}, not {h.shape}")
    for what, array in (("weight", w), ("Hessian", h)):
        if not np.isfinite(array).all():
            index = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
            raise InputError(f"the {what} holds {array[index]} at index {index}; finite numbers are needed")
    if not np.array_equal(h, h.T):
        raise InputError("the Hessian is not symmetric")
    if len(spec.tiling.extents) != 2:
        raise InputError(f"GPTQ needs a tiling of two axes, not {spec.tiling.extents}")
    if not (isinstance(damping, int | float | np.floating) and np.isfinite(damping) and damping >= 0):
        raise UsageError(f"damping is a finite number of at least 0, not {damping!r}")
    if isinstance(block_size, bool) or not isinstance(block_size, int | np.integer) or block_size < 1:
        raise UsageError(f"block_size is a positive integer, not {block_size!r}")
    return w, h


def quirks_of(compat: str | Iterable[str] | None) -> frozenset[str]:
    """Faults to reproduce, presets resolved; UsageError for an unknown name."""
    names = () if compat is None else (compat,) if isinstance(compat, str) else tuple(compat)
    found: set[str] = set()
    for name in names:
        if name not in QUIRKS and name not in PRESETS:
            raise UsageError(f"unknown compat {name!r}; known are {', '.join((*PRESETS, *QUIRKS))}")
        found.update(PRESETS.get(name, (name,)))
    return frozenset(found)


def column_order(diagonal: Array, act_order: bool | Array) -> IntArray:
    """The order in which columns are quantized."""
    columns = np.arange(len(diagonal))
    if isinstance(act_order, bool | np.bool_):
        return np.argsort(-diagonal, kind="stable") if act_order else columns
    order = np.asarray(act_order)
    if order.shape != columns.shape or order.dtype.kind not in "iu" or not np.array_equal(np.sort(order), columns):
        raise InputError(f"act_order is True, False or an ordering of {len(columns)} columns")
    return order.astype(np.intp)
