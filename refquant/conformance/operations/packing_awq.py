"""A linear layer in AWQ's two layouts, whose neighbours do not lie side by side."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from refquant.conformance.case import Case
from refquant.conformance.operation import Arrays, Operation, Parameter, Parameters, Part
from refquant.conformance.operations.packing_gptq import scales_of
from refquant.conformance.operations.packing_stream import drawn_codes
from refquant.core import Tiling, spec
from refquant.layout import awq
from refquant.layout.fields import Fields, tensor_of
from refquant.numerics import FAST, Arithmetic
from refquant.numerics.arrays import Array
from refquant.oracle.packing import awq_interleaved, awq_words

NAME, INTERLEAVED = "packing.awq", "packing.awq_interleaved"


def reference(inputs: Arrays, parameters: Parameters, *, arithmetic: Arithmetic = FAST) -> dict[str, Array]:
    """Pack for the GEMM kernel."""
    how = spec("int4", scheme="asym_minmax", tiling=Tiling.group(parameters["group"]), scale_format="float16")
    fields = Fields(codes=inputs["codes"], zero=inputs["zero"].astype(np.int64), scale=inputs["scale"])
    return awq.pack(tensor_of(fields, how))


def interleave(inputs: Arrays, parameters: Parameters, *, arithmetic: Arithmetic = FAST) -> dict[str, Array]:
    """Pack as llm-awq does."""
    return {"qweight": awq.pack_interleaved(inputs["codes"])}


def _case(slug: str, codes: Array, group: int, flags: tuple[str, ...]) -> Case:
    tiles = codes.shape[1] // group
    zero, scale = drawn_codes(81, (len(codes), tiles), 4).astype(np.int32), scales_of((len(codes), tiles))
    zero[0, 0], zero[-1, -1] = 0, 15
    columns, groups = codes.T.tolist(), zero.T.tolist()
    return Case(
        operation=NAME,
        slug=slug,
        parameters={"group": group},
        inputs={"codes": codes, "zero": zero, "scale": scale},
        expected={
            "qweight": np.array([awq_words(line) for line in columns], dtype=np.int32),
            "qzeros": np.array([awq_words(line) for line in groups], dtype=np.int32),
            "scales": np.array(scale.T.tolist(), dtype=np.float16),
        },
        flags=flags,
        lane="exact",
    )


def cases() -> Iterator[Case]:
    """Square and not, and each output of eight by itself."""
    common = ("interleave", "zero-minus-one", "byte-order", "top-bit")
    yield _case("square", drawn_codes(80, (32, 32), 4), 16, (*common, "packing-axis", "nibble-order"))
    yield _case("wide", drawn_codes(82, (16, 64), 4), 32, (*common, "nibble-order"))
    yield _case("tall", drawn_codes(83, (64, 16), 4), 16, (*common, "nibble-order"))
    yield _case("alone", np.eye(8, dtype=np.uint8) * np.uint8(9), 8, ("interleave", "top-bit"))
    yield _case("outputs", np.repeat(np.arange(16, dtype=np.uint8)[:, None], 8, axis=1), 8, ("interleave", "nibble-order", "byte-order"))


def interleaved_cases() -> Iterator[Case]:
    """Without any order; numbered by inputs; by outputs; and one code alone at a time."""
    numbers = np.arange(64)
    made = {
        "drawn": (drawn_codes(84, (8, 128), 4), ("interleave", "nibble-order", "top-bit")),
        "inputs": (np.tile(numbers // 2 % 16, (4, 1)).astype(np.uint8), ("interleave",)),
        "pairs": (np.tile(numbers // 32 * 8 + numbers % 8, (4, 1)).astype(np.uint8), ("interleave", "top-bit")),
        "outputs": (np.repeat(np.arange(8, dtype=np.uint8)[:, None], 64, axis=1), ("interleave",)),
    }
    for slug, (codes, flags) in made.items():
        yield Case(
            operation=INTERLEAVED,
            slug=slug,
            parameters={},
            inputs={"codes": codes},
            expected={"qweight": np.array(awq_interleaved(codes.tolist()), dtype=np.int16)},
            flags=flags,
            lane="exact",
        )


OPERATION = Operation(
    name=NAME,
    level="formats",
    doc="Codes of 4 bits for AWQ's GEMM kernel. Rows of qweight are inputs: nibble i (bits 4 i to 4 i + 3) of word c of row j is the code "
    "of output 8 c + (0, 2, 4, 6, 1, 3, 5, 7)[i] and input j. qzeros: the zero points, as they are, in the same order, a row a group. "
    "scales: transposed.",
    inputs=(
        Part("codes", "codes, 0 to 15", "uint8", "[out, in]"),
        Part("zero", "zero points, 0 to 15", "int32", "[out, groups]"),
        Part("scale", "scales", "float16", "[out, groups]"),
    ),
    outputs=(
        Part("qweight", "words of codes", "int32", "[in, out / 8]"),
        Part("qzeros", "words of zero points", "int32", "[groups, out / 8]"),
        Part("scales", "scales", "float16", "[groups, out]"),
    ),
    parameters=(Parameter("group", "columns of a group; divides them"),),
    reference=reference,
    cases=cases,
)
INTERLEAVED_OPERATION = Operation(
    name=INTERLEAVED,
    level="formats",
    doc="Codes of 4 bits as llm-awq's words of 16. In every row: within 32 inputs, taken as 4 blocks of 4 pairs, pair p of block b becomes "
    "pair number 4 p + b; then within 8 the places 0, 2, 4, 6, 1, 3, 5, 7 follow each other. Then of four rows the first 64 codes of each "
    "follow each other, then the next 64, and so on; four neighbours make a word, the first in its low nibble.",
    inputs=(Part("codes", "codes, 0 to 15", "uint8", "[4 r, 64 c]"),),
    outputs=(Part("qweight", "words of codes", "int16", "[r, 64 c]"),),
    reference=interleave,
    cases=interleaved_cases,
)
