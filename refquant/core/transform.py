"""Invertible linear maps of a layer's features: what function-preserving rewrites put into a network in one place and take out in another.

A transform ``T`` maps activations ``x -> x T`` over their last axis. Whoever consumes them gets the weight ``W T^-T`` instead of ``W``,
so that ``(x T) (W T^-T)^T = x W^T``. A diagonal ``T`` is a scale, an orthogonal one a rotation; for rotations and permutations both maps
are the same.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from refquant.errors import InputError
from refquant.numerics import FAST, Arithmetic
from refquant.numerics.arrays import Array, read_only

Settings = dict[str, str | int | float | bool | None]
"""What of a transform is not an array, as JSON holds it."""


class Transform(ABC):
    """An invertible linear map of `width` features.

    Both maps keep the dtype of their argument (float32 or float64), and the argument itself.
    """

    kind: ClassVar[str]

    @property
    @abstractmethod
    def width(self) -> int:
        """Number of features."""

    @abstractmethod
    def apply(self, x: Array, arithmetic: Arithmetic = FAST) -> Array:
        """``x T`` over the last axis of ``[..., width]``."""

    @abstractmethod
    def undo(self, weight: Array, arithmetic: Arithmetic = FAST) -> Array:
        """``W T^-T`` over the last axis of ``[..., width]``: ``apply(x) undo(W)^T = x W^T``."""

    @abstractmethod
    def parts(self) -> dict[str, Array]:
        """The arrays that it is made of, by name."""

    def settings(self) -> Settings:
        """What it is made of besides arrays."""
        return {}

    @classmethod
    @abstractmethod
    def from_parts(cls, parts: Mapping[str, Array], settings: Mapping[str, Any]) -> Transform:
        """Rebuild from :meth:`parts` and :meth:`settings`; InputError if they do not make one."""

    @property
    def diagonal(self) -> bool:
        """Whether features keep to themselves, so that a norm's gain can take it in."""
        return False


