"""Factoring a damped Hessian, and saying which damping would have worked where it fails."""

from __future__ import annotations

import numpy as np

from refquant.errors import NotPositiveDefiniteError, NumericalError
from refquant.numerics import Arithmetic
from refquant.numerics.arrays import Float64Array
from refquant.numerics.cholesky import upper_factor_in_place, upper_factor_of_inverse


def mean_diagonal(h: Float64Array, arithmetic: Arithmetic) -> float:
    """Mean of the diagonal; 0 for a matrix without columns, to which nothing is added."""
    if not h.size:
        return 0.0
    with np.errstate(over="ignore"):
        mean = float(arithmetic.mean(np.diagonal(h)))
    if not np.isfinite(mean):
        raise NumericalError(
            f"the Hessian's diagonal, up to {np.diagonal(h).max():g}, has no finite mean; divide the Hessian by a constant"
        )
    return mean


def factor_of_damped(h: Float64Array, damping: float, arithmetic: Arithmetic, *, in_place: bool = False) -> Float64Array:
    """[GPTQ-5], and if it fails the smallest damping of a ladder that would have worked; `in_place` gives up `h`."""
    if not h.size:  # LAPACK refuses matrices without columns
        return h
    try:
        return upper_factor_in_place(np.ascontiguousarray(h), arithmetic) if in_place else upper_factor_of_inverse(h, arithmetic)
    except NotPositiveDefiniteError as error:
        works = _working_damping(h, damping, arithmetic)
        advice = f"damping={works:g} would work" if works is not None else "no damping up to 100 times the mean diagonal works"
        raise NotPositiveDefiniteError(
            f"the Hessian with damping {damping:g} is not positive definite (pivot of column {error.pivot}); {advice}", error.pivot
        ) from error


def _working_damping(h: Float64Array, damping: float, arithmetic: Arithmetic) -> float | None:
    mean = mean_diagonal(h, arithmetic) / (1 + damping)
    candidate = max(damping * 10, 1e-8)
    while candidate <= 100 and mean > 0:
        trial = h.copy()
        trial[np.diag_indices_from(trial)] += (candidate - damping) * mean
        try:
            upper_factor_of_inverse(trial, arithmetic)
        except NotPositiveDefiniteError:
            candidate *= 10
        else:
            return candidate
    return None
