"""Two-level scales in NumPy, with one fault to choose."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np

from refquant.conformance.mutants.formats import decode, encode
from refquant.conformance.mutants.mutant import Mutant
from refquant.conformance.operation import Arrays, Parameters
from refquant.numerics.arrays import Array

FAULTS: dict[str, tuple[str, str]] = {
    "scale_in_float32": ("nested-scale", "block scales stay in float32"),
    "codes_of_raw_scale": ("nested-scale", "elements are divided by the scale before it is rounded to e4m3"),
    "no_outer": ("nested-scale", "the tensor's scale is left out: block scales saturate"),
    "scale_truncated": ("nested-scale", "block scales are cut to e4m3"),
    "scale_half_away": ("tie", "block scales are rounded half away from zero"),
    "outer_of_240": ("ordinary", "the outer scale takes 240 for e4m3's largest number"),
    "outer_a_row": ("shared-range", "every row has an outer scale of its own; the first is given"),
    "reciprocal": ("near-tie", "block scales are multiplied by the reciprocal of the outer scale"),
    "largest_not_magnitude": ("one-sided", "the largest number stands for the largest magnitude"),
    "zero_scale": ("subnormal-scale", "a block scale that rounds to 0 is kept, and its block becomes 0"),
    "subnormal_scale_flushed": ("subnormal-scale", "block scales that are subnormal in e4m3 are raised to its smallest normal number"),
    "least_left_out": ("subnormal-scale", "torchao's least scale of 2^-6 is left out"),
    "zeros_scale_least": ("zero-range", "a block of zeros has the smallest scale"),
    "tail_dropped": ("ragged-group", "the ragged last block has the scale of the one before"),
    "stale_scale": ("group-statistics", "a block is coded with the scale of the block before"),
    "ties_down": ("tie", "elements at ties go towards zero"),
}
"""``name: (flag that must catch it, what is wrong)``."""


def _e4m3(x: Array, rule: str = "half_even") -> Array:
    return encode({"x": x}, {"format": "e4m3fn", "rounding": rule, "overflow": "saturate", "nan": "zero"})["codes"]


def _number(codes: Array, name: str) -> Array:
    return decode({"codes": codes}, {"format": name})["y"]


def quantize(inputs: Arrays, parameters: Parameters, *, fault: str = "") -> Mapping[str, Array]:
    """Quantize; wrong in one way if a fault is named."""
    x, width, program = np.asarray(inputs["x"]), int(parameters["block"]), str(parameters["program"])
    divisor = program == "nvfp4_compressed_tensors"
    starts = range(0, x.shape[1], width)
    size = x if fault == "largest_not_magnitude" else np.abs(x)
    tops = np.stack([size[:, start : start + width].max(axis=1) for start in starts], axis=1)
    tops = np.maximum(tops, np.float32(0))
    span = np.float32(6 * (240 if fault == "outer_of_240" else 448))
    largest = np.abs(x).max(axis=1, keepdims=True) if fault == "outer_a_row" else np.abs(x).max().reshape(1, 1)
    with np.errstate(all="ignore"):
        outer = np.where(largest == 0, np.float32(1), span / largest if divisor else largest / span)
        if fault == "no_outer":
            outer = np.ones_like(outer)
        raw = tops / np.float32(6)
        ratio = raw * outer if divisor else raw * (np.float32(1) / outer) if fault == "reciprocal" else raw / outer
        codes = _scale_codes(ratio, tops, program, fault)
        if fault == "stale_scale":
            codes[:, 1:] = codes[:, :-1].copy()
        if fault == "tail_dropped" and x.shape[1] % width and codes.shape[1] > 1:
            codes[:, -1] = codes[:, -2]
        members = _number(codes, "e4m3fn")
        used = ratio if fault == "scale_in_float32" else members
        scale = used / outer if divisor else used * outer
        wide = np.repeat(raw if fault == "codes_of_raw_scale" else scale, width, axis=1)[:, : x.shape[1]]
        factor = np.repeat((np.float32(1) / outer) / used, width, axis=1)[:, : x.shape[1]]
        quotient = x * factor if program == "nvfp4_torchao" and fault != "codes_of_raw_scale" else x / wide
        quotient = np.where(np.isnan(quotient), np.copysign(np.float32(0), x), quotient)
        rule = "half_zero" if fault == "ties_down" else "half_even"
        elements = encode({"x": quotient}, {"format": "e2m1", "rounding": rule, "overflow": "saturate", "nan": "zero"})["codes"]
        values = _number(elements, "e2m1") * np.repeat(scale, width, axis=1)[:, : x.shape[1]]
    return {"codes": elements, "scale_codes": codes, "outer": outer.reshape(-1)[:1], "values": values.astype(np.float32)}


def _scale_codes(ratio: Array, tops: Array, program: str, fault: str) -> Array:
    rule = {"scale_truncated": "trunc", "scale_half_away": "half_away"}.get(fault, "half_even")
    least = program == "nvfp4_torchao" and fault != "least_left_out"
    codes = _e4m3(np.maximum(ratio, np.float32(1 / 64)) if least or fault == "subnormal_scale_flushed" else ratio, rule)
    if fault != "zero_scale":
        small = _e4m3(np.array([0.125]))[0] if program == "nvfp4_compressed_tensors" else np.uint8(1)
        codes = np.where(codes == 0, small, codes)
    if program == "nvfp4" and fault != "zeros_scale_least":
        codes = np.where(tops == 0, _e4m3(np.array([1.0]))[0], codes)
    return np.asarray(codes.astype(np.uint8))


MUTANTS = tuple(
    Mutant(name=f"nvfp4-{fault}", operation="block.nvfp4", flag=flag, what=what, run=partial(quantize, fault=fault))
    for fault, (flag, what) in FAULTS.items()
)
RIGHT = {"block.nvfp4": quantize}
