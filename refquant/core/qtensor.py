"""A quantized tensor: codes, scales, zero points, and everything needed to read them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from types import MappingProxyType
from typing import Protocol

import numpy as np

from refquant.core.coding import decode
from refquant.core.grid import Grid
from refquant.core.scales import CodedScales
from refquant.core.spec import QuantSpec
from refquant.errors import InputError
from refquant.formats import require_codes
from refquant.numerics.arrays import Array, read_only
from refquant.numerics.frozen import by_constructor

Parameter = str | int | float | bool | None


class Described(Protocol):
    """What says how a representation is to be read."""

    def to_json(self) -> str:
        """Canonical JSON."""


class Quantized(Protocol):
    """What every quantized representation of a tensor can do."""

    @property
    def spec(self) -> Described:
        """How it is to be read."""

    @property
    def origin(self) -> Origin:
        """Who made it."""

    @property
    def total_bits(self) -> int:
        """Bits of everything that it is stored as, before any padding of a byte layout."""

    @property
    def bits_per_weight(self) -> Fraction:
        """:attr:`total_bits` over the number of weights, exactly."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Logical shape."""

    def dequantize(self, dtype: np.dtype[np.floating] | None = None) -> Array:
        """The numbers that the representation stands for."""

    def parts(self) -> dict[str, Array]:
        """The arrays it is stored as."""

    def digest(self) -> str:
        """SHA-256 over spec and parts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Who made a tensor: the method, its version and parameters. It does not enter the digest."""

    method: str
    version: str = "1"
    parameters: Mapping[str, Parameter] = field(default_factory=dict)

    __reduce__ = by_constructor

    def __post_init__(self) -> None:
        object.__setattr__(self, "parameters", MappingProxyType(dict(self.parameters)))


