"""NVFP4: blocks of e2m1, scales in e4m3fn, one float32 scale over them; in the arithmetic of three programs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction

import numpy as np

from refquant.conformance.case import Case
from refquant.conformance.operation import Arrays, Operation, Parameter, Parameters, Part
from refquant.core import Tiling, spec
from refquant.core.block_formats import find_block_format
from refquant.core.scales import CodedScales
from refquant.formats import find_format
from refquant.methods.grid.rtn import rtn
from refquant.numerics import FAST, Arithmetic
from refquant.numerics.arrays import Array
from refquant.oracle import BINARY32
from refquant.oracle.formats import code_meaning, encode_number

NAME = "block.nvfp4"
BLOCK = 8
"""Half of NVFP4's 16: the corners are the same."""
PROGRAMS = ("nvfp4", "nvfp4_torchao", "nvfp4_compressed_tensors")
TOP, INNER = Fraction(6), Fraction(448)


def reference(inputs: Arrays, parameters: Parameters, *, arithmetic: Arithmetic = FAST) -> dict[str, Array]:
    """Quantize and dequantize."""
    block = find_block_format(parameters["program"])
    how = spec(find_format(block.element), scheme=block.scheme, tiling=Tiling.group(parameters["block"]), scales=block.scales)
    found = rtn(inputs["x"], how, arithmetic)
    coded = found.coded or CodedScales(codes=np.zeros(0, np.uint8))
    outer = np.zeros(0, np.float32) if coded.outer is None else coded.outer.reshape(1)
    return {"codes": found.codes, "scale_codes": coded.codes, "outer": outer, "values": found.dequantize(np.dtype(np.float32))}


def _member(code: int, name: str) -> Fraction:
    meaning = code_meaning(code, find_format(name))
    return meaning if isinstance(meaning, Fraction) else Fraction(0)


def _block_scale(top: Fraction, outer: Fraction, program: str) -> int:
    """Code of a block's scale."""
    raw, inner = BINARY32(top / TOP), find_format("e4m3fn")
    ratio = BINARY32(outer * raw) if program == "nvfp4_compressed_tensors" else BINARY32(raw / outer)
    if program == "nvfp4_torchao":
        ratio = max(ratio, Fraction(1, 64))
    code = encode_number(ratio, inner)
    if code == 0:
        code = encode_number(Fraction(1, 8), inner) if program == "nvfp4_compressed_tensors" else 1
    return encode_number(Fraction(1), inner) if top == 0 and program == "nvfp4" else code


