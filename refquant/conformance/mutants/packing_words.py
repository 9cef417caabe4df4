"""Linear layers in the layouts of GPTQ, AWQ and compressed-tensors, with one fault to choose."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np

from refquant.conformance.mutants.mutant import Mutant
from refquant.conformance.mutants.packing_streams import lines_of
from refquant.conformance.operation import Arrays, Parameters
from refquant.numerics.arrays import Array

GPTQ: dict[str, tuple[str, str]] = {
    "never_less_one": ("zero-minus-one", "zero points of v1 are stored as they are"),
    "twice_less_one": ("zero-minus-one", "zero points of v1 are stored less two"),
    "always_less_one": ("zero-minus-one", "zero points of v2 are stored less one, too"),
    "plus_one": ("zero-minus-one", "one is added to zero points of v1 instead of subtracted"),
    "borrow_lost": ("borrow", "zero points of 0 wrap around in their field and leave the neighbours alone"),
    "borrow_clamped": ("borrow", "zero points of 0 stay 0"),
    "minus_one_masked": ("borrow", "the -1 that a 0 becomes is masked to its field before it is OR-ed in"),
    "minus_one_added": ("borrow", "the -1 that a 0 becomes is added to the word instead of OR-ed in"),
    "along_outputs": ("packing-axis", "codes are packed along the outputs"),
    "scales_not_transposed": ("packing-axis", "scales are written by outputs"),
    "nibbles_swapped": ("nibble-order", "the even code lies in the high half of a byte"),
    "high_first": ("byte-order", "the first code lies at the top of a word"),
    "big_endian": ("byte-order", "words are written big-endian"),
    "straddling_dropped": ("straddling-field", "what runs over the end of a word is lost"),
    "straddling_low_lost": ("straddling-field", "a code that begins in one word and ends in the next is only in the next"),
    "starts_anew": ("straddling-field", "ten codes of 3 bits a word"),
    "planes_as_stream": ("bit-planes", "codes of 5, 6 and 7 bits are one stream"),
    "planes_high_first": ("bit-planes", "the plane of the highest bits comes first"),
    "planes_by_row": ("bit-planes", "each plane runs over all inputs before the next begins"),
    "planes_narrow_low": ("bit-planes", "the narrow plane has the low bits"),
    "clipped": ("top-bit", "words are clipped to the largest signed number instead of wrapped"),
    "order_not_inverted": ("act-order", "g_idx is the order divided by the group, not its inverse"),
    "order_ignored": ("act-order", "g_idx counts the columns as they stand"),
    "codes_in_order": ("act-order", "codes are written in the order of quantization"),
}
AWQ: dict[str, tuple[str, str]] = {
    "in_turn": ("interleave", "the eight outputs of a word follow each other"),
    "inverse": ("interleave", "the inverse of the order is taken"),
    "zeros_in_turn": ("interleave", "zero points follow each other in their words"),
    "codes_in_turn": ("interleave", "only zero points are interleaved"),
    "halves": ("interleave", "the first and the last four outputs alternate, the last ones first"),
    "less_one": ("zero-minus-one", "zero points are stored less one, as GPTQ does"),
    "along_inputs": ("packing-axis", "codes are packed along the inputs"),
    "nibbles_swapped": ("nibble-order", "the even place lies in the high half of a byte"),
    "high_first": ("byte-order", "the first place lies at the top of a word"),
    "big_endian": ("byte-order", "words are written big-endian"),
    "clipped": ("top-bit", "words are clipped to the largest signed number instead of wrapped"),
}
INTERLEAVED: dict[str, tuple[str, str]] = {
    "pairs_in_turn": ("interleave", "pairs within 32 inputs follow each other"),
    "single_codes": ("interleave", "codes take the place of pairs: every eighth follows"),
    "places_in_turn": ("interleave", "even and odd places are not taken apart"),
    "places_inverse": ("interleave", "even and odd places alternate where they should be taken apart"),
    "odd_first": ("interleave", "odd places come first"),
    "rows_in_turn": ("interleave", "four rows follow each other whole"),
    "rows_by_code": ("interleave", "four rows alternate code by code"),
    "rows_by_32": ("interleave", "rows alternate every 32 inputs"),
    "nibbles_swapped": ("nibble-order", "the first code lies in the high half of a byte"),
    "clipped": ("top-bit", "words are clipped to the largest signed number instead of wrapped"),
}
COMPRESSED: dict[str, tuple[str, str]] = {
    "unmasked": ("signed-codes", "negative codes are OR-ed in with all their sign bits"),
    "twos_complement": ("signed-codes", "codes are stored in two's complement instead of with an offset"),
    "zeros_twos_complement": ("signed-codes", "zero points are stored in two's complement"),
    "offset_off_by_one": ("signed-codes", "the offset is 2^(b-1) - 1"),
    "along_outputs": ("packing-axis", "codes are packed along the outputs"),
    "zeros_along_groups": ("packing-axis", "zero points are packed along the groups"),
    "padding_offset": ("ragged-row", "the padding is 0 before the offset is added"),
    "rows_run_on": ("ragged-row", "the next row begins right behind the last code"),
    "packed_shape": ("ragged-row", "weight_shape is what the words hold, not how many columns there are"),
    "starts_anew": ("straddling-field", "codes that would run over begin in the next word"),
    "straddling_dropped": ("straddling-field", "what runs over the end of a word is lost"),
    "nibbles_swapped": ("nibble-order", "the even code lies in the high half of a byte"),
    "clipped": ("top-bit", "words are clipped to the largest signed number instead of wrapped"),
}
"""``name: (flag that must catch it, what is wrong)``."""


def _planes(bits: int, fault: str) -> list[tuple[int, int]]:
    widths = [width for width in (4, 2, 1) if bits & width]
    if fault == "planes_narrow_low":
        widths.reverse()
    starts = [sum(widths[:n]) for n in range(len(widths))]
    planes = list(zip(starts, widths, strict=True))
    return planes[::-1] if fault == "planes_high_first" else planes


def _gptq_lines(codes: Array, bits: int, fault: str) -> Array:
    """Rows as words: a stream, or planes."""
    if bits not in (5, 6, 7) or fault == "planes_as_stream":
        return lines_of(codes, bits, 32, fault)
    span = codes.shape[1] if fault == "planes_by_row" else 32
    chunks = [codes[:, start : start + span] for start in range(0, codes.shape[1], span)]
    return np.concatenate(
        [lines_of(chunk >> at & (1 << width) - 1, width, 32, fault) for chunk in chunks for at, width in _planes(bits, fault)], axis=1
    )


def _gptq_zeros(zero: Array, bits: int, how: str, fault: str) -> Array:
    """Zero points ``[groups, out]`` as words."""
    levels = 1 << bits
    less = {"never_less_one": 0, "twice_less_one": 2, "plus_one": -1}.get(fault, 1)
    if how == "v2":
        return _gptq_lines(zero - 1 & levels - 1 if fault == "always_less_one" else zero, bits, fault)
    if how == "v1":
        return _gptq_lines(zero - less & levels - 1, bits, fault)
    if 32 % bits or (fault == "borrow_lost" and how == "v1_gptqmodel"):
        return _gptq_lines(zero - 1 & levels - 1, bits, fault)
    if fault == "borrow_clamped":
        return _gptq_lines(np.maximum(zero - 1, 0), bits, fault)
    if how == "v1_gptqmodel":
        ones = np.uint32(((1 << 32) - 1) // (levels - 1))
        if fault not in ("high_first", "big_endian", "nibbles_swapped", "clipped"):
            return np.asarray((_gptq_lines(zero, bits, "").view(np.uint32) - ones).view(np.int32))
    joined = np.zeros((len(zero), zero.shape[1] * bits // 32), dtype=np.int64)
    for place in range(32 // bits):
        field = zero[:, place :: 32 // bits] - 1
        field = field & levels - 1 if fault == "minus_one_masked" else field
        adds = fault == "minus_one_added" or how == "v1_gptqmodel"
        joined = joined + (field << place * bits) if adds else joined | field << place * bits
    # As fields again, which the fault then packs in its way.
    fields = np.stack([joined >> bits * place & levels - 1 for place in range(32 // bits)], axis=-1)
    return _gptq_lines(fields.reshape(zero.shape), bits, fault)


def gptq(inputs: Arrays, parameters: Parameters, *, fault: str = "") -> Mapping[str, Array]:
    """GPTQ's layout; wrong in one way if a fault is named."""
    bits, group = int(parameters["bits"]), int(parameters["group"])
    codes, zero, order = (np.asarray(inputs[name]).astype(np.int64) for name in ("codes", "zero", "order"))
    if fault == "codes_in_order":
        codes = codes[:, order]
    turns = np.argsort(order, kind="stable")
    if fault in ("order_not_inverted", "order_ignored"):
        turns = order if fault == "order_not_inverted" else np.arange(len(order))
    lines = _gptq_lines(codes.T if fault == "along_outputs" else codes, bits, fault)
    scale = np.asarray(inputs["scale"])
    return {
        "qweight": np.ascontiguousarray(lines.T),
        "qzeros": _gptq_zeros(zero.T, bits, str(parameters["zeros"]), fault),
        "scales": scale if fault == "scales_not_transposed" else np.ascontiguousarray(scale.T),
        "g_idx": (turns // group).astype(np.int32),
    }


def _awq_lines(fields: Array, order: list[int], fault: str) -> Array:
    eights = fields.reshape(len(fields), fields.shape[1] // 8, 8)[..., order]
    return lines_of(eights.reshape(fields.shape), 4, 32, fault)


def awq(inputs: Arrays, parameters: Parameters, *, fault: str = "") -> Mapping[str, Array]:
    """AWQ's GEMM layout; wrong in one way if a fault is named."""
    codes, zero = (np.asarray(inputs[name]).astype(np.int64) for name in ("codes", "zero"))
    right, plain = [0, 2, 4, 6, 1, 3, 5, 7], list(range(8))
    order = {"in_turn": plain, "inverse": [0, 4, 1, 5, 2, 6, 3, 7], "halves": [4, 0, 5, 1, 6, 2, 7, 3]}.get(fault, right)
    zero = zero - 1 & 15 if fault == "less_one" else zero
    return {
        "qweight": _awq_lines(codes if fault == "along_inputs" else codes.T, plain if fault == "codes_in_turn" else order, fault),
        "qzeros": _awq_lines(zero.T, plain if fault == "zeros_in_turn" else order, fault),
        "scales": np.ascontiguousarray(np.asarray(inputs["scale"]).T),
    }


def interleaved(inputs: Arrays, parameters: Parameters, *, fault: str = "") -> Mapping[str, Array]:
    """llm-awq's layout; wrong in one way if a fault is named."""
    codes = np.asarray(inputs["codes"])
    rows, columns = codes.shape
    places = np.arange(32)
    if fault == "single_codes":
        places = places.reshape(4, 8).T.ravel()
    elif fault != "pairs_in_turn":
        places = places.reshape(4, 4, 2).swapaxes(0, 1).ravel()
    inner = {"places_in_turn": list(range(8)), "places_inverse": [0, 4, 1, 5, 2, 6, 3, 7], "odd_first": [1, 3, 5, 7, 0, 2, 4, 6]}
    places = places.reshape(4, 8)[:, inner.get(fault, [0, 2, 4, 6, 1, 3, 5, 7])].ravel()
    ordered = codes.reshape(rows, columns // 32, 32)[..., places].reshape(rows, columns)
    span = {"rows_in_turn": columns, "rows_by_code": 1, "rows_by_32": 32}.get(fault, 64)
    four = ordered.reshape(rows // 4, 4, columns // span, span).swapaxes(1, 2).reshape(rows // 4, 4 * columns)
    return {"qweight": lines_of(four, 4, 16, fault)}


def compressed(inputs: Arrays, parameters: Parameters, *, fault: str = "") -> Mapping[str, Array]:
    """The layout of compressed-tensors; wrong in one way if a fault is named."""
    bits = int(parameters["bits"])
    half, mask = 1 << bits - 1, (1 << bits) - 1
    codes, zero = (np.asarray(inputs[name]).astype(np.int64) for name in ("codes", "zero"))
    shape = codes.shape
    if fault == "padding_offset":
        spare = np.zeros((shape[0], -shape[1] % 32 if 32 % bits else -shape[1] % (32 // bits)), np.int64)
        words = -(-shape[1] * bits // 32)
        codes = np.concatenate([codes, spare[:, : words * 32 // bits - shape[1]]], axis=1)
    offset = half - 1 if fault == "offset_off_by_one" else half
    fields = codes if fault == "unmasked" else codes & mask if fault == "twos_complement" else codes + offset & mask
    zeros = zero & mask if fault == "zeros_twos_complement" else zero + half
    packed = lines_of(fields.T if fault == "along_outputs" else fields, bits, 32, fault)
    along = lines_of(zeros, bits, 32, "").T if fault == "zeros_along_groups" else lines_of(zeros.T, bits, 32, fault).T
    columns = packed.shape[1] * 32 // bits if fault == "packed_shape" else shape[1]
    return {
        "weight_packed": packed,
        "weight_zero_point": np.ascontiguousarray(along),
        "weight_shape": np.array([shape[0], columns], dtype=np.int64),
    }


PROGRAMS = (
    ("packing.gptq", gptq, GPTQ),
    ("packing.awq", awq, AWQ),
    ("packing.awq_interleaved", interleaved, INTERLEAVED),
    ("packing.compressed_tensors", compressed, COMPRESSED),
)
MUTANTS = tuple(
    Mutant(name=f"{operation}-{fault}", operation=operation, flag=flag, what=what, run=partial(run, fault=fault))
    for operation, run, faults in PROGRAMS
    for fault, (flag, what) in faults.items()
)
RIGHT = {operation: run for operation, run, _ in PROGRAMS}
