"""Rotations of a whole model: what :mod:`refquant.methods.rotate` has to know of an architecture."""

from __future__ import annotations

from model.architecture import Architecture, BlockPlan, ExpertsPlan, MlpPlan, NormPlan
from refquant.apply.rewriting import router_name
from refquant.errors import UsageError
from refquant.methods.rotate.network import BlockSite, Network, NormSite


def network_of(shape: Architecture) -> Network:
    """Describe an architecture to the rotations.

    Raises
    ------
    UsageError
        If the embedding is the head, too: the two read different sides of a norm's gain (:func:`refquant.apply.rewriting.untied`).

    Examples
    --------
    >>> import model
    >>> network_of(model.embedded().architecture).blocks[0].ff_writers
    (('model.transformer.blocks.0.ff_out', 768),)
    """
    if shape.head is None:
        raise UsageError(f"{shape.embedding} is the head, too; give the model a head of its own first (untied)")
    return Network(
        width=shape.width,
        heads=shape.n_heads,
        kv_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        embedding=shape.embedding,
        head=shape.head.name,
        final_norm=_norm(shape.final_norm),
        blocks=tuple(_block(block) for block in shape.blocks),
        clips_values=shape.clip_qkv is not None,
    )


def _block(block: BlockPlan) -> BlockSite:
    mlps = _mlps(block.mlp)
    readers = tuple(linear.name for mlp in mlps for linear in mlp.gate_up)
    return BlockSite(
        attn_norm=_norm(block.attn_norm),
        qkv=tuple(linear.name for linear in block.qkv),
        attn_out=block.attn_out.name,
        ff_norm=_norm(block.ff_norm),
        ff_readers=(*([router_name(block.mlp)] if isinstance(block.mlp, ExpertsPlan) else []), *readers),
        ff_writers=tuple((mlp.down.name, mlp.down.into) for mlp in mlps),
    )


def _mlps(mlp: MlpPlan | ExpertsPlan) -> tuple[MlpPlan, ...]:
    if isinstance(mlp, MlpPlan):
        return (mlp,)
    return (*mlp.experts, *([] if mlp.shared is None else [mlp.shared]))


def _norm(plan: NormPlan) -> NormSite:
    return NormSite(name=plan.name, rms=plan.kind in ("rms", "gemma_rms"), gain=plan.gain, bias=plan.bias)
