"""The clip search of GPTQ's and QuaRot's code: shrink the range, keep the first with the least error."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from refquant.conformance.case import Case
from refquant.conformance.operation import Arrays, Operation, Parameter, Parameters, Part
from refquant.conformance.operations.uniform_quantize import BINARY
from refquant.conformance.patterns import PATTERNS
from refquant.conformance.rules import margin
from refquant.core import QuantSpec, Tiling, fit_grid, spec
from refquant.numerics import FAST, Arithmetic
from refquant.numerics.arrays import Array
from refquant.oracle import Uniform, row, search_clip

NAME = "grid.clip_search"
BOUND = {"float32": 1e-4, "float64": 1e-10}
"""Relative difference of error sums below which the search may decide otherwise: rounding of the working dtype, with room to spare."""
NO_RIVAL = 1e300


def spec_of(parameters: Parameters) -> QuantSpec:
    """The spec that a case's parameters say."""
    group = parameters["group"]
    tiling = Tiling.channel() if group is None else Tiling.group(group)
    return spec(f"int{parameters['bits']}", scheme=parameters["scheme"], tiling=tiling, mse=True)


def reference(inputs: Arrays, parameters: Parameters, *, arithmetic: Arithmetic = FAST) -> dict[str, Array]:
    """Search."""
    grid = fit_grid(inputs["x"], spec_of(parameters), arithmetic)
    return {"scale": grid.scale, "zero": np.zeros(grid.scale.shape, np.int32) if grid.zero is None else grid.zero.astype(np.int32)}


def _rows() -> dict[str, tuple[tuple[str, ...], list[float]]]:
    """Twelve numbers each."""
    bell = [0.02 * (i - 5.5) * (1 + 0.1 * (i - 5.5) * (i - 5.5)) for i in range(12)]
    return {
        "outlier": (("clip-search", "outlier"), [2.5 if i == 3 else value / 3 for i, value in enumerate(bell)]),
        "below": (("clip-search", "lowest-code"), [-2.0 if i == 3 else (i % 4 - 1) * 0.5 + 0.01 for i in range(12)]),
        "bell": (("clip-search", "negative"), bell),
        "one-sided": (("clip-search", "one-sided"), [0.3 + abs(value) for value in bell]),
        "zeros": (("search-tie", "zero-range"), [0.0] * 12),
        "on-grid": (("search-tie",), [((i * 3) % 4 - 1) * 0.5 for i in range(12)]),
        "ramp": (("clip-search",), PATTERNS["ramp"].row("", 0)[:12]),
    }


def _case(scheme: str, bits: int, group: int | None, name: str, dtype: str) -> Case:
    flags, numbers = _rows()[name]
    x = np.array([numbers], dtype=dtype)
    parameters = {"scheme": scheme, "bits": bits, "group": group, "steps": 80, "divisions": 100, "power": 2.4}
    width = group or x.shape[1]
    exact = row(x[0])
    chosen = [search_clip(exact[i : i + width], Uniform(scheme, bits, BINARY[dtype])) for i in range(0, len(exact), width)]
    margins = np.array([[NO_RIVAL if c.margin is None else float(c.margin) for c in chosen]])
    return Case(
        operation=NAME,
        slug=f"{scheme}-b{bits}-{'row' if group is None else f'g{group}'}-{name}-{dtype}",
        parameters=parameters,
        inputs={"x": x},
        expected={
            "scale": np.array([[float(c.grid.scale) for c in chosen]], dtype=dtype),
            "zero": np.array([[c.grid.zero for c in chosen]], dtype=np.int32),
        },
        rules={"scale": margin(BOUND[dtype]), "zero": margin(BOUND[dtype])},
        margins={"scale": margins, "zero": margins},
        flags=flags if group is None else (*flags, "ragged-group"),
        lane="bounded",
    )


def cases() -> Iterator[Case]:
    """Five schemes, two widths, whole rows and groups with a ragged tail."""
    for name in _rows():
        yield _case("asym_incl0", 4, None, name, "float64")
        yield _case("asym_incl0", 3, 8, name, "float32")
    for scheme in ("sym_gptq", "sym_full"):
        for name in ("outlier", "bell", "zeros"):
            yield _case(scheme, 4, None, name, "float64")
        yield _case(scheme, 3, 8, "one-sided", "float32")
    for name in ("outlier", "bell", "one-sided"):
        yield _case("asym_minmax", 3, None, name, "float64")
        yield _case("sym_narrow", 3, 8, name, "float32")
    for scheme in ("sym_full", "sym_narrow"):
        yield _case(scheme, 3, None, "below", "float64")


OPERATION = Operation(
    name=NAME,
    level="scales",
    doc="For i = 0 .. steps-1 both ends of the tile's range (by the scheme, as in uniform.quantize) are multiplied by 1 - i / divisions "
    "(computed in float64, rounded to the dtype of x); scale, zero, codes and values are computed anew; and the error is the sum of "
    "|value - x|^power over the tile. The first i with the least error wins; its scale and zero are the outputs. The margin of a tile is "
    "by how much the error of the next best other grid exceeds the winner's, relatively.",
    inputs=(Part("x", "numbers", "float32 or float64", "[rows, columns]"),),
    outputs=(
        Part("scale", "one scale a tile", "that of x", "[rows, column tiles]"),
        Part("zero", "one zero point a tile; 0 where the scheme has none", "int32", "[rows, column tiles]"),
    ),
    parameters=(
        Parameter("scheme", "asym_incl0, asym_minmax, sym_gptq, sym_full or sym_narrow"),
        Parameter("bits", "2 to 16"),
        Parameter("group", "columns that share a scale, the last group may be shorter; null: whole rows"),
        Parameter("steps", "how many shrinkages are tried"),
        Parameter("divisions", "one step shrinks by 1 / divisions"),
        Parameter("power", "of the absolute errors"),
    ),
    reference=reference,
    cases=cases,
)
