"""What the tensors of a checkpoint are called and what shapes they have: one family's naming, as data.

LLaDA's names have two traps. The MLP's down projection and the output head are both called ``ff_out``; only the prefix tells them
apart. And ``ff_proj`` is the *gate* of a llama block: the activation goes over it, and ``up_proj`` stays linear.
"""

from __future__ import annotations

from dataclasses import dataclass

from model.config import Config

EMBEDDING = "model.transformer.wte"
FINAL_NORM = "model.transformer.ln_f"
HEAD = "model.transformer.ff_out"

# Things that other tools store beside the weights and that the arithmetic does not read.
INERT_SUFFIXES = (".rotary_emb.inv_freq",)


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockNames:
    """The modules of one block by what they do; a tensor is a module's name plus ``.weight`` or ``.bias``."""

    attn_norm: str
    qkv: tuple[str, ...]  # one fused projection, or query, key, value
    q_norm: str | None
    k_norm: str | None
    attn_out: str
    ff_norm: str
    gate_up: tuple[str, ...]  # the gate, then the linear half where there is one
    ff_out: str

    @property
    def linear_groups(self) -> list[tuple[str, ...]]:
        """The linears in causal order, those that share an input together."""
        return [self.qkv, (self.attn_out,), self.gate_up, (self.ff_out,)]


def block_names(config: Config, index: int) -> BlockNames:
    """Names of the modules of block `index`.

    Examples
    --------
    >>> config = Config(rope=True, n_layers=4, block_group_size=2, block_type="llama", activation_type="silu")
    >>> block_names(config, 3).gate_up
    ('model.transformer.block_groups.1.1.ff_proj', 'model.transformer.block_groups.1.1.up_proj')
    """
    group, member = divmod(index, config.block_group_size)
    grouped = config.block_group_size > 1
    prefix = f"model.transformer.block_groups.{group}.{member}." if grouped else f"model.transformer.blocks.{index}."
    llama = config.block_type == "llama"
    return BlockNames(
        attn_norm=prefix + "attn_norm",
        qkv=tuple(prefix + name for name in (("q_proj", "k_proj", "v_proj") if llama else ("att_proj",))),
        q_norm=prefix + "q_norm" if config.attention_layer_norm else None,
        k_norm=prefix + "k_norm" if config.attention_layer_norm else None,
        attn_out=prefix + "attn_out",
        ff_norm=prefix + "ff_norm",
        gate_up=tuple(prefix + name for name in (("ff_proj", "up_proj") if llama else ("ff_proj",))),
        ff_out=prefix + "ff_out",
    )


def tensor_shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """Every tensor that a checkpoint of `config` holds, with its shape, in the order of the forward pass.

    Linear weights are ``(out, in)``. A tied model has no head at all, so no head bias either.

    Examples
    --------
    >>> shapes = tensor_shapes(Config(rope=True, d_model=64, n_heads=4, n_layers=1, n_kv_heads=1))
    >>> shapes["model.transformer.blocks.0.att_proj.weight"]
    (96, 64)
    """
    width, kv, rows = config.d_model, config.kv_width, config.embedding_rows
    shapes: dict[str, tuple[int, ...]] = {EMBEDDING + ".weight": (rows, width)}

    def add(name: str, shape: tuple[int, ...], weight: bool, bias: bool) -> None:
        if weight:
            shapes[name + ".weight"] = shape
        if bias:
            shapes[name + ".bias"] = shape[:1]

    affine, head_affine = config.layer_norm_with_affine, config.attention_layer_norm_with_affine
    for index in range(config.n_layers):
        names = block_names(config, index)
        add(names.attn_norm, (width,), affine, affine and config.norm_bias)
        for name, out in zip(names.qkv, (width, kv, kv) if len(names.qkv) == 3 else (width + 2 * kv,)):
            add(name, (out, width), True, config.qkv_bias)
        if names.q_norm is not None and names.k_norm is not None:
            add(names.q_norm, (width,), head_affine, head_affine and config.norm_bias)
            add(names.k_norm, (kv,), head_affine, head_affine and config.norm_bias)
        add(names.attn_out, (width, width), True, config.include_bias)
        add(names.ff_norm, (width,), affine, affine and config.norm_bias)
        for name in names.gate_up:
            add(name, (config.mlp_width, width), True, config.include_bias)
        add(names.ff_out, (width, config.mlp_out_width), True, config.include_bias)
    add(FINAL_NORM, (width,), affine, affine and config.norm_bias)
    if not config.weight_tying:
        add(HEAD, (rows, width), True, config.include_bias)
    return shapes
