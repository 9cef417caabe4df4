"""From a tiny checkpoint and calibration states to codes."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

import numpy as np

from refquant.apply.quantize import quantize_model
from refquant.apply.recipe import Recipe
from refquant.apply.states import CalibrationState
from refquant.conformance.case import Case
from refquant.conformance.exact_values import context, lifted
from refquant.conformance.operation import Arrays, Operation, Parameter, Parameters, Part
from refquant.conformance.rules import margin, scaled
from refquant.conformance.tiny_model import LINEARS, Sizes, build, stacked, weight_parts, weights_of
from refquant.core import QTensor
from refquant.numerics import FAST, ORDERED, Arithmetic
from refquant.numerics.arrays import Array
from refquant.oracle import BINARY64, Uniform
from refquant.oracle.quantized_model import quantize_weights

NAME = "checkpoint.quantize"
SMALL = Sizes(blocks=2, width=8, heads=2, kv_heads=1, hidden=6, vocabulary=11)
LARGER = Sizes(blocks=2, width=16, heads=4, kv_heads=2, hidden=20, vocabulary=13)
BOUND = 1e-8
"""Steps: what is left of rounding in float64 behind two blocks."""
SCALES = scaled(1e-12)
DAMPING = 0.01
GPTQ = {"method": "gptq", "bits": 4, "scheme": "asym_incl0", "group_size": -1, "scale_format": "", "damping": DAMPING}
PLAIN = {"weights": GPTQ}
DLLMQUANT = {
    "weights": GPTQ | {"group_size": 8},
    "tokens": {"weighting": "certainty"},
    "activations": {"method": "per_token", "bits": 4},
    "values": {"method": "ia_aq", "bits": 4},
    "probabilities": {"bits": 16},
}


def reference(inputs: Arrays, parameters: Parameters, *, arithmetic: Arithmetic = FAST) -> dict[str, Array]:
    """Quantize the model."""
    m = build(inputs, parameters, arithmetic)
    sequences = zip(inputs["ids"], inputs["final_ids"], strict=True)
    states = [
        CalibrationState(ids=ids, masked=ids == parameters["mask"], final_ids=final, line=line)
        for line, (ids, final) in enumerate(sequences)
    ]
    found = quantize_model(m, Recipe.from_dict({"name": "vector", **parameters["recipe"]}), states)
    blocks = len(inputs["q"])
    weights = {name: weight for name, weight in found.weights.items() if isinstance(weight, QTensor)}  # all: GPTQ makes no other kind
    codes = stacked({name: weight.codes for name, weight in weights.items()}, blocks)
    scales = stacked({name: weight.scale for name, weight in weights.items()}, blocks)
    values = [np.zeros(0) if not found.value_grids else found.value_grids[index].scale.reshape(-1) for index in range(blocks)]
    outputs = {f"{name}_codes": array for name, array in codes.items()} | {f"{name}_scale": array for name, array in scales.items()}
    return outputs | {"value_scale": np.stack(values).astype(np.float64)}


def _given(sizes: Sizes, sequences: int, length: int) -> dict[str, Array]:
    mask = sizes.vocabulary - 1
    places = np.arange(sequences * length, dtype=np.int64).reshape(sequences, length)
    final = places * 7 % 23 % mask
    return {"ids": np.where(places * 5 % 7 < 3, mask, final), "final_ids": final, **weights_of(sizes, "float64", seed=200)}


def _parameters(sizes: Sizes, recipe: Parameters) -> Parameters:
    how = {"heads": sizes.heads, "kv_heads": sizes.kv_heads, "theta": 10000.0, "eps": 1e-5}
    return how | {"mask": sizes.vocabulary - 1, "recipe": dict(recipe)}


def _oracle() -> Case:
    inputs, parameters = _given(SMALL, 3, 6), _parameters(SMALL, PLAIN)
    numbers = context()
    found = quantize_weights(
        numbers,
        inputs["ids"].tolist(),
        {name: lifted(numbers, array) for name, array in inputs.items() if name not in ("ids", "final_ids")},
        SMALL.heads,
        SMALL.kv_heads,
        numbers.mpf(parameters["theta"]),
        numbers.mpf(parameters["eps"]),
        Uniform("asym_incl0", 4, BINARY64),
        Fraction(DAMPING),
    )
    expected: dict[str, Array] = {"value_scale": np.zeros((SMALL.blocks, 0))}
    margins = {}
    for name in LINEARS:
        results = [block[name] for block in found]
        expected[f"{name}_codes"] = np.array([result.codes for result, _ in results], np.uint8)
        expected[f"{name}_scale"] = np.array([[[float(grid.scale)] for grid in grids] for _, grids in results])
        margins[f"{name}_codes"] = np.array([[[float(abs(value)) for value in line] for line in result.margins] for result, _ in results])
    return Case(
        operation=NAME,
        slug="gptq-w4",
        parameters=parameters,
        inputs=inputs,
        expected=expected,
        flags=("compensation", "propagation"),
        lane="bounded",
        rules={part: margin(BOUND) for part in margins} | {f"{name}_scale": SCALES for name in LINEARS},
        margins=margins,
    )


def cases() -> Iterator[Case]:
    """GPTQ from the oracle; all of DLLMQuant in the ordered arithmetic."""
    yield _oracle()
    inputs, parameters = _given(LARGER, 6, 9), _parameters(LARGER, DLLMQUANT)
    yield Case(
        operation=NAME,
        slug="dllmquant-w4a4",
        parameters=parameters,
        inputs=inputs,
        expected=reference(inputs, parameters, arithmetic=ORDERED),
        flags=("compensation", "propagation", "ragged-group", "grouped-heads", "certainty"),
        note="The ordered arithmetic gives these bytes on every machine.",
        lane="ordered",
        source="ordered",
        twin=f"{NAME}/gptq-w4",
        rules={f"{name}_scale": SCALES for name in LINEARS} | {"value_scale": SCALES},
    )


OPERATION = Operation(
    name=NAME,
    level="end_to_end",
    doc="A model as in transformer.forward is quantized block by block, and in each block first q, k and v, then attn_out, then gate and "
    "up, then down, by GPTQ as in gptq.codes, in float64. The Hessian of a linear is the sum of x x^T over all positions of all sequences, "
    "x being its inputs in the model in which everything before it is quantized: weights stand for their codes, and activations, values "
    "and probabilities are quantized where the recipe says so. Parts of the recipe: weights (method, bits, scheme, group_size, -1 for "
    "whole rows, scale_format, empty for float64, damping); tokens.weighting, certainty: positions count by CGQ's weights, of the float "
    "model's probabilities; activations, per_token: the inputs of all linears as in activation.per_token with scheme sym_full and empty "
    "unit_scale; values, ia_aq: V on a static grid of each key head found by IA-AQ; probabilities.bits, 16: the softmax output on the "
    "grid of 65535 steps of [0, 1]. What a recipe does not name is left in floating point.",
    inputs=(
        Part("ids", "calibration sequences, masks included", "int64", "[sequences, tokens]"),
        Part("final_ids", "what stands behind the masks", "int64", "[sequences, tokens]"),
        *weight_parts(),
    ),
    outputs=(
        *(Part(f"{name}_codes", f"codes of {name}", "uint8", "[L, out, in]") for name in LINEARS),
        *(Part(f"{name}_scale", f"scales of {name}", "float64", "[L, out, groups]") for name in LINEARS),
        Part("value_scale", "static scales of V, empty without a quantizer of V", "float64", "[L, key heads]"),
    ),
    parameters=(
        Parameter("heads", "query heads"),
        Parameter("kv_heads", "key and value heads"),
        Parameter("theta", "the base of the rotary frequencies"),
        Parameter("eps", "of all norms"),
        Parameter("mask", "the token that masks"),
        Parameter("recipe", "what is quantized how, as in a recipe's TOML"),
    ),
    reference=reference,
    cases=cases,
)
