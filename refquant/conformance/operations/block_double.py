"""Double quantization: blocks of NF4 or FP4, whose scales are 8-bit codes around their mean."""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction
from itertools import pairwise

import numpy as np

from refquant.conformance.case import Case
from refquant.conformance.operation import Arrays, Operation, Parameter, Parameters, Part
from refquant.core import spec
from refquant.core.scales import CodedScales
from refquant.formats import CODEBOOKS, Codebook, find_format
from refquant.methods.grid.rtn import rtn
from refquant.numerics import FAST, Arithmetic
from refquant.numerics.arrays import Array
from refquant.oracle import BINARY32
from refquant.oracle.formats import code_meaning, encode_number

NAME = "block.double"
RUN = 256
"""Scales that share an outer one."""


def reference(inputs: Arrays, parameters: Parameters, *, arithmetic: Arithmetic = FAST) -> dict[str, Array]:
    """Quantize and dequantize."""
    found = rtn(inputs["x"], spec(f"{parameters['element']}_double", group_size=parameters["block"]), arithmetic)
    coded = found.coded or CodedScales(codes=np.zeros(0, np.uint8))
    outer = np.zeros(0, np.float32) if coded.outer is None else coded.outer
    offset = np.zeros((), np.float32) if coded.offset is None else coded.offset
    return {
        "codes": found.codes,
        "scale_codes": coded.codes,
        "outer": outer,
        "offset": offset.reshape(1),
        "values": found.dequantize(np.dtype(np.float32)),
    }


def _element(name: str) -> Codebook:
    return next(book for book in CODEBOOKS if book.name == name)


def _number(code: int, name: str) -> Fraction:
    meaning = code_meaning(code, find_format(name))
    return meaning if isinstance(meaning, Fraction) else Fraction(0)


