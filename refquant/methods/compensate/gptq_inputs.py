"""What GPTQ is given, checked: weight and Hessian, compatibility names, the dtype to compute in."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from refquant.core.spec import QuantSpec
from refquant.errors import InputError, NumericalError, UsageError
from refquant.numerics import Arithmetic
from refquant.numerics.arrays import Array, Float64Array, IntArray
from refquant.numerics.casting import as_working

QUIRKS = ("lazy_groups", "half_range_sym", "grid_before_dead")
SQUARE = 128
PRESETS: dict[str, tuple[str, ...]] = {"istdaslab": QUIRKS, "lazy": ("lazy_groups",), "llmcompressor": ()}


def checked_inputs(weight: Array, hessian: Array, spec: QuantSpec, damping: float, block_size: int) -> tuple[Array, Float64Array]:
    """Weight in float32 or float64 and Hessian in float64, after everything about them was checked; perhaps the caller's own memory."""
    w = as_working(weight, "the weight")
    h = np.asarray(hessian, dtype=np.float64)
    if w.ndim != 2:
        raise InputError(f"GPTQ quantizes a matrix [out, in]; the weight has shape {w.shape}")
    if h.shape != (w.shape[1], w.shape[1]):
        raise InputError(f"a weight of shape {w.shape} needs a Hessian of shape {(w.shape[1],) * 2}, not {h.shape}")
    for what, array in (("weight", w), ("Hessian", h)):
        if not (np.isfinite(array.min(initial=0)) and np.isfinite(array.max(initial=0))):  # a NaN is either
            index = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
            raise InputError(f"the {what} holds {array[index]} at index {index}; finite numbers are needed")
    if not _is_symmetric(h):
        raise InputError("the Hessian is not symmetric")
    if len(spec.tiling.extents) != 2:
        raise InputError(f"GPTQ needs a tiling of two axes, not {spec.tiling.extents}")
    if not (isinstance(damping, int | float | np.floating) and np.isfinite(damping) and damping >= 0):
        raise UsageError(f"damping is a finite number of at least 0, not {damping!r}")
    if isinstance(block_size, bool) or not isinstance(block_size, int | np.integer) or block_size < 1:
        raise UsageError(f"block_size is a positive integer, not {block_size!r}")
    return w, h


def _is_symmetric(h: Array) -> bool:
    """Whether a matrix is its transpose, square by square: columns of a large one are slow to walk along."""
    starts = range(0, len(h), SQUARE)
    return all(
        np.array_equal(h[i : i + SQUARE, j : j + SQUARE], h[j : j + SQUARE, i : i + SQUARE].T) for i in starts for j in starts if i <= j
    )


def working_dtype(name: str, quirks: frozenset[str], arithmetic: Arithmetic) -> np.dtype[np.floating]:
    """The dtype that a sweep computes in; UsageError where there is no choice."""
    if name not in ("float32", "float64"):
        raise UsageError(f"working is 'float64' or 'float32', not {name!r}")
    if name == "float32" and ("lazy_groups" in quirks or not arithmetic.regroups):
        raise UsageError("working='float32' is for speed: the ordered arithmetic and compat='lazy_groups' compute in float64")
    return np.dtype(name)


def working_weight(weight: Array, dead: NDArray[np.bool_], dtype: np.dtype[np.floating]) -> Array:
    """The weight in the working dtype with zeros in its dead columns, [GPTQ-2]; NumericalError where it does not fit."""
    with np.errstate(over="ignore", under="ignore"):
        found = weight.astype(dtype, copy=False)
    if found is not weight and not np.isfinite(found).all():
        index = tuple(int(i) for i in np.argwhere(~np.isfinite(found))[0])
        raise NumericalError(f"weight {weight[index]:g} at index {index} overflows {dtype.name}; use working='float64'")
    return np.where(dead, dtype.type(0), found) if dead.any() else found


def damped_hessian(h: Float64Array, order: IntArray, diagonal: Float64Array, mean: float, dtype: np.dtype[np.floating]) -> Array:
    """A copy of the Hessian to compute with.

    Parameters
    ----------
    h : float64 ndarray ``[n, n]``
    order : int ndarray ``[n]``
        Of its rows and columns in the copy.
    diagonal : float64 ndarray ``[n]``
        What stands on the diagonal of the copy, damping included.
    mean : float
        Of the diagonal. In float32 the copy is divided by a power of two near it: a factor changes no code.
    dtype : numpy dtype
    """
    exponent = 0 if dtype == h.dtype else -int(np.frexp(mean)[1])
    found = np.empty(h.shape, dtype)
    moved = not np.array_equal(order, np.arange(len(order)))
    with np.errstate(over="ignore", under="ignore"):
        for start in range(0, len(h), SQUARE):  # rows first, then columns of a few rows: both stay in the cache
            rows = slice(start, start + SQUARE)
            some = np.take(h[order[rows]], order, axis=1) if moved else h[rows]
            found[rows] = np.ldexp(some, exponent) if exponent else some
        found[np.diag_indices_from(found)] = np.ldexp(diagonal, exponent)
    return found


def quirks_of(compat: str | Iterable[str] | None) -> frozenset[str]:
    """Faults to reproduce, presets resolved; UsageError for an unknown name."""
    names = () if compat is None else (compat,) if isinstance(compat, str) else tuple(compat)
    found: set[str] = set()
    for name in names:
        if name not in QUIRKS and name not in PRESETS:
            raise UsageError(f"unknown compat {name!r}; known are {', '.join((*PRESETS, *QUIRKS))}")
        found.update(PRESETS.get(name, (name,)))
    return frozenset(found)
