"""The weighted Hessian, and CGQ's weights for it, in plain loops with one fault to choose."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np

from refquant.conformance.mutants.mutant import Mutant
from refquant.conformance.operation import Arrays, Parameters
from refquant.numerics.arrays import Array

HESSIAN_FAULTS: dict[str, tuple[str, str]] = {
    "unweighted": ("token-weight", "all tokens count the same"),
    "weight_squared": ("token-weight", "inputs are multiplied by the weight, not by its root"),
    "mean": ("ordinary", "the sum is divided by the number of tokens"),
    "normalized_weights": ("token-weight", "weights are divided by their mean"),
    "zero_times_nan": ("ignored-token", "tokens of weight 0 are multiplied by 0 instead of being left out: NaN stays NaN"),
    "float32_sum": ("accumulation", "products are summed in float32"),
    "narrow_square": ("accumulation", "products are computed in the inputs' own format"),
    "dead_set_to_one": ("dead-column", "the diagonal of dead inputs is set to 1 in the statistics already"),
    "centred": ("rank-deficient", "the mean of the inputs is subtracted: a covariance"),
}
WEIGHT_FAULTS: dict[str, tuple[str, str]] = {
    "power_ignored": ("token-weight", "the multiplier is not squared where it should be"),
    "always_squared": ("token-weight", "the multiplier is squared whatever the power is"),
    "no_root": ("token-weight", "the confidence itself is added, not its root"),
    "uncertainty": ("token-weight", "1 - confidence stands under the root"),
    "mask_inverted": ("token-weight", "visible tokens are taken for masked ones"),
    "visible_certain": ("token-weight", "visible tokens get the root of their confidence, too"),
    "visible_ignored": ("visible-confidence", "visible tokens never get a root"),
    "weights_normalized": ("token-weight", "weights are divided by their mean over all tokens"),
    "padding_counts": ("ignored-token", "padding is weighed like visible tokens"),
    "float32": ("ordinary", "everything is computed in float32"),
}
"""``name: (flag that must catch it, what is wrong)``."""


def second_moment(inputs: Arrays, parameters: Parameters, *, fault: str = "") -> Mapping[str, Array]:
    """Sum token by token; wrong in one way if a fault is named."""
    given = np.asarray(inputs["x"])
    weights = np.asarray(inputs["token_weights"], dtype=np.float64)
    if fault == "normalized_weights":
        weights = weights * len(weights) / sum(weights.tolist())
    counts = np.ones(len(weights), dtype=bool) if fault == "zero_times_nan" else weights != 0
    x, weights = given[counts].astype(np.float64), weights[counts]
    if fault == "centred":
        x = x - sum(x) / len(x)
    total = np.zeros((x.shape[1], x.shape[1]), dtype=np.float32 if fault == "float32_sum" else np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        for token, weight, narrow in zip(x, weights, given[counts], strict=True):
            product = narrow[:, None] * narrow[None] if fault == "narrow_square" else token[:, None] * token[None]
            factor = {"unweighted": 1.0, "weight_squared": weight * weight}.get(fault, weight)
            total += (factor * product).astype(total.dtype)
    if fault == "mean":
        total /= len(x)
    dead = np.diagonal(total) == 0
    if fault == "dead_set_to_one":
        total[dead, dead] = 1
    return {"hessian": total.astype(np.float64)}


def certainty(inputs: Arrays, parameters: Parameters, *, fault: str = "") -> Mapping[str, Array]:
    """CGQ's weights, token by token; wrong in one way if a fault is named."""
    number = np.float32 if fault == "float32" else np.float64
    found = []
    for masked, sure, padding in zip(inputs["masked"], inputs["confidence"], inputs["padding"], strict=True):
        is_masked = bool(masked) != (fault == "mask_inverted")
        s = number(1 - sure if fault == "uncertainty" else sure)
        if not is_masked and fault != "visible_certain":
            rule = "zero" if fault == "visible_ignored" else parameters["visible_confidence"]
            s = number({"zero": 0.0, "one": 1.0}.get(rule, s))
        c = number(parameters["masked_weight"] if is_masked else parameters["visible_weight"]) + (s if fault == "no_root" else np.sqrt(s))
        squared = (parameters["power"] == 2 and fault != "power_ignored") or fault == "always_squared"
        weight = c * c if squared else c
        found.append(0.0 if padding and fault != "padding_counts" else float(weight))
    weights = np.array(found)
    if fault == "weights_normalized":
        weights = weights * len(weights) / sum(found)
    return {"weights": weights}


def certainty_hessian(inputs: Arrays, parameters: Parameters, *, fault: str = "") -> Mapping[str, Array]:
    """CGQ's weights, then the sum; wrong in one way if a fault of either is named."""
    weights = certainty(inputs, parameters, fault=fault)["weights"]
    return second_moment({"x": inputs["x"], "token_weights": weights}, {}, fault=fault)


MUTANTS = (
    *(
        Mutant(name=f"hessian-{fault}", operation="hessian.weighted", flag=flag, what=what, run=partial(second_moment, fault=fault))
        for fault, (flag, what) in HESSIAN_FAULTS.items()
    ),
    *(
        Mutant(name=f"cgq-{fault}", operation="cgq.weights", flag=flag, what=what, run=partial(certainty, fault=fault))
        for fault, (flag, what) in WEIGHT_FAULTS.items()
    ),
    *(
        Mutant(name=f"cgq_hessian-{fault}", operation="cgq.hessian", flag=flag, what=what, run=partial(certainty_hessian, fault=fault))
        for fault, (flag, what) in ({**WEIGHT_FAULTS, **HESSIAN_FAULTS}).items()
        if fault in ("power_ignored", "weight_squared", "weights_normalized", "mask_inverted", "padding_counts")
    ),
)
RIGHT = {"hessian.weighted": second_moment, "cgq.weights": certainty, "cgq.hessian": certainty_hessian}
