"""A per-token quantizer of activations with one fault to choose."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np

from refquant.conformance.mutants.mutant import Mutant
from refquant.conformance.mutants.uniform_dequantize import dequantize
from refquant.conformance.mutants.uniform_quantize import quantize
from refquant.conformance.operation import Arrays, Parameters
from refquant.numerics.arrays import Array

FAULTS: dict[str, tuple[str, str]] = {
    "one_scale": ("outlier", "all tokens share one scale, so that a token's result depends on the batch"),
    "per_channel": ("outlier", "scales are taken along tokens instead of features"),
    "negative_zero": ("negative-zero", "what becomes zero keeps the sign that it had"),
    "zero_token_nan": ("zero-range", "a token of zeros is divided by a scale of 0"),
    "groups_ignored": ("group-statistics", "a group has the scale of the whole token"),
    "rounds_away": ("tie", "codes are rounded half away from zero"),
    "half_precision": ("outlier", "scale and quotient are computed in float16"),
}
"""``name: (flag that must catch it, what is wrong)``."""


def per_token(inputs: Arrays, parameters: Parameters, *, fault: str = "") -> Mapping[str, Array]:
    """Quantize and dequantize token by token; wrong in one way if a fault is named."""
    x = np.asarray(inputs["x"]).astype(np.float32)
    given = x.T if fault == "per_channel" else x
    group = None if fault in ("groups_ignored", "per_channel", "one_scale") else parameters["group"]
    how = {
        "scheme": parameters["scheme"],
        "bits": parameters["bits"],
        "granularity": "tensor" if fault == "one_scale" else "row",
        "group": group,
        "scale_format": None,
        "rounding": "half_even",
    }
    if fault == "half_precision":
        given = np.asarray(given.astype(np.float16).astype(np.float32))
    coded = quantize({"x": np.ascontiguousarray(given)}, how, fault="half_away" if fault == "rounds_away" else "")
    scale, zero = coded["scale"], coded["zero"]
    if fault == "one_scale":
        scale, zero = (np.repeat(array, len(given), axis=0) for array in (scale, zero))
    if fault == "half_precision":
        scale = scale.astype(np.float16).astype(np.float32)
    values = dequantize({"codes": coded["codes"], "scale": scale, "zero": zero}, {"group": group, "dtype": "float32"})["values"]
    if fault == "per_channel":
        values = values.T
    if fault == "negative_zero":
        values = np.where(values == 0, np.copysign(np.float32(0), x), values)
    if fault == "zero_token_nan":
        values = np.where((x == 0).all(axis=1, keepdims=True), np.float32(np.nan), values)
    return {"values": np.asarray(values)}


MUTANTS = tuple(
    Mutant(name=f"per_token-{fault}", operation="activation.per_token", flag=flag, what=what, run=partial(per_token, fault=fault))
    for fault, (flag, what) in FAULTS.items()
)
RIGHT = {"activation.per_token": per_token}
