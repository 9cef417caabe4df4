"""A dequantizer with one fault to choose."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np

from refquant.conformance.mutants.mutant import Mutant
from refquant.conformance.operation import Arrays, Parameters
from refquant.numerics.arrays import Array

FAULTS: dict[str, tuple[str, str]] = {
    "narrow_difference": ("zero-point", "the zero point is subtracted in the codes' own integer type, and wraps around"),
    "zero_ignored": ("zero-point", "the zero point is left out"),
    "zero_minus_one": ("zero-point", "zero points are taken to be stored less one"),
    "zero_clipped": ("zero-point", "zero points are clipped to the codes"),
    "two_products": ("ordinary", "scale * code - scale * zero: two roundings more"),
    "half_product": ("large", "the product is computed in float16"),
    "flushed_scale": ("subnormal-scale", "subnormal float16 scales count as zero"),
    "next_group": ("group-boundary", "the last column of a group takes the scale of the next"),
    "tail_wraps": ("ragged-group", "the scales are repeated over whole groups and cut at the wrong end"),
    "unsigned_codes": ("lowest-code", "signed codes are read as unsigned"),
}
"""``name: (flag that must catch it, what is wrong)``."""


def dequantize(inputs: Arrays, parameters: Parameters, *, fault: str = "") -> Mapping[str, Array]:
    """Dequantize; wrong in one way if a fault is named."""
    codes, stored, zeros = (np.asarray(inputs[name]) for name in ("codes", "scale", "zero"))
    dtype, columns = np.dtype(parameters["dtype"]), codes.shape[1]
    width = int(parameters["group"] or columns)
    place = np.arange(columns) // width
    if fault == "next_group":
        place = np.minimum((np.arange(columns) + 1) // width, stored.shape[1] - 1)
    if fault == "tail_wraps":
        place = np.repeat(np.arange(stored.shape[1]), width)[-columns:]
    if fault == "flushed_scale" and stored.dtype == np.float16:
        stored = np.where(stored < np.finfo(np.float16).tiny, np.float16(0), stored)
    scale, zero = stored.astype(dtype)[:, place], zeros[:, place].astype(np.int64)
    if fault == "zero_clipped":
        zero = np.clip(zero, np.iinfo(codes.dtype).min, np.iinfo(codes.dtype).max)
    whole = codes.view(f"u{codes.dtype.itemsize}").astype(np.int64) if fault == "unsigned_codes" else codes.astype(np.int64)
    if fault in ("zero_ignored", "zero_minus_one"):
        zero = zero * 0 if fault == "zero_ignored" else zero + 1
    steps = whole - zero
    if fault == "narrow_difference":
        steps = (codes - zero.astype(codes.dtype)).astype(np.int64)
    if fault == "two_products":
        return {"values": scale * whole.astype(dtype) - scale * zero.astype(dtype)}
    if fault == "half_product":
        with np.errstate(over="ignore"):
            return {"values": (scale.astype(np.float16) * steps.astype(np.float16)).astype(dtype)}
    return {"values": scale * steps.astype(dtype)}


MUTANTS = tuple(
    Mutant(name=f"dequantize-{fault}", operation="uniform.dequantize", flag=flag, what=what, run=partial(dequantize, fault=fault))
    for fault, (flag, what) in FAULTS.items()
)
RIGHT = {"uniform.dequantize": dequantize}
