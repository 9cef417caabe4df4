"""Laws of rewrites of a linear: ``f(weight, x)`` edits weight and inputs so that their product stays what it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from refquant.conformance.laws.calls import arguments
from refquant.conformance.laws.law import Example, Law, Subject, UnreadableAnswerError, always, broken, require_within
from refquant.conformance.laws.purity import purity_laws
from refquant.numerics import FAST
from refquant.numerics.arrays import Array, Float64Array
from refquant.numerics.casting import as_float64


def rewritten(found: Any, weight: Array, x: Array) -> tuple[Float64Array, Float64Array]:
    """Weight and inputs after a rewrite: a pair of arrays as it is, a transform by its ``undo(weight)`` and ``apply(x)``.

    Raises
    ------
    UnreadableAnswerError
        If `found` is neither.

    Examples
    --------
    >>> rewritten((np.ones((1, 1)), np.ones((2, 1))), np.ones((1, 1)), np.ones((2, 1)))[1].shape
    (2, 1)
    """
    if isinstance(found, tuple | list) and len(found) == 2:
        return as_float64(found[0]), as_float64(found[1])
    if hasattr(found, "apply") and hasattr(found, "undo"):
        return as_float64(found.undo(as_float64(weight))), as_float64(found.apply(as_float64(x)))
    raise UnreadableAnswerError(
        f"the rewrite returned a {type(found).__name__}; allowed are (new weight, new inputs), or an object with undo(weight) and apply(x)"
    )


def _edited(subject: Subject, weight: Array, x: Array) -> tuple[Float64Array, Float64Array]:
    return rewritten(subject.call(weight, x), weight, x)


def _function_preserved(subject: Subject, example: Example) -> None:
    weight, x = (as_float64(array) for array in arguments(subject, example))
    new_weight, new_x = _edited(subject, *arguments(subject, example))
    if new_weight.ndim != 2 or new_x.ndim != 2 or new_weight.shape[1] != new_x.shape[1]:
        broken(f"weight {new_weight.shape} and inputs {new_x.shape} do not go together any more")
    size = FAST.matmul(np.abs(x), np.abs(weight).T)
    bound = float(subject.options["relative"]) * np.max(size, initial=0.0)
    require_within(FAST.matmul(new_x, new_weight.T), FAST.matmul(x, weight.T), bound, "x' W'^T against x W^T")


def _finite(subject: Subject, example: Example) -> None:
    for what, array in zip(("weight", "inputs"), _edited(subject, *arguments(subject, example)), strict=True):
        if not np.isfinite(array).all():
            broken(f"the rewritten {what} hold {array[~np.isfinite(array)][0]}")


def _law(name: str, statement: str, check: Callable[[Subject, Example], None], *draws: str) -> Law:
    return Law(name=name, kind="rewrite", statement=statement, draws=draws, needs=always, check=check)


BOTH = ("layer",)
REWRITE_LAWS: tuple[Law, ...] = (
    _law("finite", "finite numbers are rewritten to finite numbers", _finite, *BOTH),
    _law("function_preserved", "x' W'^T = x W^T up to rounding", _function_preserved, *BOTH),
    *purity_laws("rewrite", BOTH),
)
