"""Integer products and linears with one fault to choose."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np

from refquant.conformance.mutants.mutant import Mutant
from refquant.conformance.operation import Arrays, Parameters
from refquant.numerics.arrays import Array

MATMUL_FAULTS: dict[str, tuple[str, str]] = {
    "int16_accumulator": ("accumulation", "sums wrap around in 16 bits"),
    "saturating_pairs": ("accumulation", "two neighbouring products are added in 16 bits and saturate, as pmaddubsw does"),
    "float32_accumulator": ("accumulation", "sums are kept in float32"),
    "unsigned_as_signed": ("accumulation", "codes above 127 are read as negative"),
    "narrow_range": ("lowest-code", "the lowest code is taken for the one above it"),
    "transposed": ("ordinary", "tokens and outputs are exchanged"),
}
LINEAR_FAULTS: dict[str, tuple[str, str]] = {
    "weight_zero_ignored": ("zero-point", "zero points of weights are not subtracted"),
    "activation_zero_ignored": ("zero-point", "zero points of activations are not subtracted"),
    "cross_term_missing": ("zero-point", "the product of both zero points is left out"),
    "cross_term_sign": ("zero-point", "the product of both zero points has the other sign"),
    "whole_row_length": ("ragged-group", "the product of both zero points counts all columns of a full group in a ragged one"),
    "one_scale_a_row": ("group-boundary", "the first group's scale is used for all"),
    "scales_together": ("ordinary", "both scales are multiplied first"),
    "rounded_once": ("rounded-sums", "everything is computed in float64 and rounded last"),
    "fused": ("rounded-sums", "product and sum are rounded together"),
    "backwards": ("rounded-sums", "groups are added from the last to the first"),
    "bias_first": ("bias", "sums begin with the bias"),
    "bias_missing": ("bias", "the bias is left out"),
    "bias_scaled": ("bias", "the bias is multiplied by the activation's scale"),
}
"""``name: (flag that must catch it, what is wrong)``."""


def matmul(inputs: Arrays, parameters: Parameters, *, fault: str = "") -> Mapping[str, Array]:
    """Multiply codes, term by term; wrong in one way if a fault is named."""
    a, w = np.asarray(inputs["a"]), np.asarray(inputs["w"])
    if fault == "unsigned_as_signed":
        a = a.astype(np.int8)
    a, w = a.astype(np.int64), w.astype(np.int64)
    if fault == "narrow_range":
        a, w = np.maximum(a, -127), np.maximum(w, -127)
    products = a[:, None] * w[None]
    total = np.zeros(products.shape[:2], dtype=np.float32 if fault == "float32_accumulator" else np.int64)
    step = 2 if fault == "saturating_pairs" else 1
    for k in range(0, products.shape[2], step):
        term = products[:, :, k] + (products[:, :, k + 1] if k + 1 < products.shape[2] and step == 2 else 0)
        total = total + (np.clip(term, -32768, 32767) if step == 2 else term.astype(total.dtype))
        if fault == "int16_accumulator":
            total = np.remainder(total + 32768, 65536) - 32768
    return {"accumulators": (total.T if fault == "transposed" else total).astype(np.int32)}


def linear(inputs: Arrays, parameters: Parameters, *, fault: str = "") -> Mapping[str, Array]:
    """Multiply, correct and scale, segment by segment; wrong in one way if a fault is named."""
    a, w = inputs["a_codes"].astype(np.int64), inputs["w_codes"].astype(np.int64)
    columns = a.shape[1]
    width, reach = int(parameters["weight_group"] or columns), int(parameters["activation_group"] or columns)
    starts = sorted(set(range(0, columns, width)) | set(range(0, columns, reach)))
    number = np.float64 if fault == "rounded_once" else np.float32
    bias = inputs["bias"].astype(number) if parameters["bias"] and fault != "bias_missing" else None
    y = np.zeros((len(a), len(w)), dtype=number)
    if bias is not None and fault == "bias_first":
        y = y + bias
    segments = []
    runs = [(start, stop, start // reach, start // width) for start, stop in zip(starts, [*starts[1:], columns], strict=True)]
    for start, stop, h, g in runs:
        length = width if fault == "whole_row_length" else stop - start
        segments.append(_corrected(a[:, start:stop], w[:, start:stop], inputs["a_zero"][:, h], inputs["w_zero"][:, g], length, fault))
    for h in range(-(-columns // reach)):
        inner = np.zeros_like(y)
        own = [(g, sums) for (_, _, of, g), sums in zip(runs, segments, strict=True) if of == h]
        a_scale: Array = inputs["a_scale"][:, h, None].astype(number)
        for g, sums in own[::-1] if fault == "backwards" else own:
            w_scale: Array = inputs["w_scale"][:, 0 if fault == "one_scale_a_row" else g].astype(number)
            if fault == "fused":
                inner = (w_scale.astype(np.float64) * sums.astype(number) + inner).astype(number)
            else:
                inner = inner + (a_scale * w_scale if fault == "scales_together" else w_scale) * sums.astype(number)
        y = y + (inner if fault == "scales_together" else a_scale * inner)
    if bias is not None and fault != "bias_first":
        y = y + (bias * inputs["a_scale"][:, :1] if fault == "bias_scaled" else bias)
    return {"sums": np.stack(segments), "y": y.astype(np.float32)}


def _corrected(a: Array, w: Array, a_zero: Array, w_zero: Array, length: int, fault: str) -> Array:
    """The sum of products, less what zero points add to it."""
    z = (0 if fault == "activation_zero_ignored" else 1) * a_zero.astype(np.int64)[:, None]
    offset = (0 if fault == "weight_zero_ignored" else 1) * w_zero.astype(np.int64)[None]
    total = np.zeros((len(a), len(w)), dtype=np.int64)
    for k in range(a.shape[1]):
        total += a[:, k, None] * w[None, :, k] - offset * a[:, k, None] - z * w[None, :, k]
    cross = {"cross_term_missing": 0, "cross_term_sign": -1}.get(fault, 1)
    return np.asarray(total + cross * length * z * offset)


MUTANTS = tuple(
    Mutant(name=f"{name}-{fault}", operation=operation, flag=flag, what=what, run=partial(run, fault=fault))
    for name, operation, run, faults in (
        ("integer_matmul", "integer.matmul", matmul, MATMUL_FAULTS),
        ("integer_linear", "integer.linear", linear, LINEAR_FAULTS),
    )
    for fault, (flag, what) in faults.items()
)
RIGHT = {"integer.matmul": matmul, "integer.linear": linear}