def by_oracle(x: Array, parameters: Parameters) -> dict[str, Array]:
    """In fractions, every operation rounded to binary32 in the order of the program."""
    program, width, element = parameters["program"], parameters["block"], find_format("e2m1")
    exact = [[Fraction(float(number)) for number in line] for line in x]
    largest = max(abs(number) for line in exact for number in line)
    outer = Fraction(1)
    if largest:
        outer = BINARY32(TOP * INNER / largest if program == "nvfp4_compressed_tensors" else largest / (TOP * INNER))
    blocks = -(-x.shape[1] // width)
    codes, scales, values = np.zeros(x.shape, np.uint8), np.zeros((len(x), blocks), np.uint8), np.zeros(x.shape, np.float32)
    for row, block in np.ndindex(scales.shape):
        numbers: Sequence[Fraction] = exact[row][block * width : (block + 1) * width]
        code = _block_scale(max(abs(number) for number in numbers), outer, program)
        member = _member(code, "e4m3fn")
        scale = BINARY32(member / outer if program == "nvfp4_compressed_tensors" else member * outer)
        factor = BINARY32(BINARY32(1 / outer) / member)
        scales[row, block] = code
        for i, number in enumerate(numbers, block * width):
            quotient = BINARY32(number * factor if program == "nvfp4_torchao" else number / scale)
            codes[row, i] = encode_number(quotient, element, negative=bool(np.signbit(x[row, i])))
            value = float(BINARY32(_member(int(codes[row, i]), "e2m1") * scale))
            values[row, i] = -0.0 if value == 0 and np.signbit(x[row, i]) else value
    return {"codes": codes, "scale_codes": scales, "outer": np.array([float(outer)], np.float32), "values": values}


def _ramp(size: float, count: int = BLOCK) -> list[float]:
    return [*(size * ((i * 5) % 17 - 8) / 9 for i in range(count - 1)), -size]


def _rows() -> dict[str, tuple[tuple[str, ...], list[list[float]]]]:
    scale_ties = [6 * float((1 + Fraction(2 * k + 1, 16)) * (1 << k) / 16) for k in range(8)]
    near = [float(np.nextafter(np.float32(t), np.float32(end))) for t in scale_ties for end in (0, np.inf)]
    steps = [0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0]
    return {
        "ordinary": (("ordinary", "nested-scale"), [_ramp(1.3) + _ramp(0.7), _ramp(3.3) + _ramp(2.1)]),
        "unit": (("tie", "negative", "nested-scale"), [[2688.0, *steps, 6.0, *(-s for s in steps)], [6.0, *steps, -0.0, -6.0, *steps[1:]]]),
        "sizes": (("group-statistics", "group-boundary", "shared-range"), [_ramp(100.0) + _ramp(0.9), _ramp(0.02) + _ramp(7.0)]),
        "scale-ties": (("tie", "nested-scale"), [[2688.0] + [0.0] * 7 + [n for t in scale_ties for n in _ramp(t)]]),
        "near-ties": (("near-tie", "nested-scale"), [[3.3] + [0.0] * 7 + [n for t in near for n in _ramp(t * 3.3 / 2688)]]),
        "zeros": (("zero-range",), [[0.0] * BLOCK + _ramp(2.0), [0.0, -0.0] * BLOCK]),
        "all-zero": (("zero-range",), [[0.0] * BLOCK]),
        "ragged": (("ragged-group",), [_ramp(5.0) + _ramp(0.3, 5), _ramp(0.6) + _ramp(4.0, 5)]),
        "positive": (("one-sided",), [[abs(v) for v in _ramp(1.3)], [-abs(v) for v in _ramp(0.8)]]),
        "small-blocks": (("subnormal-scale", "nested-scale"), [_ramp(2688.0) + _ramp(0.05), _ramp(0.01) + _ramp(0.005)]),
        "vanishing-blocks": (("subnormal-scale", "tiny"), [_ramp(2688.0) + _ramp(0.004), _ramp(1e-4) + _ramp(1e-9)]),
        "tiny": (("tiny",), [_ramp(1e-30) + _ramp(3e-31), _ramp(2e-31) + _ramp(1e-32)]),
    }


def cases() -> Iterator[Case]:
    """Every row in the arithmetic of every program."""
    for program in PROGRAMS:
        for slug, (flags, rows) in _rows().items():
            x, parameters = np.array(rows, dtype=np.float32), {"program": program, "block": BLOCK}
            yield Case(
                operation=NAME,
                slug=f"{program}-{slug}",
                parameters=parameters,
                inputs={"x": x},
                expected=by_oracle(x, parameters),
                flags=flags,
                lane="exact",
            )


DOC = """Blocks of `block` columns (NVFP4 has 16), elements e2m1, a scale in e4m3fn each, one float32 scale `outer` over the tensor. Every
operation is rounded to float32; t is the largest magnitude of the tensor, a that of a block, r = a / 6. Rounding to formats as in
format.encode, half_even, saturating. nvfp4 (nvidia-modelopt): outer = t / 2688; S = e4m3fn(r / outer), the smallest member if that is 0, 1
if a = 0; scale = S * outer; code = e2m1(x / scale). nvfp4_torchao: the same outer; S = e4m3fn(max(r / outer, 2^-6)); code =
e2m1(x * ((1 / outer) / S)); scale = S * outer. nvfp4_compressed_tensors: outer = 2688 / t; S = e4m3fn(outer * r), 1/8 if that is 0;
scale = S / outer; code = e2m1(x / scale). outer is 1 if t = 0. values = number of the code * scale; -0 keeps its sign."""

OPERATION = Operation(
    name=NAME,
    level="codes",
    doc=DOC,
    inputs=(Part("x", "numbers", "float32", "[rows, columns]"),),
    outputs=(
        Part("codes", "codes of e2m1", "uint8", "[rows, columns]"),
        Part("scale_codes", "codes of e4m3fn", "uint8", "[rows, blocks]"),
        Part("outer", "the scale of the scales", "float32", "[1]"),
        Part("values", "numbers after quantization", "float32", "[rows, columns]"),
    ),
    parameters=(
        Parameter("program", ", ".join(PROGRAMS)),
        Parameter("block", "columns that share a scale; the last block of a row may be shorter"),
    ),
    reference=reference,
    cases=cases,
)
