"""The gated unit of the MLP."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from model import ops
from refquant.conformance.case import Case
from refquant.conformance.exact_values import context, lifted, nearest, spread
from refquant.conformance.operation import Arrays, Operation, Parameters, Part
from refquant.conformance.rules import ulp
from refquant.numerics import FAST, Arithmetic
from refquant.numerics.arrays import Array
from refquant.oracle.transformer import swiglu

NAME = "transformer.swiglu"
BOUND = ulp(8)


def reference(inputs: Arrays, parameters: Parameters, *, arithmetic: Arithmetic = FAST) -> dict[str, Array]:
    """Gate."""
    return {"y": ops.silu(inputs["gate"], arithmetic) * inputs["up"]}


def _gates() -> dict[str, tuple[tuple[str, ...], list[float]]]:
    return {
        "ordinary": (("ordinary", "negative"), spread(8, (16,), 6.0).tolist()),
        "large": (("overflow",), [800.0, -80.0, 90.0, 1e5, -60.0, 30.0, 89.5, float(2**30)]),
        "small": (("rounded-intermediate",), [1 / 2**20, -1 / 2**20, 1 / 2**40, 0.0, -1 / 2**12, 1 / 2**12, 1e-30, 0.5]),
    }


def cases() -> Iterator[Case]:
    """Gates in both dtypes."""
    numbers = context()
    for slug, (flags, values) in _gates().items():
        for dtype in ("float32", "float64"):
            gate = np.array([values], dtype=dtype)
            up = spread(9, gate.shape, 3.0).astype(dtype)
            lines = zip(lifted(numbers, gate), lifted(numbers, up), strict=True)
            yield Case(
                operation=NAME,
                slug=f"{slug}-{dtype}",
                parameters={},
                inputs={"gate": gate, "up": up},
                expected={"y": nearest([swiglu(numbers, *line) for line in lines], dtype)},
                flags=flags,
                lane="bounded",
                rules={"y": BOUND},
            )


OPERATION = Operation(
    name=NAME,
    level="model",
    doc="y = silu(gate) * up with silu(z) = z / (1 + exp(-z)). gate and up are outputs of the MLP's first two linears.",
    inputs=(
        Part("gate", "what goes through silu", "float32 or float64", "[tokens, features]"),
        Part("up", "what it multiplies", "that of gate", "[tokens, features]"),
    ),
    outputs=(Part("y", "the hidden features", "that of gate", "[tokens, features]"),),
    reference=reference,
    cases=cases,
)
