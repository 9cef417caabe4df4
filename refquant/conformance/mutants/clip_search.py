"""A clip search with one fault to choose."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from itertools import pairwise

import numpy as np

from refquant.conformance.mutants.mutant import Mutant
from refquant.conformance.mutants.uniform_quantize import SIGNED, quantize
from refquant.conformance.operation import Arrays, Parameters
from refquant.numerics import FAST
from refquant.numerics.arrays import Array

FAULTS: dict[str, tuple[str, str]] = {
    "no_search": ("clip-search", "the whole range is taken"),
    "squares": ("clip-search", "errors are squared, whatever the power"),
    "stops_early": ("clip-search", "the search stops at the first shrinkage that is worse than the one before"),
    "one_more_step": ("clip-search", "the first shrinkage that is tried is already one step"),
    "largest_error": ("clip-search", "the largest error decides, not the sum"),
    "last_of_equals": ("search-tie", "of equal errors the last wins"),
    "zero_included": ("one-sided", "the range is widened to hold 0 where the scheme does not"),
    "lowest_code_kept": ("lowest-code", "errors are counted with the lowest code where the range is narrow"),
    "lowest_code_lost": ("lowest-code", "errors are counted without the lowest code where the range is full"),
    "whole_row": ("ragged-group", "one shrinkage is chosen for the whole row"),
}
"""``name: (flag that must catch it, what is wrong)``."""


def search(inputs: Arrays, parameters: Parameters, *, fault: str = "") -> Mapping[str, Array]:
    """Search the range of every group; wrong in one way if a fault is named."""
    x = np.asarray(inputs["x"])
    width = int(parameters["group"] or x.shape[1])
    how = {"scheme": parameters["scheme"], "bits": parameters["bits"], "scale_format": None, "rounding": "half_even"}
    chosen: list[list[tuple[Array, int]]] = []
    for line in x:
        groups = [line[start : start + width] for start in range(0, len(line), width)]
        tried = [[_tried(group, how, step, parameters, fault) for step in _steps(parameters, fault)] for group in groups]
        if fault == "whole_row":
            errors = [sum(group[step][2] for group in tried) for step in range(len(tried[0]))]
            best = int(np.argmin(errors))
            chosen.append([(group[best][0], group[best][1]) for group in tried])
        else:
            chosen.append([group[_winner([error for _, _, error in group], fault)][:2] for group in tried])
    scale = np.array([[float(s) for s, _ in line] for line in chosen], dtype=x.dtype)
    return {"scale": scale, "zero": np.array([[zero for _, zero in line] for line in chosen], dtype=np.int32)}


def _steps(parameters: Parameters, fault: str) -> range:
    if fault == "no_search":
        return range(1)
    return range(int(fault == "one_more_step"), int(parameters["steps"]))


def _winner(errors: list[float], fault: str) -> int:
    if fault == "last_of_equals":
        return len(errors) - 1 - int(np.argmin(errors[::-1]))
    if fault == "stops_early":
        return next((i for i, (a, b) in enumerate(pairwise(errors)) if b > a), len(errors) - 1)
    return int(np.argmin(errors))


def _tried(group: Array, how: dict[str, object], step: int, parameters: Parameters, fault: str) -> tuple[Array, int, float]:
    """Scale, zero and error sum of one group at one shrinkage."""
    factor = group.dtype.type(1 - step / parameters["divisions"])
    # A quantizer that is given the ends of the shrunken range fits its grid to them; what the scheme makes of zeros comes before.
    low, high = group.min(), group.max()
    if how["scheme"] != "asym_minmax" or fault == "zero_included":
        low, high = np.minimum(low, 0), np.maximum(high, 0)
    if str(how["scheme"]).startswith("sym"):
        high = np.maximum(-low, high)
        low = -high
    if how["scheme"] in SIGNED:
        high = np.maximum(high, group.dtype.type(1e-5))
        low = -high
    if low == high == 0:
        low, high = group.dtype.type(-1), group.dtype.type(1)
    ends = np.array([[low * factor, high * factor]], dtype=group.dtype)
    if how["scheme"] in SIGNED:
        scale = np.asarray(ends[0, 1] / group.dtype.type((1 << (int(parameters["bits"]) - 1)) - 1))
        zero = 0
    else:
        fitted = quantize({"x": ends}, {**how, "granularity": "row", "group": None})
        scale, zero = fitted["scale"][0, 0], int(fitted["zero"][0, 0])
    bits = int(parameters["bits"])
    narrow = fault == "lowest_code_lost" or (how["scheme"] == "sym_narrow" and fault != "lowest_code_kept")
    lo, hi = (narrow - (1 << (bits - 1)), (1 << (bits - 1)) - 1) if how["scheme"] in SIGNED else (0, (1 << bits) - 1)
    codes = np.clip(np.rint(group / scale) + zero, lo, hi)
    away = np.abs((scale * (codes - group.dtype.type(zero))).astype(group.dtype) - group)
    if fault == "largest_error":
        return scale, zero, float(away.max())
    terms = away * away if fault == "squares" else FAST.power(away, float(parameters["power"]))
    return scale, zero, float(FAST.sum(terms))


MUTANTS = tuple(
    Mutant(name=f"clip_search-{fault}", operation="grid.clip_search", flag=flag, what=what, run=partial(search, fault=fault))
    for fault, (flag, what) in FAULTS.items()
)
RIGHT = {"grid.clip_search": search}
