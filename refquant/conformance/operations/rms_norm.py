"""The root-mean-square norm."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from model import ops
from refquant.conformance.case import Case
from refquant.conformance.exact_values import context, lifted, nearest, spread
from refquant.conformance.operation import Arrays, Operation, Parameter, Parameters, Part
from refquant.conformance.rules import ulp
from refquant.numerics import FAST, Arithmetic
from refquant.numerics.arrays import Array
from refquant.oracle.transformer import rms_norm

NAME = "transformer.rms_norm"
FEATURES = 12
BOUND = ulp(8)


def reference(inputs: Arrays, parameters: Parameters, *, arithmetic: Arithmetic = FAST) -> dict[str, Array]:
    """Normalize."""
    return {"y": ops.rms_norm(inputs["x"], inputs["gain"], None, parameters["eps"], arithmetic)}


def _tokens() -> dict[str, tuple[tuple[str, ...], Array]]:
    plain = spread(1, (3, FEATURES), 2.0)
    outlier = plain.copy()
    outlier[:, 4] = [3000.0, -900.0, 50000.0]
    return {
        "ordinary": (("ordinary",), plain),
        "shifted": (("mean",), plain + 5),
        "zero-rows": (("zero-range", "eps"), np.array([[0.0] * FEATURES, [1 / 2**30] * FEATURES, plain[0]])),
        "small": (("eps",), plain / 2**9),
        "outlier": (("outlier", "overflow"), outlier),
    }


def cases() -> Iterator[Case]:
    """Two values of eps, both dtypes."""
    numbers = context()
    gain = 1 + spread(2, (FEATURES,), 0.5)
    for slug, (flags, x) in _tokens().items():
        for eps in (1e-5, 1e-6):
            for dtype in ("float32", "float64"):
                given = x.astype(dtype)
                lines, gains = lifted(numbers, given), lifted(numbers, gain)
                exact = [rms_norm(numbers, line, gains, numbers.mpf(eps)) for line in lines]
                yield Case(
                    operation=NAME,
                    slug=f"{slug}-eps{eps:.0e}-{dtype}",
                    parameters={"eps": eps},
                    inputs={"x": given, "gain": gain.astype(dtype)},
                    expected={"y": nearest(exact, dtype)},
                    flags=flags,
                    lane="bounded",
                    rules={"y": BOUND},
                )


OPERATION = Operation(
    name=NAME,
    level="model",
    doc="y = x / sqrt(mean(x^2) + eps) * gain, token by token; no mean is subtracted, and eps stands under the root.",
    inputs=(
        Part("x", "activations", "float32 or float64", "[tokens, features]"),
        Part("gain", "one factor a feature", "that of x", "[features]"),
    ),
    outputs=(Part("y", "normalized activations", "that of x", "[tokens, features]"),),
    parameters=(Parameter("eps", "added to the mean of squares"),),
    reference=reference,
    cases=cases,
)
