"""GGUF files of small models whose tensors hold given blocks."""

from __future__ import annotations

import numpy as np

from model import Config
from refquant.apply.gguf_llada import metadata, tensor_names
from refquant.layout.gguf import BLOCK_TYPES, GgufTensor, quantize, write_gguf


def small_config(**changes):
    """One block whose matrices have rows of 256, so that every block type fits."""
    sizes = {"d_model": 256, "n_heads": 4, "n_kv_heads": 2, "n_layers": 1, "mlp_hidden_size": 256, "vocab_size": 64, "embedding_size": 64}
    fixed = {"rope": True, "block_type": "llama", "layer_norm_type": "rms", "activation_type": "silu", "weight_tying": False}
    return Config(**{**fixed, **sizes, "include_bias": False, "include_qkv_bias": False, "max_sequence_length": 32, **changes})


def matrices(config):
    """GGUF's names of all matrices, and their shapes."""
    shapes = config.architecture().tensor_shapes()
    return {f"{theirs}.weight": shapes[f"{ours}.weight"] for theirs, ours in tensor_names(config).items()}


def peers_blocks(kind, packed, shape):
    """A matrix whose blocks are a peer's, one after the other and again."""
    block = BLOCK_TYPES[kind]
    count = shape[0] * shape[1] // block.size
    return GgufTensor(kind=block, blocks=np.resize(packed.reshape(-1, block.nbytes), (count, block.nbytes)), shape=shape)


def write_model(path, config, kinds, blocks=None, scale=0.05, seed=0):
    """Write a file; `kinds` names the type of a matrix by GGUF's name, `blocks` makes its blocks instead of our quantizer."""
    rng, tensors = np.random.default_rng(seed), {}
    for name, shape in matrices(config).items():
        values = (rng.standard_normal(shape) * scale).astype(np.float32)
        kind = kinds(name) if len(shape) == 2 else "F32"
        if len(shape) == 1:
            values = np.ones(shape, np.float32)
        made = None if blocks is None or kind == "F32" else blocks(kind, shape)
        tensors[name] = quantize(values, kind) if made is None else made
    write_gguf(path, metadata(config, {}, 0)[0], tensors)
    return tensors
