"""Specs of blocks with minima: ``x = scale * code - minimum``, where scales and minima are numbers, or codes on scales of their own.

K-quants nest twice: a group of 16 or 32 elements has a scale of 4 to 8 bits, perhaps a minimum of 4 or 6, and a super-block of 256 has one
float16 number for its scales and one for its minima. A :class:`~refquant.core.QuantSpec` says how a tensor is to be made, and its scales
are positive; here nothing is fitted, and whatever a file holds has a place: scales of either sign and of 0.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from refquant.core.scales import ScaleSpec
from refquant.core.spec_trees import format_from_tree, format_tree, scales_from_tree, scales_tree
from refquant.core.tiling import Tiling
from refquant.errors import InputError, UsageError
from refquant.formats import IntFormat
from refquant.numerics.casting import float_dtype

Stored = ScaleSpec | str
"""How scales or minima are stored: codes of a nested spec, or numbers of a dtype."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AffineSpec:
    """What an :class:`AffineTensor` is made of.

    Parameters
    ----------
    format : IntFormat
        Of the elements.
    tiling : Tiling
        Elements that share a scale and a minimum.
    scales : ScaleSpec or {"float16", "bfloat16", "float32"}
    minima : ScaleSpec or one of these dtypes, optional
        None: there are none.

    Raises
    ------
    UsageError
        If the format is not one of integers, or a dtype is another.

    Examples
    --------
    >>> s = AFFINE_FORMATS["q4_k"]
    >>> s.format.name, s.tiling.extents, s.scales.format.name, s.scales.outer, s.scales.tiling.extents
    ('uint4', (1, 32), 'uint6', 'float16', (1, 8))
    >>> AffineSpec.from_json(s.to_json()) == s
    True
    """

    format: IntFormat
    tiling: Tiling
    scales: Stored
    minima: Stored | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.format, IntFormat):
            raise UsageError(f"blocks with minima have integer codes, not {self.format!r}")
        for stored in (self.scales, self.minima if self.minima is not None else "float32"):
            if not isinstance(stored, ScaleSpec) and (not isinstance(stored, str) or float_dtype(stored) == np.float64):
                raise UsageError(f"scales and minima are float16, bfloat16 or float32, or have a nested spec; not {stored!r}")

    def with_tiling(self, ndim: int) -> AffineSpec:
        """The same blocks along the last axis of an array of `ndim` axes, nested ones included."""

        def placed(tiling: Tiling) -> Tiling:
            return Tiling((*(1,) * (ndim - 1), tiling.extents[-1]))

        def nested(stored: Stored | None) -> Stored | None:
            if not isinstance(stored, ScaleSpec) or stored.tiling is None or stored.flat:
                return stored
            tree = scales_tree(stored) | {"tiling": list(placed(stored.tiling).extents)}
            return scales_from_tree(tree)

        scales = nested(self.scales)
        return AffineSpec(
            format=self.format,
            tiling=placed(self.tiling),
            scales=self.scales if scales is None else scales,
            minima=nested(self.minima),
        )

    def to_json(self) -> str:
        """Canonical JSON: sorted keys, no spaces."""

        def tree(stored: Stored | None) -> Any:
            return scales_tree(stored) if isinstance(stored, ScaleSpec) else stored

        found = {"kind": "affine", "format": format_tree(self.format), "tiling": list(self.tiling.extents)}
        return json.dumps(found | {"scales": tree(self.scales), "minima": tree(self.minima)}, sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> AffineSpec:
        """Read what :meth:`to_json` wrote; InputError if it is not that."""

        def stored(tree: Any) -> Any:
            return scales_from_tree(tree) if isinstance(tree, dict) else tree

        try:
            tree: dict[str, Any] = json.loads(text)
            if tree.pop("kind") != "affine":
                raise ValueError("its kind is not 'affine'")
            fmt = format_from_tree(tree.pop("format"))
            if not isinstance(fmt, IntFormat):
                raise ValueError("its format is not one of integers")
            return cls(
                format=fmt,
                tiling=Tiling(tuple(tree.pop("tiling"))),
                scales=stored(tree.pop("scales")),
                minima=stored(tree.pop("minima")),
                **tree,
            )
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise InputError(f"this is not the JSON of a spec of blocks with minima: {error}") from error


def is_affine(spec: str) -> bool:
    """Whether a spec's canonical JSON is that of an :class:`AffineSpec`.

    Examples
    --------
    >>> is_affine(AFFINE_FORMATS["q2_k"].to_json()), is_affine("[]")
    (True, False)
    """
    try:
        tree = json.loads(spec)
    except (ValueError, RecursionError):
        return False
    return isinstance(tree, dict) and tree.get("kind") == "affine"


def affine_parts(spec: AffineSpec) -> tuple[str, ...]:
    """Names of the parts of a tensor of a spec.

    Examples
    --------
    >>> affine_parts(AFFINE_FORMATS["q3_k"])
    ('codes', 'scale_codes', 'scale_outer')
    """
    found = ["codes"]
    for name, stored in (("scale", spec.scales), ("minimum", spec.minima)):
        if isinstance(stored, ScaleSpec):
            found.append(f"{name}_codes")
            found += [f"{name}_outer"] if stored.outer is not None else []
            found += [f"{name}_offset"] if stored.center != "none" else []
        elif stored is not None:
            found.append(name)
    return tuple(found)


def _nested(bits: int, signed: bool, groups: int) -> ScaleSpec:
    """Codes of `bits` on a float16 number for the groups of a super-block."""
    return ScaleSpec(format=IntFormat(bits=bits, signed=signed), outer="float16", tiling=Tiling((1, groups)))


def _signed(bits: int) -> AffineSpec:
    """Signed codes on a float16 number for each 32."""
    return AffineSpec(format=IntFormat(bits=bits, signed=True), tiling=Tiling((1, 32)), scales="float16")


def _k(bits: int, signed: bool, group: int, scales: ScaleSpec, minima: ScaleSpec | None = None) -> AffineSpec:
    return AffineSpec(format=IntFormat(bits=bits, signed=signed), tiling=Tiling((1, group)), scales=scales, minima=minima)


AFFINE_FORMATS: Mapping[str, AffineSpec] = MappingProxyType(
    {
        "q2_k": _k(2, False, 16, _nested(4, False, 16), _nested(4, False, 16)),
        "q3_k": _k(3, True, 16, _nested(6, True, 16)),
        "q4_k": _k(4, False, 32, _nested(6, False, 8), _nested(6, False, 8)),
        "q5_k": _k(5, False, 32, _nested(6, False, 8), _nested(6, False, 8)),
        "q6_k": _k(6, True, 16, _nested(8, True, 16)),
        "q4_1": AffineSpec(format=IntFormat(bits=4, signed=False), tiling=Tiling((1, 32)), scales="float16", minima="float16"),
        "q5_1": AffineSpec(format=IntFormat(bits=5, signed=False), tiling=Tiling((1, 32)), scales="float16", minima="float16"),
        "q8_0": _signed(8),
        "q4_0": _signed(4),
        "q5_0": _signed(5),
        "ternary_256": AffineSpec(format=IntFormat(bits=2, signed=True, narrow=True), tiling=Tiling((1, 256)), scales="float16"),
    }
)
"""llama.cpp's blocks by name, for matrices; both ternary types, which differ in their bytes alone, are ``ternary_256``.

``q8_0``, ``q4_0`` and ``q5_0`` are for blocks whose scales no grid has, such as negative ones of Q8_0.
"""
