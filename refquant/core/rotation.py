"""Hadamard rotations of a layer's features, and transforms of a part of them, as transforms that rewrites are made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from refquant.core.transform import Settings, Transform, require_width, transform_kind
from refquant.errors import InputError
from refquant.numerics import FAST, Arithmetic
from refquant.numerics.arrays import Array, read_only
from refquant.numerics.hadamard import Hadamard


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class HadamardRotation(Transform):
    """Multiply features by signs, then by an orthonormal Hadamard matrix: ``x -> H (signs x)``, in log time, without the matrix.

    Parameters
    ----------
    plan : Hadamard
        Normalized exactly, so that the map is orthogonal.
    inner : int
        Features that go together: of features ``[size, inner]`` the first axis is transformed. Heads of width h have ``inner`` h for the
        transform across heads; for the one inside each head, `plan` has one block a head.
    signs : ndarray of 1 and -1 ``[width]``, optional

    Examples
    --------
    >>> from refquant.numerics.hadamard import hadamard
    >>> HadamardRotation(plan=hadamard(2), inner=2).apply(np.array([1.0, 2.0, 3.0, 4.0])) * np.sqrt(2)
    array([ 4.,  6., -2., -2.])
    """

    plan: Hadamard
    inner: int = 1
    signs: Array | None = None
    kind: ClassVar[str] = "hadamard"

    def __post_init__(self) -> None:
        if self.plan.normalization != "exact":
            raise InputError(f"a rotation is orthogonal; a Hadamard transform with {self.plan.normalization} normalization is not")
        if isinstance(self.inner, bool) or not isinstance(self.inner, int) or self.inner < 1:
            raise InputError(f"features that go together are a positive number, not {self.inner!r}")
        if self.signs is not None:
            object.__setattr__(self, "signs", read_only(np.asarray(self.signs)))
            if self.signs.shape != (self.width,) or not (np.abs(self.signs) == 1).all():
                raise InputError(f"signs of a rotation of {self.width} features are 1 or -1, one each; found shape {self.signs.shape}")

    @property
    def width(self) -> int:
        """Number of features."""
        return self.plan.size * self.inner

    def apply(self, x: Array, arithmetic: Arithmetic = FAST) -> Array:
        """Rotate the last axis."""
        require_width(x, self.width, "a Hadamard rotation")
        signed = x if self.signs is None else x * self.signs.astype(x.dtype, copy=False)
        split = signed.reshape(*x.shape[:-1], self.plan.size, self.inner)
        return self.plan.apply(split, -2, arithmetic=arithmetic).reshape(x.shape)

    def undo(self, weight: Array, arithmetic: Arithmetic = FAST) -> Array:
        """Rotate the columns: the inverse of an orthogonal matrix is its transpose."""
        return self.apply(weight, arithmetic)

    def parts(self) -> dict[str, Array]:
        """The base, and signs if there are any."""
        return {"base": self.plan.base, **({} if self.signs is None else {"signs": self.signs})}

    def settings(self) -> Settings:
        """Sizes."""
        return {"size": self.plan.size, "blocks": self.plan.blocks, "inner": self.inner}

    @classmethod
    def from_parts(cls, parts: Mapping[str, Array], settings: Mapping[str, Any]) -> HadamardRotation:
        """Rebuild."""
        size, blocks, inner = (settings.get(name) for name in ("size", "blocks", "inner"))
        if not {"base"} <= set(parts) <= {"base", "signs"} or type(size) is not int or type(blocks) is not int or type(inner) is not int:
            found = f"{', '.join(sorted(parts))} and {dict(settings)}"
            raise InputError(f"a {cls.kind} is made of base, perhaps signs, and the integers size, blocks, inner; found {found}")
        return cls(plan=Hadamard(size, parts["base"], blocks), inner=inner, signs=parts.get("signs"))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Part(Transform):
    """Transform a run of consecutive features and leave the others alone, such as the values of a fused projection.

    Parameters
    ----------
    inner : Transform
    start : int
        First feature that is transformed.
    total : int
        Number of all features.

    Examples
    --------
    >>> from refquant.core.transform import Permutation
    >>> Part(inner=Permutation(order=np.array([1, 0])), start=1, total=4).apply(np.array([1.0, 2.0, 3.0, 4.0]))
    array([1., 3., 2., 4.])
    """

    inner: Transform
    start: int
    total: int
    kind: ClassVar[str] = "part"

    def __post_init__(self) -> None:
        if not 0 <= self.start <= self.total - self.inner.width:
            raise InputError(f"a part of {self.inner.width} features from {self.start} on does not lie within {self.total}")

    @property
    def width(self) -> int:
        """Number of all features."""
        return self.total

    @property
    def diagonal(self) -> bool:
        """As the transform of the part."""
        return self.inner.diagonal

    def apply(self, x: Array, arithmetic: Arithmetic = FAST) -> Array:
        """Transform the part."""
        return self._replaced(x, self.inner.apply(self._of(x), arithmetic))

    def undo(self, weight: Array, arithmetic: Arithmetic = FAST) -> Array:
        """Undo the transform in the part's columns."""
        return self._replaced(weight, self.inner.undo(self._of(weight), arithmetic))

    def parts(self) -> dict[str, Array]:
        """Those of the inner transform."""
        return self.inner.parts()

    def settings(self) -> Settings:
        """Where the part lies, and the inner transform's settings."""
        return {**self.inner.settings(), "part_of": self.inner.kind, "part_start": self.start, "part_total": self.total}

    @classmethod
    def from_parts(cls, parts: Mapping[str, Array], settings: Mapping[str, Any]) -> Part:
        """Rebuild."""
        kind, start, total = (settings.get(f"part_{name}") for name in ("of", "start", "total"))
        if not isinstance(kind, str) or kind == cls.kind or type(start) is not int or type(total) is not int:
            raise InputError(f"a part has the settings part_of (another kind), part_start and part_total; found {dict(settings)}")
        inner = transform_kind(kind).from_parts(parts, {k: v for k, v in settings.items() if not k.startswith("part_")})
        return cls(inner=inner, start=start, total=total)

    def _of(self, x: Array) -> Array:
        require_width(x, self.total, "a part")
        return x[..., self.start : self.start + self.inner.width]

    def _replaced(self, x: Array, part: Array) -> Array:
        out = np.array(x)
        out[..., self.start : self.start + self.inner.width] = part
        return out