def require_width(x: Array, width: int, what: str) -> None:
    """Raise InputError unless the last axis of `x` has `width` entries."""
    if x.ndim == 0 or x.shape[-1] != width:
        raise InputError(f"{what} of {width} features does not fit an array of shape {x.shape}")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scale(Transform):
    """Divide each activation feature by its factor, multiply each weight column: one rounding an element.

    Parameters
    ----------
    factors : ndarray ``[width]``, positive and finite

    Examples
    --------
    >>> scale = Scale(factors=np.array([2.0, 4.0]))
    >>> scale.apply(np.array([[1.0, 1.0]])), scale.undo(np.array([[1.0, 1.0]]))
    (array([[0.5 , 0.25]]), array([[2., 4.]]))
    """

    factors: Array
    kind: ClassVar[str] = "scale"

    def __post_init__(self) -> None:
        object.__setattr__(self, "factors", read_only(np.asarray(self.factors)))
        wrong = ~(np.isfinite(self.factors) & (self.factors > 0))
        if self.factors.ndim != 1 or wrong.any():
            found = self.factors.shape if self.factors.ndim != 1 else f"{self.factors[wrong][0]} at {int(np.argmax(wrong))}"
            raise InputError(f"a scale has one positive finite factor a feature; found {found}")

    @property
    def width(self) -> int:
        """Number of features."""
        return len(self.factors)

    @property
    def diagonal(self) -> bool:
        """Always."""
        return True

    def apply(self, x: Array, arithmetic: Arithmetic = FAST) -> Array:
        """Divide by the factors."""
        require_width(x, self.width, "a scale")
        return np.asarray(x / self.factors.astype(x.dtype, copy=False))

    def undo(self, weight: Array, arithmetic: Arithmetic = FAST) -> Array:
        """Multiply by the factors."""
        require_width(weight, self.width, "a scale")
        return np.asarray(weight * self.factors.astype(weight.dtype, copy=False))

    def parts(self) -> dict[str, Array]:
        """The factors."""
        return {"factors": self.factors}

    @classmethod
    def from_parts(cls, parts: Mapping[str, Array], settings: Mapping[str, Any]) -> Scale:
        """Rebuild."""
        return cls(factors=_taken(parts, "factors", cls.kind))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Permutation(Transform):
    """Reorder features: feature ``i`` of the result is feature ``order[i]`` of the argument, for activations and weights alike. Exact.

    Parameters
    ----------
    order : int ndarray ``[width]``
        Every index once.

    Examples
    --------
    >>> Permutation(order=np.array([2, 0, 1])).apply(np.array([10.0, 11.0, 12.0]))
    array([12., 10., 11.])
    """

    order: Array
    kind: ClassVar[str] = "permutation"

    def __post_init__(self) -> None:
        object.__setattr__(self, "order", read_only(np.asarray(self.order)))
        if self.order.ndim != 1 or self.order.dtype.kind not in "iu" or not np.array_equal(np.sort(self.order), np.arange(self.order.size)):
            raise InputError(f"a permutation holds every index once; found {self.order.dtype} {self.order.shape}: {self.order.ravel()[:8]}")

    @property
    def width(self) -> int:
        """Number of features."""
        return len(self.order)

    def apply(self, x: Array, arithmetic: Arithmetic = FAST) -> Array:
        """Reorder the last axis."""
        require_width(x, self.width, "a permutation")
        return np.ascontiguousarray(x[..., self.order])

    def undo(self, weight: Array, arithmetic: Arithmetic = FAST) -> Array:
        """Reorder the columns."""
        return self.apply(weight)

    def parts(self) -> dict[str, Array]:
        """The order."""
        return {"order": self.order}

    @classmethod
    def from_parts(cls, parts: Mapping[str, Array], settings: Mapping[str, Any]) -> Permutation:
        """Rebuild."""
        return cls(order=_taken(parts, "order", cls.kind))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BlockRotation(Transform):
    """Multiply runs of consecutive features by orthogonal matrices: ``x -> x diag(R_1, R_2, ...)``.

    Parameters
    ----------
    blocks : float ndarray ``[count, B, B]``
        One a run. Whether they are orthogonal is the maker's promise, checked to `TOLERANCE` here.
    repeats : int
        How often the sequence of blocks follows itself: one block repeated over all runs has ``count`` 1.

    Examples
    --------
    >>> turn = BlockRotation(blocks=np.array([[[0.0, 1.0], [-1.0, 0.0]]]), repeats=2)
    >>> turn.apply(np.array([1.0, 2.0, 3.0, 4.0]))
    array([-2.,  1., -4.,  3.])
    """

    blocks: Array
    repeats: int = 1
    kind: ClassVar[str] = "block_rotation"
    TOLERANCE: ClassVar[float] = 1e-6  # rotations of float32 programs are this far from orthogonal

    def __post_init__(self) -> None:
        object.__setattr__(self, "blocks", read_only(np.asarray(self.blocks)))
        shape = self.blocks.shape
        if len(shape) != 3 or shape[1] != shape[2] or not shape[0] or not shape[1]:
            raise InputError(f"blocks of a rotation have shape [count, B, B]; found {shape}")
        if isinstance(self.repeats, bool) or not isinstance(self.repeats, int) or self.repeats < 1:
            raise InputError(f"blocks of a rotation are repeated at least once; found {self.repeats!r}")
        wide = self.blocks.astype(np.float64)
        distance = np.abs(FAST.matmul(wide, wide.swapaxes(-1, -2)) - np.eye(shape[1])).max()
        if not distance <= self.TOLERANCE:
            raise InputError(f"a block of a rotation is not orthogonal: R R^T is {distance:.3g} away from the identity")

    @property
    def width(self) -> int:
        """Number of features."""
        return int(self.repeats * self.blocks.shape[0] * self.blocks.shape[1])

    def apply(self, x: Array, arithmetic: Arithmetic = FAST) -> Array:
        """Rotate the last axis."""
        require_width(x, self.width, "a rotation")
        count, size, _ = self.blocks.shape
        runs = np.moveaxis(x.reshape(-1, count, size), 1, 0)  # [count, rows, B]
        turned = arithmetic.matmul(np.ascontiguousarray(runs), self.blocks.astype(x.dtype, copy=False))
        return np.ascontiguousarray(np.moveaxis(turned, 0, 1)).reshape(x.shape)

    def undo(self, weight: Array, arithmetic: Arithmetic = FAST) -> Array:
        """Rotate the columns: the inverse of an orthogonal matrix is its transpose."""
        return self.apply(weight, arithmetic)

    def parts(self) -> dict[str, Array]:
        """The blocks."""
        return {"blocks": self.blocks}

    def settings(self) -> Settings:
        """How often they are repeated."""
        return {"repeats": self.repeats}

    @classmethod
    def from_parts(cls, parts: Mapping[str, Array], settings: Mapping[str, Any]) -> BlockRotation:
        """Rebuild."""
        return cls(blocks=_taken(parts, "blocks", cls.kind), repeats=settings.get("repeats", 1))


def _taken(parts: Mapping[str, Array], name: str, kind: str) -> Array:
    if set(parts) != {name}:
        raise InputError(f"a {kind} is made of {name}; found {', '.join(sorted(parts)) or 'nothing'}")
    return parts[name]


def _rotation(name: str) -> type[Transform]:
    found: type[Transform] = getattr(importlib.import_module("refquant.core.rotation"), name)  # it imports this module
    return found


_KINDS: dict[str, Callable[[], type[Transform]]] = {
    "scale": lambda: Scale,
    "permutation": lambda: Permutation,
    "block_rotation": lambda: BlockRotation,
    "hadamard": lambda: _rotation("HadamardRotation"),
    "part": lambda: _rotation("Part"),
}


def transform_kind(kind: str) -> type[Transform]:
    """The class of a kind of transform, for reading one back; InputError if there is none."""
    if kind not in _KINDS:
        raise InputError(f"unknown kind of transform {kind!r}; known are {', '.join(_KINDS)}")
    return _KINDS[kind]()


def through(transforms: tuple[Transform, ...], x: Array, arithmetic: Arithmetic = FAST) -> Array:
    """Apply several transforms to activations, first to last."""
    for transform in transforms:
        x = transform.apply(x, arithmetic)
    return x
