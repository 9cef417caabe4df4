"""AWQ's search with one fault to choose."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np

from refquant.conformance.mutants.mutant import Mutant
from refquant.conformance.mutants.uniform_dequantize import dequantize
from refquant.conformance.mutants.uniform_quantize import quantize
from refquant.conformance.operation import Arrays, Parameters
from refquant.numerics import FAST
from refquant.numerics.arrays import Array

FAULTS: dict[str, tuple[str, str]] = {
    "largest_magnitude": ("activation-scales", "the largest magnitude of a channel stands for the mean"),
    "mean_of_values": ("activation-scales", "values are averaged with their signs"),
    "root_mean_square": ("activation-scales", "the root of the mean square stands for the mean magnitude"),
    "from_one": ("activation-scales", "exponents begin with 1/n and end with 1"),
    "ends_at_one": ("activation-scales", "exponents are i / (n - 1)"),
    "not_normalized": ("activation-scales", "factors are not divided by the root of the largest times the smallest"),
    "normalized_by_largest": ("activation-scales", "factors are divided by the largest"),
    "no_floor": ("tiny", "powers of magnitudes have no floor"),
    "weight_error": ("activation-scales", "the loss is the change of the weights, not of the outputs"),
    "not_undone": ("activation-scales", "rounded weights are not divided by the factors"),
    "summed": ("ordinary", "the loss is a sum, not a mean"),
    "last_of_equals": ("search-tie", "of equal losses the last wins"),
    "no_search": ("ordinary", "the exponent is 1/2"),
    "whole_rows": ("group-statistics", "groups are ignored in the search"),
}
"""``name: (flag that must catch it, what is wrong)``."""


def search(inputs: Arrays, parameters: Parameters, *, fault: str = "") -> Mapping[str, Array]:
    """Search; wrong in one way if a fault is named."""
    x, weight = np.asarray(inputs["x"]), np.asarray(inputs["weight"])
    count = int(parameters["candidates"])
    magnitudes = _magnitudes(x, fault)
    losses, factors = [], []
    for i in range(count):
        alpha = {"from_one": (i + 1) / count, "ends_at_one": i / max(count - 1, 1)}.get(fault, i / count)
        factors.append(_factors(magnitudes, alpha, fault))
        rounded = _rounded(weight * factors[-1], parameters, fault)
        change = (rounded if fault == "not_undone" else rounded / factors[-1]) - weight
        moved = change if fault == "weight_error" else FAST.matmul(x, change.T)
        squares = moved * moved
        losses.append(float(FAST.sum(squares) if fault == "summed" else FAST.mean(squares)))
    best = len(losses) - 1 - int(np.argmin(losses[::-1])) if fault == "last_of_equals" else int(np.argmin(losses))
    best = count // 2 if fault == "no_search" else best
    return {"magnitudes": magnitudes, "losses": np.array(losses), "chosen": np.array(best, dtype=np.int64), "factors": factors[best]}


def _magnitudes(x: Array, fault: str) -> Array:
    if fault == "largest_magnitude":
        return np.asarray(np.abs(x).max(axis=0))
    if fault == "mean_of_values":
        return np.abs(FAST.mean(x, axis=0))
    return np.sqrt(FAST.mean(x * x, axis=0)) if fault == "root_mean_square" else FAST.mean(np.abs(x), axis=0)


def _factors(magnitudes: Array, alpha: float, fault: str) -> Array:
    raised = FAST.power(magnitudes, alpha)
    if fault != "no_floor":
        raised = np.maximum(raised, 1e-4)
    if fault == "not_normalized":
        return raised
    return np.asarray(raised / (raised.max() if fault == "normalized_by_largest" else np.sqrt(raised.max() * raised.min())))


def _rounded(weight: Array, parameters: Parameters, fault: str) -> Array:
    group = None if fault == "whole_rows" else parameters["group"]
    how = {"scheme": parameters["scheme"], "bits": parameters["bits"], "group": group, "granularity": "row", "scale_format": None}
    coded = quantize({"x": weight}, {**how, "rounding": "half_even"})
    return np.asarray(dequantize(coded, {"group": group, "dtype": "float64"})["values"])


MUTANTS = tuple(
    Mutant(name=f"awq-{fault}", operation="awq.factors", flag=flag, what=what, run=partial(search, fault=fault))
    for fault, (flag, what) in FAULTS.items()
)
RIGHT = {"awq.factors": search}
