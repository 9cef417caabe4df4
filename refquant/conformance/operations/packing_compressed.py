"""Signed codes in the ``pack-quantized`` layout of compressed-tensors."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from refquant.conformance.case import Case
from refquant.conformance.operation import Arrays, Operation, Parameter, Parameters, Part
from refquant.conformance.operations.packing_gptq import scales_of
from refquant.conformance.operations.packing_stream import drawn_codes
from refquant.core import Tiling, spec
from refquant.layout import compressed_tensors
from refquant.layout.fields import Fields, tensor_of
from refquant.numerics import FAST, Arithmetic
from refquant.numerics.arrays import Array
from refquant.oracle.packing import offset_words

NAME = "packing.compressed_tensors"


def reference(inputs: Arrays, parameters: Parameters, *, arithmetic: Arithmetic = FAST) -> dict[str, Array]:
    """Pack; unsigned fields are what this package's tensors have under schemes with zero points."""
    bits, half = parameters["bits"], 1 << (parameters["bits"] - 1)
    rows, columns = inputs["codes"].shape
    tiles = inputs["zero"].shape[1]
    how = spec(f"int{bits}", scheme="asym_minmax", tiling=Tiling.group(columns // tiles), scale_format="float16")
    fields = Fields(
        codes=(inputs["codes"].astype(np.int16) + half).astype(np.uint8),
        zero=inputs["zero"].astype(np.int64) + half,
        scale=scales_of((rows, tiles)),
    )
    found = compressed_tensors.pack(tensor_of(fields, how))
    return {name: found[name] for name in ("weight_packed", "weight_zero_point", "weight_shape")}


def _case(bits: int, shape: tuple[int, int], tiles: int) -> Case:
    half = 1 << (bits - 1)
    codes, zero = (
        (drawn_codes(seed + bits, size, bits).astype(np.int16) - half).astype(np.int8)
        for seed, size in ((100, shape), (110, (shape[0], tiles)))
    )
    codes[0, 0], codes[0, -1], zero[-1, 0] = -half, half - 1, -half
    lines = [offset_words(line, bits) for line in codes.tolist()]
    zeros = [offset_words(line, bits) for line in zero.T.tolist()]
    flags = ["signed-codes", "top-bit", *["straddling-field"] * (32 % bits > 0), *["nibble-order"] * (bits == 4)]
    flags += ["packing-axis"] * (shape[0] == shape[1]) + ["ragged-row"] * (shape[1] * bits % 32 > 0)
    return Case(
        operation=NAME,
        slug=f"b{bits}-{shape[0]}x{shape[1]}-t{tiles}",
        parameters={"bits": bits},
        inputs={"codes": codes, "zero": zero},
        expected={
            "weight_packed": np.array(lines, dtype=np.int32),
            "weight_zero_point": np.array([[line[w] for line in zeros] for w in range(len(zeros[0]))], dtype=np.int32),
            "weight_shape": np.array(shape, dtype=np.int64),
        },
        flags=tuple(flags),
        lane="exact",
    )


def cases() -> Iterator[Case]:
    """Every width, square and with rows and outputs that do not fill a word."""
    for bits in range(2, 9):
        yield _case(bits, (32, 32), 2)
        yield _case(bits, (5, 21), 3)


OPERATION = Operation(
    name=NAME,
    level="formats",
    doc="weight_packed: code + 2^(bits-1) of every row as a stream of int32 words (packing.stream). weight_zero_point: zero + "
    "2^(bits-1) of every group as a stream of words along the outputs, words by groups. weight_shape: rows and columns of the codes.",
    inputs=(
        Part("codes", "codes, -2^(bits-1) to 2^(bits-1) - 1", "int8", "[out, in]"),
        Part("zero", "zero points in the same range", "int8", "[out, groups]"),
    ),
    outputs=(
        Part("weight_packed", "words of codes", "int32", "[out, ceil(in * bits / 32)]"),
        Part("weight_zero_point", "words of zero points", "int32", "[ceil(out * bits / 32), groups]"),
        Part("weight_shape", "out and in", "int64", "[2]"),
    ),
    parameters=(Parameter("bits", "2 to 8"),),
    reference=reference,
    cases=cases,
)
