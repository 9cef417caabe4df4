"""Static quantization of activations, and of the softmax output."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

import numpy as np

from refquant.conformance.case import Case
from refquant.conformance.numbers import counted
from refquant.conformance.operation import Arrays, Operation, Parameter, Parameters, Part
from refquant.core import QuantSpec, Tiling, spec
from refquant.methods.activation.probabilities import quantize_probabilities
from refquant.methods.activation.static import Extremes, quantize_static, static_grid
from refquant.numerics import FAST, Arithmetic
from refquant.numerics.arrays import Array
from refquant.oracle import BINARY16, BINARY32, Uniform, fraction, round_to_integer

STATIC, PROBABILITIES = "activation.static", "activation.probabilities"
BATCHES, TOKENS, FEATURES = 3, 4, 6


def spec_of(parameters: Parameters) -> QuantSpec:
    """The spec that a case's parameters say."""
    return spec(f"int{parameters['bits']}", scheme=parameters["scheme"], tiling=Tiling((None, parameters["group"])))


def static_reference(inputs: Arrays, parameters: Parameters, *, arithmetic: Arithmetic = FAST) -> dict[str, Array]:
    """Calibrate batch by batch, then quantize."""
    seen = Extremes.of(inputs["calibration"][0], axis=0)
    for batch in inputs["calibration"][1:]:
        seen = seen.merge(Extremes.of(batch, axis=0))
    how = spec_of(parameters)
    grid = static_grid(seen, how)
    zero = np.zeros(grid.scale.shape) if grid.zero is None else grid.zero
    return {"scale": grid.scale, "zero": zero.astype(np.int32), "values": quantize_static(inputs["x"], grid, how)}


def probabilities_reference(inputs: Arrays, parameters: Parameters, *, arithmetic: Arithmetic = FAST) -> dict[str, Array]:
    """Quantize."""
    return {"values": quantize_probabilities(inputs["p"], parameters["bits"], parameters["range"])}


