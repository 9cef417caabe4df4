"""Factoring a damped Hessian, and saying which damping would have worked where it fails."""

from __future__ import annotations

import numpy as np

from refquant.errors import NotPositiveDefiniteError, NumericalError
from refquant.numerics import Arithmetic
from refquant.numerics.arrays import Array, Float64Array
from refquant.numerics.cholesky import lower_root_in_place, upper_factor_in_place, upper_factor_of_inverse


def mean_diagonal(diagonal: Float64Array, arithmetic: Arithmetic) -> float:
    """Mean of a Hessian's diagonal; 0 for a matrix without columns, to which nothing is added."""
    if not diagonal.size:
        return 0.0
    with np.errstate(over="ignore"):
        mean = float(arithmetic.mean(diagonal))
    if not np.isfinite(mean):
        raise NumericalError(f"the Hessian's diagonal, up to {diagonal.max():g}, has no finite mean; divide the Hessian by a constant")
    return mean


def factor_of_damped(h: Float64Array, damping: float, arithmetic: Arithmetic, *, in_place: bool = False) -> Float64Array:
    """[GPTQ-5], and if it fails the smallest damping of a ladder that would have worked; `in_place` gives up `h`."""
    if not h.size:  # LAPACK refuses matrices without columns
        return h
    try:
        return upper_factor_in_place(np.ascontiguousarray(h), arithmetic) if in_place else upper_factor_of_inverse(h, arithmetic)
    except NotPositiveDefiniteError as error:
        raise _with_advice(error, h, damping, arithmetic) from error


def root_of_damped(h: Array, damping: float, arithmetic: Arithmetic) -> Array:
    """Lower triangular G with ``h = G^T G``, so that U of [GPTQ-5] is ``G^-T``; gives up `h`. Errors as :func:`factor_of_damped`."""
    if not h.size:
        return h
    h = np.ascontiguousarray(h)
    try:
        return lower_root_in_place(h, arithmetic)
    except NotPositiveDefiniteError as error:
        raise _with_advice(error, h, damping, arithmetic) from error


def _with_advice(error: NotPositiveDefiniteError, h: Array, damping: float, arithmetic: Arithmetic) -> NotPositiveDefiniteError:
    works = _working_damping(h, damping, arithmetic)
    advice = f"damping={works:g} would work" if works is not None else "no damping up to 100 times the mean diagonal works"
    return NotPositiveDefiniteError(
        f"the Hessian with damping {damping:g} is not positive definite (pivot of column {error.pivot}); {advice}", error.pivot
    )


def _working_damping(h: Array, damping: float, arithmetic: Arithmetic) -> float | None:
    mean = mean_diagonal(np.diagonal(h), arithmetic) / (1 + damping)
    candidate = max(damping * 10, 1e-8)
    while candidate <= 100 and mean > 0:
        trial = h.copy()
        trial[np.diag_indices_from(trial)] += (candidate - damping) * mean
        try:
            lower_root_in_place(trial, arithmetic)
        except NotPositiveDefiniteError:
            candidate *= 10
        else:
            return candidate
    return None