@dataclass(frozen=True, slots=True, kw_only=True)
class QTensor:
    """Codes on a grid.

    Parameters
    ----------
    codes : integer ndarray
        Unpacked, in the smallest integer dtype, in the logical shape and order of the tensor.
    scale : floating ndarray
        One a tile.
    zero : ndarray of the same shape, or None
    spec : QuantSpec
    permutation : int ndarray ``[columns]``, optional
        Order in which the columns were quantized, where tiles are runs of *that* order (GPTQ with activation order and dynamic groups):
        column ``permutation[j]`` lies in tile ``j // group_size``. Kept as int64.
    origin : Origin
    coded : CodedScales, optional
        The scales as they are stored, where the spec nests; `scale` is then what they decode to.

    Raises
    ------
    InputError
        If the parts do not fit the spec or each other: codes of another dtype or outside the format, scales of another shape or
        format, a zero point where the scheme has none, a permutation that is none.

    Examples
    --------
    >>> from refquant.core import spec
    >>> from refquant.methods.grid.rtn import rtn
    >>> import numpy as np
    >>> q = rtn(np.array([[0.0, 1.0, 2.0, 3.0]]), spec("int2"))
    >>> q.codes.tolist(), float(q.bits_per_weight)
    ([[0, 1, 2, 3]], 18.5)
    """

    codes: Array
    scale: Array
    zero: Array | None
    spec: QuantSpec
    permutation: Array | None = None
    origin: Origin = field(default=Origin(method="unknown"))
    coded: CodedScales | None = None

    __reduce__ = by_constructor

    def __post_init__(self) -> None:
        codes, fmt = np.asarray(self.codes), self.spec.format
        if codes.dtype != fmt.dtype:
            raise InputError(f"codes of {fmt.name} are {fmt.dtype}, not {codes.dtype}")
        require_codes(codes, fmt)
        expected = self.spec.tiling.grid_shape(codes.shape)
        if np.shape(self.scale) != expected:
            raise InputError(f"codes of shape {codes.shape} need scales of shape {expected}, not {np.shape(self.scale)}")
        if (self.zero is None) != (self.spec.scheme.zero == "none"):
            raise InputError(f"scheme {self.spec.scheme.name} has {'no' if self.zero is not None else 'a'} zero point")
        self._check_coded()
        grid = self.grid
        allowed = (self.spec.scale_format,) if self.spec.scale_format else ("float32", "float64")
        if grid.scale.dtype.name not in allowed:
            raise InputError(f"the spec keeps scales as {' or '.join(allowed)}, not {grid.scale.dtype.name}")
        if grid.zero is not None and (grid.zero.dtype.kind in "iu") == (self.spec.scheme.zero == "real"):
            raise InputError(f"scheme {self.spec.scheme.name} has {self.spec.scheme.zero} zero points, not {grid.zero.dtype}")
        object.__setattr__(self, "codes", read_only(codes))
        object.__setattr__(self, "scale", grid.scale)
        object.__setattr__(self, "zero", grid.zero)
        if self.permutation is not None:
            order, columns = np.asarray(self.permutation), codes.shape[-1] if codes.ndim else 0
            if order.ndim != 1 or order.dtype.kind not in "iu" or not np.array_equal(np.sort(order), np.arange(columns)):
                raise InputError(f"permutation is not an ordering of {columns} columns")
            object.__setattr__(self, "permutation", read_only(order.astype(np.int64)))

    def _check_coded(self) -> None:
        """Coded scales and spec agree, and `scale` is what the codes stand for."""
        if (self.coded is None) != (self.spec.scales is None):
            raise InputError(f"the spec has {'no' if self.spec.scales is None else 'a'} nested spec of scales; the tensor does not fit it")
        if self.coded is not None and self.spec.scales is not None:
            decoded = self.coded.decoded(self.spec.scales)
            if decoded.tobytes() != np.asarray(self.scale).tobytes():
                raise InputError("the scales are not what their codes stand for")

    @classmethod
    def from_parts(cls, parts: Mapping[str, Array], spec: QuantSpec, origin: Origin) -> QTensor:
        """Put together what :meth:`parts` took apart.

        Raises
        ------
        InputError
            If a part is missing or does not fit.
        """
        wanted = {"codes", "scale" if spec.scales is None else "scale_codes"}
        if wanted - set(parts):
            raise InputError(f"a quantized tensor lacks {', '.join(sorted(wanted - set(parts)))}")
        coded = None
        if spec.scales is not None:
            coded = CodedScales(codes=parts["scale_codes"], outer=parts.get("scale_outer"), offset=parts.get("scale_offset"))
        scale = parts["scale"] if coded is None or spec.scales is None else coded.decoded(spec.scales)
        return cls(
            codes=parts["codes"],
            scale=scale,
            zero=parts.get("zero"),
            spec=spec,
            permutation=parts.get("perm"),
            origin=origin,
            coded=coded,
        )

    @property
    def shape(self) -> tuple[int, ...]:
        """Logical shape."""
        return self.codes.shape

    @property
    def grid(self) -> Grid:
        """Scale and zero as one object, as far as decoding needs them."""
        raw = self.spec.scales is not None and self.spec.scales.coded_by == "raw"  # nobody divided by these scales: they may have any sign
        unused = np.ones(np.shape(self.scale)) if raw else None
        return Grid(scale=self.scale, zero=self.zero, coded=self.coded, multiplier=unused, signed=self.spec.scheme.signed_scale)

    def dequantize(self, dtype: np.dtype[np.floating] | None = None, out: Array | None = None) -> Array:
        """Return ``scale * (code - zero)``.

        Parameters
        ----------
        dtype : numpy dtype, optional
            float32 or float64; by default `out`'s, or else float64 if the scale is float64, else float32.
        out : ndarray of that dtype and :attr:`shape`, optional
            Where the numbers go.

        Returns
        -------
        ndarray of :attr:`shape`
            `out` if it is given.

        Raises
        ------
        UsageError
            If the dtype is another, or `out` does not fit.
        """
        if self.permutation is None:
            return decode(self.codes, self.grid, self.spec, dtype, out)
        values = decode(self.codes[..., self.permutation], self.grid, self.spec, dtype, out)
        values[..., self.permutation] = values.copy()
        return values

    def parts(self) -> dict[str, Array]:
        """The arrays: ``codes``, ``scale`` (or the parts of coded scales), and ``zero`` and ``perm`` where there are any."""
        found = {"codes": self.codes, "scale": self.scale if self.coded is None else None, "zero": self.zero, "perm": self.permutation}
        coded = {} if self.coded is None else self.coded.parts()
        return {name: array for name, array in found.items() if array is not None} | coded

    @property
    def total_bits(self) -> int:
        """Bits of codes, scales, zero points and permutation, before any padding of a byte layout.

        A scale counts as its dtype, or as its code and its share of outer scales; an integer zero point as a code (16 bits where the
        scheme does not keep it inside the codes), a constant zero point as nothing, an entry of a permutation as ``ceil(log2 columns)``
        bits.
        """
        tiles = self.scale.size
        bits = self.codes.size * self.spec.format.bits
        if self.coded is not None and self.spec.scales is not None:
            bits += self.coded.bits(self.spec.scales)
        else:
            bits += tiles * self.scale.dtype.itemsize * 8
        if self.zero is not None and self.spec.scheme.zero not in ("midpoint", "midpoint_low"):
            inside = self.spec.scheme.zero in ("integer", "integer_first")
            bits += tiles * (self.spec.format.bits if inside else self.zero.dtype.itemsize * 8)
        if self.permutation is not None:
            bits += self.permutation.size * max(0, self.permutation.size - 1).bit_length()
        return bits

    @property
    def bits_per_weight(self) -> Fraction:
        """:attr:`total_bits` over the number of weights, exactly; 0 for an empty tensor.

        Examples
        --------
        A 4-bit weight with groups of 128, float16 scales and 4-bit zero points has 4 + 20/128 bits:

        >>> from refquant.core import spec
        >>> from refquant.methods.grid.rtn import rtn
        >>> import numpy as np
        >>> rtn(np.eye(128), spec("int4", group_size=128, scale_format="float16")).bits_per_weight
        Fraction(133, 32)
        """
        return Fraction(self.total_bits, self.codes.size) if self.codes.size else Fraction(0)

    def digest(self) -> str:
        """SHA-256 over the canonical spec and every part's name, dtype, shape and little-endian bytes."""
        sha = hashlib.sha256(self.spec.to_json().encode())
        for name, array in sorted(self.parts().items()):
            sha.update(json.dumps([name, array.dtype.name, list(array.shape)]).encode())
            sha.update(array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes())
        return sha.hexdigest()