def by_oracle(x: Array, parameters: Parameters) -> dict[str, Array]:
    """In fractions, every operation rounded to binary32 in the order of the definition; the mean is exact until it is rounded."""
    element, width = _element(parameters["element"]), parameters["block"]
    shape = len(x), x.shape[1] // width
    exact = [[Fraction(float(number)) for number in line] for line in x]
    tops = [max(abs(n) for n in line[start : start + width]) for line in exact for start in range(0, len(line), width)]
    offset = BINARY32(sum(tops, Fraction(0)) / len(tops))
    rest = [BINARY32(top - offset) for top in tops]
    outer, scale_codes = [], []
    for start in range(0, len(rest), RUN):
        largest = max(abs(number) for number in rest[start : start + RUN])
        outer.append(largest or Fraction(1))
        inverse = BINARY32(1 / outer[-1])
        scale_codes += [
            encode_number(BINARY32(number * inverse), find_format("dynamic8"), "half_down") for number in rest[start : start + RUN]
        ]
    scales = [BINARY32(BINARY32(_number(code, "dynamic8") * outer[i // RUN]) + offset) for i, code in enumerate(scale_codes)]
    codes, values = np.zeros(x.shape, np.uint8), np.zeros(x.shape, np.float32)
    for row, column in np.ndindex(x.shape):
        block = row * shape[1] + column // width
        factor = BINARY32(1 / tops[block]) if tops[block] else Fraction(1)
        codes[row, column] = encode_number(BINARY32(exact[row][column] * factor), element, "half_down")
        value = BINARY32(_number(int(codes[row, column]), element.name) * scales[block])
        # A zero has the sign of the product: a scale that is read with its coding error may be below 0 where the block is small.
        values[row, column] = float(value) if value else math.copysign(0.0, element.table[codes[row, column]]) * float(scales[block] or 1)
    return {
        "codes": codes,
        "scale_codes": np.array(scale_codes, np.uint8).reshape(shape),
        "outer": np.array([float(number) for number in outer], np.float32),
        "offset": np.array([float(offset)], np.float32),
        "values": values,
    }


def _row(sizes: list[float], width: int) -> list[float]:
    """A block of each size: numbers over its range, the largest magnitude last or first, of either sign."""
    found: list[float] = []
    for number, size in enumerate(sizes):
        inner = [size * ((i * 13 + number * 5) % 31 - 15) / 16 for i in range(width - 1)]
        found += [*inner, -size] if number % 2 else [size, *inner]
    return found


def _rows() -> dict[str, tuple[tuple[str, ...], int, list[list[float]]]]:
    """Flags, block size and rows. Sizes are multiples of 1/64, so that their mean is exact in any order of summation."""
    plain = [(8 + (i * 11) % 23) / 64 for i in range(8)]
    # 320 blocks: one run of 256 and a shorter one, of very different spread; the last row crosses from the first run into the second.
    many = [[(64 + (i * 7 + r * 3) % 32) / 64 if r * 40 + i < RUN else (16 + 40 * (i % 5)) / 64 for i in range(40)] for r in range(8)]
    steps = [(64 + k) / 64 for k in (-32, -16, -8, -4, -2, -1, 0, 1, 2, 4, 8, 16, 32, 0, 0, 0)]
    tie = [1.0, *(float(np.float32((a + b) / 2)) for a, b in pairwise(_element("nf4").table))]
    odd = [[float(np.float32(top)) * value for value in tie] for top in (0.7, 0.3)]
    beside = [float(np.nextafter(np.float32(value), np.float32(9))) for value in odd[0][1:]]
    return {
        "ordinary": (("ordinary", "negative", "nested-scale"), 16, [_row(plain[:4], 16), _row(plain[4:], 16)]),
        "runs": (("group-statistics", "nested-scale"), 4, [_row(sizes, 4) for sizes in many]),
        "spread": (("nested-scale", "group-boundary"), 8, [_row(steps[:8], 8), _row(steps[8:], 8)]),
        "equal": (("constant",), 8, [_row([0.5, 0.5], 8), _row([0.5, 0.5], 8)]),
        "zeros": (("zero-range",), 8, [[0.0] * 8 + _row([0.75], 8), _row([0.25], 8) + [0.0] * 8]),
        "ties": (
            ("tie", "near-tie"),
            16,
            [tie + [-v for v in tie], [float(np.nextafter(np.float32(v), np.float32(9))) / 2 for v in tie] + tie],
        ),
        "near-ties": (("near-tie",), 16, [odd[0] + odd[1], odd[1] + [odd[0][0], *beside]]),
        "positive": (("one-sided",), 8, [[abs(v) for v in _row(plain[:2], 8)], [-abs(v) for v in _row(plain[2:4], 8)]]),
    }


def cases() -> Iterator[Case]:
    """Both elements on every row."""
    for element in ("nf4", "fp4"):
        for slug, (flags, width, rows) in _rows().items():
            x, parameters = np.array(rows, dtype=np.float32), {"element": element, "block": width}
            yield Case(
                operation=NAME,
                slug=f"{element}-{slug}",
                parameters=parameters,
                inputs={"x": x},
                expected=by_oracle(x, parameters),
                flags=flags,
                lane="exact",
            )


DOC = """Blocks of `block` columns; a is the largest magnitude of a block. Every operation is rounded to float32. offset is the mean of all
a (in float64, then rounded); d = a - offset. Blocks are counted row by row; 256 of them share outer, the largest |d| of theirs, 1 if that
is 0. scale_codes = dynamic8(d * (1 / outer)). codes = element(x * (1 / a)), where a block of zeros has the factor 1. scale = number of the
scale code * outer + offset; values = number of the code * scale. Codebooks as in codebook.encode, whose vectors hold the tables: nf4 and
fp4 (midpoints rounded to float32, ties to the lower number, fp4 with 8 as the second code of 0), dynamic8 (exact midpoints, ties to the
lower number)."""

OPERATION = Operation(
    name=NAME,
    level="codes",
    doc=DOC,
    inputs=(Part("x", "numbers", "float32", "[rows, columns]"),),
    outputs=(
        Part("codes", "codes of the element", "uint8", "[rows, columns]"),
        Part("scale_codes", "codes of dynamic8", "uint8", "[rows, blocks]"),
        Part("outer", "scales of the scales", "float32", "[runs]"),
        Part("offset", "the mean that was taken off", "float32", "[1]"),
        Part("values", "numbers after quantization", "float32", "[rows, columns]"),
    ),
    parameters=(Parameter("element", "nf4 or fp4"), Parameter("block", "columns that share a scale; it divides the columns")),
    reference=reference,
    cases=cases,
)
