"""Strings of bits, nibbles and GGUF blocks by way of one large integer a row, with one fault to choose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import ml_dtypes
import numpy as np

from refquant.conformance.mutants.mutant import Mutant
from refquant.conformance.operation import Arrays, Parameters
from refquant.numerics.arrays import Array

STREAM: dict[str, tuple[str, str]] = {
    "high_first": ("byte-order", "the first code lies at the top of a word"),
    "nibbles_swapped": ("nibble-order", "the even code lies in the high half of a byte"),
    "big_endian": ("byte-order", "words are written big-endian"),
    "code_reversed": ("straddling-field", "codes begin with their highest bit"),
    "straddling_dropped": ("straddling-field", "what runs over the end of a byte or word is lost"),
    "straddling_low_lost": ("straddling-field", "a code that begins in one word and ends in the next is only in the next"),
    "starts_anew": ("straddling-field", "codes that would run over begin in the next byte or word"),
    "rows_run_on": ("ragged-row", "the next row begins right behind the last code"),
    "padding_set": ("ragged-row", "the bits behind the last code are 1"),
    "last_repeated": ("ragged-row", "the last code is repeated to the end of the word"),
    "last_word_missing": ("ragged-row", "a word that is not full is left out"),
    "clipped": ("top-bit", "words are clipped to the largest signed number instead of wrapped"),
    "low_bits_only": ("top-bit", "the highest bit of every code is masked away"),
}
NIBBLES: dict[str, tuple[str, str]] = {
    "swapped": ("nibble-order", "the other half of the byte comes first"),
    "always_high": ("nibble-order", "the even code lies in the high half whatever is asked for"),
    "halves": ("nibble-order", "codes of the first half of a row share bytes with those of the second"),
    "filler_zero": ("ragged-row", "the half byte behind the last code is 0"),
    "filler_first": ("ragged-row", "an odd row is filled up in front"),
    "odd_dropped": ("ragged-row", "the odd code at the end is left out"),
    "sum_of_halves": ("top-bit", "the high half is shifted by three bits"),
}
Q4_0: dict[str, tuple[str, str]] = {
    "neighbours": ("nibble-order", "elements 2 j and 2 j + 1 share byte j"),
    "halves_swapped": ("nibble-order", "the first half of the elements lies in the high halves"),
    "twos_complement": ("signed-codes", "codes are stored in two's complement instead of plus 8"),
    "unmasked": ("signed-codes", "sign bits of the low code run into the high one"),
    "offset_seven": ("signed-codes", "codes are stored plus 7"),
    "scale_big_endian": ("byte-order", "the scale's high byte comes first"),
    "scale_bfloat16": ("byte-order", "the scale is a bfloat16 number"),
    "scale_unsigned": ("byte-order", "the scale loses its sign"),
    "scale_flushed": ("byte-order", "subnormal scales become 0"),
    "scale_last": ("byte-order", "the scale stands behind the codes"),
}
Q8_0: dict[str, tuple[str, str]] = {
    "offset_binary": ("signed-codes", "codes are stored plus 128"),
    "sign_magnitude": ("signed-codes", "codes are stored as sign and magnitude"),
    "narrow": ("top-bit", "the code -128 becomes -127"),
    **{fault: Q4_0[fault] for fault in ("scale_big_endian", "scale_bfloat16", "scale_unsigned", "scale_flushed", "scale_last")},
}
"""``name: (flag that must catch it, what is wrong)``."""


def line_of(codes: Sequence[int], bits: int, unit: int, fault: str) -> list[int]:
    """One row as unsigned numbers of `unit` bits."""
    count, per, string = -(-len(codes) * bits // unit), unit // bits, 0
    if fault == "starts_anew":
        count = -(-len(codes) // per)
    if fault == "last_repeated" and unit % bits == 0:
        codes = [*codes, *[codes[-1]] * (count * per - len(codes))]
    for i, code in enumerate(codes):
        at = i // per * unit + i % per * bits if fault == "starts_anew" else bits * i
        over = at % unit + bits - unit
        if over > 0 and fault == "straddling_dropped":
            code &= (1 << bits - over) - 1
        if over > 0 and fault == "straddling_low_lost":
            code = code >> bits - over << bits - over
        if fault == "code_reversed":
            code = int(f"{code:0{bits}b}"[::-1], 2)
        if fault == "low_bits_only":
            code &= (1 << bits - 1) - 1
        if fault == "high_first":
            at = count * unit - bits - at
        string |= code << (at ^ 4 if fault == "nibbles_swapped" and bits == 4 else at)
    if fault == "padding_set":
        string |= ((1 << count * unit) - 1) >> len(codes) * bits << len(codes) * bits
    string &= (1 << count * unit) - 1
    numbers = [string >> unit * w & (1 << unit) - 1 for w in range(count)]
    if fault == "high_first":
        numbers.reverse()
    if fault == "big_endian":
        numbers = [int.from_bytes(number.to_bytes(unit // 8, "little"), "big") for number in numbers]
    if fault == "last_word_missing" and len(codes) * bits % unit:
        numbers.pop()
    return [min(number, (1 << unit - 1) - 1) for number in numbers] if fault == "clipped" else numbers


def lines_of(codes: Array, bits: int, unit: int, fault: str) -> Array:
    """Every row of a matrix; words of 32 and 16 bits as signed numbers."""
    dtype = {8: np.uint8, 16: np.uint16, 32: np.uint32}[unit]
    rows, count = len(codes), -(-codes.shape[1] * bits // unit)
    if fault == "rows_run_on":
        numbers = line_of(codes.ravel().tolist(), bits, unit, "")
        found = np.array(numbers + [0] * (rows * count - len(numbers)), dtype=dtype).reshape(rows, count)
    else:
        found = np.array([line_of(row, bits, unit, fault) for row in codes.tolist()], dtype=dtype)
    return found if unit == 8 else found.view(f"i{unit // 8}")


def stream(inputs: Arrays, parameters: Parameters, *, fault: str = "") -> Mapping[str, Array]:
    """Strings of bits; wrong in one way if a fault is named."""
    return {"packed": lines_of(inputs["codes"], int(parameters["bits"]), 8 if parameters["unit"] == "bytes" else 32, fault)}


def nibbles(inputs: Arrays, parameters: Parameters, *, fault: str = "") -> Mapping[str, Array]:
    """Two codes a byte; wrong in one way if a fault is named."""
    codes = np.asarray(inputs["codes"])
    if codes.shape[1] % 2:
        filler = np.full((len(codes), 1), 0 if fault == "filler_zero" else parameters["filler"], codes.dtype)
        parts = [filler, codes] if fault == "filler_first" else [codes, filler]
        codes = codes[:, :-1] if fault == "odd_dropped" else np.concatenate(parts, axis=1)
    even, odd = codes[:, ::2], codes[:, 1::2]
    if fault == "halves":
        even, odd = np.split(codes, 2, axis=1)
    high_first = parameters["first"] == "high" or fault == "always_high"
    high, low = (even, odd) if high_first != (fault == "swapped") else (odd, even)
    return {"packed": (low | high << np.uint8(3 if fault == "sum_of_halves" else 4)).astype(np.uint8)}


def _block(scales: Array, data: Array, fault: str) -> Mapping[str, Array]:
    d = np.asarray(scales).astype("<f2")
    if fault == "scale_unsigned":
        d = np.abs(d)
    if fault == "scale_flushed":
        d = np.where(np.abs(d) < np.finfo(np.float16).tiny, d.dtype.type(0), d)
    stored = d.astype(ml_dtypes.bfloat16).view("<u2") if fault == "scale_bfloat16" else d.view("<u2")
    head = stored.astype(">u2" if fault == "scale_big_endian" else "<u2").reshape(-1, 1).view(np.uint8)
    parts = [data, head] if fault == "scale_last" else [head, data]
    return {"blocks": np.concatenate(parts, axis=1)}


def q4_0(inputs: Arrays, parameters: Parameters, *, fault: str = "") -> Mapping[str, Array]:
    """Blocks of Q4_0; wrong in one way if a fault is named."""
    codes = np.asarray(inputs["codes"]).astype(np.int64)
    fields = codes if fault in ("twos_complement", "unmasked") else codes + (7 if fault == "offset_seven" else 8)
    fields = fields if fault == "unmasked" else fields & 15
    low, high = (fields[:, ::2], fields[:, 1::2]) if fault == "neighbours" else (fields[:, :16], fields[:, 16:])
    if fault == "halves_swapped":
        low, high = high, low
    return _block(inputs["d"], (low | high << 4).astype(np.uint8), fault)


def q8_0(inputs: Arrays, parameters: Parameters, *, fault: str = "") -> Mapping[str, Array]:
    """Blocks of Q8_0; wrong in one way if a fault is named."""
    codes = np.asarray(inputs["codes"]).astype(np.int64)
    if fault == "offset_binary":
        codes = codes + 128
    if fault == "sign_magnitude":
        codes = np.where(codes < 0, 128 - codes, codes)
    if fault == "narrow":
        codes = np.maximum(codes, -127)
    return _block(inputs["d"], codes.astype(np.uint8), fault)


PROGRAMS = (
    ("packing.stream", stream, STREAM),
    ("packing.nibbles", nibbles, NIBBLES),
    ("packing.gguf_q4_0", q4_0, Q4_0),
    ("packing.gguf_q8_0", q8_0, Q8_0),
)
MUTANTS = tuple(
    Mutant(name=f"{operation}-{fault}", operation=operation, flag=flag, what=what, run=partial(run, fault=fault))
    for operation, run, faults in PROGRAMS
    for fault, (flag, what) in faults.items()
)
RIGHT = {operation: run for operation, run, _ in PROGRAMS}
