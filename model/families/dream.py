"""Dream: a Qwen2 transformer without the causal mask, and with biases on the query, key and value projections only.

Its logits are shifted: those at position j are of the token at j + 1. Source: ``configuration_dream.py`` and ``modeling_dream.py`` as
published with Dream-org/Dream-v0-Base-7B.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from model import checks
from model.architecture import Architecture, BlockPlan, LinearPlan
from model.checks import Check
from model.families.decoder import DecoderConfig, check_heads, derived_head_dim, read_keys

_OWN: dict[str, Check] = {"intermediate_size": checks.count}
_DEFAULTS: dict[str, Any] = {
    "vocab_size": 151936,
    "hidden_size": 4096,
    "intermediate_size": 22016,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "head_dim": None,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "mask_token_id": 151666,
    "eos_token_id": None,
    "pad_token_id": 151643,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class DreamConfig(DecoderConfig):
    """Keys of ``DreamConfig``; see :class:`~model.families.decoder.DecoderConfig`."""

    intermediate_size: int

    @classmethod
    def read(cls, values: Mapping[str, Any], where: str) -> DreamConfig:
        """Read a parsed ``config.json``; ``InputError`` for keys not understood and values not allowed."""
        found = read_keys(values, _OWN, _DEFAULTS, frozenset(), "Dream", where)
        found["head_dim"] = derived_head_dim(found, where)
        config = cls(**found)
        check_heads(config, config.head_dim, where)
        return config

    def architecture(self) -> Architecture:
        """Describe the model as the forward pass reads it."""
        return Architecture(
            family="Dream",
            width=self.hidden_size,
            rows=self.vocab_size,
            n_heads=self.n_heads,
            kv_heads=self.kv_heads,
            head_dim=self.head_dim,
            rotary_dim=self.head_dim,
            rope_theta=self.rope_theta,
            embedding="model.embed_tokens",
            blocks=tuple(self._block(f"model.layers.{index}.") for index in range(self.n_layers)),
            final_norm=self.norm("model.norm", self.hidden_size),
            head=self.head(),
            masking="pairs",
            shift=1,
        )

    def _block(self, prefix: str) -> BlockPlan:
        return BlockPlan(
            attn_norm=self.norm(prefix + "input_layernorm", self.hidden_size),
            qkv=self.split_qkv(prefix + "self_attn.", bias=True),
            q_norm=None,
            k_norm=None,
            attn_out=LinearPlan(name=prefix + "self_attn.o_proj", out=self.hidden_size, into=self.hidden_size),
            ff_norm=self.norm(prefix + "post_attention_layernorm", self.hidden_size),
            mlp=self.mlp(prefix + "mlp.", self.intermediate_size),
        )
