"""A LLaDA checkpoint in llama.cpp's words: names, the order of rotated rows, and the keys of the metadata.

llama.cpp turns pairs ``(2 i, 2 i + 1)`` of a head's numbers where LLaDA turns ``(i, i + h/2)``: the rows of query and key projections are
put in that order on the way out and back on the way in. Nothing else moves, and no number changes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from model import Config, names
from refquant.apply.checkpoint import KEPT_FILES
from refquant.errors import InputError
from refquant.layout.gguf import GgufFile, GgufTensor, Value
from refquant.numerics.arrays import Array, IntArray
from refquant.storage.border import quoted

ARCHITECTURE = "llada"
OUTSIDE = {"token_embd": names.EMBEDDING, "output_norm": names.FINAL_NORM, "output": names.HEAD}
INSIDE = {
    "attn_norm": "attn_norm",
    "attn_q": "q_proj",
    "attn_k": "k_proj",
    "attn_v": "v_proj",
    "attn_output": "attn_out",
    "ffn_norm": "ff_norm",
    "ffn_gate": "ff_proj",
    "ffn_up": "up_proj",
    "ffn_down": "ff_out",
}
# What llama.cpp calls the splitting of text that a pre_tokenizer does, by its steps.
SPLITTING = {("ByteLevel",): "gpt-2", ("Digits", "ByteLevel"): "smollm"}
NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5
TOKENIZER = "tokenizer.huggingface.json"
KEPT = "refquant.file."
"""Files that come back as they were; other programs skip the keys."""


def tensor_names(config: Config) -> dict[str, str]:
    """GGUF's name of every tensor, without ``.weight``, and LLaDA's.

    Examples
    --------
    >>> tensor_names(Config(rope=True, n_layers=1))["blk.0.ffn_gate"]
    'model.transformer.blocks.0.ff_proj'
    """
    found = {theirs: ours for theirs, ours in OUTSIDE.items() if theirs != "output" or not config.weight_tying}
    for index in range(config.n_layers):
        found |= {f"blk.{index}.{theirs}": f"model.transformer.blocks.{index}.{ours}" for theirs, ours in INSIDE.items()}
    return found


def rotated_rows(name: str, config: Config) -> IntArray | None:
    """The order in which GGUF has the rows of a tensor of ours: entry ``i`` is the row that comes ``i``-th; None where none moves.

    Examples
    --------
    >>> config = Config(rope=True, d_model=8, n_heads=2)
    >>> rotated_rows("blk.0.attn_q", config).tolist()
    [0, 2, 1, 3, 4, 6, 5, 7]
    """
    heads = {"attn_q": config.n_heads, "attn_k": config.kv_heads}.get(name.rpartition(".")[2])
    if heads is None:
        return None
    return np.arange(heads * config.head_dim).reshape(heads, 2, -1).swapaxes(1, 2).reshape(-1)


def with_rows(tensor: GgufTensor, order: IntArray | None) -> GgufTensor:
    """A matrix with its rows in another order; blocks run along rows, so they move whole."""
    if order is None:
        return tensor
    rows = tensor.blocks.reshape(tensor.shape[0], -1)
    return GgufTensor(kind=tensor.kind, blocks=rows[order].reshape(tensor.blocks.shape), shape=tensor.shape)


def require_held(config: Any, where: str) -> Config:
    """The config, if it is one of the models that llama.cpp's ``llada`` computes; InputError naming the first key that is not."""
    if not isinstance(config, Config):
        raise InputError(f"{where}: the gguf layout holds LLaDA's own architecture; this is another family")
    wanted = {
        "block_type": "llama",
        "block_group_size": 1,
        "layer_norm_type": "rms",
        "layer_norm_with_affine": True,
        "norm_bias": False,
        "attention_layer_norm": False,
        "activation_type": "silu",
        "include_bias": False,
        "qkv_bias": False,
        "input_emb_norm": False,
        "scale_logits": False,
    }
    for key, value in wanted.items():
        if getattr(config, key) != value:
            raise InputError(f"{where}: {key} is {getattr(config, key)!r}; llama.cpp's llada has {value!r}")
    return config


