"""CGQ: token weights by certainty, and the Hessian that they give."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

import numpy as np

from refquant.conformance.case import Case
from refquant.conformance.numbers import counted
from refquant.conformance.operation import Arrays, Operation, Parameter, Parameters, Part
from refquant.conformance.rules import scaled
from refquant.core import hessian
from refquant.methods.diffusion.cgq import certainty_weights
from refquant.numerics import FAST, Arithmetic
from refquant.numerics.arrays import Array
from refquant.oracle import matrix, row, token_weights, weighted_hessian

NAME, HESSIAN = "cgq.weights", "cgq.hessian"
FEATURES = 5
MASKED = np.array([True, False, True, True, False, True, True, False, True, True, False, False])
CONFIDENCE = np.array([0.25, 0.9, 0.0, 1.0, 1.0, 0.5, 1e-310, 0.0, 0.8125, 0.3, 0.25, 0.7])
PADDING = np.array([index in (3, 10, 11) for index in range(len(MASKED))])


def _weights(inputs: Arrays, parameters: Parameters, arithmetic: Arithmetic) -> Array:
    return certainty_weights(
        inputs["masked"],
        inputs["confidence"],
        parameters["power"],
        visible_weight=parameters["visible_weight"],
        masked_weight=parameters["masked_weight"],
        visible_confidence=parameters["visible_confidence"],
        padding=inputs["padding"],
        arithmetic=arithmetic,
    )


def reference(inputs: Arrays, parameters: Parameters, *, arithmetic: Arithmetic = FAST) -> dict[str, Array]:
    """Weigh tokens."""
    return {"weights": _weights(inputs, parameters, arithmetic)}


def hessian_reference(inputs: Arrays, parameters: Parameters, *, arithmetic: Arithmetic = FAST) -> dict[str, Array]:
    """Weigh tokens, and sum."""
    return {"hessian": hessian(inputs["x"], _weights(inputs, parameters, arithmetic), arithmetic)}


def _settings() -> Iterator[tuple[str, tuple[str, ...], dict[str, object], bool]]:
    """Slug, flags, parameters, and whether there is padding."""
    usual = {"power": 2, "visible_weight": 0.7, "masked_weight": 1.0, "visible_confidence": "zero"}
    yield "usual", ("ordinary", "token-weight"), usual, False
    yield "power1", ("token-weight",), {**usual, "power": 1}, False
    yield "model", ("token-weight", "visible-confidence"), {**usual, "visible_confidence": "model"}, False
    yield "one-power1", ("token-weight", "visible-confidence"), {**usual, "power": 1, "visible_confidence": "one"}, False
    yield "padding", ("token-weight", "ignored-token"), usual, True
    yield "masked-only", ("token-weight", "ignored-token"), {**usual, "visible_weight": 0.0, "masked_weight": 0.3}, True


def _exact(parameters: Parameters, padding: Array) -> list[Fraction]:
    return token_weights(
        MASKED.tolist(),
        row(CONFIDENCE),
        padding.tolist(),
        visible=Fraction(parameters["visible_weight"]),
        mask=Fraction(parameters["masked_weight"]),
        power=parameters["power"],
        visible_confidence=parameters["visible_confidence"],
    )


def cases() -> Iterator[Case]:
    """One sequence, six readings."""
    for slug, flags, parameters, padded in _settings():
        padding = PADDING if padded else np.zeros_like(PADDING)
        yield Case(
            operation=NAME,
            slug=slug,
            parameters=parameters,
            inputs={"masked": MASKED, "confidence": CONFIDENCE, "padding": padding},
            expected={"weights": np.array([float(value) for value in _exact(parameters, padding)])},
            flags=flags,
            lane="exact",
        )


def hessian_cases() -> Iterator[Case]:
    """The same sequence with inputs."""
    x = counted(21, (len(MASKED), FEATURES), 12, 1 / 256)
    for slug, flags, parameters, padded in _settings():
        padding = PADDING if padded else np.zeros_like(PADDING)
        found = weighted_hessian(matrix(x), _exact(parameters, padding))
        yield Case(
            operation=HESSIAN,
            slug=slug,
            parameters=parameters,
            inputs={"x": x.astype(np.float32), "masked": MASKED, "confidence": CONFIDENCE, "padding": padding},
            expected={"hessian": np.array([[float(value) for value in line] for line in found])},
            rules={"hessian": scaled(1e-12)},
            flags=flags,
            lane="bounded",
        )


_INPUTS = (
    Part("masked", "positions that hold the mask token", "bool", "[tokens]"),
    Part("confidence", "probability of the predicted token, 0 to 1", "float64", "[tokens]"),
    Part("padding", "positions that do not count", "bool", "[tokens]"),
)
_PARAMETERS = (
    Parameter("power", "1 or 2: of the multiplier, as it enters the Hessian"),
    Parameter("visible_weight", "multiplier of visible tokens"),
    Parameter("masked_weight", "multiplier of masked tokens, before the root is added"),
    Parameter("visible_confidence", "what stands under the root of visible tokens: zero, model (their confidence), one"),
)
_DOC = (
    "c_t = masked_weight + sqrt(s_t) at masked positions, visible_weight + sqrt(u_t) at visible ones, s the confidence and u as "
    "visible_confidence says; the token's weight is c_t^power (c_t c_t for 2), 0 for padding; in float64, every operation rounded once"
)
OPERATION = Operation(
    name=NAME,
    level="methods",
    doc=f"{_DOC}.",
    inputs=_INPUTS,
    outputs=(Part("weights", "what multiplies x_t x_t^T", "float64", "[tokens]"),),
    parameters=_PARAMETERS,
    reference=reference,
    cases=cases,
)
HESSIAN_OPERATION = Operation(
    name=HESSIAN,
    level="methods",
    doc=f"{_DOC}. Then hessian.weighted of x with these weights.",
    inputs=(Part("x", "inputs of a linear", "float32", "[tokens, features]"), *_INPUTS),
    outputs=(Part("hessian", "sum of the weight times x_t x_t^T", "float64", "[features, features]"),),
    parameters=_PARAMETERS,
    reference=hessian_reference,
    cases=hessian_cases,
)
