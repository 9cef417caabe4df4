"""Codes as dense strings of bits, and two a byte: what every packed layout is made of."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np

from refquant.conformance.case import Case
from refquant.conformance.operation import Arrays, Operation, Parameter, Parameters, Part
from refquant.conformance.streams import words
from refquant.layout.bits import pack_nibbles, pack_stream, pack_words
from refquant.numerics import FAST, Arithmetic
from refquant.numerics.arrays import Array
from refquant.oracle.packing import nibbles, stream_bytes, stream_words

NAME, NIBBLES = "packing.stream", "packing.nibbles"
Half = Literal["low", "high"]
DTYPES = {"bytes": np.uint8, "words": np.int32}
LENGTHS = (64, 37)
"""Whole words whatever the width; and a number that no width fills its last word with."""


def drawn_codes(seed: int, shape: tuple[int, ...], bits: int) -> Array:
    """Codes without any order, from raw words."""
    drawn = words(seed, 0, int(np.prod(shape))) >> np.uint64(64 - bits)
    return drawn.astype(np.uint8).reshape(shape)


def reference(inputs: Arrays, parameters: Parameters, *, arithmetic: Arithmetic = FAST) -> dict[str, Array]:
    """Pack."""
    pack = pack_stream if parameters["unit"] == "bytes" else pack_words
    return {"packed": pack(inputs["codes"], parameters["bits"])}


def pack_two(inputs: Arrays, parameters: Parameters, *, arithmetic: Arithmetic = FAST) -> dict[str, Array]:
    """Pack, two codes a byte."""
    codes = np.asarray(inputs["codes"])
    spare = np.full((len(codes), codes.shape[1] % 2), parameters["filler"], dtype=codes.dtype)
    return {"packed": pack_nibbles(np.concatenate([codes, spare], axis=1), parameters["first"])}


def _stream_case(bits: int, unit: str, slug: str, codes: Array, flags: list[str]) -> Case:
    pack = stream_bytes if unit == "bytes" else stream_words
    return Case(
        operation=NAME,
        slug=f"b{bits}-{unit}-{slug}",
        parameters={"bits": bits, "unit": unit},
        inputs={"codes": codes},
        expected={"packed": np.array([pack(line, bits) for line in codes.tolist()], dtype=DTYPES[unit])},
        flags=tuple(flags),
        lane="exact",
    )


def cases() -> Iterator[Case]:
    """Every width in bytes and words: rows that fill them, rows that do not, and one code alone among zeros."""
    for bits in range(1, 9):
        top = (1 << bits) - 1
        for unit, size in (("bytes", 8), ("words", 32)):
            straddling = ["straddling-field"] * (size % bits > 0)
            for length in LENGTHS:
                flags = ["ordinary", *straddling, *["nibble-order"] * (bits == 4), *["byte-order"] * (unit == "words")]
                flags += ["ragged-row"] * (length * bits % size > 0)
                yield _stream_case(bits, unit, f"n{length}", drawn_codes(bits, (3, length), bits), flags)
            ones = np.full((2, 33), top, dtype=np.uint8)
            yield _stream_case(bits, unit, "ones", ones, ["top-bit", "ragged-row", *straddling])
            # Row r has one code that is not 0, the r-th: the place of every code by itself.
            alone = (np.eye(32, dtype=np.uint8) * (1 << (bits - 1) | 1)).astype(np.uint8)
            yield _stream_case(bits, unit, "alone", alone, ["top-bit", *straddling])


def _nibble_case(first: Half, filler: int, slug: str, codes: Array, flags: tuple[str, ...]) -> Case:
    return Case(
        operation=NIBBLES,
        slug=f"{first}-f{filler}-{slug}",
        parameters={"first": first, "filler": filler},
        inputs={"codes": codes},
        expected={"packed": np.array([nibbles(line, first, filler) for line in codes.tolist()], dtype=np.uint8)},
        flags=flags,
        lane="exact",
    )


def nibble_cases() -> Iterator[Case]:
    """Both orders, whole bytes and half ones, with the codes that 0 has in NF4 and FP4 behind the last."""
    orders: list[tuple[Half, int]] = [("low", 0), ("high", 0), ("high", 7)]
    for number, (first, filler) in enumerate(orders):
        yield _nibble_case(first, filler, "n32", drawn_codes(20 + number, (3, 32), 4), ("nibble-order", "top-bit"))
        yield _nibble_case(first, filler, "n33", drawn_codes(30 + number, (3, 33), 4), ("nibble-order", "ragged-row"))
        yield _nibble_case(first, filler, "n1", np.array([[9], [0]], dtype=np.uint8), ("nibble-order", "ragged-row"))
        pairs = np.array([[i // 16, i % 16] for i in range(256)], dtype=np.uint8)
        yield _nibble_case(first, filler, "pairs", pairs, ("nibble-order", "top-bit"))


OPERATION = Operation(
    name=NAME,
    level="formats",
    doc="Every row is one string of bits: bit k of code i is bit bits * i + k of the string. Bit j of the string is bit j mod 8 of byte "
    "j // 8, counted from the least significant one; in words it is bit j mod 32 of word j // 32, which is the same bytes, little-endian. "
    "A row fills as few bytes or words as hold it; the bits behind its last code are 0. Reading is the inverse.",
    inputs=(Part("codes", "codes, each below 2^bits", "uint8", "[rows, n]"),),
    outputs=(Part("packed", "bytes or words", "uint8 or int32", "[rows, ceil(n * bits / 8 or 32)]"),),
    parameters=(Parameter("bits", "1 to 8"), Parameter("unit", "bytes (uint8) or words (int32)")),
    reference=reference,
    cases=cases,
)
NIBBLES_OPERATION = Operation(
    name=NIBBLES,
    level="formats",
    doc="Two codes of 4 bits a byte: codes 2 j and 2 j + 1 of a row share byte j, the even one in its low or high half as `first` says. "
    "Behind an odd number of codes the half that is left over holds the filler. low: what packing.stream gives; high: bitsandbytes, "
    "whose filler is the code of 0 (7 in NF4, 0 in FP4).",
    inputs=(Part("codes", "codes, 0 to 15", "uint8", "[rows, n]"),),
    outputs=(Part("packed", "bytes", "uint8", "[rows, ceil(n / 2)]"),),
    parameters=(Parameter("first", "low or high: the half that even codes lie in"), Parameter("filler", "the code behind the last")),
    reference=pack_two,
    cases=nibble_cases,
)
