"""Rewrites: edits of a network's tensors that leave its function alone and make it easier to quantize.

SmoothQuant, AWQ, QuaRot and DuQuant all return a :class:`Rewrite`. It is a sequence of steps, each of which preserves the function by
itself, in real arithmetic:

* a :class:`Joint` puts a transform ``T`` into whatever produces an activation and takes it out of all that consume it. Without producers
  ``T`` is *online*: it is applied to the consumers' input at run time.
* a :class:`Fold` moves a norm's gain into the weights that consume the norm's output.

Beside the steps stand the transforms that queries and keys go through after rotary embedding (``scores``), which are online, too.

Names are those of modules: a tensor's name without ``.weight`` or ``.bias``. What a name stands for is its :data:`Role`; whoever applies a
rewrite to a model knows them (:mod:`refquant.apply.rewriting`), a single layer's are as easily written down:

>>> tensors = {"norm.weight": np.array([1.0, 3.0]), "linear.weight": np.array([[1.0, 2.0]])}
>>> joint = Joint(transform=Scale(factors=np.array([2.0, 0.5])), producers=("norm",), consumers=("linear",))
>>> rewrite = Rewrite(method="example", steps=(joint,))
>>> changed = rewrite_tensors(rewrite, tensors, {"norm": "norm", "linear": "linear"})
>>> changed["norm.weight"], changed["linear.weight"]
(array([0.5, 6. ]), array([[2., 1.]]))
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

import numpy as np

from refquant.core.transform import Scale, Transform
from refquant.errors import InputError, NumericalError
from refquant.numerics import FAST, Arithmetic
from refquant.numerics.arrays import Array

Role = Literal["linear", "embedding", "norm", "gemma_norm"]
"""A weight ``[out, in]`` with or without a bias ``[out]``; rows that are looked up, ``[rows, width]``; a gain ``[width]`` with or without a
bias; the same, stored as gain minus one. A mixture's router is a linear."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Joint:
    """One place in a network: a transform is put in on one side and taken out on the other.

    Parameters
    ----------
    transform : Transform
        Of the producers' output features.
    producers : tuple of str
        All that write these features: a norm, the linear before, or all that write to the residual stream. Empty: the transform is
        applied to the consumers' input at run time.
    consumers : tuple of str
        All linears that read them.
    consumed : Transform, optional
        What the transform comes to at the consumers' input, where that is not the producers' output itself: key-value heads that serve
        several query heads, or a part of a fused projection.
    """

    transform: Transform
    consumers: tuple[str, ...]
    producers: tuple[str, ...] = ()
    consumed: Transform | None = None

    def __post_init__(self) -> None:
        if not self.consumers:
            raise InputError("a joint needs consumers, or a transform would stay in the network")
        if self.consumed is not None and not self.producers:
            raise InputError("an online joint has one transform: it is applied to its consumers' own input")

    @property
    def online(self) -> bool:
        """Whether the transform is applied at run time."""
        return not self.producers


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Fold:
    """Move a norm's gain into all linears that consume its output; the gain is 1 afterwards.

    A gain of 0 is allowed: its column becomes 0. A norm's bias does not fold, and raises.

    Parameters
    ----------
    norm : str
    consumers : tuple of str
    """

    norm: str
    consumers: tuple[str, ...]


