"""Small random models, in memory and as folders, and calibration states for them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np

import model
from model.names import tensor_shapes
from refquant.apply.recipe import Recipe
from refquant.apply.states import CalibrationState
from refquant.storage import write_tensors

LLADA = Path(__file__).parents[1] / "data" / "llada"

CONFIG = {
    "model_type": "llada",
    "d_model": 16,
    "n_layers": 2,
    "n_heads": 4,
    "n_kv_heads": 2,
    "mlp_hidden_size": 24,
    "vocab_size": 40,
    "embedding_size": 40,
    "max_sequence_length": 64,
    "rope": True,
    "layer_norm_type": "rms",
    "activation_type": "silu",
    "block_type": "llama",
    "include_bias": True,
    "bias_for_layer_norm": False,
    "weight_tying": False,
    "mask_token_id": 39,
    "eos_token_id": 37,
    "pad_token_id": 37,
}
SEQUENTIAL = {"block_type": "sequential", "activation_type": "gelu"}
GROUPED = {"n_layers": 4, "block_group_size": 2}

# Small groups, so that 16 and 24 columns are cut and the last group is ragged.
SMALL = {"group_size": 10, "block_size": 7}
ONE_STATE = {"samples": 1, "prompts": 1}


def config_of(**changes):
    return model.Config.from_dict(CONFIG | changes, "config")


def tensors_of(config, seed=0):
    rng = np.random.default_rng(seed)
    found = {}
    for name, shape in tensor_shapes(config).items():
        noise = rng.standard_normal(shape)
        found[name] = 1 + 0.2 * noise if "norm" in name and name.endswith("weight") else noise * (1.0 if "wte" in name else 0.3)
    return found


def tiny(dtype="float64", seed=0, **changes):
    config = config_of(**changes)
    tensors = {name: array.astype(np.float32) for name, array in tensors_of(config, seed).items()}
    return model.build(config, tensors, dtype)


def states_of(lengths=(9, 12, 9, 5, 9), seed=1, prompt=3):
    """States of several lengths with masks behind the prompt."""
    rng = np.random.default_rng(seed)
    found = []
    for line, length in enumerate(lengths):
        final = rng.integers(0, 37, length)
        masked = rng.random(length) < 0.5
        masked[:prompt] = False
        found.append(CalibrationState(ids=np.where(masked, 39, final), masked=masked, final_ids=final, line=line))
    return found


def recipe(weights=None, **parts):
    """GPTQ on small groups, changed as told."""
    return Recipe(name="tiny").replace(weights=SMALL | (weights or {}), **parts)


def write_folder(folder, seed=0, dtype=np.float32, **changes):
    """A checkpoint of a tiny model over the embedded tokenizer's 1024 tokens."""
    special = {"vocab_size": 1024, "embedding_size": 1024, "mask_token_id": 3, "eos_token_id": 1, "pad_token_id": 1}
    config = CONFIG | special | {"bos_token_id": 0} | changes
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    shutil.copyfile(model.embedded_directory() / "tokenizer.json", folder / "tokenizer.json")
    tensors = tensors_of(model.Config.from_dict(config, "config"), seed)
    write_tensors(folder / "model.safetensors", {name: array.astype(dtype) for name, array in tensors.items()}, {"format": "pt"})
    return folder
