"""Dynamic per-token quantization of activations."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from refquant.conformance.case import Case
from refquant.conformance.operation import Arrays, Operation, Parameter, Parameters, Part
from refquant.conformance.operations.uniform_quantize import BINARY, ORACLE_NAMES
from refquant.core import QuantSpec, Tiling, spec
from refquant.methods.activation.per_token import quantize_per_token
from refquant.numerics import FAST, Arithmetic
from refquant.numerics.arrays import Array
from refquant.oracle import Uniform, quantize_row, row

NAME = "activation.per_token"
FEATURES = 24


def spec_of(parameters: Parameters) -> QuantSpec:
    """The spec that a case's parameters say."""
    group = parameters["group"]
    tiling = Tiling.token() if group is None else Tiling.group(group)
    how = spec(f"int{parameters['bits']}", scheme=parameters["scheme"], tiling=tiling)
    return how if parameters["empty"] is None else replace(how, scheme=replace(how.scheme, empty=parameters["empty"]))


def reference(inputs: Arrays, parameters: Parameters, *, arithmetic: Arithmetic = FAST) -> dict[str, Array]:
    """Quantize and dequantize."""
    return {"values": quantize_per_token(inputs["x"], spec_of(parameters))}


def _tokens() -> Array:
    """Five tokens: ordinary, with an outlier channel, all zero, with ties and -0.0, of one sign."""
    plain = [((i * 7) % 23 - 11) / 16 for i in range(FEATURES)]
    outlier = [60.0 if i == 5 else value for i, value in enumerate(plain)]
    ties = [1.75, -1.75] + [(i - 7 + 0.5) * 0.25 if i % 3 else -0.0 for i in range(FEATURES - 2)]
    return np.array([plain, outlier, [0.0] * FEATURES, [max(-1.75, min(1.75, t)) for t in ties], [0.5 + abs(v) for v in plain]])


def _expected(x: Array, parameters: Parameters) -> Array:
    name = str(parameters["scheme"])
    scheme = Uniform(ORACLE_NAMES.get(name, name), parameters["bits"], BINARY["float32"], empty=parameters["empty"])
    lines = [quantize_row(row(line), scheme, parameters["group"]).values for line in x.astype(np.float32)]
    return np.array([[float(value) for value in line] for line in lines], dtype=np.float32)


def cases() -> Iterator[Case]:
    """Three widths, whole tokens and groups, the schemes in use for activations."""
    x = _tokens()
    choices = (("sym_full", "unit_scale"), ("sym_full", None), ("sym_narrow", None), ("asym_incl0", None), ("asym_minmax", None))
    for scheme, empty in choices:
        for bits in (4, 6, 8):
            for group in (None, 10):
                parameters = {"scheme": scheme, "bits": bits, "group": group, "empty": empty}
                tile = "token" if group is None else f"g{group}"
                for dtype in ("float32", "float16") if bits == 4 else ("float32",):
                    given = x.astype(dtype)
                    flags = ["outlier", "zero-range", "tie", "negative-zero", "one-sided", "group-statistics"]
                    yield Case(
                        operation=NAME,
                        slug=f"{scheme}{'' if empty is None else '-' + empty.replace('_', '-')}-b{bits}-{tile}-{dtype}",
                        parameters=parameters,
                        inputs={"x": given},
                        expected={"values": _expected(given, parameters)},
                        flags=tuple(flags + ["ragged-group", "group-boundary"] * (group is not None)),
                        lane="exact",
                    )


OPERATION = Operation(
    name=NAME,
    level="codes",
    doc="Every token (row) is quantized on a grid of its own extremes, by the scheme as in uniform.quantize, and dequantized as in "
    "uniform.dequantize; in float32. empty overrides what a tile of zeros becomes: unit_scale, a scale of 1.",
    inputs=(Part("x", "activations", "float16 or float32", "[tokens, features]"),),
    outputs=(Part("values", "activations after quantization", "float32", "[tokens, features]"),),
    parameters=(
        Parameter("scheme", "sym_full, sym_narrow, asym_incl0, asym_minmax"),
        Parameter("bits", "2 to 16"),
        Parameter("group", "features that share a scale, the last group may be shorter; null: whole tokens"),
        Parameter("empty", "null (the scheme's own rule for tiles of zeros) or unit_scale"),
    ),
    reference=reference,
    cases=cases,
)
