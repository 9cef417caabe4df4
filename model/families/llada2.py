"""LLaDA2: fused projections, heads that turn by half, and a router that looks at groups of experts first.

The expert bias of this router decides who is chosen and is not part of the mixing weights. The model is made for block-causal attention
(:func:`model.visibility.block_causal`); without a mask every position sees all. Source: ``configuration_llada2_moe.py`` and
``modeling_llada2_moe.py`` as published with inclusionAI/LLaDA2.0-mini.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from model import checks
from model.architecture import Architecture, BlockPlan, ExpertsPlan, LinearPlan, RouterPlan
from model.checks import Check
from model.families.decoder import DecoderConfig, check_heads, mixture_tokens, read_keys
from refquant.errors import InputError

_OWN: dict[str, Check] = {
    "intermediate_size": checks.nullable(checks.count),
    "moe_intermediate_size": checks.nullable(checks.count),
    "num_experts": checks.nullable(checks.count),
    "num_experts_per_tok": checks.count,
    "num_shared_experts": checks.nullable(checks.count_or_zero),
    "n_group": checks.count,
    "topk_group": checks.count,
    "routed_scaling_factor": checks.positive,
    "first_k_dense_replace": checks.count_or_zero,
    "partial_rotary_factor": checks.fraction,
    "use_qk_norm": checks.flag,
    "use_bias": checks.flag,
    "use_qkv_bias": checks.flag,
    "norm_head": checks.only(False),
}
_DEFAULTS: dict[str, Any] = {
    "vocab_size": 30592,
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "head_dim": None,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "mask_token_id": None,
    "eos_token_id": None,
    "pad_token_id": 126081,
    "intermediate_size": None,
    "moe_intermediate_size": None,
    "num_experts": 16,
    "num_experts_per_tok": 2,
    "num_shared_experts": 0,
    "n_group": 8,
    "topk_group": 4,
    "routed_scaling_factor": 2.5,
    "first_k_dense_replace": 0,
    "partial_rotary_factor": 0.5,
    "use_qk_norm": True,
    "use_bias": True,
    "use_qkv_bias": False,
    "norm_head": False,
}
# Keys of released configs that the class never reads: it always does what these say in them.
_INERT = frozenset(
    "embedding_dropout output_dropout output_router_logits score_function router_dtype norm_topk_prob moe_router_enable_expert_bias "
    "topk_method rotary_dim use_rmsnorm moe_shared_expert_intermediate_size".split()
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LLaDA2Config(DecoderConfig):
    """Keys of ``LLaDA2MoeConfig``; see :class:`~model.families.decoder.DecoderConfig`."""

    intermediate_size: int | None
    moe_intermediate_size: int | None
    num_experts: int | None  # null: all blocks are dense
    num_experts_per_tok: int
    num_shared_experts: int | None
    n_group: int
    topk_group: int
    routed_scaling_factor: float
    first_k_dense_replace: int
    partial_rotary_factor: float
    use_qk_norm: bool
    use_bias: bool  # of the output projection alone
    use_qkv_bias: bool
    norm_head: bool

    @classmethod
    def read(cls, values: Mapping[str, Any], where: str) -> LLaDA2Config:
        """Read a parsed ``config.json``; ``InputError`` for keys not understood and values not allowed."""
        found = read_keys(values, _OWN, _DEFAULTS, _INERT, "LLaDA2", where)
        mixture_tokens(found)
        if found["head_dim"] is None:
            found["head_dim"] = max(1, found["hidden_size"] // found["num_attention_heads"])
        config = cls(**found)
        check_heads(config, config.rotary_dim, where)
        for broken in _contradictions(config):
            raise InputError(f"{where}: {broken}")
        return config

    @property
    def rotary_dim(self) -> int:
        """Features of a head that turn."""
        return int(self.head_dim * self.partial_rotary_factor)

    @property
    def dense_blocks(self) -> int:
        """Blocks, from the first on, that have one MLP and no experts."""
        return self.n_layers if self.num_experts is None else min(self.first_k_dense_replace, self.n_layers)

    def architecture(self) -> Architecture:
        """Describe the model as the forward pass reads it."""
        return Architecture(
            family="LLaDA2",
            width=self.hidden_size,
            rows=self.vocab_size,
            n_heads=self.n_heads,
            kv_heads=self.kv_heads,
            head_dim=self.head_dim,
            rotary_dim=self.rotary_dim,
            rope_theta=self.rope_theta,
            embedding="model.word_embeddings",
            blocks=tuple(self._block(f"model.layers.{index}.", index >= self.dense_blocks) for index in range(self.n_layers)),
            final_norm=self.norm("model.norm", self.hidden_size),
            head=self.head(),
            masking="allowed",
        )

    def _block(self, prefix: str, mixed: bool) -> BlockPlan:
        attention, width = prefix + "attention.", self.hidden_size
        fused = (self.n_heads + 2 * self.kv_heads) * self.head_dim
        return BlockPlan(
            attn_norm=self.norm(prefix + "input_layernorm", width),
            qkv=(LinearPlan(name=attention + "query_key_value", out=fused, into=width, bias=self.use_qkv_bias),),
            q_norm=self.norm(attention + "query_layernorm", self.head_dim) if self.use_qk_norm else None,
            k_norm=self.norm(attention + "key_layernorm", self.head_dim) if self.use_qk_norm else None,
            attn_out=LinearPlan(name=attention + "dense", out=width, into=self.n_heads * self.head_dim, bias=self.use_bias),
            ff_norm=self.norm(prefix + "post_attention_layernorm", width),
            mlp=self._mixture(prefix + "mlp.") if mixed else self.mlp(prefix + "mlp.", self.intermediate_size or 0),
        )

    def _mixture(self, prefix: str) -> ExpertsPlan:
        experts, width, shared = self.num_experts or 0, self.moe_intermediate_size or 0, self.num_shared_experts or 0
        router = RouterPlan(
            weight=prefix + "gate.weight",
            bias=prefix + "gate.expert_bias",
            experts=experts,
            width=self.hidden_size,
            top_k=self.num_experts_per_tok,
            score="sigmoid",
            bias_enters_weights=False,
            normalize=self.num_experts_per_tok > 1,
            scale=self.routed_scaling_factor,
            groups=self.n_group,
            kept_groups=self.topk_group,
        )
        return ExpertsPlan(
            router=router,
            experts=tuple(self.mlp(f"{prefix}experts.{index}.", width) for index in range(experts)),
            shared=self.mlp(prefix + "shared_experts.", width * shared) if shared else None,
        )


def _contradictions(config: LLaDA2Config) -> list[str]:
    found = []
    if config.dense_blocks and config.intermediate_size is None:
        found.append("intermediate_size is absent or null and some blocks are dense; allowed: an integer of at least 1")
    if config.dense_blocks == config.n_layers or config.num_experts is None:
        return found
    if config.moe_intermediate_size is None:
        found.append("moe_intermediate_size is absent or null and some blocks have experts; allowed: an integer of at least 1")
    group, rest = divmod(config.num_experts, config.n_group)
    if rest or group < 2:
        found.append(f"num_experts is {config.num_experts} with n_group {config.n_group}; allowed: groups of one size, at least 2 each")
    if config.topk_group > config.n_group:
        found.append(f"topk_group is {config.topk_group}; allowed: at most n_group {config.n_group}")
    elif not rest and config.num_experts_per_tok > group * config.topk_group:
        kept = group * config.topk_group
        found.append(f"num_experts_per_tok is {config.num_experts_per_tok}; allowed: at most {kept}, the experts of the groups kept")
    return found
