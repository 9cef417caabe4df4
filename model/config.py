"""What a checkpoint's ``config.json`` says about the model, checked and with the class defaults filled in.

A key that is absent takes the default of the public LLaDA class (which is *not* the value of the released 8B models: an absent
``block_type`` means ``sequential``). Keys that change nothing at inference are ignored, whatever they hold. A value that this
implementation cannot honour raises, and says which values it can.

Source: the keys and defaults are those of ``configuration_llada.py`` as published with GSAI-ML/LLaDA-8B-Base.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from model import checks, names
from model.architecture import Architecture, ModelConfig
from model.checks import Check
from refquant.errors import InputError

NORMS = ("rms", "gemma_rms", "default", "low_precision")
ACTIVATIONS = ("silu", "gelu", "relu", "swiglu")
BLOCKS = ("llama", "sequential")


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """One model's architecture: the keys of ``config.json`` that matter, under their own names.

    Nothing that can be derived is stored: null stays null, and the properties resolve it. Build one with :meth:`from_dict`, which
    checks it; every error is an :class:`~refquant.errors.InputError`.

    Examples
    --------
    >>> config = Config.from_dict({"rope": True, "d_model": 64, "n_heads": 4, "n_kv_heads": 2})
    >>> config.kv_heads, config.head_dim, config.mlp_width, config.block_type
    (2, 16, 256, 'sequential')
    """

    d_model: int = 768
    n_layers: int = 12
    n_heads: int = 12
    n_kv_heads: int | None = None
    multi_query_attention: bool | None = None
    mlp_ratio: int = 4
    mlp_hidden_size: int | None = None
    vocab_size: int = 50257
    embedding_size: int | None = 50304
    max_sequence_length: int = 1024
    rope: bool = False
    rope_theta: float = 10000.0
    rope_full_precision: bool = True
    alibi: bool = False
    layer_norm_type: str = "default"
    layer_norm_with_affine: bool = True
    rms_norm_eps: float = 1e-5
    bias_for_layer_norm: bool | None = None
    attention_layer_norm: bool = False
    attention_layer_norm_with_affine: bool = True
    activation_type: str = "swiglu"
    block_type: str = "sequential"
    block_group_size: int = 1
    include_bias: bool = False
    include_qkv_bias: bool = False
    weight_tying: bool = True
    scale_logits: bool = False
    input_emb_norm: bool = False
    mask_token_id: int | None = 50256
    eos_token_id: int | None = 50256
    pad_token_id: int | None = 50256

    @staticmethod
    def from_dict(values: Mapping[str, Any], where: str = "config.json") -> ModelConfig:
        """Read a parsed ``config.json`` of any family; what comes back is a ``Config`` where it is LLaDA's.

        Parameters
        ----------
        values : mapping
            The parsed JSON object. Its ``model_type`` and ``architectures`` say which family it is. LLaDA's public class ignores unknown
            keys, and so does this; in the other families they raise.
        where : str
            What error messages call the file.

        Raises
        ------
        InputError
            If a value has the wrong type, names something unknown, contradicts another one, or asks for what is not implemented.
        """
        from model.families import read_config  # the families import this file

        return read_config(values, where)

    @classmethod
    def read(cls, values: Mapping[str, Any], where: str) -> Config:
        """Read the keys that matter out of LLaDA's own ``config.json``; errors as in :meth:`from_dict`."""
        picked = checks.pick(values, _CHECKS, where)
        for name in ("rope_theta", "rms_norm_eps"):
            if name in picked:
                picked[name] = float(picked[name])
        config = cls(**picked)
        for broken in _contradictions(config):
            raise InputError(f"{where}: {broken}")
        return config

    def architecture(self) -> Architecture:
        """Describe the model as the forward pass reads it."""
        return names.llada_architecture(self)

    @property
    def kv_heads(self) -> int:
        """Key-value heads: ``n_kv_heads``, or when that is null 1 with ``multi_query_attention`` and `n_heads` without."""
        if self.n_kv_heads is not None:
            return self.n_kv_heads
        return 1 if self.multi_query_attention else self.n_heads

    @property
    def head_dim(self) -> int:
        """Width of one head."""
        return self.d_model // self.n_heads

    @property
    def kv_width(self) -> int:
        """Width of all key heads together."""
        return self.kv_heads * self.head_dim

    @property
    def mlp_width(self) -> int:
        """Output width of ``ff_proj``: ``mlp_hidden_size``, or ``mlp_ratio * d_model`` when that is null."""
        return self.mlp_ratio * self.d_model if self.mlp_hidden_size is None else self.mlp_hidden_size

    @property
    def mlp_out_width(self) -> int:
        """Input width of a block's ``ff_out``: half of :attr:`mlp_width` under ``swiglu``, which multiplies two halves."""
        return self.mlp_width // 2 if self.activation_type == "swiglu" else self.mlp_width

    @property
    def embedding_rows(self) -> int:
        """Rows of the embedding and columns of the logits: ``embedding_size``, or ``vocab_size`` when that is null."""
        return self.vocab_size if self.embedding_size is None else self.embedding_size

    @property
    def norm_bias(self) -> bool:
        """Whether norms with a gain also have a bias: ``bias_for_layer_norm``, or ``include_bias`` when that is null."""
        return self.include_bias if self.bias_for_layer_norm is None else self.bias_for_layer_norm

    @property
    def qkv_bias(self) -> bool:
        """Whether the query, key and value projections have a bias."""
        return self.include_bias or self.include_qkv_bias

    @property
    def norm_eps(self) -> float:
        """Epsilon of the norms: ``rms_norm_eps`` for the RMS kinds; the LayerNorm kinds use 1e-5 whatever it says."""
        return self.rms_norm_eps if self.layer_norm_type in ("rms", "gemma_rms") else 1e-5