def _static_expected(calibration: Array, x: Array, parameters: Parameters) -> dict[str, Array]:
    scheme = Uniform(parameters["scheme"], parameters["bits"], BINARY32)
    width = parameters["group"] or FEATURES
    columns = [[fraction(value) for value in calibration[..., f].reshape(-1)] for f in range(FEATURES)]
    grids = [scheme.fit([v for column in columns[i : i + width] for v in column]) for i in range(0, FEATURES, width)]
    values = []
    for line in x:
        own = [grids[f // width] for f in range(FEATURES)]
        exact = [fraction(value) for value in line]
        values.append([float(scheme.decode(scheme.encode(v, grid), grid)) for v, grid in zip(exact, own, strict=True)])
    return {
        "scale": np.array([[float(grid.scale) for grid in grids]], dtype=np.float32),
        "zero": np.array([[grid.zero for grid in grids]], dtype=np.int32),
        "values": np.array(values, dtype=np.float32),
    }


def static_cases() -> Iterator[Case]:
    """Three batches of different range, later values beyond them."""
    calibration = counted(51, (BATCHES, TOKENS, FEATURES), 8, 1 / 32) * np.array([4.0, 1.0, 0.5]).reshape(-1, 1, 1)
    calibration[..., 4] = np.abs(calibration[..., 4]) + 0.5
    x = counted(52, (5, FEATURES), 8, 1 / 16)
    x[1] *= 40
    x[2] = 0
    silent = calibration.copy()
    silent[..., 1:3] = 0
    for scheme in ("asym_incl0", "asym_minmax", "sym_full"):
        for bits, group in ((8, None), (4, 1), (4, 4)):
            for name, seen in (("wide", calibration), ("silent", silent)):
                if name == "silent" and (scheme == "asym_minmax" or group is None):
                    continue
                parameters = {"scheme": scheme, "bits": bits, "group": group}
                flags = ("calibration", "saturation") + ("ragged-group", "group-statistics") * (group == 4)
                yield Case(
                    operation=STATIC,
                    slug=f"{scheme}-b{bits}-{'tensor' if group is None else f'g{group}'}-{name}",
                    parameters=parameters,
                    inputs={"calibration": seen.astype(np.float32), "x": x.astype(np.float32)},
                    expected=_static_expected(seen.astype(np.float32), x.astype(np.float32), parameters),
                    flags=flags + ("zero-range",) * (name == "silent" and group == 1),
                    lane="exact",
                )


def _probabilities() -> Array:
    """Rows: a ramp, one token alone, nothing, ties of the fixed grid, many small ones, and one that rounding took above 1."""
    ramp = [i / 64 for i in range(8)]
    ties = [0.5 / 15, 1.5 / 15, 2.5 / 15, 0.5, 0.5 / 3, 2.5 / 255, 0.5 / 255, 7.5 / 255]
    return np.array([ramp, [0.0] * 7 + [1.0], [0.0] * 8, ties, [1 / 31] * 8, [1 + 5 / (1 << 19), 0.25, 1 / 3, 0.9, 0.0, 0.1, 2 / 3, 1e-30]])


def _probability(p: Fraction, bits: int, top: Fraction, dtype: str) -> float:
    steps = (1 << bits) - 1
    scale = BINARY32(top / steps)
    if scale == 0:  # a row of zeros stays zero
        return 0.0
    value = BINARY32(min(round_to_integer(BINARY32(p / scale)), steps) * scale)
    return float(BINARY16(value) if dtype == "float16" else value)


def probabilities_cases() -> Iterator[Case]:
    """Both ranges, four widths."""
    for reach in ("unit", "row_max"):
        for bits, dtype in ((1, "float32"), (2, "float32"), (4, "float32"), (8, "float32"), (16, "float32"), (4, "float16")):
            p = _probabilities().astype(dtype)
            found = [
                [_probability(fraction(x), bits, Fraction(1) if reach == "unit" else fraction(line.max()), dtype) for x in line]
                for line in p
            ]
            yield Case(
                operation=PROBABILITIES,
                slug=f"{reach.replace('_', '-')}-b{bits}-{dtype}",
                parameters={"bits": bits, "range": reach},
                inputs={"p": p},
                expected={"values": np.array(found, dtype=dtype)},
                flags=("ordinary", "probability", "tie", "zero-range")
                + ("row-range",) * (reach == "row_max")
                + ("saturation",) * (bits == 16),
                lane="exact",
            )


STATIC_OPERATION = Operation(
    name=STATIC,
    level="codes",
    doc="Scale and zero point of every group of features (uniform.quantize's schemes, float32) from the extremes over all calibration "
    "batches and tokens; then x is quantized with them, clip(rint(x / scale) + zero), and dequantized, scale (code - zero). Nothing "
    "of x enters them.",
    inputs=(
        Part("calibration", "what was seen beforehand", "float32", "[batches, tokens, features]"),
        Part("x", "what comes later", "float32", "[tokens, features]"),
    ),
    outputs=(
        Part("scale", "scales", "float32", "[1, groups]"),
        Part("zero", "zero points, 0 where there are none", "int32", "[1, groups]"),
        Part("values", "x after quantization", "float32", "[tokens, features]"),
    ),
    parameters=(
        Parameter("scheme", "sym_full, asym_incl0, asym_minmax"),
        Parameter("bits", "2 to 16"),
        Parameter("group", "features that share a scale, the last group may be shorter; null: all"),
    ),
    reference=static_reference,
    cases=static_cases,
)
PROBABILITIES_OPERATION = Operation(
    name=PROBABILITIES,
    level="codes",
    doc="p_hat = s min(rint(p / s), 2^bits - 1), s = 1 / (2^bits - 1) (range unit) or the row's largest p / (2^bits - 1) (row_max; a row "
    "of zeros stays zero). In float32, every operation rounded once; float16 inputs are widened first, and results rounded to float16"
    " last.",
    inputs=(Part("p", "softmax outputs", "float16 or float32", "[rows, keys]"),),
    outputs=(Part("values", "p_hat", "as p", "[rows, keys]"),),
    parameters=(Parameter("bits", "1 to 16"), Parameter("range", "unit or row_max")),
    reference=probabilities_reference,
    cases=probabilities_cases,
)
