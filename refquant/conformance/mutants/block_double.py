"""Double quantization in NumPy, with one fault to choose."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np

from refquant.conformance.mutants.codebooks import encode
from refquant.conformance.mutants.mutant import Mutant
from refquant.conformance.operation import Arrays, Parameters
from refquant.formats import Codebook, find_format
from refquant.numerics import FAST
from refquant.numerics.arrays import Array

RUN = 256
FAULTS: dict[str, tuple[str, str]] = {
    "offset_not_added": ("nested-scale", "the mean is not added when scales are read"),
    "offset_not_taken": ("nested-scale", "scales are coded without taking their mean off, and it is added all the same"),
    "mean_of_run": ("group-statistics", "every run takes its own mean off; the first is given"),
    "one_run": ("group-statistics", "all scales share one outer scale"),
    "runs_a_row": ("group-statistics", "a run ends with its row"),
    "outer_not_magnitude": ("nested-scale", "the largest difference stands for the largest magnitude"),
    "codes_of_stored_scale": ("nested-scale", "elements are divided by the scale as it is read"),
    "divides": ("near-tie", "elements are divided by the maximum instead of multiplied by its reciprocal"),
    "exact_midpoints": ("near-tie", "the element's middles are not rounded to float32"),
    "ties_up": ("tie", "elements at ties take the upper number"),
    "linear_scales": ("nested-scale", "scale codes are linear, not dynamic"),
    "outer_zero": ("constant", "an outer scale of 0 is kept"),
    "largest_not_magnitude": ("one-sided", "the largest number stands for the largest magnitude"),
    "zero_block_lowest": ("zero-range", "numbers of a block of zeros become NaN, and take the lowest code"),
}
"""``name: (flag that must catch it, what is wrong)``."""


def _codes(x: Array, name: str, fault: str = "") -> Array:
    book = find_format(name)
    if not isinstance(book, Codebook):
        raise TypeError(f"{name} is no codebook")
    rule = "half_up" if fault == "ties_up" else str(book.ties)
    how = {"rounding": rule, "midpoints": book.midpoints, "zero_from_above": book.zero_from_above}
    given = {"x": x.reshape(-1), "table": np.array(book.table, np.float32)}
    return encode(given, how, fault=fault if fault == "exact_midpoints" else "")["codes"].reshape(x.shape)


def _numbers(codes: Array, name: str) -> Array:
    book = find_format(name)
    return np.array(book.table if isinstance(book, Codebook) else (), np.float32)[codes]


def quantize(inputs: Arrays, parameters: Parameters, *, fault: str = "") -> Mapping[str, Array]:
    """Quantize; wrong in one way if a fault is named."""
    x, width, element = np.asarray(inputs["x"]), int(parameters["block"]), str(parameters["element"])
    blocks = x.reshape(-1, width)
    tops = np.maximum(blocks.max(axis=1), np.float32(0)) if fault == "largest_not_magnitude" else np.abs(blocks).max(axis=1)
    length = len(tops) if fault == "one_run" else x.shape[1] // width if fault == "runs_a_row" else RUN
    runs = np.arange(len(tops)) // length
    offset = np.float32(FAST.mean(tops.astype(np.float64)))
    means = np.full(len(tops), offset, np.float32)
    if fault == "mean_of_run":
        means = np.array([FAST.mean(tops[runs == run].astype(np.float64)) for run in runs], dtype=np.float32)
        offset = means[0]
    rest = tops if fault == "offset_not_taken" else tops - means
    size = rest if fault == "outer_not_magnitude" else np.abs(rest)
    outer = np.array([size[runs == run].max() for run in range(runs[-1] + 1)], dtype=np.float32)
    outer = np.where((outer == 0) & (fault != "outer_zero"), np.float32(1), outer)
    with np.errstate(all="ignore"):
        steps = np.nan_to_num(rest * (np.float32(1) / outer)[runs], posinf=1, neginf=-1)
        scale_codes = _codes(steps, "dynamic8")
        if fault == "linear_scales":
            scale_codes = np.clip(np.rint(steps * np.float32(127)) + 127, 0, 255).astype(np.uint8)
        scale = _numbers(scale_codes, "dynamic8") * outer[runs]
        scale = scale if fault == "offset_not_added" else scale + means
        raw = np.where(tops == 0, np.float32(1), tops)
        divided = scale if fault == "codes_of_stored_scale" else raw
        quotient = blocks / divided[:, None] if fault == "divides" else blocks * (np.float32(1) / divided)[:, None]
        quotient = np.nan_to_num(quotient, posinf=3e38, neginf=-3e38)
    codes = _codes(quotient, element, fault)
    if fault == "zero_block_lowest":
        codes = np.where(tops[:, None] == 0, np.uint8(0), codes)
    values = _numbers(codes, element) * scale[:, None]
    return {
        "codes": codes.reshape(x.shape),
        "scale_codes": scale_codes.reshape(len(x), -1),
        "outer": outer,
        "offset": np.array([offset], np.float32),
        "values": values.reshape(x.shape),
    }


MUTANTS = tuple(
    Mutant(name=f"double-{fault}", operation="block.double", flag=flag, what=what, run=partial(quantize, fault=fault))
    for fault, (flag, what) in FAULTS.items()
)
RIGHT = {"block.double": quantize}
