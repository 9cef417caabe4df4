"""Whole models quantized in the wrong order, or of the wrong states.

Too much for a program of its own: these are this package with other settings or inputs, or its parts put together wrongly.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np

from refquant.apply.recipe import Recipe
from refquant.conformance.mutants.mutant import Mutant
from refquant.conformance.operation import Arrays, Parameters
from refquant.conformance.operations.quantized_model import reference
from refquant.conformance.tiny_model import build, stacked
from refquant.methods.compensate.gptq import gptq
from refquant.numerics import FAST
from refquant.numerics.arrays import Array

FAULTS: dict[str, tuple[str, str]] = {
    "float_inputs": ("propagation", "every linear is calibrated on its inputs in the float model"),
    "rounded": ("compensation", "codes are rounded to nearest, nothing is compensated"),
    "tokens_alike": ("certainty", "all tokens count alike"),
    "clean_states": ("propagation", "sequences without masks calibrate"),
    "behind_quantizer": ("certainty", "Hessians are made behind the activation quantizer"),
}
"""``name: (flag that must catch it, what is wrong)``."""
SETTINGS: dict[str, dict[str, dict[str, str]]] = {
    "rounded": {"weights": {"method": "rtn"}},
    "tokens_alike": {"tokens": {"weighting": "uniform"}},
    "behind_quantizer": {"weights": {"hessian_inputs": "quantized"}},
}


def quantize(inputs: Arrays, parameters: Parameters, *, fault: str = "") -> Mapping[str, Array]:
    """Quantize; wrong in one way if a fault is named."""
    if fault == "float_inputs":
        return _from_float(inputs, parameters)
    if fault == "clean_states":
        inputs = {**inputs, "ids": inputs["final_ids"]}
    recipe = dict(parameters["recipe"])
    for part, changes in SETTINGS.get(fault, {}).items():
        recipe[part] = {**recipe.get(part, {}), **changes}
    return reference(inputs, {**parameters, "recipe": recipe})


def _from_float(inputs: Arrays, parameters: Parameters) -> Mapping[str, Array]:
    m = build(inputs, parameters, FAST)
    seen: dict[str, Array] = {}
    m.logits(inputs["ids"], observer=seen.__setitem__)
    how = Recipe.from_dict({"name": "vector", **parameters["recipe"]}).weights
    found = {}
    for name in m.linears:
        x = seen[f"{name}.input"].reshape(-1, seen[f"{name}.input"].shape[-1])
        found[name] = gptq(m.parameters[f"{name}.weight"], FAST.gram(x), how.spec(), damping=how.damping)
    blocks = len(inputs["q"])
    outputs = {f"{name}_codes": array for name, array in stacked({name: q.codes for name, q in found.items()}, blocks).items()}
    outputs |= {f"{name}_scale": array for name, array in stacked({name: q.scale for name, q in found.items()}, blocks).items()}
    return outputs | {"value_scale": np.zeros((blocks, 0))}


MUTANTS = tuple(
    Mutant(name=f"checkpoint-{fault}", operation="checkpoint.quantize", flag=flag, what=what, run=partial(quantize, fault=fault))
    for fault, (flag, what) in FAULTS.items()
)
RIGHT = {"checkpoint.quantize": quantize}
