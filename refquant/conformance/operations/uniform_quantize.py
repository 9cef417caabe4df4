"""Uniform quantization: scale, zero point and codes, by every scheme, width, tiling and stored scale."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from itertools import product

import numpy as np

from refquant.conformance.case import Case
from refquant.conformance.operation import Arrays, Operation, Parameter, Parameters, Part
from refquant.conformance.patterns import GROUP, PATTERNS, rows
from refquant.conformance.streams import Stream, words
from refquant.core import SCHEMES, QuantSpec, Tiling, encode, fit_grid, spec
from refquant.numerics import FAST, Arithmetic
from refquant.numerics.arrays import Array
from refquant.numerics.casting import FLOAT_DTYPES
from refquant.oracle import BFLOAT16, BINARY16, BINARY32, BINARY64, Uniform, UniformGrid, margin, quantize_row, row

NAME = "uniform.quantize"
BITS = (2, 3, 4, 8, 16)
TILINGS: dict[str, int | None] = {"row": None, "g16": GROUP, "tensor": None}
STORED = {"own": None, "f16": "float16", "bf16": "bfloat16"}
BINARY = {"float16": BINARY16, "bfloat16": BFLOAT16, "float32": BINARY32, "float64": BINARY64}
ORACLE_NAMES = {"sym_gptq_half_range": "sym_gptq_compat"}


DOC = """code = clip(round(x / s) + z, codes), with one scale s and zero z a tile. All in the working dtype (that of x; float32 for
float16), one rounding an operation, in the order: range lo..hi of the tile, scale, rounding of the scale to scale_format (half to even;
what becomes 0 becomes the smallest positive number of both dtypes), zero from the stored scale (rn: half to even), quotient, rounding,
sum, clip. b = bits, L = 2^b - 1, m = the largest |x|; codes are 0..L, or signed where said.
asym_incl0: lo = min(x, 0), hi = max(x, 0); if both are 0, -1..1. s = (hi - lo) / L; z = rn(-lo / s) clipped to 0..L.
asym_minmax: lo, hi the extremes. s = max(hi - lo, 1e-5) / L; z = rn(-lo / s) clipped to 0..L.
asym_omni: lo, hi the extremes. s = (hi - lo) / L clipped to 1e-5..1e4; z = rn(-lo / s clipped to -1e4..1e4), not clipped to the codes.
sym_full: s = max(m, 1e-5) / (2^(b-1) - 1); no zero; codes -2^(b-1)..2^(b-1)-1. sym_narrow: the same without the lowest code.
sym_gptq: s = (m - -m) / L; if m = 0, m = 1; z = 2^(b-1). sym_gptq_half_range: so, but where no x is below 0, s = m / L."""


def spec_of(parameters: Parameters) -> QuantSpec:
    """The spec that a case's parameters say."""
    group, granularity = parameters["group"], parameters["granularity"]
    tiling = Tiling.channel() if group is None else Tiling.block(group, group) if granularity == "block" else Tiling.group(group)
    tiling = Tiling.tensor() if granularity == "tensor" else tiling
    return spec(
        f"int{parameters['bits']}",
        scheme=parameters["scheme"],
        tiling=tiling,
        scale_format=parameters["scale_format"],
        rounding=parameters["rounding"],
    )


def reference(inputs: Arrays, parameters: Parameters, *, arithmetic: Arithmetic = FAST) -> dict[str, Array]:
    """Fit the grid and encode."""
    how = spec_of(parameters)
    grid = fit_grid(inputs["x"], how, arithmetic)
    zero = np.zeros(grid.scale.shape, np.int32) if grid.zero is None else grid.zero.astype(np.int32)
    return {"codes": encode(inputs["x"], grid, how), "scale": grid.scale, "zero": zero}


