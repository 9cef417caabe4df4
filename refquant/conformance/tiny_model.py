"""Tiny LLaDA models whose weights stand in a vector: stacked over blocks, under plain names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

import model
from refquant.conformance.exact_values import spread
from refquant.conformance.operation import Arrays, Parameters, Part
from refquant.numerics import Arithmetic
from refquant.numerics.arrays import Array

BLOCK = "model.transformer.blocks."
PLACES = {
    "attn_norm": "attn_norm.weight",
    "q": "q_proj.weight",
    "k": "k_proj.weight",
    "v": "v_proj.weight",
    "q_bias": "q_proj.bias",
    "k_bias": "k_proj.bias",
    "v_bias": "v_proj.bias",
    "attn_out": "attn_out.weight",
    "ff_norm": "ff_norm.weight",
    "gate": "ff_proj.weight",
    "up": "up_proj.weight",
    "down": "ff_out.weight",
}
"""By name in a vector: what a block of a checkpoint calls it."""
OUTSIDE = {
    "embedding": "model.transformer.wte.weight",
    "last_norm": "model.transformer.ln_f.weight",
    "head": "model.transformer.ff_out.weight",
}
LINEARS = ("q", "k", "v", "attn_out", "gate", "up", "down")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How large a tiny model is."""

    blocks: int
    width: int
    heads: int
    kv_heads: int
    hidden: int
    vocabulary: int

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of all weights by name; those of blocks without the stack."""
        d, m, kv = self.width, self.hidden, self.width // self.heads * self.kv_heads
        inner = {"attn_norm": (d,), "q": (d, d), "k": (kv, d), "v": (kv, d), "q_bias": (d,), "k_bias": (kv,), "v_bias": (kv,)}
        inner |= {"attn_out": (d, d), "ff_norm": (d,), "gate": (m, d), "up": (m, d), "down": (d, m)}
        return inner | {"embedding": (self.vocabulary, d), "last_norm": (d,), "head": (self.vocabulary, d)}


def weights_of(sizes: Sizes, dtype: str, seed: int = 100) -> dict[str, Array]:
    """Weights of short binary fractions: gains about 1, the others small enough that no block drowns the one before."""
    found = {}
    for number, (name, shape) in enumerate(sizes.shapes().items()):
        stacked = shape if name in OUTSIDE else (sizes.blocks, *shape)
        if name.endswith("norm"):
            array = 1 + spread(seed + number, stacked, 0.25)
        else:
            array = spread(seed + number, stacked, 1.0 if name in ("embedding", "head") or name.endswith("bias") else 0.5)
        found[name] = array.astype(dtype)
    return found


def weight_parts() -> tuple[Part, ...]:
    """The weights as inputs of an operation."""
    words = {
        "embedding": ("embedding of every token", "[V, d]"),
        "attn_norm": ("gain of the norm before attention", "[L, d]"),
        "q": ("query projection, rows are outputs", "[L, d, d]"),
        "k": ("key projection", "[L, kv, d]"),
        "v": ("value projection", "[L, kv, d]"),
        "q_bias": ("added to queries before they are rotated", "[L, d]"),
        "k_bias": ("added to keys before they are rotated", "[L, kv]"),
        "v_bias": ("added to values", "[L, kv]"),
        "attn_out": ("output projection of attention", "[L, d, d]"),
        "ff_norm": ("gain of the norm before the MLP", "[L, d]"),
        "gate": ("the MLP's linear that goes through silu", "[L, m, d]"),
        "up": ("the MLP's other first linear", "[L, m, d]"),
        "down": ("the MLP's last linear", "[L, d, m]"),
        "last_norm": ("gain of the norm before the head", "[d]"),
        "head": ("output projection", "[V, d]"),
    }
    return tuple(Part(name, meaning, "float32 or float64", shape) for name, (meaning, shape) in words.items())


def build(inputs: Arrays, parameters: Parameters, arithmetic: Arithmetic) -> model.Transformer:
    """The model of a vector.

    Parameters
    ----------
    inputs : mapping
        Holds the weights.
    parameters : mapping
        Holds ``heads``, ``kv_heads``, ``theta``, ``eps`` and may hold ``mask``, the token that masks.
    arithmetic : Arithmetic
    """
    rows, width = inputs["embedding"].shape
    values = {
        "model_type": "llada",
        "d_model": width,
        "n_layers": len(inputs["q"]),
        "n_heads": parameters["heads"],
        "n_kv_heads": parameters["kv_heads"],
        "mlp_hidden_size": inputs["gate"].shape[1],
        "vocab_size": rows,
        "embedding_size": rows,
        "max_sequence_length": 64,
        "rope": True,
        "rope_theta": parameters["theta"],
        "rms_norm_eps": parameters["eps"],
        "layer_norm_type": "rms",
        "activation_type": "silu",
        "block_type": "llama",
        "include_qkv_bias": True,
        "bias_for_layer_norm": False,
        "weight_tying": False,
        "mask_token_id": parameters.get("mask", rows - 1),
        "eos_token_id": 0,
        "pad_token_id": 0,
    }
    tensors = {place: inputs[name] for name, place in OUTSIDE.items()}
    for name, place in PLACES.items():
        tensors |= {f"{BLOCK}{index}.{place}": array for index, array in enumerate(inputs[name])}
    return model.build(model.Config.from_dict(values, "the vector"), tensors, inputs["embedding"].dtype.name, arithmetic)


def stacked(by_linear: Mapping[str, Array], blocks: int) -> dict[str, Array]:
    """Arrays by the name of a linear in the model, stacked over blocks by name in a vector."""
    names = {name: PLACES[name].removesuffix(".weight") for name in LINEARS}
    return {name: np.stack([by_linear[f"{BLOCK}{index}.{place}"] for index in range(blocks)]) for name, place in names.items()}
