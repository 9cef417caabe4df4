"""Static activations and softmax outputs, with one fault to choose."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np

from refquant.conformance.mutants.mutant import Mutant
from refquant.conformance.mutants.rounding import half_away
from refquant.conformance.mutants.uniform_quantize import quantize
from refquant.conformance.operation import Arrays, Parameters
from refquant.numerics import FAST
from refquant.numerics.arrays import Array

STATIC_FAULTS: dict[str, tuple[str, str]] = {
    "dynamic": ("calibration", "scales are taken from the values that are quantized"),
    "last_batch": ("calibration", "each batch overwrites the extremes of those before"),
    "mean_of_batches": ("calibration", "extremes are averaged over batches"),
    "moving_average": ("calibration", "extremes are a moving average with momentum 0.9"),
    "one_scale": ("group-statistics", "all features share one scale"),
    "wraps": ("saturation", "codes beyond the last one wrap around"),
    "not_clipped": ("saturation", "codes beyond the last one are kept"),
    "zero_range_nan": ("zero-range", "features that were never seen give NaN"),
}
PROBABILITY_FAULTS: dict[str, tuple[str, str]] = {
    "codes_as_divisor": ("probability", "the scale is 1 / 2^b"),
    "half_range": ("probability", "a signed grid is used: half of its codes are below 0"),
    "renormalized": ("probability", "rows are divided by their sum afterwards"),
    "truncated": ("probability", "codes are cut off, not rounded"),
    "half_away": ("tie", "codes are rounded half away from zero"),
    "row_max_always": ("probability", "every row has a range of its own"),
    "unit_always": ("row-range", "rows do not have a range of their own"),
    "tensor_max": ("row-range", "all rows have the range of the largest"),
    "zero_row_nan": ("zero-range", "a row of zeros is divided by 0"),
    "not_clipped": ("saturation", "probabilities above 1 get a code above the last"),
    "smallest_kept": ("probability", "what would become 0 gets the smallest step"),
}
"""``name: (flag that must catch it, what is wrong)``."""


def static(inputs: Arrays, parameters: Parameters, *, fault: str = "") -> Mapping[str, Array]:
    """Calibrate and quantize, group by group; wrong in one way if a fault is named."""
    seen, x = np.asarray(inputs["calibration"]), np.asarray(inputs["x"])
    features = x.shape[1]
    width = int(parameters["group"] or features)
    bits = int(parameters["bits"])
    how = {"scheme": parameters["scheme"], "bits": bits, "scale_format": None, "rounding": "half_even", "granularity": "row", "group": None}
    scales, zeros, values = [], [], []
    for start in range(0, features, width):
        used = seen if fault == "one_scale" else seen[:, :, start : start + width]
        ends = _ends(used, x[:, start : start + width], fault)
        fitted = quantize({"x": ends[None].astype(np.float32)}, how)
        scale, zero = fitted["scale"][0, 0], int(fitted["zero"][0, 0])
        half = 1 << (bits - 1)
        lo, hi = (-half, half - 1) if fitted["codes"].dtype.kind == "i" else (0, 2 * half - 1)
        codes = np.rint(x[:, start : start + width] / scale) + zero
        if fault == "wraps":
            codes = np.remainder(codes - lo, 2 * half) + lo
        elif fault != "not_clipped":
            codes = np.clip(codes, lo, hi)
        values.append(scale * (codes - zero).astype(np.float32))
        if fault == "zero_range_nan" and (ends == 0).all():
            values[-1] = values[-1] * np.float32(np.nan)
        scales.append(scale)
        zeros.append(zero)
    return {
        "scale": np.array([scales], dtype=np.float32),
        "zero": np.array([zeros], dtype=np.int32),
        "values": np.concatenate(values, axis=1).astype(np.float32),
    }


def _ends(seen: Array, x: Array, fault: str) -> Array:
    by_batch = np.stack([seen.min(axis=(1, 2)), seen.max(axis=(1, 2))], axis=1)
    if fault == "dynamic":
        return np.array([x.min(), x.max()])
    if fault == "last_batch":
        return np.asarray(by_batch[-1])
    if fault == "mean_of_batches":
        return FAST.mean(by_batch, axis=0)
    if fault == "moving_average":
        average = by_batch[0]
        for ends in by_batch[1:]:
            average = np.float32(0.9) * average + np.float32(0.1) * ends
        return np.asarray(average)
    return np.array([by_batch[:, 0].min(), by_batch[:, 1].max()])


def probabilities(inputs: Arrays, parameters: Parameters, *, fault: str = "") -> Mapping[str, Array]:
    """Quantize row by row; wrong in one way if a fault is named."""
    given = np.asarray(inputs["p"])
    bits = int(parameters["bits"])
    levels = {"codes_as_divisor": 1 << bits, "half_range": max((1 << (bits - 1)) - 1, 1)}.get(fault, (1 << bits) - 1)
    by_row = (parameters["range"] == "row_max" or fault == "row_max_always") and fault != "unit_always"
    rows = []
    for line in given.astype(np.float32):
        top = given.astype(np.float32).max() if fault == "tensor_max" and by_row else line.max() if by_row else np.float32(1)
        scale = np.float32(top) / np.float32(levels)
        if scale == 0:
            rows.append(line * np.float32(np.nan) if fault == "zero_row_nan" else line)
            continue
        steps = line / scale
        codes = np.trunc(steps) if fault == "truncated" else half_away(steps) if fault == "half_away" else np.rint(steps)
        if fault == "smallest_kept":
            codes = np.where((codes == 0) & (line > 0), np.float32(1), codes)
        value = (codes if fault == "not_clipped" else np.minimum(codes, np.float32(levels))) * scale
        total = FAST.sum(value)
        rows.append(value / total if fault == "renormalized" and total > 0 else value)
    values = np.array(rows, dtype=np.float32)
    if fault == "zero_row_nan":
        values = np.where((given == 0).all(axis=1, keepdims=True), np.float32(np.nan), values)
    return {"values": values.astype(given.dtype)}


MUTANTS = tuple(
    Mutant(name=f"{name}-{fault}", operation=f"activation.{name}", flag=flag, what=what, run=partial(run, fault=fault))
    for name, run, faults in (("static", static, STATIC_FAULTS), ("probabilities", probabilities, PROBABILITY_FAULTS))
    for fault, (flag, what) in faults.items()
)
RIGHT = {"activation.static": static, "activation.probabilities": probabilities}
