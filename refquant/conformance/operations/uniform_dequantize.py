"""Uniform dequantization: numbers from codes, scale and zero point."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

import numpy as np

from refquant.conformance.case import Case
from refquant.conformance.operation import Arrays, Operation, Parameter, Parameters, Part
from refquant.core import Grid, Tiling, decode, spec
from refquant.numerics import FAST, Arithmetic
from refquant.numerics.arrays import Array
from refquant.numerics.casting import FLOAT_DTYPES
from refquant.oracle import BINARY32, BINARY64, fraction

NAME = "uniform.dequantize"
BINARY = {"float32": BINARY32, "float64": BINARY64}
SCALES = {
    "plain": ("ordinary", (0.1, 0.37, 3.0)),
    "large": ("large", (3e4, 511.7, 6e4)),
    "subnormal": ("subnormal-scale", (6e-8, 3e-5, 1e-7)),
}
"""Three scales a row, flagged; every stored format holds numbers near them, and the last are subnormal in float16."""


def reference(inputs: Arrays, parameters: Parameters, *, arithmetic: Arithmetic = FAST) -> dict[str, Array]:
    """Decode on the grid that is given."""
    group, zero = parameters["group"], np.asarray(inputs["zero"])
    how = spec(f"uint{16 if inputs['codes'].dtype.itemsize > 1 else 8}", tiling=Tiling.channel() if group is None else Tiling.group(group))
    grid = Grid(scale=inputs["scale"], zero=zero)
    return {"values": decode(inputs["codes"], grid, how, np.dtype(parameters["dtype"]))}


def _expected(codes: Array, scale: Array, zero: Array, group: int | None, dtype: str) -> Array:
    """Exact fractions; the scale is rounded, and the product."""
    width = group or codes.shape[1]
    values = np.zeros(codes.shape, dtype)
    for row, column in np.ndindex(codes.shape):
        tile = row, column // width
        steps = int(codes[row, column]) - int(zero[tile])
        values[row, column] = float(BINARY[dtype](BINARY[dtype](fraction(scale[tile])) * Fraction(steps)))
    return values


def _case(stored: str, name: str, codes: Array, zeros: tuple[int, ...], slug: str, flags: tuple[str, ...], dtype: str = "float32") -> Case:
    flag, numbers = SCALES[name]
    group = -(-codes.shape[1] // 3)
    scale = np.array([numbers], dtype=np.float64).astype(FLOAT_DTYPES[stored])
    zero = np.array([zeros], dtype=np.int32)
    if flag == "subnormal-scale" and stored != "float16":
        flag = "tiny"
    return Case(
        operation=NAME,
        slug=f"{stored}-{slug}-{name}" + ("" if dtype == "float32" else f"-{dtype}"),
        parameters={"group": group, "dtype": dtype},
        inputs={"codes": codes, "scale": scale, "zero": zero},
        expected={"values": _expected(codes, scale, zero, group, dtype)},
        flags=(flag, *flags),
        lane="exact",
    )


def cases() -> Iterator[Case]:
    """All 8-bit codes of both signs under three scales, in every stored format; 16-bit codes; zero points at and beyond the ends."""
    unsigned = np.arange(256, dtype=np.uint8)[None]
    signed = np.arange(-128, 128, dtype=np.int8)[None]
    wide = np.array([[0, 1, 255, 256, 32767, 32768, 65534, 65535] * 2], dtype=np.uint16)
    for stored in FLOAT_DTYPES:
        for name in SCALES:
            yield _case(stored, name, unsigned, (128, 0, 255), "u8", ("zero-point", "ragged-group", "group-boundary"))
        yield _case(stored, "plain", signed, (0, 0, 0), "i8", ("lowest-code", "ragged-group"))
        yield _case(stored, "plain", wide, (32768, 0, 65535), "u16", ("zero-point", "group-boundary"))
        yield _case(stored, "plain", unsigned, (-10000, 300, 10000), "wide-zero", ("zero-point",))
    yield _case("float32", "plain", unsigned, (128, 0, 255), "u8", ("zero-point", "ragged-group"), "float64")
    yield _case("float64", "plain", unsigned, (128, 0, 255), "u8", ("zero-point", "ragged-group"), "float64")


OPERATION = Operation(
    name=NAME,
    level="codes",
    doc="value = scale * (code - zero): the difference is exact (wider than the codes), the product is rounded once to dtype. A code has "
    "no sign of zero: the value of code = zero is 0.0. A scale that is not of dtype is converted to it first, rounding to nearest.",
    inputs=(
        Part("codes", "codes", "uint8, int8 or uint16", "[rows, columns]"),
        Part("scale", "one scale a tile", "float16, bfloat16, float32 or float64", "[rows, column tiles]"),
        Part("zero", "one zero point a tile; 0 where there is none", "int32", "[rows, column tiles]"),
    ),
    outputs=(Part("values", "numbers", "dtype", "[rows, columns]"),),
    parameters=(
        Parameter("group", "columns that share a scale, the last group may be shorter; null: whole rows"),
        Parameter("dtype", "float32 or float64: what is computed in and returned"),
    ),
    reference=reference,
    cases=cases,
)
