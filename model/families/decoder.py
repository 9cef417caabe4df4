"""What the families with Hugging Face style keys share: their config keys, their names of tensors, their norms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from model import checks
from model.architecture import LinearPlan, MlpPlan, NormPlan
from model.checks import Check
from refquant.errors import InputError

ACTIVATIONS = ("silu", "gelu", "relu")

CHECKS: dict[str, Check] = {
    "vocab_size": checks.count,
    "hidden_size": checks.count,
    "num_hidden_layers": checks.count,
    "num_attention_heads": checks.count,
    "num_key_value_heads": checks.nullable(checks.count),
    "head_dim": checks.nullable(checks.count),
    "hidden_act": checks.one_of(ACTIVATIONS),
    "rms_norm_eps": checks.positive,
    "rope_theta": checks.positive,
    "tie_word_embeddings": checks.flag,
    "mask_token_id": checks.token,
    "eos_token_id": checks.token,
    "pad_token_id": checks.token,
}
# Checked, but nothing is left to remember of them.
GATES: dict[str, Check] = {"rope_scaling": checks.plain_rope, "use_sliding_window": checks.only(False)}

# Known to change no number: training, caching, output forms, and the window that `use_sliding_window` false turns off.
INERT = frozenset(
    "_attn_implementation _commit_hash _name_or_path architectures attention_dropout attn_implementation auto_map bos_token_id dtype "
    "initializer_range max_position_embeddings max_window_layers model_type output_attentions output_hidden_states return_dict "
    "sliding_window tokenizer_class torch_dtype transformers_version use_cache".split()
)

# The mask and the end of text of the released mixtures, which their configs do not name.
MIXTURE_MASK, MIXTURE_EOS = 156895, 156892


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderConfig:
    """Keys under their own names; properties under those that all families share."""

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int | None
    hidden_act: str
    rms_norm_eps: float
    rope_theta: float
    tie_word_embeddings: bool
    mask_token_id: int | None
    eos_token_id: int | None
    pad_token_id: int | None
    head_dim: int  # resolved

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return self.hidden_size

    @property
    def n_layers(self) -> int:
        """Number of blocks."""
        return self.num_hidden_layers

    @property
    def n_heads(self) -> int:
        """Query heads."""
        return self.num_attention_heads

    @property
    def kv_heads(self) -> int:
        """Key-value heads; as many as query heads when null."""
        return self.n_heads if self.num_key_value_heads is None else self.num_key_value_heads

    @property
    def embedding_rows(self) -> int:
        """Rows of the embedding and columns of the logits."""
        return self.vocab_size

    def norm(self, name: str, width: int) -> NormPlan:
        """One of this model's norms: RMS with a gain, always."""
        return NormPlan(name=name, kind="rms", width=width, eps=self.rms_norm_eps, gain=True, bias=False)

    def mlp(self, prefix: str, width: int) -> MlpPlan:
        """A gated MLP under `prefix`."""
        gate, up = (LinearPlan(name=prefix + name, out=width, into=self.hidden_size) for name in ("gate_proj", "up_proj"))
        down = LinearPlan(name=prefix + "down_proj", out=self.hidden_size, into=width)
        return MlpPlan(gate_up=(gate, up), down=down, activation=self.hidden_act)

    def head(self) -> LinearPlan | None:
        """The output head, which a tied model has none of."""
        return None if self.tie_word_embeddings else LinearPlan(name="lm_head", out=self.vocab_size, into=self.hidden_size)

    def split_qkv(self, prefix: str, bias: bool) -> tuple[LinearPlan, ...]:
        """Three projections under `prefix`."""
        out = {"q_proj": self.n_heads * self.head_dim, "k_proj": self.kv_heads * self.head_dim, "v_proj": self.kv_heads * self.head_dim}
        return tuple(LinearPlan(name=prefix + name, out=rows, into=self.hidden_size, bias=bias) for name, rows in out.items())


def read_keys(
    values: Mapping[str, Any], own: Mapping[str, Check], defaults: Mapping[str, Any], inert: frozenset[str], family: str, where: str
) -> dict[str, Any]:
    """Check a ``config.json`` of one of these families and return its keys with defaults filled in and numbers that are real as floats.

    Raises
    ------
    InputError
        For unknown keys, absent ones without a default, and values that are not allowed.
    """
    known = {**CHECKS, **own}
    checks.refuse_unknown(values, {*known, *GATES, *inert, *INERT}, family, where)
    checks.pick(values, GATES, where)
    picked = checks.pick(values, known, where)
    checks.require(picked, [name for name in known if name not in defaults], where)
    found = {**defaults, **picked}
    for name, value in found.items():
        if known[name] in (checks.positive, checks.fraction) and value is not None:
            found[name] = float(value)
    return found


def check_heads(config: DecoderConfig, rotary_dim: int, where: str) -> None:
    """Stop where heads do not divide evenly or rotary embedding finds no pairs; ``InputError``."""
    if config.n_heads % config.kv_heads:
        raise InputError(
            f"{where}: num_key_value_heads is {config.kv_heads} with num_attention_heads {config.n_heads}; "
            "allowed: a divisor of num_attention_heads"
        )
    if rotary_dim < 2 or rotary_dim % 2:
        raise InputError(
            f"{where}: {rotary_dim} of the {config.head_dim} features of a head turn; allowed: an even number above 0, "
            "because rotary embedding turns pairs"
        )


def derived_head_dim(found: Mapping[str, Any], where: str) -> int:
    """Width of a head where the class takes ``hidden_size / num_attention_heads``, whatever ``head_dim`` says; ``InputError``."""
    width, heads = found["hidden_size"], found["num_attention_heads"]
    if width % heads:
        raise InputError(f"{where}: hidden_size is {width} with num_attention_heads {heads}; allowed: a multiple of num_attention_heads")
    if found["head_dim"] not in (None, width // heads):
        raise InputError(f"{where}: head_dim is {found['head_dim']}; allowed: null or {width // heads}, hidden_size / num_attention_heads")
    return int(width // heads)


def mixture_tokens(found: dict[str, Any]) -> None:
    """Fill in the ids that the samplers of the released mixtures use, where a config names none and the vocabulary has them."""
    for name, default in (("mask_token_id", MIXTURE_MASK), ("eos_token_id", MIXTURE_EOS)):
        if found[name] is None and default < found["vocab_size"]:
            found[name] = default
