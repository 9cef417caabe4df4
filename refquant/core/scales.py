"""Nested specs: how the scales of a tensor are themselves stored in a format, perhaps with scales of their own.

MX blocks, NVFP4, double quantization and K-quant super-blocks are one idea with different answers:

=================== ========= ======================== ======================== =================================
who                 format    rule                     outer scale              scales that share it
=================== ========= ======================== ======================== =================================
MX                  e8m0      floor, even, ceil, rceil none
NVFP4               e4m3fn    nearest                  float32                  all of the tensor
bitsandbytes double dynamic8  nearest, minus the mean  float32                  runs of 256, over the flat tensor
K-quants            int6 ...  nearest                  float16                  the groups of 256 elements
=================== ========= ======================== ======================== =================================
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from refquant.core.tiling import Tiling
from refquant.errors import InputError, UsageError
from refquant.formats import Format, IntFormat, decode, members_of, require_codes
from refquant.numerics.arrays import Array, read_only
from refquant.numerics.casting import FLOAT_DTYPES
from refquant.numerics.frozen import by_constructor

ScaleRule = Literal["nearest", "floor", "even", "ceil", "rceil"]
OuterKind = Literal["factor", "divisor"]
LeastScale = Literal["smallest", "smallest_normal"]
CodedBy = Literal["stored", "normal", "raw", "reciprocals"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleSpec:
    """How scales are stored.

    Parameters
    ----------
    format : Format
        Of the scales' codes.
    rule : {"nearest", "floor", "even", "ceil", "rceil"}
        Round the scale to the nearest member; or, with ``a`` the largest magnitude of a tile, ``emax`` the exponent of the largest element
        and ``hi`` that element, take the power of two ``floor(log2 a) - emax`` (OCP), the same of ``a`` rounded half up to as many mantissa
        bits as an element has, ``ceil(log2 a) - emax``, or ``ceil(log2(a / hi))``; names as in torchao.
    outer : {None, "float16", "bfloat16", "float32"}
        dtype of the scale of the scales.
    tiling : Tiling, optional
        Which scales share an outer one; all of them by default.
    flat : bool
        The tiling is one of the flattened array of scales.
    outer_kind : {"factor", "divisor"}
        A scale is its member times the outer scale, or divided by it (compressed-tensors stores the reciprocal).
    center : {"none", "mean"}
        Code the scales' distance from their mean, which is stored as float32.
    least : {"smallest", "smallest_normal"}
        A scale that rounds to 0 takes the smallest positive member; or, before rounding, scales are raised to the smallest normal one.
    zero_as, empty_as : float, optional
        Another member for scales that round to 0, and one for tiles that hold nothing but zeros, in units of the outer scale.
    coded_by : {"stored", "normal", "raw", "reciprocals"}
        Elements are divided by the scale as it will be read; by no less than 2^-126 (torchao's MX, whose smallest scale, 2^-127, is read
        otherwise than it was written); multiplied by the reciprocal of the scale before it was coded (bitsandbytes);
        or multiplied by ``(1 / outer) / member`` (torchao).

    Raises
    ------
    UsageError
        If a word is unknown or two answers contradict each other.
    """

    format: Format
    rule: ScaleRule = "nearest"
    outer: str | None = None
    tiling: Tiling | None = None
    flat: bool = False
    outer_kind: OuterKind = "factor"
    center: Literal["none", "mean"] = "none"
    least: LeastScale = "smallest"
    zero_as: float | None = None
    empty_as: float | None = None
    coded_by: CodedBy = "stored"

    def __post_init__(self) -> None:
        words = {"rule": ScaleRule, "outer_kind": OuterKind, "least": LeastScale, "coded_by": CodedBy, "center": Literal["none", "mean"]}
        for name, known in words.items():
            if getattr(self, name) not in get_args(known):
                raise UsageError(f"{name} of a scale spec is one of {', '.join(get_args(known))}, not {getattr(self, name)!r}")
        if self.outer not in (None, "float16", "bfloat16", "float32"):
            raise UsageError(f"outer scales are float16, bfloat16 or float32, not {self.outer!r}")
        if self.outer is None and (self.tiling is not None or self.flat or self.center != "none" or self.outer_kind != "factor"):
            raise UsageError("tiling, flat, center and outer_kind of a scale spec speak of an outer scale, and there is none")
        if self.rule != "nearest" and (self.outer is not None or self.format.name != "e8m0"):
            raise UsageError(
                f"rule {self.rule!r} gives powers of two for e8m0 without an outer scale; use 'nearest' with {self.format.name}"
            )
        if self.coded_by == "normal" and self.rule == "nearest":
            raise UsageError("coded_by 'normal' is for scales that are powers of two")
        if self.flat and (self.tiling is None or len(self.tiling.extents) != 1):
            raise UsageError("flat scales need a tiling of one axis")
        if self.coded_by == "reciprocals" and (self.outer is None or self.center != "none"):
            raise UsageError("coded_by 'reciprocals' needs an outer scale and no center")
        if self.center == "none" and self.format.hi <= 0:
            raise UsageError(f"scales are positive; {self.format.name} holds no positive number")

    def outer_tiling(self, ndim: int) -> Tiling:
        """The tiling of the (possibly flattened) array of scales."""
        return self.tiling if self.tiling is not None else Tiling.tensor(ndim)

    def outer_shape(self, grid_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of the array of outer scales."""
        shape = (int(np.prod(grid_shape)),) if self.flat else grid_shape
        return self.outer_tiling(len(shape)).grid_shape(shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class CodedScales:
    """The scales of a tensor as they are stored.

    Parameters
    ----------
    codes : integer ndarray, one a tile
    outer : ndarray, optional
        Scales of the scales.
    offset : float32 ndarray of shape (), optional
        The mean that was taken off.
    """

    codes: Array
    outer: Array | None = None
    offset: Array | None = None

    __reduce__ = by_constructor

    def __post_init__(self) -> None:
        for name in ("codes", "outer", "offset"):
            array = getattr(self, name)
            if array is not None:
                object.__setattr__(self, name, read_only(np.asarray(array)))

    def decoded(self, spec: ScaleSpec) -> Array:
        """The scales as float32: member times outer scale (or divided by it) plus offset, each operation rounded once.

        Raises
        ------
        InputError
            If the parts do not fit the spec.
        """
        self._require_fit(spec)
        members = decode(self.codes, spec.format)
        if self.outer is None:
            return members
        flat = members.reshape(-1) if spec.flat else members
        outer = spec.outer_tiling(flat.ndim).expand(self.outer.astype(np.float32), flat.shape)
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):  # a file may have infinity times 0
            scale = flat * outer if spec.outer_kind == "factor" else flat / outer
            if self.offset is not None:
                scale = scale + self.offset
        return np.asarray(scale).reshape(members.shape)

    def _require_fit(self, spec: ScaleSpec) -> None:
        fmt = spec.format
        if self.codes.dtype != fmt.dtype:
            raise InputError(f"scales of format {fmt.name} have codes of dtype {fmt.dtype}, not {self.codes.dtype}")
        require_codes(self.codes, fmt)
        if (self.outer is None) != (spec.outer is None) or (self.offset is None) != (spec.center == "none"):
            raise InputError("the stored scales and their spec do not agree about an outer scale or an offset")
        if self.outer is not None and spec.outer is not None:
            wanted = spec.outer_shape(self.codes.shape)
            if self.outer.shape != wanted or self.outer.dtype != FLOAT_DTYPES[spec.outer]:
                raise InputError(f"outer scales are {spec.outer} of shape {wanted}, not {self.outer.dtype} of shape {self.outer.shape}")
        if self.offset is not None and (self.offset.shape != () or self.offset.dtype != np.float32):
            raise InputError(f"the offset of stored scales is one float32 number, not {self.offset.dtype} of shape {self.offset.shape}")

    def parts(self) -> dict[str, Array]:
        """The arrays by name: ``scale_codes``, and ``scale_outer`` and ``scale_offset`` where there are any."""
        found = {"scale_codes": self.codes, "scale_outer": self.outer, "scale_offset": self.offset}
        return {name: array for name, array in found.items() if array is not None}

    def bits(self, spec: ScaleSpec) -> int:
        """Bits of codes, outer scales and offset."""
        outer = 0 if self.outer is None else self.outer.size * self.outer.dtype.itemsize * 8
        return self.codes.size * spec.format.bits + outer + (32 if self.offset is not None else 0)


def smallest_positive_member(fmt: Format) -> float:
    """The smallest member above 0."""
    if isinstance(fmt, IntFormat):
        return 1.0
    values = members_of(fmt).values
    return float(values[values > 0][0])