def metadata(config: Config, files: Mapping[str, bytes], file_type: int) -> tuple[dict[str, Value], tuple[str, ...]]:
    """All keys, and notes on what could not be said.

    Parameters
    ----------
    config : Config
    files : mapping of bytes
        ``tokenizer.json`` and what lies beside it.
    file_type : int
        What most tensors are, in ``general.file_type``'s numbers.
    """
    own = {
        "context_length": config.max_sequence_length,
        "embedding_length": config.d_model,
        "block_count": config.n_layers,
        "feed_forward_length": config.mlp_width,
        "attention.head_count": config.n_heads,
        "attention.head_count_kv": config.kv_heads,
        "rope.dimension_count": config.head_dim,
        "vocab_size": config.embedding_rows,
    }
    found = {"general.architecture": _text(ARCHITECTURE), "general.file_type": _count(file_type), "general.quantization_version": _count(2)}
    found |= {f"{ARCHITECTURE}.{key}": _count(value) for key, value in own.items()}
    found[f"{ARCHITECTURE}.attention.layer_norm_rms_epsilon"] = Value(kind="float32", value=config.norm_eps)
    found[f"{ARCHITECTURE}.rope.freq_base"] = Value(kind="float32", value=config.rope_theta)
    found[f"{ARCHITECTURE}.attention.causal"] = Value(kind="bool", value=False)
    found["diffusion.shift_logits"] = Value(kind="bool", value=False)
    tokens, notes = _tokenizer(config, files)
    found |= tokens
    for name, data in files.items():
        found[TOKENIZER if name == "tokenizer.json" else KEPT + name] = _text(data.decode("utf-8"))
    return found, notes


def _tokenizer(config: Config, files: Mapping[str, bytes]) -> tuple[dict[str, Value], tuple[str, ...]]:
    """The vocabulary as llama.cpp reads it, if it can split text as ``tokenizer.json`` says; otherwise none, and a note."""
    found = json.loads(files["tokenizer.json"]) if "tokenizer.json" in files else None
    splitting = None if found is None else _splitting(found)
    special = {"mask": config.mask_token_id, "eos": config.eos_token_id, "padding": config.pad_token_id}
    if found is None or splitting is None:
        reason = "there is no tokenizer.json" if found is None else "llama.cpp has no name for how its tokenizer splits text"
        return {"tokenizer.ggml.model": _text("no_vocab")}, (f"no vocabulary: {reason}; programs have to be given tokens",)
    words = {index: word for word, index in found["model"]["vocab"].items()}
    added = {token["id"]: token for token in found.get("added_tokens", [])}
    kinds = dict.fromkeys(words, NORMAL) | {index: CONTROL if token["special"] else USER_DEFINED for index, token in added.items()}
    words |= {index: token["content"] for index, token in added.items()}
    rows = range(config.embedding_rows)
    settings = json.loads(files.get("tokenizer_config.json", b"{}"))
    bos = next((index for index, word in words.items() if word == settings.get("bos_token")), None)
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in found["model"]["merges"]]
    keys = {
        "model": _text("gpt2"),
        "pre": _text(splitting),
        "tokens": Value(kind="text", value=[words.get(row, f"[PAD{row}]") for row in rows], array=True),
        "token_type": Value(kind="int32", value=[kinds.get(row, UNUSED) for row in rows], array=True),
        "merges": Value(kind="text", value=merges, array=True),
        "add_bos_token": Value(kind="bool", value=bool(settings.get("add_bos_token", True))),
    }
    keys |= {f"{name}_token_id": _count(index) for name, index in {**special, "bos": bos}.items() if index is not None}
    return {f"tokenizer.ggml.{key}": value for key, value in keys.items()}, ()


