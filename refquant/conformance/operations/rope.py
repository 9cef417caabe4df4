"""Rotary position embedding."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from model import ops
from refquant.conformance.case import Case
from refquant.conformance.exact_values import context, lifted, nearest, spread
from refquant.conformance.operation import Arrays, Operation, Parameter, Parameters, Part
from refquant.conformance.rules import scaled
from refquant.numerics import FAST, Arithmetic
from refquant.numerics.arrays import Array
from refquant.oracle.transformer import rotate

NAME = "transformer.rope"
EPS = {"float32": 1 / 2**24, "float64": 1 / 2**53}
POSITIONS = {
    "first": ("ordinary", [0, 1, 2, 3]),
    "zero": ("zero-position", [0, 0]),
    "any": ("position", [7, 3, 100, 31]),
    "far": ("position", [4095, 1000, 2048]),
}


def reference(inputs: Arrays, parameters: Parameters, *, arithmetic: Arithmetic = FAST) -> dict[str, Array]:
    """Rotate."""
    x = inputs["x"]  # [T, heads, h]
    length, heads, head_dim = x.shape
    tables = ops.rope_at(inputs["positions"], head_dim, parameters["theta"], x.dtype, arithmetic)
    rows = ops.rope_rows(*tables, heads)
    return {"y": ops.rotate(x.reshape(1, length, heads * head_dim), *rows, head_dim).reshape(x.shape)}


def cases() -> Iterator[Case]:
    """Heads of 8 and of 2 features; LLaDA's theta and the 8B's."""
    numbers = context()
    for slug, (flag, positions) in POSITIONS.items():
        for heads, head_dim, theta in ((2, 8, 10000.0), (1, 8, 500000.0), (3, 2, 10000.0)):
            for dtype in ("float32", "float64"):
                x = spread(3, (len(positions), heads, head_dim)).astype(dtype)
                exact = [
                    [rotate(numbers, head, position, numbers.mpf(theta)) for head in token]
                    for token, position in zip(lifted(numbers, x), positions, strict=True)
                ]
                yield Case(
                    operation=NAME,
                    slug=f"{slug}-h{heads}x{head_dim}-theta{theta:g}-{dtype}",
                    parameters={"theta": theta},
                    inputs={"x": x, "positions": np.array(positions, np.int64)},
                    expected={"y": nearest(exact, dtype)},
                    flags=(flag,),
                    lane="bounded",
                    # The frequency carries a few roundings of the dtype, and the position multiplies them.
                    rules={"y": scaled(8 * (1 + max(positions)) * EPS[dtype])},
                )


OPERATION = Operation(
    name=NAME,
    level="model",
    doc="Of each head [a | b] of h features, with a and b its two halves, feature j of a and of b are turned together: "
    "a_j' = a_j cos(w) - b_j sin(w), b_j' = b_j cos(w) + a_j sin(w), with the angle w = position * theta^(-2j / h), j = 0 .. h/2 - 1.",
    inputs=(
        Part("x", "queries or keys", "float32 or float64", "[tokens, heads, h]"),
        Part("positions", "where each token stands, from 0", "int64", "[tokens]"),
    ),
    outputs=(Part("y", "rotated", "that of x", "[tokens, heads, h]"),),
    parameters=(Parameter("theta", "the base of the frequencies"),),
    reference=reference,
    cases=cases,
)
