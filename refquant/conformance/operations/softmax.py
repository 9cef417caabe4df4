"""Softmax."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from refquant.conformance.case import Case
from refquant.conformance.exact_values import context, lifted, nearest, spread
from refquant.conformance.operation import Arrays, Operation, Parameters, Part
from refquant.conformance.rules import ulp
from refquant.numerics import FAST, Arithmetic
from refquant.numerics.arrays import Array
from refquant.oracle.transformer import softmax

NAME = "transformer.softmax"
BOUND = ulp(8)


def reference(inputs: Arrays, parameters: Parameters, *, arithmetic: Arithmetic = FAST) -> dict[str, Array]:
    """Ask the arithmetic."""
    return {"y": arithmetic.softmax(inputs["x"])}


def _rows() -> dict[str, tuple[tuple[str, ...], list[list[float]]]]:
    plain = spread(4, (3, 9), 4.0)
    hidden = plain.copy()
    hidden[0, 3:] = hidden[1, ::2] = hidden[2, :-1] = -np.inf
    return {
        "ordinary": (("ordinary",), plain.tolist()),
        "equal": (("constant",), [[0.0] * 9, [3.5] * 9, [-1000.0] * 9]),
        "masked": (("padding",), hidden.tolist()),
        "large": (("overflow",), [[1000.0 + 0.5 * i for i in range(9)], [-2000.0 + i for i in range(9)], [0.0] * 8 + [float(2**20)]]),
        "spread": (("overflow",), [[-80.0 + 10 * i for i in range(9)], [0.0] * 8 + [60.0], [-3000.0, 3000.0] + [0.0] * 7]),
    }


def cases() -> Iterator[Case]:
    """Rows in both dtypes."""
    numbers = context()
    for slug, (flags, rows) in _rows().items():
        for dtype in ("float32", "float64"):
            x = np.array(rows, dtype=dtype)
            exact = [softmax(numbers, line) for line in lifted(numbers, x)]
            yield Case(
                operation=NAME,
                slug=f"{slug}-{dtype}",
                parameters={},
                inputs={"x": x},
                expected={"y": nearest(exact, dtype)},
                flags=flags,
                lane="bounded",
                rules={"y": BOUND},
            )


OPERATION = Operation(
    name=NAME,
    level="model",
    doc="y = exp(x) / sum(exp(x)) along rows; x may be minus infinity, which has the probability 0, but not in a whole row. Results that "
    "are subnormal count as others.",
    inputs=(Part("x", "scores", "float32 or float64", "[rows, columns]"),),
    outputs=(Part("y", "probabilities", "that of x", "[rows, columns]"),),
    reference=reference,
    cases=cases,
)
