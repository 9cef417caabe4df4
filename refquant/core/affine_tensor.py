"""Blocks with minima and super-blocks as tensors; what they are made of says :mod:`~refquant.core.affine_spec`.

A quantized folder keeps such a tensor as its :meth:`AffineTensor.parts` beside the spec's JSON, like every other
:class:`~refquant.core.qtensor.Quantized`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np

from refquant.core.affine_spec import AffineSpec, Stored, affine_parts
from refquant.core.qtensor import Origin
from refquant.core.scales import CodedScales, ScaleSpec
from refquant.errors import InputError
from refquant.formats import require_codes
from refquant.numerics.arrays import Array, read_only
from refquant.numerics.casting import as_float64, float_dtype
from refquant.numerics.frozen import by_constructor


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
    >>> from refquant.core.affine_spec import AFFINE_FORMATS
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