Step = Joint | Fold


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rewrite:
    """Steps, in the order in which they are taken, and what queries and keys go through.

    Parameters
    ----------
    method : str
        Who made it.
    steps : tuple of Joint or Fold
        Later steps see the tensors that earlier ones left. A linear's online transforms are applied to its input in the order of steps.
    scores : mapping of int to Transform
        By block, of one head's features: queries become ``q T``, keys ``k T^-T``.
    notes : mapping of str to number or text
        What was chosen, for reports.
    """

    method: str
    steps: tuple[Step, ...] = ()
    scores: Mapping[int, Transform] = field(default_factory=dict)
    notes: Mapping[str, str | int | float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("scores", "notes"):
            object.__setattr__(self, name, MappingProxyType(dict(getattr(self, name))))

    @property
    def online(self) -> dict[str, tuple[Transform, ...]]:
        """Online transforms of linears' inputs by the linear's name, first to last."""
        found: dict[str, tuple[Transform, ...]] = {}
        for step in self.steps:
            if isinstance(step, Joint) and step.online:
                for name in step.consumers:
                    found[name] = (*found.get(name, ()), step.transform)
        return found

    @property
    def names(self) -> tuple[str, ...]:
        """Every module that a step touches, once, in the order of steps."""
        touched: dict[str, None] = {}
        for step in self.steps:
            before = (step.norm,) if isinstance(step, Fold) else step.producers
            touched.update(dict.fromkeys((*before, *step.consumers)))
        return tuple(touched)

    def then(self, other: Rewrite) -> Rewrite:
        """This rewrite and after it `other`; InputError if both have transforms of the same block's queries and keys."""
        both = sorted(set(self.scores) & set(other.scores))
        if both:
            raise InputError(f"{self.method} and {other.method} both transform queries and keys of block {both[0]}")
        return Rewrite(
            method=self.method if self.method == other.method else f"{self.method}, {other.method}",
            steps=(*self.steps, *other.steps),
            scores={**self.scores, **other.scores},
            notes={**self.notes, **other.notes},
        )


def rewrite_tensors(
    rewrite: Rewrite,
    tensors: Mapping[str, Array],
    roles: Mapping[str, Role],
    arithmetic: Arithmetic = FAST,
    *,
    online: Mapping[str, tuple[Transform, ...]] | None = None,
) -> dict[str, Array]:
    """Take a rewrite's steps.

    Everything is computed in float64 and rounded once, at the end, to the dtype that a tensor has.

    Parameters
    ----------
    rewrite : Rewrite
    tensors : mapping of str to ndarray
        By full name, ``.weight`` or ``.bias`` at the end. Not written to.
    roles : mapping of str to Role
        Of every module that the rewrite names.
    arithmetic : Arithmetic
    online : mapping, optional
        Online transforms that earlier rewrites left before linears.

    Returns
    -------
    dict of str to ndarray
        The tensors that changed, in their own dtypes.

    Raises
    ------
    InputError
        If a name has no role or no tensor, a transform does not fit, a norm cannot take it in, or a transform is to be fused into the
        producers of a linear whose input already goes through an online one: at run time the order would be another.
    NumericalError
        If a rewritten number overflows its tensor's dtype.
    """
    changed: dict[str, Array] = {}
    state = ChainMap(changed, dict(tensors))
    before = set(online or {})
    for step in rewrite.steps:
        if isinstance(step, Fold):
            _fold(step, state, roles)
        else:
            _join(step, state, roles, before, arithmetic)
    return {name: _rounded(array, tensors[name].dtype, name) for name, array in changed.items()}


def _join(step: Joint, state: MutableMapping[str, Array], roles: Mapping[str, Role], online: set[str], arithmetic: Arithmetic) -> None:
    for name in step.producers:
        _produce(name, step.transform, state, roles, arithmetic)
    for name in step.consumers:
        if step.online:
            online.add(name)
        elif name in online:
            raise InputError(f"{name}: its input goes through an online transform; one fused into its producers has to come before that")
        weight = _tensor(state, _linear(name, roles), ".weight")
        transform = step.transform if step.consumed is None else step.consumed
        _require_fit(name, weight.shape[1], transform)
        state[name + ".weight"] = transform.undo(weight, arithmetic)


def _produce(name: str, transform: Transform, state: MutableMapping[str, Array], roles: Mapping[str, Role], arithmetic: Arithmetic) -> None:
    """Let what `name` writes come out transformed."""
    role = _role(name, roles)
    weight = _tensor(state, name, ".weight")
    _require_fit(name, weight.shape[0] if role == "linear" else weight.shape[-1], transform)
    if role in ("norm", "gemma_norm") and not transform.diagonal:
        raise InputError(f"{name}: a norm's gain takes in one factor a feature, not a {transform.kind}; rotate what the norm reads instead")
    if role == "linear":
        state[name + ".weight"] = np.ascontiguousarray(transform.apply(np.ascontiguousarray(weight.T), arithmetic).T)
    elif role == "gemma_norm":
        state[name + ".weight"] = transform.apply(weight + 1, arithmetic) - 1
    else:
        state[name + ".weight"] = transform.apply(weight, arithmetic)
    if name + ".bias" in state:
        state[name + ".bias"] = transform.apply(_tensor(state, name, ".bias"), arithmetic)


def _fold(step: Fold, state: MutableMapping[str, Array], roles: Mapping[str, Role]) -> None:
    role = _role(step.norm, roles)
    if role not in ("norm", "gemma_norm"):
        raise InputError(f"{step.norm}: only a norm's gain is folded, not a {role}")
    if step.norm + ".bias" in state:
        raise InputError(f"{step.norm}: has a bias, which does not fold into weights")
    stored = _tensor(state, step.norm, ".weight")
    gain = stored + 1 if role == "gemma_norm" else stored
    for name in step.consumers:
        weight = _tensor(state, _linear(name, roles), ".weight")
        if weight.shape[1] != len(gain):
            raise InputError(f"{name}: reads {weight.shape[1]} features; {step.norm} has {len(gain)}")
        state[name + ".weight"] = weight * gain
    state[step.norm + ".weight"] = np.zeros_like(gain) if role == "gemma_norm" else np.ones_like(gain)


def _role(name: str, roles: Mapping[str, Role]) -> Role:
    if name not in roles:
        raise InputError(f"{name}: is no part of this model that a rewrite could touch")
    return roles[name]


def _linear(name: str, roles: Mapping[str, Role]) -> str:
    if _role(name, roles) != "linear":
        raise InputError(f"{name}: a transform is taken out of a linear, not of a {roles[name]}")
    return name


def _tensor(state: Mapping[str, Array], name: str, end: str) -> Array:
    if name + end not in state:
        raise InputError(f"{name}: has no {end[1:]} to take a rewrite in")
    return state[name + end].astype(np.float64, copy=False)


def _require_fit(name: str, width: int, transform: Transform) -> None:
    if width != transform.width:
        raise InputError(f"{name}: has {width} features at this joint; the {transform.kind} is of {transform.width}")


def _rounded(array: Array, dtype: np.dtype[np.floating], name: str) -> Array:
    with np.errstate(over="ignore", under="ignore"):
        rounded = array.astype(dtype, copy=False)
    if not np.isfinite(rounded).all():
        at = tuple(int(i) for i in np.argwhere(~np.isfinite(rounded))[0])
        raise NumericalError(f"{name}{list(at)}: the rewritten number {array[at]:g} does not fit {dtype.name}")
    return rounded


__all__ = ["Fold", "Joint", "Rewrite", "Role", "Scale", "Step", "rewrite_tensors"]
