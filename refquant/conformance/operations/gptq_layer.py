"""GPTQ from calibration inputs to codes and losses, for backends that compute in float32 or better."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np

from refquant.conformance.case import Case
from refquant.conformance.numbers import counted
from refquant.conformance.operation import Arrays, Operation, Parameter, Parameters, Part
from refquant.conformance.operations.uniform_quantize import BINARY
from refquant.conformance.reanchor import Reanchored, replay
from refquant.conformance.rules import BYTES, margin, scaled
from refquant.core import QuantSpec, Tiling, fit_grid, hessian, spec
from refquant.methods.compensate.gptq import GptqTrace, gptq_trace
from refquant.numerics import FAST, Arithmetic
from refquant.numerics.arrays import Array
from refquant.oracle import BINARY64, GptqResult, Uniform, UniformGrid, gptq, matrix, search_clip, weighted_hessian

NAME = "gptq.layer"
BOUND = 1e-3
"""Steps: rounding in float32 at these sizes, with room to spare."""
ROWS, COLUMNS, TOKENS = 3, 10, 30


def spec_of(parameters: Parameters) -> QuantSpec:
    """The spec that a case's parameters say."""
    tiling = Tiling.channel() if parameters["group"] is None else Tiling.group(parameters["group"])
    return spec(
        f"int{parameters['bits']}",
        scheme=parameters["scheme"],
        tiling=tiling,
        scale_format=parameters["scale_format"],
        mse=parameters["clip_search"],
    )


def _trace(inputs: Arrays, parameters: Parameters, arithmetic: Arithmetic) -> GptqTrace:
    return gptq_trace(
        inputs["weight"],
        hessian(inputs["x"], arithmetic=arithmetic),
        spec_of(parameters),
        damping=parameters["damping"],
        act_order=parameters["act_order"],
        static_groups=parameters["static_groups"],
        arithmetic=arithmetic,
    )


def reference(inputs: Arrays, parameters: Parameters, *, arithmetic: Arithmetic = FAST) -> dict[str, Array]:
    """Sum, and quantize."""
    trace = _trace(inputs, parameters, arithmetic)
    quantized = trace.quantized
    zero = np.zeros(quantized.scale.shape) if quantized.zero is None else quantized.zero
    return {
        "codes": quantized.codes,
        "scale": quantized.scale,
        "zero": zero.astype(np.int32),
        "order": trace.order.astype(np.int64),
        "losses": arithmetic.sum(trace.errors * trace.errors, axis=1),
    }


def reanchor(case: Case, found: Arrays) -> Reanchored:
    """What the codes of a backend demand of it."""
    how, factor = spec_of(case.parameters), _trace(case.inputs, case.parameters, FAST).factor
    weight = np.where((case.inputs["x"] == 0).all(axis=0), 0.0, case.inputs["weight"].astype(np.float64))
    whole = case.parameters["group"] is None or case.parameters["static_groups"]
    given = replay(weight, factor, case.expected["order"], found["codes"], how, fit_grid(weight, how) if whole else None)
    zero = np.zeros(given.grid.scale.shape) if given.grid.zero is None else given.grid.zero
    losses = FAST.sum(given.errors * given.errors, axis=1)
    return Reanchored(beyond={"codes": given.beyond}, expected={"scale": given.grid.scale, "zero": zero, "losses": losses})


def _exact(weight: Array, x: Array, parameters: Parameters) -> tuple[GptqResult, list[list[UniformGrid]]]:
    """The oracle's answer, and the grids in the order of the output."""
    stored = parameters["scale_format"]
    scheme = Uniform(parameters["scheme"], parameters["bits"], BINARY64, None if stored is None else BINARY[stored])

    def fit(values: list[Fraction]) -> UniformGrid:
        return search_clip(values, scheme).grid if parameters["clip_search"] else scheme.fit(values)

    lines = matrix(np.where((x == 0).all(axis=0), 0.0, weight.astype(np.float64)))
    width = parameters["group"] or COLUMNS
    dynamic = parameters["group"] is not None and not parameters["static_groups"]
    fixed = [] if dynamic else [[fit(line[i : i + width]) for i in range(0, COLUMNS, width)] for line in lines]
    found = gptq(
        lines,
        weighted_hessian(matrix(x)),
        fit if dynamic else fixed,
        group=parameters["group"],
        percdamp=Fraction(parameters["damping"]),
        act_order=parameters["act_order"],
        stored=BINARY64,
    )
    if not dynamic:
        return found, fixed
    starts = [found.order[i] for i in range(0, COLUMNS, width)]
    return found, [[line[start].grid for start in starts] for line in found.decisions]


def _losses(found: GptqResult) -> Array:
    """Sum of e_i^2 of every row, exactly, rounded once."""
    pivots = dict(zip(found.order, found.pivots, strict=True))
    return np.array([float(sum((d.error * d.error * pivots[c] for c, d in enumerate(line)), Fraction(0))) for line in found.decisions])


def _layer(name: str) -> tuple[Array, Array]:
    """Weights in float32 and whole inputs of four bits, neighbours depending on each other."""
    weight = counted(81, (ROWS, COLUMNS), 11, 1 / 512).astype(np.float32)
    x = counted(82, (TOKENS, COLUMNS), 4)
    x[:, 1:] += x[:, :-1]
    if name == "dead":
        x[:, (2, 7)] = 0
    if name == "outlier":
        weight[:, 3] *= 4
    return weight, x.astype(np.float32)


