"""SmoothQuant's factors, Hadamard transforms and DuQuant's permutation, with one fault to choose."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np

from refquant.conformance.mutants.mutant import Mutant
from refquant.conformance.operation import Arrays, Parameters
from refquant.numerics import FAST
from refquant.numerics.arrays import Array

SMOOTH_FAULTS: dict[str, tuple[str, str]] = {
    "exponents_exchanged": ("exponent", "activations get 1 - alpha"),
    "inverted": ("ordinary", "weights over activations"),
    "signed_maximum": ("ordinary", "the largest weight is taken, not the largest magnitude"),
    "row_maximum": ("ordinary", "the mean of magnitudes stands for the largest"),
    "no_weight_floor": ("tiny", "weights have no floor: columns of zeros divide by 0"),
    "no_factor_floor": ("tiny", "factors have no floor"),
    "other_weight_maximum": ("ordinary", "the first linear alone counts where all should, and the other way round"),
    "always_half": ("exponent", "alpha is 1/2 whatever was asked for"),
}
HADAMARD_FAULTS: dict[str, tuple[str, str]] = {
    "not_normalized": ("transform", "sums are not divided by the root"),
    "divided_by_size": ("transform", "sums are divided by the size, not by its root"),
    "by_sequency": ("transform", "rows stand in the order of their sign changes, as in Walsh's matrix"),
    "bits_reversed": ("transform", "outputs stand in bit-reversed order"),
    "one_stage_less": ("transform", "the last stage of butterflies is left out"),
    "direction": ("transform-base", "the inverse is applied forwards, and the other way round"),
    "factors_exchanged": ("transform-base", "H_(2^m) (x) base: the base works on neighbours"),
    "whole_root": ("group-boundary", "blocks are divided by the root of the whole size"),
}
ZIGZAG_FAULTS: dict[str, tuple[str, str]] = {
    "no_snake": ("ordinary", "every row is dealt from the first block on"),
    "ascending": ("ordinary", "the smallest are dealt first"),
    "unstable": ("equal-diagonal", "equal magnitudes change places"),
    "not_dealt": ("ordinary", "blocks are runs of the sorted order"),
    "inverse": ("ordinary", "the inverse permutation: where each feature goes"),
}
"""``name: (flag that must catch it, what is wrong)``."""


def smooth(inputs: Arrays, parameters: Parameters, *, fault: str = "") -> Mapping[str, Array]:
    """Factors of channels; wrong in one way if a fault is named."""
    absmax, weights = np.asarray(inputs["absmax"]), np.asarray(inputs["weights"])
    number = absmax.dtype.type
    first = (parameters["weight_maximum"] == "first") != (fault == "other_weight_maximum")
    used = weights[:1] if first else weights
    top = (used if fault == "signed_maximum" else np.abs(used)).max(axis=(0, 1))
    if fault == "row_maximum":
        top = FAST.mean(np.abs(used), axis=(0, 1))
    if fault != "no_weight_floor":
        top = np.maximum(top, number(1e-5))
    a = np.maximum(absmax, number(parameters["activation_floor"]))
    alpha = 0.5 if fault == "always_half" else float(parameters["alpha"])
    exponents = (1 - alpha, alpha) if fault == "exponents_exchanged" else (alpha, 1 - alpha)
    with np.errstate(divide="ignore", invalid="ignore"):
        over, under = _power(a, exponents[0]), _power(top, exponents[1])
        factors = under / over if fault == "inverted" else over / under
        if fault != "no_factor_floor":
            factors = np.maximum(factors, number(1e-5))
    return {"factors": factors.astype(absmax.dtype)}


def _power(x: Array, exponent: float) -> Array:
    if exponent == 0.5:
        return np.sqrt(x)
    return x if exponent == 1 else np.ones_like(x) if exponent == 0 else FAST.power(x, exponent)


def transform(inputs: Arrays, parameters: Parameters, *, fault: str = "") -> Mapping[str, Array]:
    """Rows times a dense matrix; wrong in one way if a fault is named."""
    x, base = np.asarray(inputs["x"]), np.asarray(inputs["base"], dtype=np.float64)
    blocks = int(parameters["blocks"])
    size = x.shape[1] // blocks
    power: Array = np.ones((1, 1))
    stages = size // len(base) >> int(fault == "one_stage_less" and size > len(base))
    while len(power) < stages:
        power = np.block([[power, power], [power, -power]])
    if len(power) < size // len(base):
        power = np.kron(np.eye(2), power)
    if fault == "by_sequency":
        power = power[np.argsort(np.count_nonzero(power[:, 1:] != power[:, :-1], axis=1), kind="stable")]
    if fault == "bits_reversed":
        width = len(power).bit_length() - 1
        power = power[[int(f"{i:0{width}b}"[::-1], 2) if width else 0 for i in range(len(power))]]
    dense = np.kron(power, base) if fault == "factors_exchanged" else np.kron(base, power)
    if bool(parameters["inverse"]) != (fault == "direction"):
        dense = dense.T
    root = np.sqrt(x.dtype.type(x.shape[1] if fault == "whole_root" else size))
    sums = FAST.matmul(x.astype(np.float64).reshape(-1, size), dense.T).astype(x.dtype)
    divisor = {"not_normalized": x.dtype.type(1), "divided_by_size": x.dtype.type(size)}.get(fault, root)
    return {"y": (sums / divisor).reshape(x.shape)}


def deal(inputs: Arrays, parameters: Parameters, *, fault: str = "") -> Mapping[str, Array]:
    """Deal features to blocks; wrong in one way if a fault is named."""
    magnitudes, block = inputs["magnitudes"].tolist(), int(parameters["block"])
    order = sorted(range(len(magnitudes)), key=lambda f: (-magnitudes[f], f))
    if fault == "ascending":
        order = sorted(range(len(magnitudes)), key=lambda f: (magnitudes[f], f))
    if fault == "unstable":
        order = sorted(range(len(magnitudes)), key=lambda f: (-magnitudes[f], -f))
    count = len(order) // block
    dealt: list[list[int]] = [[] for _ in range(count)]
    for place, feature in enumerate(order):
        row, column = divmod(place, count)
        dealt[column if row % 2 == 0 or fault == "no_snake" else count - 1 - column].append(feature)
    found = np.array(order if fault == "not_dealt" else [feature for one in dealt for feature in one], dtype=np.int64)
    return {"order": np.argsort(found, kind="stable") if fault == "inverse" else found}


MUTANTS = tuple(
    Mutant(name=f"{name}-{fault}", operation=operation, flag=flag, what=what, run=partial(run, fault=fault))
    for name, operation, run, faults in (
        ("smoothquant", "smoothquant.factors", smooth, SMOOTH_FAULTS),
        ("hadamard", "hadamard.transform", transform, HADAMARD_FAULTS),
        ("zigzag", "duquant.permutation", deal, ZIGZAG_FAULTS),
    )
    for fault, (flag, what) in faults.items()
)
RIGHT = {"smoothquant.factors": smooth, "hadamard.transform": transform, "duquant.permutation": deal}
