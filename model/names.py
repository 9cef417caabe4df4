"""What LLaDA's tensors are called and what shapes they have.

The names have two traps. The MLP's down projection and the output head are both called ``ff_out``; only the prefix tells them
apart. And ``ff_proj`` is the *gate* of a llama block: the activation goes over it, and ``up_proj`` stays linear.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from model.architecture import Architecture, BlockPlan, LinearPlan, MlpPlan, ModelConfig, NormPlan

if TYPE_CHECKING:
    from model.config import Config

EMBEDDING = "model.transformer.wte"
FINAL_NORM = "model.transformer.ln_f"
HEAD = "model.transformer.ff_out"

# Things that other tools store beside the weights and that the arithmetic does not read.
INERT_SUFFIXES = (".rotary_emb.inv_freq",)


def llada_architecture(config: Config) -> Architecture:
    """Describe a LLaDA model.

    Examples
    --------
    >>> from model.config import Config
    >>> config = Config(rope=True, n_layers=4, block_group_size=2, block_type="llama", activation_type="silu")
    >>> [linear.name for linear in llada_architecture(config).blocks[3].mlp.gate_up]
    ['model.transformer.block_groups.1.1.ff_proj', 'model.transformer.block_groups.1.1.up_proj']
    """
    width = config.d_model
    head = LinearPlan(name=HEAD, out=config.embedding_rows, into=width, bias=config.include_bias)
    return Architecture(
        family="llada",
        width=width,
        rows=config.embedding_rows,
        n_heads=config.n_heads,
        kv_heads=config.kv_heads,
        head_dim=config.head_dim,
        rotary_dim=config.head_dim,
        rope_theta=config.rope_theta,
        embedding=EMBEDDING,
        blocks=tuple(_block(config, index) for index in range(config.n_layers)),
        final_norm=_norm(config, FINAL_NORM, width, config.layer_norm_with_affine),
        head=None if config.weight_tying else head,  # a tied model has no head at all, so no head bias either
        embedding_scale=math.sqrt(width) if config.input_emb_norm else None,
        logit_scale=1 / math.sqrt(width) if config.scale_logits else None,
        states_every=config.block_group_size,
        takes_positions=False,
    )


def _block(config: Config, index: int) -> BlockPlan:
    group, member = divmod(index, config.block_group_size)
    grouped = config.block_group_size > 1
    prefix = f"model.transformer.block_groups.{group}.{member}." if grouped else f"model.transformer.blocks.{index}."
    width, kv, affine = config.d_model, config.kv_width, config.layer_norm_with_affine

    def linear(name: str, out: int, into: int, bias: bool = config.include_bias) -> LinearPlan:
        return LinearPlan(name=prefix + name, out=out, into=into, bias=bias)

    def head_norm(name: str, features: int) -> NormPlan | None:  # over the whole vector, before the heads are split
        if not config.attention_layer_norm:
            return None
        return _norm(config, prefix + name, features, config.attention_layer_norm_with_affine)

    llama = config.block_type == "llama"
    qkv = (("q_proj", width), ("k_proj", kv), ("v_proj", kv)) if llama else (("att_proj", width + 2 * kv),)
    return BlockPlan(
        attn_norm=_norm(config, prefix + "attn_norm", width, affine),
        qkv=tuple(linear(name, out, width, config.qkv_bias) for name, out in qkv),
        q_norm=head_norm("q_norm", width),
        k_norm=head_norm("k_norm", kv),
        attn_out=linear("attn_out", width, width),
        ff_norm=_norm(config, prefix + "ff_norm", width, affine),
        mlp=MlpPlan(
            gate_up=tuple(linear(name, config.mlp_width, width) for name in (("ff_proj", "up_proj") if llama else ("ff_proj",))),
            down=linear("ff_out", width, config.mlp_out_width),
            activation=config.activation_type,
        ),
    )


def _norm(config: Config, name: str, width: int, affine: bool) -> NormPlan:
    return NormPlan(name=name, kind=config.layer_norm_type, width=width, eps=config.norm_eps, gain=affine, bias=affine and config.norm_bias)


def tensor_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Every tensor that a checkpoint of `config` holds, with its shape, in the order of the forward pass.

    Examples
    --------
    >>> from model.config import Config
    >>> shapes = tensor_shapes(Config(rope=True, d_model=64, n_heads=4, n_layers=1, n_kv_heads=1))
    >>> shapes["model.transformer.blocks.0.att_proj.weight"]
    (96, 64)
    """
    return config.architecture().tensor_shapes()
