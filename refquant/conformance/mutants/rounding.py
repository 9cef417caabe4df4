"""Wrong roundings to integers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from refquant.conformance.mutants.mutant import Mutant
from refquant.conformance.operation import Arrays, Parameters, Run
from refquant.numerics.arrays import Array


def half_away(x: Array) -> Array:
    """Ties away from zero; adding a half to what is below 1/2 would round up, so the fraction is looked at instead."""
    whole = np.trunc(x)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(np.abs(x - whole) >= 0.5, whole + np.copysign(x.dtype.type(1), x), np.copysign(whole, x)))


def _add_half(x: Array) -> Array:
    return np.asarray(np.copysign(np.floor(np.abs(x) + x.dtype.type(0.5)), x))


def _through_integers(x: Array) -> Array:
    with np.errstate(invalid="ignore"):
        return np.asarray(np.rint(x).astype(np.int32).astype(x.dtype))


def _in_float32(x: Array) -> Array:
    with np.errstate(over="ignore"):
        return np.asarray(np.rint(x.astype(np.float32)).astype(x.dtype))


def _flushed(x: Array) -> Array:
    return np.asarray(np.ceil(np.where(np.abs(x) < np.finfo(np.float32).tiny, np.copysign(x.dtype.type(0), x), x)))


def _run(change: Callable[[Array], Array]) -> Run:
    def run(inputs: Arrays, parameters: Parameters) -> dict[str, Array]:
        return {"y": np.asarray(change(np.asarray(inputs["x"])))}

    return run


_WRONG: tuple[tuple[str, str, str, str, Callable[[Array], Array]], ...] = (
    ("half_even-rounds_away", "rounding.half_even", "tie", "ties go away from zero", half_away),
    ("half_even-trunc_plus_half", "rounding.half_even", "negative", "trunc(x + 0.5)", lambda x: np.trunc(x + x.dtype.type(0.5))),
    ("half_even-floor_plus_half", "rounding.half_even", "tie", "floor(x + 0.5): ties go up", lambda x: np.floor(x + x.dtype.type(0.5))),
    ("half_even-near_tie", "rounding.half_even", "near-tie", "the number is rounded to a narrower format first", _in_float32),
    ("half_even-truncates", "rounding.half_even", "ordinary", "the fraction is cut off", np.trunc),
    ("half_even-positive_zero", "rounding.half_even", "negative-zero", "-0.0 becomes 0.0", lambda x: np.rint(x) + x.dtype.type(0)),
    ("half_even-through_int32", "rounding.half_even", "not-finite", "the result takes the way over int32", _through_integers),
    (
        "half_away-adds_half",
        "rounding.half_away",
        "large",
        "floor(|x| + 0.5), whose sum rounds where halves are the last fractions",
        _add_half,
    ),
    ("half_away-rounds_even", "rounding.half_away", "tie", "ties go to the even integer", np.rint),
    ("half_away-up", "rounding.half_away", "negative", "floor(x + 0.5): negative ties go up", lambda x: np.floor(x + x.dtype.type(0.5))),
    ("trunc_half-floors", "rounding.trunc_half", "negative", "floor in the place of trunc", lambda x: np.floor(x + x.dtype.type(0.5))),
    ("trunc_half-half_away", "rounding.trunc_half", "negative", "rounding to nearest", half_away),
    ("floor-truncates", "rounding.floor", "negative", "truncation, which is the floor for positive numbers only", np.trunc),
    ("ceil-floor_plus_one", "rounding.ceil", "large", "floor(x) + 1, wrong for integers", lambda x: np.floor(x) + x.dtype.type(1)),
    ("ceil-flushes", "rounding.ceil", "negative-zero", "subnormal numbers count as zero", _flushed),
)

MUTANTS = tuple(Mutant(name=name, operation=op, flag=flag, what=what, run=_run(change)) for name, op, flag, what, change in _WRONG)
RIGHT: dict[str, Run] = {
    "rounding.half_away": _run(half_away),
    "rounding.half_even": _run(np.rint),
    "rounding.floor": _run(np.floor),
    "rounding.ceil": _run(np.ceil),
    "rounding.trunc_half": _run(lambda x: np.trunc(x + x.dtype.type(0.5))),
}
