"""A linear layer in GPTQ's layout, with the zero points of every kind of file."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import get_args

import numpy as np

from refquant.conformance.case import Case
from refquant.conformance.operation import Arrays, Operation, Parameter, Parameters, Part
from refquant.conformance.operations.packing_stream import drawn_codes
from refquant.core import Tiling, spec
from refquant.layout import gptq
from refquant.layout.fields import Fields, tensor_of
from refquant.numerics import FAST, Arithmetic
from refquant.numerics.arrays import Array
from refquant.oracle.packing import Zeros, gptq_words, gptq_zeros

NAME = "packing.gptq"
WIDTHS = (2, 3, 4, 5, 6, 7, 8)
PLANAR = (5, 6, 7)


def reference(inputs: Arrays, parameters: Parameters, *, arithmetic: Arithmetic = FAST) -> dict[str, Array]:
    """Pack."""
    how = spec(f"int{parameters['bits']}", scheme="asym_omni", tiling=Tiling.group(parameters["group"]), scale_format="float16")
    fields = Fields(codes=inputs["codes"], zero=inputs["zero"].astype(np.int64), scale=inputs["scale"])
    order = inputs["order"].astype(np.int64)
    in_turn = bool((order == np.arange(len(order))).all())
    return gptq.pack(tensor_of(fields, how, permutation=None if in_turn else order), parameters["zeros"])


def scales_of(shape: tuple[int, int]) -> Array:
    """float16 numbers, no two alike."""
    return (np.arange(1, 1 + shape[0] * shape[1]).reshape(shape) / 512).astype(np.float16)


def _by_oracle(inputs: dict[str, Array], bits: int, group: int, zeros: Zeros) -> dict[str, Array]:
    """Every word by itself; lists of outputs and of groups become columns."""
    codes, zero, scale, order = (inputs[name].tolist() for name in ("codes", "zero", "scale", "order"))
    lines = [gptq_words(line, bits) for line in codes]
    tiles = range(len(zero[0]))
    return {
        "qweight": np.array([[line[w] for line in lines] for w in range(len(lines[0]))], dtype=np.int32),
        "qzeros": np.array([gptq_zeros([line[t] for line in zero], bits, zeros) for t in tiles], dtype=np.int32),
        "scales": np.array([[line[t] for line in scale] for t in tiles], dtype=np.float16),
        "g_idx": np.array([order.index(column) // group for column in range(len(order))], dtype=np.int32),
    }


def _case(bits: int, zeros: Zeros, slug: str, shape: tuple[int, int], group: int, *, act_order: bool = False, least: int = 0) -> Case:
    rows, columns = shape
    tiles = -(-columns // group)
    levels = 1 << bits
    zero = drawn_codes(60 + bits, (rows, tiles), bits).astype(np.int32)
    if zeros == "v1":
        zero += 1  # 1 to 2^bits is what its fields hold
    elif least:
        zero = np.maximum(zero, least)
    else:
        zero[0, 0], zero[1, 0], zero[-1, -1], zero[4, :] = 0, levels - 1, 0, 0
    columns_in_turn = np.arange(columns)
    # 13 has no factor in common with the columns: a permutation that is not its own inverse.
    order = (columns_in_turn * 13 + 5) % columns if act_order else columns_in_turn
    inputs = {
        "codes": drawn_codes(40 + bits, shape, bits),
        "zero": zero,
        "scale": scales_of((rows, tiles)),
        "order": order.astype(np.int32),
    }
    flags = ["zero-minus-one", "top-bit"]
    flags += ["packing-axis"] * (rows == columns) + ["act-order"] * act_order + ["byte-order"] * (32 % bits == 0)
    flags += ["straddling-field"] * (bits == 3) + ["bit-planes"] * (bits in PLANAR) + ["nibble-order"] * (bits == 4)
    flags += ["borrow"] * (zeros in ("v1_gptqmodel", "v1_autogptq") and not least)
    return Case(
        operation=NAME,
        slug=f"b{bits}-{zeros}-{slug}",
        parameters={"bits": bits, "group": group, "zeros": zeros},
        inputs=inputs,
        expected=_by_oracle(inputs, bits, group, zeros),
        flags=tuple(flags),
        lane="exact",
    )


def cases() -> Iterator[Case]:
    """Every width with every kind of zero points; square and not; columns in turn and in activation order; a ragged last group."""
    for bits, zeros in product(WIDTHS, get_args(Zeros)):
        if zeros != "v1_autogptq" or 32 % bits == 0:
            yield _case(bits, zeros, "square", (32, 32), 16)
    for bits in (3, 4, 6):
        yield _case(bits, "v1", "act-order", (32, 64), 16, act_order=True)
        yield _case(bits, "v2", "wide", (32, 64), 64)
        yield _case(bits, "v1", "tall", (64, 32), 8)
    yield _case(4, "v1", "ragged", (32, 64), 48)
    yield _case(4, "v1_gptqmodel", "no-borrow", (32, 32), 16, least=1)


OPERATION = Operation(
    name=NAME,
    level="formats",
    doc="qweight: for every output the codes of its inputs as one stream of int32 words (packing.stream), words by outputs. Of 5, 6 and 7 "
    "bits it is, for each 32 codes, as many words of planes instead: first the low four bits of the 32 codes as a stream, then (6 and 7 "
    "bits) the next two, then (5 and 7 bits) the highest one. qzeros: for every group the zero points "
    "of the outputs, packed likewise. v2: as they are. v1: each less one (they are 1 to 2^bits). v1_gptqmodel, widths that divide 32: "
    "the words of v2, from which the word that has 1 in every field is subtracted modulo 2^32, so that a 0 borrows; other widths: zero - 1 "
    "modulo 2^bits. v1_autogptq (2, 4, 8 bits): zero - 1 as a 32-bit number in two's complement, shifted to its field, OR-ed into the word "
    "without masking. scales: transposed. g_idx[order[k]] = k // group.",
    inputs=(
        Part("codes", "codes by the columns as they stand", "uint8", "[out, in]"),
        Part("zero", "zero points", "int32", "[out, groups]"),
        Part("scale", "scales", "float16", "[out, groups]"),
        Part("order", "the columns in the order that groups count them; 0, 1, 2, ... if as they stand", "int32", "[in]"),
    ),
    outputs=(
        Part("qweight", "words of codes", "int32", "[in * bits / 32, out]"),
        Part("qzeros", "words of zero points", "int32", "[groups, out * bits / 32]"),
        Part("scales", "scales", "float16", "[groups, out]"),
        Part("g_idx", "the group of every input", "int32", "[in]"),
    ),
    parameters=(
        Parameter("bits", "2 to 8"),
        Parameter("group", "columns of a group; the last may have fewer"),
        Parameter("zeros", "v1, v2, v1_gptqmodel or v1_autogptq"),
    ),
    reference=reference,
    cases=cases,
)