def _splitting(tokenizer: Mapping[str, Any]) -> str | None:
    """The name of a byte-level BPE's splitting; None if it is something else or is split by other steps."""
    pre = tokenizer.get("pre_tokenizer") or {}
    steps = pre.get("pretokenizers", [pre])
    plain = tokenizer.get("normalizer") is None and tokenizer["model"].get("type") == "BPE" and not tokenizer["model"].get("byte_fallback")
    usual = all(
        step.get("use_regex", True) and not step.get("add_prefix_space", False) for step in steps if step.get("type") == "ByteLevel"
    )
    digits = all(step.get("individual_digits") for step in steps if step.get("type") == "Digits")
    return SPLITTING.get(tuple(step.get("type") for step in steps)) if plain and usual and digits else None


def config_of(file: GgufFile) -> dict[str, Any]:
    """The ``config.json`` that a file's keys amount to.

    Raises
    ------
    InputError
        If a key is missing or of the wrong kind, or the architecture is another.
    """
    found = file.value("general.architecture", str)
    if found != ARCHITECTURE:
        raise InputError(f"{file.path}: architecture {quoted(found)}; {ARCHITECTURE} is read")
    if file.value(f"{ARCHITECTURE}.attention.causal", bool, False):
        raise InputError(f"{file.path}: attention.causal is true; LLaDA looks both ways")

    def number(key: str, kind: type = int, default: Any = None) -> Any:
        return file.value(f"{ARCHITECTURE}.{key}", kind, default)

    if "token_embd.weight" not in file.tensors:
        raise InputError(f"{file.path}: no tensor token_embd.weight")
    blocks = number("block_count")
    if blocks > len(file.tensors):
        raise InputError(f"{file.path}: {blocks} blocks; the file has {len(file.tensors)} tensors")
    rows, heads = file.tensors["token_embd.weight"].shape[0], number("attention.head_count")
    tokens = {name: file.value(f"tokenizer.ggml.{key}_token_id", int, -1) for name, key in _SPECIAL.items()}
    return {
        "model_type": "llada",
        "architectures": ["LLaDAModelLM"],
        "activation_type": "silu",
        "block_type": "llama",
        "d_model": number("embedding_length"),
        "embedding_size": rows,
        "include_bias": False,
        "include_qkv_bias": False,
        "layer_norm_type": "rms",
        "max_sequence_length": number("context_length"),
        "mlp_hidden_size": number("feed_forward_length"),
        "n_heads": heads,
        "n_kv_heads": number("attention.head_count_kv", int, heads),
        "n_layers": blocks,
        "rms_norm_eps": _shortest(number("attention.layer_norm_rms_epsilon", float)),
        "rope": True,
        "rope_theta": _shortest(number("rope.freq_base", float, 10000.0)),
        "vocab_size": number("vocab_size", int, rows),
        "weight_tying": "output.weight" not in file.tensors,
        **{name: None if index < 0 else index for name, index in tokens.items()},
    }


_SPECIAL = {"mask_token_id": "mask", "eos_token_id": "eos", "pad_token_id": "padding"}


def _shortest(number: float) -> float:
    """The shortest decimal that is this float32: 1e-5 rather than 9.99999974737875e-06."""
    return float(str(np.float32(number)))


def files_of(file: GgufFile) -> dict[str, bytes]:
    """Tokenizer and the like, where the file keeps them."""
    kept = {key.removeprefix(KEPT): value for key, value in file.metadata.items() if key.startswith(KEPT)}
    if TOKENIZER in file.metadata:
        kept["tokenizer.json"] = file.metadata[TOKENIZER]
    for name, value in kept.items():
        if name not in KEPT_FILES[1:] or value.kind != "text" or value.array:
            raise InputError(f"{file.path}: keeps a file {quoted(name)}; texts called {', '.join(KEPT_FILES[1:])} may be kept")
    return {name: value.value.encode("utf-8") for name, value in kept.items()}


def unrotated(array: Array, order: IntArray | None) -> Array:
    """Rows back in our order."""
    if order is None:
        return array
    found = np.empty_like(array)
    found[order] = array
    return found


def _text(text: str) -> Value:
    return Value(kind="text", value=text)


def _count(number: int) -> Value:
    return Value(kind="uint32", value=number)
