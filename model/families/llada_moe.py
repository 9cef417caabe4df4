"""LLaDA-MoE: Qwen-style names, a norm over each head's queries and keys, and blocks that are dense or a mixture of experts.

The router's softmax is over all experts, and the chosen probabilities mix the experts as they are: nothing makes them add up to one, and
the expert bias, where there is one, is part of them. Source: ``modeling_lladamoe.py`` as published with inclusionAI/LLaDA-MoE-7B-A1B.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from model import checks
from model.architecture import Architecture, BlockPlan, ExpertsPlan, LinearPlan, MlpPlan, RouterPlan
from model.checks import Check
from model.families.decoder import DecoderConfig, check_heads, derived_head_dim, mixture_tokens, read_keys
from refquant.errors import InputError

_OWN: dict[str, Check] = {
    "dense_intermediate_size": checks.nullable(checks.count),
    "expert_intermediate_size": checks.nullable(checks.count),
    "shared_expert_intermediate_size": checks.nullable(checks.count),
    "num_experts": checks.nullable(checks.count),
    "num_experts_per_tok": checks.nullable(checks.count),
    "moe_layer_freq": checks.flags_per_layer,
    "moe_router_enable_expert_bias": checks.nullable(checks.flag),
    "qk_layernorm": checks.nullable(checks.flag),
    "attention_bias": checks.flag,
    "clip_qkv": checks.nullable(checks.positive),
    "partial_rotary_factor": checks.fraction,
}
# What the class has no usable default for (it says -1) is asked for.
_DEFAULTS: dict[str, Any] = {
    "num_key_value_heads": None,
    "head_dim": None,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "mask_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
    "dense_intermediate_size": None,
    "expert_intermediate_size": None,
    "shared_expert_intermediate_size": None,
    "num_experts": None,
    "num_experts_per_tok": None,
    "moe_router_enable_expert_bias": None,
    "qk_layernorm": None,
    "attention_bias": False,
    "clip_qkv": None,
    "partial_rotary_factor": 1.0,
}
# Keys that the class stores and its router never reads.
_INERT = frozenset(
    "moe_router_score_function norm_topk_prob output_router_logits routed_scaling_factor router_aux_loss_coef router_num_group "
    "router_topk_group".split()
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LLaDAMoEConfig(DecoderConfig):
    """Keys of the public class; see :class:`~model.families.decoder.DecoderConfig`."""

    dense_intermediate_size: int | None
    expert_intermediate_size: int | None
    shared_expert_intermediate_size: int | None
    num_experts: int | None
    num_experts_per_tok: int | None
    moe_layer_freq: tuple[int, ...]  # 0 where a block is dense
    moe_router_enable_expert_bias: bool | None
    qk_layernorm: bool | None
    attention_bias: bool
    clip_qkv: float | None
    partial_rotary_factor: float

    @classmethod
    def read(cls, values: Mapping[str, Any], where: str) -> LLaDAMoEConfig:
        """Read a parsed ``config.json``; ``InputError`` for keys not understood and values not allowed."""
        found = read_keys(values, _OWN, _DEFAULTS, _INERT, "LLaDA-MoE", where)
        found["head_dim"] = derived_head_dim(found, where)
        found["moe_layer_freq"] = tuple(found["moe_layer_freq"])
        found["clip_qkv"] = None if found["clip_qkv"] is None else float(found["clip_qkv"])
        mixture_tokens(found)
        config = cls(**found)
        check_heads(config, config.rotary_dim, where)
        for broken in _contradictions(config):
            raise InputError(f"{where}: {broken}")
        return config

    @property
    def rotary_dim(self) -> int:
        """Features of a head that turn."""
        return int(self.head_dim * self.partial_rotary_factor)

    def architecture(self) -> Architecture:
        """Describe the model as the forward pass reads it."""
        return Architecture(
            family="LLaDA-MoE",
            width=self.hidden_size,
            rows=self.vocab_size,
            n_heads=self.n_heads,
            kv_heads=self.kv_heads,
            head_dim=self.head_dim,
            rotary_dim=self.rotary_dim,
            rope_theta=self.rope_theta,
            embedding="model.embed_tokens",
            blocks=tuple(self._block(f"model.layers.{index}.", bool(self.moe_layer_freq[index])) for index in range(self.n_layers)),
            final_norm=self.norm("model.norm", self.hidden_size),
            head=self.head(),
            clip_qkv=self.clip_qkv,
        )

    def _block(self, prefix: str, mixed: bool) -> BlockPlan:
        attention = prefix + "self_attn."
        out = LinearPlan(name=attention + "o_proj", out=self.hidden_size, into=self.hidden_size, bias=self.attention_bias)
        return BlockPlan(
            attn_norm=self.norm(prefix + "input_layernorm", self.hidden_size),
            qkv=self.split_qkv(attention, bias=self.attention_bias),
            q_norm=self.norm(attention + "q_norm", self.head_dim) if self.qk_layernorm else None,
            k_norm=self.norm(attention + "k_norm", self.head_dim) if self.qk_layernorm else None,
            attn_out=out,
            ff_norm=self.norm(prefix + "post_attention_layernorm", self.hidden_size),
            mlp=self._mixture(prefix) if mixed else self.mlp(prefix + "mlp.", self.dense_intermediate_size or 0),
        )

    def _mixture(self, prefix: str) -> ExpertsPlan:
        experts, shared = self.num_experts or 0, self.shared_expert_intermediate_size
        router = RouterPlan(
            weight=prefix + "mlp.gate.weight",
            bias=prefix + "mlp.expert_bias" if self.moe_router_enable_expert_bias else None,
            experts=experts,
            width=self.hidden_size,
            top_k=self.num_experts_per_tok or 0,
            score="softmax",
            bias_enters_weights=True,
            normalize=False,
        )
        one: list[MlpPlan] = [self.mlp(f"{prefix}mlp.experts.{index}.", self.expert_intermediate_size or 0) for index in range(experts)]
        return ExpertsPlan(
            router=router, experts=tuple(one), shared=None if shared is None else self.mlp(prefix + "shared_expert.", shared)
        )


def _contradictions(config: LLaDAMoEConfig) -> list[str]:
    found, used = [], config.moe_layer_freq[: config.n_layers]
    if len(used) < config.n_layers:
        found.append(f"moe_layer_freq has {len(used)} entries; allowed: at least num_hidden_layers {config.n_layers}")
    if 0 in used and config.dense_intermediate_size is None:
        found.append("dense_intermediate_size is absent or null and moe_layer_freq has a 0; allowed: an integer of at least 1")
    if 1 in used:
        for name in ("num_experts", "num_experts_per_tok", "expert_intermediate_size"):
            if getattr(config, name) is None:
                found.append(f"{name} is absent or null and moe_layer_freq has a 1; allowed: an integer of at least 1")
        if not found and (config.num_experts_per_tok or 0) > (config.num_experts or 0):
            found.append(f"num_experts_per_tok is {config.num_experts_per_tok}; allowed: at most num_experts {config.num_experts}")
    return found