def _moved_to_ties(weight: Array, x: Array, parameters: Parameters) -> Array:
    """Weights whose middle column is decided within a float32 rounding of a tie."""
    column = COLUMNS // 2
    for _ in range(10):  # a dynamic group's grid depends on the column a little
        found, _ = _exact(weight, x, parameters)
        moved = weight.astype(np.float64)
        for index, line in enumerate(found.decisions):
            d = line[column]
            above = (d.error > 0 and d.code < d.grid.hi) or d.code == d.grid.lo
            boundary = d.value + d.grid.scale / 2 * (1 if above else -1)
            moved[index, column] += float(boundary - (d.value + d.error))
        weight = moved.astype(np.float32)
    return weight


def cases() -> Iterator[Case]:
    """Stored scales, searched ranges, orders and groups, and decisions so close that float32 may take them otherwise."""
    usual: dict[str, Any] = {"scheme": "asym_incl0", "bits": 4, "group": None, "scale_format": None, "clip_search": False}
    usual |= {"act_order": False, "static_groups": False, "damping": 0.01}
    grouped = {"group": 4}
    choices: list[tuple[str, str, tuple[str, ...], dict[str, Any]]] = [
        ("row", "plain", ("ordinary", "compensation"), {}),
        ("row-damping", "plain", ("ordinary",), {"damping": 0.1}),
        ("row-actorder", "plain", ("act-order", "compensation"), {"act_order": True}),
        ("dynamic-g4", "plain", ("group-statistics", "ragged-group", "compensation"), grouped),
        ("dynamic-g4-actorder", "plain", ("act-order", "group-statistics", "ragged-group"), grouped | {"act_order": True}),
        ("static-g4-actorder", "plain", ("act-order", "group-statistics"), grouped | {"act_order": True, "static_groups": True}),
        ("row-float16", "plain", ("stored-scale",), {"scale_format": "float16", "bits": 8}),
        ("row-bfloat16", "plain", ("stored-scale",), {"scale_format": "bfloat16"}),
        ("static-g4-float16", "plain", ("stored-scale",), grouped | {"scale_format": "float16", "static_groups": True, "bits": 8}),
        ("row-searched", "outlier", ("clip-search", "outlier"), {"clip_search": True, "bits": 3}),
        ("dynamic-g4-searched", "outlier", ("clip-search", "group-statistics"), grouped | {"clip_search": True, "bits": 2}),
        ("dead", "dead", ("dead-column", "compensation"), {}),
        ("dead-dynamic-g4", "dead", ("dead-column", "group-statistics"), grouped | {"bits": 3}),
        ("sym-b3", "plain", ("compensation",), {"scheme": "sym_full", "bits": 3}),
        ("close", "plain", ("honest-tie", "compensation"), {}),
        ("close-dynamic-g4", "plain", ("honest-tie", "compensation"), grouped),
    ]
    for slug, layer, flags, change in choices:
        parameters = usual | change
        weight, x = _layer(layer)
        if "honest-tie" in flags:
            weight = _moved_to_ties(weight, x, parameters)
        found, grids = _exact(weight, x, parameters)
        how, stored = spec_of(parameters), parameters["scale_format"]
        dtype = fit_grid(weight.astype(np.float64), how).scale.dtype
        yield Case(
            operation=NAME,
            slug=slug,
            parameters=parameters,
            inputs={"weight": weight, "x": x},
            expected={
                "codes": np.array(found.codes, dtype=how.format.dtype),
                "scale": np.array([[float(grid.scale) for grid in line] for line in grids]).astype(dtype),
                "zero": np.array([[grid.zero for grid in line] for line in grids], dtype=np.int32),
                "order": np.array(found.order, dtype=np.int64),
                "losses": _losses(found),
            },
            rules={"codes": margin(BOUND), "losses": scaled(1e-3), "scale": BYTES if stored else scaled(1e-5)},
            margins={"codes": np.array([[float(abs(value)) for value in line] for line in found.margins])},
            flags=flags,
            lane="bounded",
        )


OPERATION = Operation(
    name=NAME,
    level="methods",
    doc="H = sum of x x^T over tokens, then gptq.codes with grids whose scales are rounded to scale_format before anything is divided by "
    "them, and, with clip_search, whose ranges are those of grid.clip_search. losses: sum of e_i^2 of each row, which is (w - value) "
    "(H + damping) (w - value)^T. In float32 or better: a code may differ where its decision is within 1e-3 steps of a tie.",
    inputs=(
        Part("weight", "the layer's weight", "float32", "[out, in]"),
        Part("x", "calibration inputs", "float32", "[tokens, in]"),
    ),
    outputs=(
        Part("codes", "codes, in the original order of columns", "uint8 or int8", "[out, in]"),
        Part("scale", "scales; of dynamic groups in the order of quantization", "scale_format, or float64", "[out, groups]"),
        Part("zero", "zero points, 0 where there are none", "int32", "[out, groups]"),
        Part("order", "column order[i] is decided at step i", "int64", "[in]"),
        Part("losses", "sum of squares of the errors", "float64", "[out]"),
    ),
    parameters=(
        Parameter("scheme", "as of uniform.quantize"),
        Parameter("bits", "2 to 16"),
        Parameter("group", "columns that share a scale, the last group may be shorter; null: whole rows"),
        Parameter("scale_format", "null, float16 or bfloat16"),
        Parameter("clip_search", "true: 80 shrinkages by 1/100, errors to the power 2.4"),
        Parameter("act_order", "true: columns by descending diagonal"),
        Parameter("static_groups", "true: grids are fitted beforehand, to runs of the original order"),
        Parameter("damping", "multiple of the mean diagonal that is added to the diagonal"),
    ),
    reference=reference,
    cases=cases,
    reanchor=reanchor,
)
