"""The places of a block where factors a channel can be moved from activations into weights, and why they sometimes cannot."""

from __future__ import annotations

from collections.abc import Iterator

from model.architecture import Architecture, BlockPlan, ExpertsPlan, MlpPlan, NormPlan
from refquant.apply.rewriting import router_name
from refquant.methods.scale.site import ScaleSite


def scale_sites(shape: Architecture, index: int) -> tuple[ScaleSite, ...]:
    """All places of block `index` in the order of execution; of a mixture, one behind each expert's up projection.

    ================  ===========================================  ================================
    place             producer                                     consumers
    ================  ===========================================  ================================
    ``attn_in``       the norm before attention                    query, key and value projections
    ``attn_out``      the value projection                         the attention's output
    ``mlp_in``        the norm before the MLP                      gate and up projections, router
    ``mlp_out``       the up projection (SiLU acts on the gate)    the MLP's output
    ================  ===========================================  ================================

    Examples
    --------
    >>> import model
    >>> [(site.place, site.producer.rpartition(".")[2]) for site in scale_sites(model.embedded().architecture, 0)]
    [('attn_in', 'attn_norm'), ('attn_out', 'v_proj'), ('mlp_in', 'ff_norm'), ('mlp_out', 'up_proj')]
    """
    block = shape.blocks[index]
    return (*_attention(shape, block), _mlp_in(block), *_mlp_out(block.mlp))


def _attention(shape: Architecture, block: BlockPlan) -> Iterator[ScaleSite]:
    qkv = tuple(linear.name for linear in block.qkv)
    yield ScaleSite(place="attn_in", searched=qkv, consumers=qkv, producer=block.attn_norm.name, obstacle=_gainless(block.attn_norm))
    values, out = block.qkv[-1], (block.attn_out.name,)
    channels = shape.kv_heads * shape.head_dim
    obstacle = ""
    if shape.kv_heads != shape.n_heads:
        obstacle = f"each of {shape.kv_heads} value heads serves {shape.n_heads // shape.kv_heads} query heads, one factor cannot suit all"
    elif shape.clip_qkv is not None:
        obstacle = f"values are clipped to {shape.clip_qkv} between the two linears"
    yield ScaleSite(
        place="attn_out",
        searched=out,
        consumers=out,
        producer=values.name,
        first=values.out - channels,
        width=values.out,
        obstacle=obstacle,
    )


def _gainless(norm: NormPlan) -> str:
    return "" if norm.gain else f"{norm.name} has no gain to take them in"


def _mlp_in(block: BlockPlan) -> ScaleSite:
    mlps = _mlps(block.mlp)
    searched = tuple(linear.name for mlp in mlps for linear in mlp.gate_up)
    router = (router_name(block.mlp),) if isinstance(block.mlp, ExpertsPlan) else ()
    norm = block.ff_norm
    return ScaleSite(place="mlp_in", searched=searched, consumers=(*router, *searched), producer=norm.name, obstacle=_gainless(norm))


def _mlps(mlp: MlpPlan | ExpertsPlan) -> tuple[MlpPlan, ...]:
    if isinstance(mlp, MlpPlan):
        return (mlp,)
    return (*mlp.experts, *([] if mlp.shared is None else [mlp.shared]))


def _mlp_out(mlp: MlpPlan | ExpertsPlan) -> Iterator[ScaleSite]:
    for one in _mlps(mlp):
        out, last = (one.down.name,), one.gate_up[-1]
        obstacle = ""  # of swiglu's one projection the first half are values; relu lets a positive factor pass
        if len(one.gate_up) == 1 and one.activation not in ("swiglu", "relu"):
            obstacle = f"{one.activation} stands between {last.name} and {one.down.name}, and a factor does not pass it"
        yield ScaleSite(place="mlp_out", searched=out, consumers=out, producer=last.name, width=last.out, obstacle=obstacle)
