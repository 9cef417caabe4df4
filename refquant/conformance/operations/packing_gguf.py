"""Blocks of GGUF as bytes: Q4_0 and Q8_0."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from math import ldexp

import numpy as np

from refquant.conformance.case import Case
from refquant.conformance.operation import Arrays, Operation, Parameters, Part, Reference
from refquant.conformance.operations.packing_stream import drawn_codes
from refquant.layout.gguf.fields import BlockType, Fields
from refquant.layout.gguf.q4_0 import Q4_0
from refquant.layout.gguf.q8_0 import Q8_0
from refquant.numerics import FAST, Arithmetic
from refquant.numerics.arrays import Array
from refquant.oracle.packing import q4_0, q8_0

SIZE = 32
SCALES = [1.0, -0.0625, 0.1, 65504.0, ldexp(1.0, -24), ldexp(-1.0, -14), 0.0, -3.140625]
Block = Callable[[Sequence[int], float], list[int]]


def _reference(kind: BlockType) -> Reference:
    def reference(inputs: Arrays, parameters: Parameters, *, arithmetic: Arithmetic = FAST) -> dict[str, Array]:
        """Write blocks."""
        return {"blocks": kind.pack(Fields(codes=inputs["codes"], d=inputs["d"]))}

    return reference


def _case(name: str, block: Block, slug: str, codes: Array, scales: Array, flags: tuple[str, ...]) -> Case:
    expected = [block(line, scale) for line, scale in zip(codes.tolist(), scales.tolist(), strict=True)]
    return Case(
        operation=name,
        slug=slug,
        parameters={},
        inputs={"codes": codes, "d": scales},
        expected={"blocks": np.array(expected, dtype=np.uint8)},
        flags=flags,
        lane="exact",
    )


def cases(name: str, bits: int, block: Block) -> Iterator[Case]:
    """Codes without order, the ends of their range, one code alone at a time; scales of both signs, subnormal and large."""
    half = 1 << (bits - 1)
    order = ("nibble-order",) if bits == 4 else ("ordinary",)
    scales = np.array(SCALES, dtype=np.float16)
    drawn = (drawn_codes(120 + bits, (8, SIZE), bits).astype(np.int16) - half).astype(np.int8)
    yield _case(name, block, "drawn", drawn, scales, (*order, "signed-codes", "byte-order"))
    ends = np.tile(np.array([-half, half - 1, -1, 0, 1, -half, -half, half - 1], dtype=np.int8), (2, 4))
    yield _case(name, block, "ends", ends, scales[:2], ("signed-codes", "top-bit", *order))
    alone = (np.eye(SIZE, dtype=np.int8) * np.int8(1 - half)).astype(np.int8)
    yield _case(name, block, "alone", alone, np.full(SIZE, 0.3, dtype=np.float16), ("signed-codes", "byte-order", *order))


def _operation(kind: BlockType, name: str, bits: int, block: Block, doc: str) -> Operation:
    return Operation(
        name=name,
        level="formats",
        doc=f"Blocks of 32 codes on one float16 scale d, whose two bytes come first, the lower one first. {doc}",
        inputs=(
            Part("codes", f"codes of {bits} bits", "int8", "[blocks, 32]"),
            Part("d", "scales, of either sign", "float16", "[blocks]"),
        ),
        outputs=(Part("blocks", "bytes", "uint8", f"[blocks, {kind.nbytes}]"),),
        reference=_reference(kind),
        cases=partial(cases, name, bits, block),
    )


Q4_0_OPERATION = _operation(
    Q4_0,
    "packing.gguf_q4_0",
    4,
    q4_0,
    "Then 16 bytes: byte j has code + 8 of element j in its low half and of element j + 16 in its high half.",
)
Q8_0_OPERATION = _operation(Q8_0, "packing.gguf_q8_0", 8, q8_0, "Then the 32 codes in two's complement.")