def by_oracle(x: Array, parameters: Parameters) -> tuple[dict[str, Array], Array, list[list[UniformGrid]]]:
    """Outputs and decision margins by exact fractions, and the grids of each row (of every tile that spans several rows)."""
    how = spec_of(parameters)
    stored, working = parameters["scale_format"], "float64" if x.dtype == np.float64 else "float32"
    asked = str(parameters["scheme"])
    name = ORACLE_NAMES.get(asked, asked)
    scheme = Uniform(name, parameters["bits"], BINARY[working], BINARY.get(stored), parameters["rounding"])
    places, group, counts = _lines(x.shape, parameters)
    lines = [x.ravel()[place] for place in places]
    coded = [quantize_row(row(line), scheme, group) for line in lines]
    codes, margins = np.zeros(x.size, how.format.dtype), np.zeros(x.size, np.float32)
    for place, xs, line in zip(places, lines, coded, strict=True):
        span = group or len(xs)
        codes[place] = line.codes
        margins[place] = [float(max(Fraction(0), margin(value, line.codes[i], line.grids[i // span]))) for i, value in enumerate(row(xs))]
    grids = [line.grids for line in coded]
    found = {
        "codes": codes.reshape(x.shape),
        "scale": np.array([float(grid.scale) for line in grids for grid in line]).astype(FLOAT_DTYPES[stored or working]).reshape(counts),
        "zero": np.array([grid.zero for line in grids for grid in line], dtype=np.int32).reshape(counts),
    }
    return found, margins.reshape(x.shape), grids


def _lines(shape: tuple[int, ...], parameters: Parameters) -> tuple[list[Array], int | None, tuple[int, int]]:
    """Places in the flat array that are coded together, the run that shares a scale within them, and how many tiles there are each way."""
    places, group = np.arange(shape[0] * shape[1]).reshape(shape), parameters["group"]
    if parameters["granularity"] == "tensor":
        return [places.ravel()], None, (1, 1)
    if parameters["granularity"] == "row":
        return list(places), group, (shape[0], -(-shape[1] // (group or shape[1])))
    corners = list(product(range(0, shape[0], group), range(0, shape[1], group)))
    tiles = [places[top : top + group, left : left + group].ravel() for top, left in corners]
    return tiles, None, (-(-shape[0] // group), -(-shape[1] // group))


def _case(scheme: str, bits: int, tiling: str, stored: str, name: str, dtype: str = "float32", rounding: str = "half_even") -> Case:
    pattern = PATTERNS[name]
    parameters = {
        "scheme": scheme,
        "bits": bits,
        "granularity": "tensor" if tiling == "tensor" else "row",
        "group": TILINGS[tiling],
        "scale_format": STORED[stored],
        "rounding": rounding,
    }
    x = rows(pattern, scheme, bits, tiling, dtype)
    expected, margins, grids = by_oracle(x, parameters)
    slug = "-".join([scheme, f"b{bits}", tiling, stored, name])
    slug += "" if dtype == "float32" else f"-{dtype}"
    slug += "" if rounding == "half_even" else f"-{rounding}"
    flags = _flags(name, x, expected, parameters, grids)
    nearest = {"codes": margins} if rounding.startswith("half") else {}
    return Case(
        operation=NAME, slug=slug, parameters=parameters, inputs={"x": x}, expected=expected, margins=nearest, flags=flags, lane="exact"
    )


def _flags(name: str, x: Array, expected: dict[str, Array], parameters: Parameters, grids: list[list[UniformGrid]]) -> tuple[str, ...]:
    """The pattern's flags where they hold, and those that show in the result alone."""
    pattern, stored = PATTERNS[name], parameters["scale_format"]
    tiling = "tensor" if parameters["granularity"] == "tensor" else "g16" if parameters["group"] else "row"
    # A coarse scale moves ties and ranges: what a pattern was made for is then not there.
    holds = tiling in pattern.tilings and parameters["scheme"].startswith(pattern.schemes) and not (stored and name.endswith("ties"))
    flags = [flag for flag in pattern.flags if holds and flag != "subnormal-scale"] or ["ordinary"]
    binary = BINARY[stored or ("float64" if x.dtype == np.float64 else "float32")]
    found = [grid for line in grids for grid in line]
    if any(grid.scale < Fraction(1, 2**-binary.emin) for grid in found):
        flags.append("subnormal-scale")
    if stored:
        flags.append("stored-scale")
    if tiling == "tensor":
        flags.append("shared-range")
    if _saturates(x, expected, parameters):
        flags.append("saturation")
    if parameters["scheme"] == "sym_full" and (expected["codes"] == found[0].lo).any():
        flags.append("lowest-code")
    return tuple(dict.fromkeys(flags))


def _saturates(x: Array, expected: dict[str, Array], parameters: Parameters) -> bool:
    """Whether a number lies more than half a step beyond the last code of its grid."""
    how = spec_of(parameters)
    scale, zero = (how.tiling.expand(expected[name].astype(np.float64), x.shape) for name in ("scale", "zero"))
    steps = x.astype(np.float64) / scale + zero
    return bool(((steps > how.format.hi + 0.5) | (steps < how.format.lo - 0.5)).any())


def _block_case(scheme: str, bits: int, stored: str) -> Case:
    """Tiles of 4 x 4 of a matrix that ends within tiles both ways: one of them zero, one without the other sign, all of another size."""
    sizes = np.array([[1.0, 37.0, 0.2], [5.0, 0.01, 0.0]])
    i, j = np.indices((6, 10))
    numbers = (i * 7 + j * 5) % 17 - np.where((i < 4) & (j >= 8), -1.0, 8.0)
    x = (numbers / 8 * sizes[i // 4, j // 4]).astype(np.float32)
    parameters = {
        "scheme": scheme,
        "bits": bits,
        "granularity": "block",
        "group": 4,
        "scale_format": STORED[stored],
        "rounding": "half_even",
    }
    expected, margins, _ = by_oracle(x, parameters)
    flags = ("block-tile", "ragged-group", "zero-range", *("stored-scale",) * (stored != "own"))
    return Case(
        operation=NAME,
        slug=f"{scheme}-b{bits}-block4-{stored}",
        parameters=parameters,
        inputs={"x": x},
        expected=expected,
        margins={"codes": margins},
        flags=flags,
        lane="exact",
    )


def cases() -> Iterator[Case]:
    """Every combination on one pattern in turn, and every pattern at the usual widths."""
    names = list(PATTERNS)
    usual = {(scheme, bits, tiling, "own", name) for scheme in SCHEMES for bits, tiling in ((4, "g16"), (8, "row")) for name in names}
    turn = {(*how, names[number % len(names)]) for number, how in enumerate(product(SCHEMES, BITS, TILINGS, STORED))}
    stored = {(scheme, 4, "g16", "f16", name) for scheme in SCHEMES for name in ("ramp", "zero-ties", "tiny", "blocks")}
    for how in sorted(usual | turn | stored):
        yield _case(*how)
    for dtype, name in product(("float16", "float64"), ("ramp", "ties")):
        yield _case("asym_incl0", 4, "g16", "own", name, dtype)
    for rounding, name in product(("half_away", "trunc_half", "floor", "ceil"), ("ramp", "ties")):
        yield _case("sym_narrow", 4, "g16", "own", name, rounding=rounding)
    for scheme, (bits, scale) in product(SCHEMES, ((4, "own"), (8, "f16"))):
        yield _block_case(scheme, bits, scale)


def _stream(scheme: str, number: int) -> Stream:
    def make(start: int, stop: int) -> dict[str, Array]:
        drawn = words(100 + number, start * 64, stop * 64).reshape(-1, 64)
        n = (drawn >> np.uint64(40)).astype(np.int64) - (1 << 23)
        shift = (drawn[:, :1] % np.uint64(32)).astype(np.int32) + ((drawn >> np.uint64(8)) % np.uint64(4)).astype(np.int32)
        return {"x": np.ldexp(n.astype(np.float32), -shift)}

    return Stream(
        slug=f"{scheme}-b4-g16",
        what=f"row r has 64 numbers n * 2^-k, exactly, in float32: n = (w >> 40) - 2^23, k = w0 mod 32 + (w >> 8) mod 4, w = word 64 r + j "
        f"of seed {100 + number} for column j, w0 that of column 0",
        parameters={"scheme": scheme, "bits": 4, "granularity": "row", "group": 16, "scale_format": None, "rounding": "half_even"},
        make=make,
        rows=1 << 14,
        block=1 << 8,
    )


OPERATION = Operation(
    name=NAME,
    level="codes",
    doc=DOC,
    inputs=(Part("x", "numbers", "float16, float32 or float64", "[rows, columns]"),),
    outputs=(
        Part("codes", "codes, in the smallest integer dtype of the scheme's sign", "uint8, int8, uint16 or int16", "[rows, columns]"),
        Part("scale", "one scale a tile, in scale_format or the working dtype", "floating", "[row tiles, column tiles]"),
        Part("zero", "one zero point a tile; 0 where the scheme has none", "int32", "[row tiles, column tiles]"),
    ),
    parameters=(
        Parameter("scheme", f"one of {', '.join(SCHEMES)}"),
        Parameter("bits", "2 to 16"),
        Parameter("granularity", "row: tiles lie inside rows; tensor: one tile for all; block: squares of group x group"),
        Parameter("group", "columns (of blocks, rows too) that share a scale, the last tile may be shorter; null: whole rows"),
        Parameter("scale_format", "null (the working dtype), float16 or bfloat16"),
        Parameter("rounding", "of the quotient: half_even, half_away, trunc_half, floor, ceil; zero points always round half to even"),
    ),
    reference=reference,
    cases=cases,
    streams=tuple(_stream(scheme, number) for number, scheme in enumerate(SCHEMES)),
)
