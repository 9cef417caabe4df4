"""Rewrites of a whole model: what its modules' names stand for, taking a rewrite's steps, and giving a tied model a head of its own."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

import model
from model import DenseLinear, Linear, Transformer
from model.architecture import Architecture, ExpertsPlan, NormPlan
from refquant.apply.layers import OnlineLinear, TransformedScoreOperands, online_transforms
from refquant.core.rewrite import Rewrite, Role, rewrite_tensors
from refquant.core.transform import Transform
from refquant.errors import InputError, UsageError
from refquant.numerics.arrays import Array

TYING_KEYS = ("weight_tying", "tie_word_embeddings")


def module_roles(shape: Architecture) -> dict[str, Role]:
    """What every module of a model is to a rewrite: linears, head, routers, norms with a gain, and the embedding.

    Examples
    --------
    >>> roles = module_roles(model.embedded().architecture)
    >>> roles["model.transformer.wte"], roles["model.transformer.blocks.0.attn_norm"], len(roles)
    ('embedding', 'norm', 39)
    """
    roles: dict[str, Role] = {shape.embedding: "embedding"}
    for block in shape.blocks:
        for norm in (block.attn_norm, block.ff_norm):
            _add_norm(roles, norm)
        roles.update(dict.fromkeys((linear.name for linear in block.linears), "linear"))
        if isinstance(block.mlp, ExpertsPlan):
            roles[router_name(block.mlp)] = "linear"
    _add_norm(roles, shape.final_norm)
    if shape.head is not None:
        roles[shape.head.name] = "linear"
    return roles


def _add_norm(roles: dict[str, Role], norm: NormPlan) -> None:
    if norm.gain:
        roles[norm.name] = "gemma_norm" if norm.kind == "gemma_rms" else "norm"


def router_name(mlp: ExpertsPlan) -> str:
    """The router of a mixture as a module: it consumes what the experts consume."""
    return mlp.router.weight.removesuffix(".weight")


def rewrite_model(m: Transformer, rewrite: Rewrite) -> Transformer:
    """Take a rewrite's steps on a model; its function is the same in real arithmetic.

    Parameters
    ----------
    m : Transformer
        In memory, the linears that the rewrite touches in full precision. May have been rewritten before.
    rewrite : Rewrite

    Returns
    -------
    Transformer
        Computes in the dtype of `m`. Linears with online transforms are :class:`~refquant.apply.layers.OnlineLinear`.

    Raises
    ------
    InputError
        If a name does not exist, a norm has no gain to take a scale in, a linear is quantized already, or as
        :func:`~refquant.core.rewrite.rewrite_tensors`.
    UsageError
        If the model is streamed.
    """
    return apply_changes(m, rewrite, rewritten_parameters(m, rewrite))


def rewritten_parameters(m: Transformer, rewrite: Rewrite) -> dict[str, Array]:
    """The tensors of `m` that a rewrite changes, by full name; errors as :func:`rewrite_model`."""
    shape = m.architecture
    roles = module_roles(shape)
    for name in rewrite.names:
        if name not in roles:
            raise InputError(f"{rewrite.method}: {_missing_role(name, shape)}")
    if shape.head is None and any(name == shape.embedding for name in rewrite.names):
        raise InputError(f"{rewrite.method}: {shape.embedding} is the head, too; give the model a head of its own first (untied)")
    dense = {name: _dense(m, name) for name in rewrite.names if name in m.linears}
    tensors = {
        name: m.parameters[name] for module in rewrite.names for name in (f"{module}.weight", f"{module}.bias") if name in m.parameters
    }
    online = {name: online_transforms(linear) for name, linear in dense.items() if online_transforms(linear)}
    return rewrite_tensors(rewrite, tensors, roles, m.arithmetic, online=online)


def _missing_role(name: str, shape: Architecture) -> str:
    norms = [norm for block in shape.blocks for norm in (block.attn_norm, block.ff_norm)] + [shape.final_norm]
    if name in {norm.name for norm in norms}:
        return f"{name} has no gain that could take a factor in (a norm without affine parameters)"
    return f"the model has no module {name}"


def _dense(m: Transformer, name: str) -> DenseLinear:
    linear = m.linears[name]
    if not isinstance(linear, DenseLinear):
        raise InputError(f"{name} is already quantized; rewrite the full-precision model")
    return linear


def apply_changes(m: Transformer, rewrite: Rewrite, changed: Mapping[str, Array]) -> Transformer:
    """Put rewritten tensors and a rewrite's online transforms into a model."""
    parts = with_online(m, changed, {name: (*_online_of(m, name), *added) for name, added in rewrite.online.items()})
    both = sorted(index for index in rewrite.scores if m.score_operands[index : index + 1] not in ((None,), ()))
    if both:
        raise InputError(f"{rewrite.method}: queries and keys of block {both[0]} already go through a transform or a quantizer")
    return parts.replace(score_operands={index: TransformedScoreOperands(t, m.arithmetic) for index, t in rewrite.scores.items()})


def _online_of(m: Transformer, name: str) -> tuple[Transform, ...]:
    return online_transforms(_dense(m, name)) if name in m.linears else ()


def with_online(m: Transformer, changed: Mapping[str, Array], online: Mapping[str, tuple[Transform, ...]]) -> Transformer:
    """Replace parameters and give linears online transforms; a linear that had some and is not named keeps them.

    Raises
    ------
    InputError
        If a name is no linear of a block: the head and routers take no online transforms.
    """
    for name in online:
        if name not in m.linears:
            raise InputError(f"{name}: an online transform stands before a linear of a block")
    linears: dict[str, Linear] = {}
    touched = {name.rpartition(".")[0] for name in changed} | set(online)
    for name in touched & set(m.linears):
        transforms = online.get(name) or _online_of(m, name)
        if transforms:
            weight, bias = (changed.get(f"{name}.{end}", m.parameters.get(f"{name}.{end}")) for end in ("weight", "bias"))
            if weight is None:
                raise InputError(f"{name} has no weight to put a transform before")
            linears[name] = OnlineLinear(weight, bias, transforms, m.arithmetic)
    return m.replace(linears, parameters=changed)


def untied(m: Transformer) -> Transformer:
    """The same model with a head of its own, a copy of the embedding; a model that has one is returned as it is.

    Raises
    ------
    UsageError
        If the model is streamed or changed already.

    Examples
    --------
    >>> m = model.embedded()
    >>> untied(m) is m
    True
    """
    if m.architecture.head is not None:
        return m
    if any(type(linear) is not DenseLinear for linear in m.linears.values()):
        raise UsageError("a head of its own is given to a model as it was loaded: in memory, neither rewritten nor quantized")
    key = next(key for key in TYING_KEYS if hasattr(m.config, key))
    config = dataclasses.replace(m.config, **{key: False})  # type: ignore[type-var]
    head = config.architecture().head
    if head is None:
        raise UsageError(f"a {m.architecture.family} model has no head of its own to be given")
    tensors = dict(m.parameters)
    tensors[f"{head.name}.weight"] = m.parameters[f"{m.architecture.embedding}.weight"]
    if head.bias:  # a tied head has none, whatever the config says of the other linears
        tensors[f"{head.name}.bias"] = np.zeros(head.out, dtype=m.dtype)
    return model.build(config, tensors, m.dtype.name, m.arithmetic)
