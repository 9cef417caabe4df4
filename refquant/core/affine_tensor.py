"""Blocks with minima by nested specs: ``x = scale * code - minimum``, where scales and minima are numbers, or codes on scales of their own.

K-quants nest twice: a group of 16 or 32 elements has a scale of 4 to 8 bits, perhaps a minimum of 4 or 6, and a super-block of 256 has one
float16 number for its scales and one for its minima. A :class:`~refquant.core.QuantSpec` says how a tensor is to be made, and its scales
are positive; here nothing is fitted, and whatever a file holds has a place: scales of either sign and of 0.

A quantized folder keeps such a tensor as its :meth:`AffineTensor.parts` beside the spec's JSON, like every other
:class:`~refquant.core.qtensor.Quantized`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from types import MappingProxyType
from typing import Any

import numpy as np

from refquant.core.qtensor import Origin
from refquant.core.scales import CodedScales, ScaleSpec
from refquant.core.spec_trees import format_from_tree, format_tree, scales_from_tree, scales_tree
from refquant.core.tiling import Tiling
from refquant.errors import InputError, UsageError
from refquant.formats import IntFormat, require_codes
from refquant.numerics.arrays import Array, read_only
from refquant.numerics.casting import as_float64, float_dtype
from refquant.numerics.frozen import by_constructor

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


@dataclass(frozen=True, slots=True, kw_only=True)
class AffineTensor:
    """Codes with scales and minima: another :class:`~refquant.core.qtensor.Quantized`.

    Parameters
    ----------
    codes : integer ndarray
        Unpacked, in the logical shape.
    scale : CodedScales, or ndarray with a number a tile
    minimum : CodedScales, or ndarray with a number a tile, optional
        What is taken off.
    spec : AffineSpec
    origin : Origin

    Raises
    ------
    InputError
        If the parts do not fit the spec or each other, or a number is not finite.

    Examples
    --------
    >>> made = AffineTensor(
    ...     codes=np.array([[0, 3]], np.uint8),
    ...     scale=CodedScales(codes=np.array([[5]], np.uint8), outer=np.float16([[0.5]])),
    ...     minimum=CodedScales(codes=np.array([[2]], np.uint8), outer=np.float16([[0.25]])),
    ...     spec=AFFINE_FORMATS["q2_k"],
    ... )
    >>> made.dequantize().tolist(), made.total_bits
    ([[-0.5, 7.0]], 44)
    """

    codes: Array
    scale: CodedScales | Array
    spec: AffineSpec
    minimum: CodedScales | Array | None = None
    origin: Origin = field(default=Origin(method="unknown"))

    __reduce__ = by_constructor

    def __post_init__(self) -> None:
        codes, fmt = np.asarray(self.codes), self.spec.format
        if codes.dtype != fmt.dtype:
            raise InputError(f"codes of {fmt.name} are {fmt.dtype}, not {codes.dtype}")
        require_codes(codes, fmt)
        object.__setattr__(self, "codes", read_only(codes))
        if (self.minimum is None) != (self.spec.minima is None):
            raise InputError(
                f"the spec has {'no minima, and the tensor some' if self.spec.minima is None else 'minima, and the tensor none'}"
            )
        expected = self.spec.tiling.grid_shape(codes.shape)
        for name, held, stored in (("scale", self.scale, self.spec.scales), ("minimum", self.minimum, self.spec.minima)):
            if held is None or stored is None:
                continue
            numbers = self._numbers(name, held, stored)
            if numbers.shape != expected:
                raise InputError(f"codes of shape {codes.shape} need a {name} of shape {expected}, not {numbers.shape}")
            if not np.isfinite(numbers).all():
                raise InputError(f"a {name} is not finite")
            if not isinstance(held, CodedScales):
                object.__setattr__(self, name, read_only(np.asarray(held)))

    @staticmethod
    def _numbers(name: str, held: CodedScales | Array, stored: Stored) -> Array:
        """What is stored as float32, one number a tile."""
        if isinstance(stored, ScaleSpec):
            if not isinstance(held, CodedScales):
                raise InputError(f"the spec nests; the {name} has to be codes on outer scales")
            if held.outer is not None and not np.isfinite(as_float64(held.outer)).all():
                raise InputError(f"an outer {name} is not finite")
            return held.decoded(stored)
        if isinstance(held, CodedScales) or np.asarray(held).dtype != float_dtype(stored):
            raise InputError(f"the {name} is {stored}, one number a tile")
        with np.errstate(invalid="ignore"):  # a NaN is refused later, by what it is
            return as_float64(held).astype(np.float32)

    @property
    def shape(self) -> tuple[int, ...]:
        """Logical shape."""
        return self.codes.shape

    def scales(self) -> Array:
        """One float32 scale a tile."""
        return self._numbers("scale", self.scale, self.spec.scales)

    def minima(self) -> Array | None:
        """One float32 minimum a tile, if there are any."""
        if self.minimum is None or self.spec.minima is None:
            return None
        return self._numbers("minimum", self.minimum, self.spec.minima)

    def dequantize(self, dtype: np.dtype[np.floating] | None = None) -> Array:
        """Return ``scale * code - minimum``, every operation rounded to float32 once.

        Parameters
        ----------
        dtype : numpy dtype, optional
            float32 (default) or float64, which holds the same numbers.
        """
        expand, shape, minima = self.spec.tiling.expand, self.codes.shape, self.minima()
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            values = self.codes.astype(np.float32) * expand(self.scales(), shape)
            if minima is not None:
                values = values - expand(minima, shape)
        return values if dtype is None or np.dtype(dtype) == np.float32 else as_float64(values).astype(dtype, copy=False)

    def parts(self) -> dict[str, Array]:
        """The arrays: ``codes``; ``scale``, or ``scale_codes`` and ``scale_outer``; likewise ``minimum``."""
        found = {"codes": self.codes}
        for name, held in (("scale", self.scale), ("minimum", self.minimum)):
            if isinstance(held, CodedScales):
                found |= {part.replace("scale", name, 1): array for part, array in held.parts().items()}
            elif held is not None:
                found[name] = held
        return found

    @classmethod
    def from_parts(cls, parts: Mapping[str, Array], spec: AffineSpec, origin: Origin) -> AffineTensor:
        """Put together what :meth:`parts` took apart; InputError if a part is missing, too many, or does not fit."""
        wanted = affine_parts(spec)
        if set(parts) != set(wanted):
            raise InputError(
                f"a tensor of blocks with minima is made of {', '.join(wanted)}; found {', '.join(sorted(parts)) or 'nothing'}"
            )

        def held(name: str, stored: Stored) -> CodedScales | Array:
            if not isinstance(stored, ScaleSpec):
                return parts[name]
            return CodedScales(codes=parts[f"{name}_codes"], outer=parts.get(f"{name}_outer"), offset=parts.get(f"{name}_offset"))

        minimum = None if spec.minima is None else held("minimum", spec.minima)
        return cls(codes=parts["codes"], scale=held("scale", spec.scales), minimum=minimum, spec=spec, origin=origin)

    @property
    def total_bits(self) -> int:
        """Bits of codes, scales, minima and the numbers over them, before any padding of a byte layout."""
        total = self.codes.size * self.spec.format.bits
        for held, stored in ((self.scale, self.spec.scales), (self.minimum, self.spec.minima)):
            if isinstance(held, CodedScales) and isinstance(stored, ScaleSpec):
                total += held.bits(stored)
            elif isinstance(held, np.ndarray):
                total += held.size * held.dtype.itemsize * 8
        return total

    @property
    def bits_per_weight(self) -> Fraction:
        """:attr:`total_bits` over the number of weights, exactly; 0 for an empty tensor."""
        return Fraction(self.total_bits, self.codes.size) if self.codes.size else Fraction(0)

    def digest(self) -> str:
        """SHA-256 over the canonical spec and every part's name, dtype, shape and little-endian bytes."""
        sha = hashlib.sha256(self.spec.to_json().encode())
        for name, array in sorted(self.parts().items()):
            sha.update(json.dumps([name, array.dtype.name, list(array.shape)]).encode())
            sha.update(array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes())
        return sha.hexdigest()


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
