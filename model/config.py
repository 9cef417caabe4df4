"""What a checkpoint's ``config.json`` says about the model, checked and with the class defaults filled in.

A key that is absent takes the default of the public LLaDA class (which is *not* the value of the released 8B models: an absent
``block_type`` means ``sequential``). Keys that change nothing at inference are ignored, whatever they hold. A value that this
implementation cannot honour raises, and says which values it can.

Source: the keys and defaults are those of ``configuration_llada.py`` as published with GSAI-ML/LLaDA-8B-Base.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from refquant.errors import InputError

NORMS = ("rms", "gemma_rms", "default", "low_precision")
ACTIVATIONS = ("silu", "gelu", "relu", "swiglu")
BLOCKS = ("llama", "sequential")

# Other models whose names are close enough to be handed to us by mistake.
_ARCHITECTURES = {"LLaDAModelLM": "llada", "LLaDAModel": "llada"}


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

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], where: str = "config.json") -> Config:
        """Read the keys that matter out of a parsed ``config.json``.

        Parameters
        ----------
        values : mapping
            The parsed JSON object. Unknown keys are ignored, as the public class does.
        where : str
            What error messages call the file.

        Raises
        ------
        InputError
            If a value has the wrong type, names something unknown, contradicts another one, or asks for what is not implemented.
        """
        _check_family(values, where)
        picked: dict[str, Any] = {}
        for name, check in _CHECKS.items():
            if name in values:
                allowed = check(values[name])
                if allowed is not None:
                    raise InputError(f"{where}: {name} is {values[name]!r}; allowed: {allowed}")
                picked[name] = float(values[name]) if name in ("rope_theta", "rms_norm_eps") else values[name]
        config = cls(**picked)
        for broken in _contradictions(config):
            raise InputError(f"{where}: {broken}")
        return config

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


def _check_family(values: Mapping[str, Any], where: str) -> None:
    """Refuse the relatives (Dream, LLaDA-MoE, LLaDA2, ...): their tensors and arithmetic differ."""
    if "model_type" in values:
        if values["model_type"] != "llada":
            raise InputError(f"{where}: model_type is {values['model_type']!r}; allowed: 'llada'")
        return
    named = values.get("architectures") or ["LLaDAModelLM"]
    if not isinstance(named, list) or not any(name in _ARCHITECTURES for name in map(str, named)):
        raise InputError(f"{where}: architectures is {named!r} and model_type is absent; allowed: ['LLaDAModelLM']")


# A check returns None when the value is good, else the values that are allowed.
_Check = Callable[[Any], str | None]


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _count(value: Any) -> str | None:
    return None if _is_int(value) and value >= 1 else "an integer of at least 1"


def _token(value: Any) -> str | None:
    return None if value is None or (_is_int(value) and value >= 0) else "null or a token id (an integer of at least 0)"


def _positive(value: Any) -> str | None:
    good = (_is_int(value) or isinstance(value, float)) and math.isfinite(value) and value > 0
    return None if good else "a finite number above 0"


def _flag(value: Any) -> str | None:
    return None if isinstance(value, bool) else "true or false"


def _only(wanted: bool) -> _Check:
    return lambda value: None if value is wanted else f"{str(wanted).lower()} only"


def _one_of(choices: tuple[str, ...]) -> _Check:
    return lambda value: None if isinstance(value, str) and value in choices else ", ".join(choices)


def _nullable(check: _Check) -> _Check:
    def allow_null(value: Any) -> str | None:
        allowed = None if value is None else check(value)
        return None if allowed is None else f"null or {allowed}"

    return allow_null


_CHECKS: dict[str, _Check] = {
    "d_model": _count,
    "n_layers": _count,
    "n_heads": _count,
    "n_kv_heads": _nullable(_count),
    "multi_query_attention": _nullable(_flag),
    "mlp_ratio": _count,
    "mlp_hidden_size": _nullable(_count),
    "vocab_size": _count,
    "embedding_size": _nullable(_count),
    "max_sequence_length": _count,
    "rope": _only(True),
    "rope_theta": _positive,
    "rope_full_precision": _flag,
    "alibi": _only(False),
    "layer_norm_type": _one_of(NORMS),
    "layer_norm_with_affine": _flag,
    "rms_norm_eps": _positive,
    "bias_for_layer_norm": _nullable(_flag),
    "attention_layer_norm": _flag,
    "attention_layer_norm_with_affine": _flag,
    "activation_type": _one_of(ACTIVATIONS),
    "block_type": _one_of(BLOCKS),
    "block_group_size": _count,
    "include_bias": _flag,
    "include_qkv_bias": _flag,
    "weight_tying": _flag,
    "scale_logits": _flag,
    "input_emb_norm": _flag,
    "mask_token_id": _token,
    "eos_token_id": _token,
    "pad_token_id": _token,
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
        found.append(
            f"d_model / n_heads is {config.head_dim}; allowed: an even number, because rotary embedding turns pairs"
        )
    if config.kv_heads != wanted_kv:
        found.append(
            f"n_kv_heads is {config.kv_heads} with multi_query_attention {str(config.multi_query_attention).lower()}; "
            f"allowed: {wanted_kv}, or multi_query_attention null"
        )
    elif config.n_heads % config.kv_heads:
        found.append(f"n_kv_heads is {config.kv_heads} with n_heads {config.n_heads}; allowed: a divisor of n_heads")
    if config.embedding_rows < config.vocab_size:
        found.append(
            f"embedding_size is {config.embedding_size}; allowed: null or at least vocab_size {config.vocab_size}"
        )
    if config.activation_type == "swiglu" and config.block_type == "llama":
        found.append("activation_type is 'swiglu' in block_type 'llama'; allowed there: silu, gelu, relu")
    if config.activation_type == "swiglu" and config.mlp_width % 2:
        found.append(f"mlp_hidden_size is {config.mlp_width} with activation_type 'swiglu'; allowed: an even number")
    if config.n_layers % config.block_group_size:
        found.append(f"block_group_size is {config.block_group_size}; allowed: a divisor of n_layers {config.n_layers}")
    return found
