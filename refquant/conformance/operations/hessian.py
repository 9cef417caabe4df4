"""The weighted second moment of a linear's inputs."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from refquant.conformance.case import Case
from refquant.conformance.numbers import counted
from refquant.conformance.operation import Arrays, Operation, Parameters, Part
from refquant.conformance.rules import Rule, scaled
from refquant.core import hessian
from refquant.numerics import FAST, Arithmetic
from refquant.numerics.arrays import Array
from refquant.oracle import matrix, row, weighted_hessian

NAME = "hessian.weighted"
WHOLE = scaled(0)
"""Sums of integers: equal, but for the sign of a zero."""
ROUNDED = scaled(1e-12)
"""Of the largest entry: hundreds of roundings of float64."""


def reference(inputs: Arrays, parameters: Parameters, *, arithmetic: Arithmetic = FAST) -> dict[str, Array]:
    """Sum over tokens."""
    return {"hessian": hessian(inputs["x"], inputs["token_weights"], arithmetic)}


def _case(slug: str, flags: tuple[str, ...], x: Array, weights: Array, rule: Rule, note: str = "") -> Case:
    counts = weights != 0
    found = weighted_hessian(matrix(x[counts]), row(weights[counts]))
    return Case(
        operation=NAME,
        slug=slug,
        parameters={},
        inputs={"x": x, "token_weights": weights.astype(np.float64)},
        expected={"hessian": np.array([[float(value) for value in line] for line in found])},
        rules={"hessian": rule},
        flags=flags,
        note=note,
        lane="bounded",
    )


def cases() -> Iterator[Case]:
    """Whole numbers, where every order of summation gives the same, and others."""
    whole = counted(11, (12, 6), 5)
    one = np.ones(len(whole))
    yield _case("ones", ("ordinary",), whole, one, WHOLE)
    yield _case("squares", ("token-weight",), whole, np.array([1.0, 4.0, 0.25, 9.0] * 3), WHOLE, "weights with exact roots")
    yield _case("weights", ("token-weight",), counted(12, (12, 6), 20, 1 / 65536), counted(13, (12,), 12, 1 / 8192) + 0.5, ROUNDED)
    dropped = np.array([0.0 if token in (0, 5) else 1.0 for token in range(12)])
    yield _case("dropped", ("ignored-token", "token-weight"), whole, dropped, WHOLE)
    hidden = whole.copy()
    hidden[0, 2], hidden[5, 0] = np.nan, np.inf
    yield _case("dropped-nan", ("ignored-token", "not-finite"), hidden, dropped, WHOLE, "padding may hold anything")
    wide = np.array([[4096.0, 1.0], [1.0, 1.0], [1.0, -1.0], [4096.0, 1.0], [1.0, 1.0]])
    yield _case("wide-sum-float32", ("accumulation",), wide.astype(np.float32), np.ones(5), WHOLE, "2^24 + 1 is no float32")
    half = np.array([[256.0, 3.0], [-300.0, 0.5]])
    yield _case("wide-square-float16", ("accumulation",), half.astype(np.float16), np.ones(2), WHOLE, "300^2 is infinite in float16")
    dead = whole.copy()
    dead[:, 3] = 0
    yield _case("dead", ("dead-column",), dead, one, WHOLE, "its row and column are 0: nothing is damped here")
    yield _case("few-tokens", ("rank-deficient",), whole[:2], one[:2], WHOLE)


OPERATION = Operation(
    name=NAME,
    level="methods",
    doc="H = sum over tokens t of w_t x_t x_t^T, products and sums in float64 or exactly; not divided by anything. A token with w_t = 0 is "
    "left out, whatever its x_t holds.",
    inputs=(
        Part("x", "inputs of a linear", "float16, float32 or float64", "[tokens, features]"),
        Part("token_weights", "w, not negative", "float64", "[tokens]"),
    ),
    outputs=(Part("hessian", "H", "float64", "[features, features]"),),
    reference=reference,
    cases=cases,
)