_CHECKS: dict[str, Check] = {
    "d_model": checks.count,
    "n_layers": checks.count,
    "n_heads": checks.count,
    "n_kv_heads": checks.nullable(checks.count),
    "multi_query_attention": checks.nullable(checks.flag),
    "mlp_ratio": checks.count,
    "mlp_hidden_size": checks.nullable(checks.count),
    "vocab_size": checks.count,
    "embedding_size": checks.nullable(checks.count),
    "max_sequence_length": checks.count,
    "rope": checks.only(True),
    "rope_theta": checks.positive,
    "rope_full_precision": checks.flag,
    "alibi": checks.only(False),
    "layer_norm_type": checks.one_of(NORMS),
    "layer_norm_with_affine": checks.flag,
    "rms_norm_eps": checks.positive,
    "bias_for_layer_norm": checks.nullable(checks.flag),
    "attention_layer_norm": checks.flag,
    "attention_layer_norm_with_affine": checks.flag,
    "activation_type": checks.one_of(ACTIVATIONS),
    "block_type": checks.one_of(BLOCKS),
    "block_group_size": checks.count,
    "include_bias": checks.flag,
    "include_qkv_bias": checks.flag,
    "weight_tying": checks.flag,
    "scale_logits": checks.flag,
    "input_emb_norm": checks.flag,
    "mask_token_id": checks.token,
    "eos_token_id": checks.token,
    "pad_token_id": checks.token,
}


def _contradictions(config: Config) -> list[str]:
    """Find what is wrong with keys taken together. An absent `rope` is false, so it shows up here."""
    found = []
    wanted_kv = {None: config.kv_heads, True: 1, False: config.n_heads}[config.multi_query_attention]
    if not config.rope:
        found.append("rope is absent, which means false; allowed: true only")
    if config.d_model % config.n_heads:
        found.append(f"d_model is {config.d_model} with n_heads {config.n_heads}; allowed: a multiple of n_heads")
    elif config.head_dim % 2:
        found.append(f"d_model / n_heads is {config.head_dim}; allowed: an even number, because rotary embedding turns pairs")
    if config.kv_heads != wanted_kv:
        found.append(
            f"n_kv_heads is {config.kv_heads} with multi_query_attention {str(config.multi_query_attention).lower()}; "
            f"allowed: {wanted_kv}, or multi_query_attention null"
        )
    elif config.n_heads % config.kv_heads:
        found.append(f"n_kv_heads is {config.kv_heads} with n_heads {config.n_heads}; allowed: a divisor of n_heads")
    if config.embedding_rows < config.vocab_size:
        found.append(f"embedding_size is {config.embedding_size}; allowed: null or at least vocab_size {config.vocab_size}")
    if config.activation_type == "swiglu" and config.block_type == "llama":
        found.append("activation_type is 'swiglu' in block_type 'llama'; allowed there: silu, gelu, relu")
    if config.activation_type == "swiglu" and config.mlp_width % 2:
        found.append(f"mlp_hidden_size is {config.mlp_width} with activation_type 'swiglu'; allowed: an even number")
    if config.n_layers % config.block_group_size:
        found.append(f"block_group_size is {config.block_group_size}; allowed: a divisor of n_layers {config.n_layers}")
    return found
