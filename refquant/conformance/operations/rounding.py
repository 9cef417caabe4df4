"""Rounding to integers, mode by mode, at ties, beside them, and where adding a half goes wrong."""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np

from refquant.conformance.case import Case
from refquant.conformance.operation import Arrays, Operation, Parameters, Part
from refquant.conformance.streams import Stream, dyadics, words
from refquant.numerics import FAST, Arithmetic
from refquant.numerics.arrays import Array
from refquant.numerics.rounding import Rounding, round_to_integer
from refquant.oracle import BINARY32, BINARY64, nearest

DOCS = {
    "half_even": "Round to the nearest integer, ties to the even one (IEEE 754 roundToIntegralTiesToEven).",
    "half_away": "Round to the nearest integer, ties away from zero (IEEE 754 roundToIntegralTiesToAway).",
    "trunc_half": "trunc(x + 0.5), the sum rounded in the dtype of x: not the nearest integer for negative numbers and near 0.5.",
    "floor": "The largest integer that is not above x.",
    "ceil": "The smallest integer that is not below x.",
}
SIGNS = " The result keeps the dtype; NaN and infinities stay; a result of zero keeps the sign of x."
SUM_SIGNS = " The result keeps the dtype; NaN and infinities stay; a result of zero keeps the sign of the sum."
BINARY = {"float32": BINARY32, "float64": BINARY64}


def _numbers(dtype: np.dtype[Any]) -> dict[str, tuple[tuple[str, ...], list[float] | Array]]:
    """Flags and inputs by slug."""
    half = np.arange(-9, 10, dtype=dtype) + dtype.type(0.5)
    inf = dtype.type(np.inf)
    top = float(2 ** (int(np.finfo(dtype).nmant) - 1))  # here and above, halves are the last fractions, then there are none
    large = [top + 0.5, top + 1.5, 2 * top + 1, 2 * top + 3, 4 * top - 1, 4 * top + 2]
    return {
        "ordinary": (("ordinary", "negative"), [-7.75, -2.3, -1.9, -1.1, -0.7, 0.3, 0.7, 1.1, 2.6, 1000.3]),
        "ties": (("tie", "negative"), half),
        "near-ties": (("near-tie", "negative"), np.concatenate([np.nextafter(half, -inf), np.nextafter(half, inf)])),
        "zeros": (("negative-zero",), [0.0, -0.0, 0.2, -0.2, 0.5, -0.5, -0.7, 1e-40, -1e-40]),
        "large": (("large",), [*large, *(-x for x in large), 1e9, -3e9, 1e30]),
        "not-finite": (("not-finite",), [np.inf, -np.inf, np.nan, 1.5]),
    }


def _expected(x: Any, mode: str, dtype: str) -> float:
    """One number by the oracle; the oracle speaks of values, so the sign of zero and what is no number are written here."""
    if not math.isfinite(x):
        return float(x)
    if mode == "trunc_half":
        total = BINARY[dtype](Fraction(float(x)) + Fraction(1, 2))
        return math.copysign(float(nearest.round_to_integer(total - Fraction(1, 2), mode)), -1.0 if total < 0 else 1.0)
    return math.copysign(float(nearest.round_to_integer(Fraction(float(x)), mode)), x)


def _cases(mode: str) -> Iterator[Case]:
    for dtype in ("float32", "float64"):
        for slug, (flags, numbers) in _numbers(np.dtype(dtype)).items():
            x = np.asarray(numbers, dtype=dtype)
            y = np.array([_expected(value, mode, dtype) for value in x], dtype=dtype)
            name = f"{'f32' if dtype == 'float32' else 'f64'}-{slug}"
            expected = {"y": y}
            yield Case(
                operation=f"rounding.{mode}", slug=name, parameters={}, inputs={"x": x}, expected=expected, flags=flags, lane="exact"
            )


def _stream_inputs(start: int, stop: int) -> dict[str, Array]:
    return {"x": dyadics(words(1, start, stop), 25)}


def _operation(mode: str) -> Operation:
    def reference(inputs: Arrays, parameters: Parameters, *, arithmetic: Arithmetic = FAST) -> dict[str, Array]:
        return {"y": round_to_integer(np.asarray(inputs["x"]), Rounding(mode))}

    million = Stream(
        slug="dyadics",
        what="element i is n * 2^-k, exactly, in float32: n = (w >> 40) - 2^23, k = w mod 25, w = word i of seed 1",
        parameters={},
        make=_stream_inputs,
        rows=1 << 20,
    )
    return Operation(
        name=f"rounding.{mode}",
        level="codes",
        doc=DOCS[mode] + (SUM_SIGNS if mode == "trunc_half" else SIGNS),
        inputs=(Part("x", "numbers", "float32 or float64", "[n]"),),
        outputs=(Part("y", "integers, as floats of the same dtype", "that of x", "[n]"),),
        reference=reference,
        cases=lambda: _cases(mode),
        streams=(million,),
    )


HALF_EVEN = _operation("half_even")
HALF_AWAY = _operation("half_away")
TRUNC_HALF = _operation("trunc_half")
FLOOR = _operation("floor")
CEIL = _operation("ceil")
