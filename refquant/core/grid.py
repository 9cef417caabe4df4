"""The grid of one tensor: scales and zero points, and the arithmetic that makes them of a range."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from refquant.core.scales import CodedScales
from refquant.core.scheme import EmptyRule
from refquant.core.spec import QuantSpec
from refquant.core.tiling import Tiling
from refquant.errors import InputError, NumericalError
from refquant.numerics.arrays import Array, read_only
from refquant.numerics.casting import FLOAT_DTYPES, as_float64, float_dtype, round_scale
from refquant.numerics.frozen import by_constructor
from refquant.numerics.rounding import round_to_integer

RANGE_FLOOR = 1e-5
SCALE_LIMITS = (1e-5, 1e4)
SPAN_FLOORS = {"span_floor": RANGE_FLOOR, "span_floor_low": 1e-10}
EPSILON = float(np.finfo(np.float32).eps)
WIDE_ZERO_LIMIT = 1e4
ZERO_LIMIT = 1 << 23


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """Scales and zero points, one a tile.

    Parameters
    ----------
    scale : ndarray of float16, bfloat16, float32 or float64, positive and finite
        What codes are multiplied by. Stored scales that elements were not divided by (see `multiplier`) may have any sign.
    zero : ndarray of the same shape, or None
        In units of codes: integers (any integer dtype) of magnitude at most 2^23, so that float32 holds them and their differences with
        codes, or, for real zero points, finite floats.
    coded : CodedScales, optional
        The scales as codes of their own format; `scale` is what they decode to.
    multiplier : ndarray of the same shape, optional
        What numbers are multiplied by to become codes, where that is not a division by `scale`.
    signed : bool
        Whether scales may be negative: a few schemes give the lowest code to the number of largest magnitude, whatever its sign.

    Raises
    ------
    InputError
        If a scale or a zero point is anything else.
    """

    scale: Array
    zero: Array | None
    coded: CodedScales | None = None
    multiplier: Array | None = None
    signed: bool = False

    __reduce__ = by_constructor

    def __post_init__(self) -> None:
        object.__setattr__(self, "scale", read_only(np.asarray(self.scale)))
        if self.scale.dtype not in FLOAT_DTYPES.values():
            raise InputError(f"a grid's scales have dtype {self.scale.dtype}; allowed are {', '.join(FLOAT_DTYPES)}")
        values = as_float64(self.scale)
        if self.multiplier is None:
            sizes, allowed = (np.abs(values), "finite and not 0") if self.signed else (values, "positive and finite")
            _refuse(~(np.isfinite(values) & (sizes > 0)), values, f"a grid's scales are {allowed}")
        else:
            object.__setattr__(self, "multiplier", read_only(np.asarray(self.multiplier)))
            _refuse(~np.isfinite(values), values, "a grid's scales are finite")
            if self.multiplier.shape != self.scale.shape or not np.isfinite(as_float64(self.multiplier)).all():
                raise NumericalError(
                    "a scale is so small that its reciprocal overflows; choose a format that divides, or rescale the tensor"
                )
        if self.coded is not None and self.coded.codes.shape != self.scale.shape:
            raise InputError(f"a grid's coded scales have the scales' shape {self.scale.shape}, not {self.coded.codes.shape}")
        if self.zero is not None:
            object.__setattr__(self, "zero", read_only(np.asarray(self.zero)))
            if self.zero.shape != self.scale.shape:
                raise InputError(f"a grid's zero has the scale's shape {self.scale.shape}, not {self.zero.shape}")
            if self.zero.dtype.kind in "iu":
                _refuse((self.zero < -ZERO_LIMIT) | (self.zero > ZERO_LIMIT), self.zero, f"integer zero points lie within +-{ZERO_LIMIT}")
            elif self.zero.dtype in FLOAT_DTYPES.values():
                _refuse(~np.isfinite(as_float64(self.zero)), self.zero, "zero points are finite")
            else:
                raise InputError(f"a grid's zero points are integers or floats, not {self.zero.dtype}")

    @property
    def working_dtype(self) -> np.dtype[np.floating]:
        """float64 if the scale is float64, else float32."""
        return np.dtype(np.float64 if self.scale.dtype == np.float64 else np.float32)

    def expanded(self, shape: tuple[int, ...], tiling: Tiling, dtype: np.dtype[np.floating]) -> tuple[Array, Array | None]:
        """Scale and zero, broadcastable to `shape`, in the floating dtype that is computed in.

        Raises
        ------
        InputError
            If the grid does not fit `shape` under `tiling`.
        NumericalError
            If a float64 scale becomes 0 or infinite in float32.
        """
        scale, zero = self.in_dtype(dtype)
        return tiling.expand(scale, shape), None if zero is None else tiling.expand(zero, shape)

    def in_dtype(self, dtype: np.dtype[np.floating]) -> tuple[Array, Array | None]:
        """Scale and zero, one number a tile, in the floating dtype that is computed in; raises NumericalError like :meth:`expanded`."""
        with np.errstate(over="ignore", under="ignore"):
            working = self.scale.astype(dtype)
        lost = ~np.isfinite(working) | ((working == 0) & (self.scale != 0))
        if lost.any():
            tile = _first(lost)
            raise NumericalError(f"scale {self.scale[tile]} of tile {tile} does not fit {np.dtype(dtype).name}; compute in float64")
        return working, None if self.zero is None else self.zero.astype(dtype)


def _refuse(wrong: Array, values: Array, allowed: str) -> None:
    if wrong.any():
        tile = _first(wrong)
        raise InputError(f"{allowed}; found {values[tile]} at tile {tile}")


def _first(where: Array) -> tuple[int, ...]:
    return tuple(int(i) for i in np.argwhere(where)[0])


def grid_from_range(lo: Array, hi: Array, spec: QuantSpec) -> Grid:
    """Scale and zero from the ends of each tile's range.

    Parameters
    ----------
    lo, hi : ndarray of float32 or float64, one number a tile
    spec : QuantSpec
        Its tiling is not looked at.

    Raises
    ------
    NumericalError
        If ``hi - lo``, a scale or a real zero point overflows.
    """
    scheme, working = spec.scheme, lo.dtype
    stored = float_dtype(spec.scale_format) if spec.scale_format else working
    raw = _raw_scale(lo, hi, spec)
    scale = round_scale(np.abs(raw) if scheme.signed_scale else raw, stored, f"scheme {scheme.name}")
    if scheme.signed_scale:
        scale = np.where(raw < 0, -scale, scale)
    if scheme.zero == "none":
        return Grid(scale=scale, zero=None, signed=scheme.signed_scale)
    if scheme.zero in ("midpoint", "midpoint_low"):
        middle = (1 << (spec.integers.bits - 1)) - (scheme.zero == "midpoint_low")
        zero = np.full(scale.shape, middle, dtype=spec.integers.dtype)
        return Grid(scale=scale, zero=zero, signed=scheme.signed_scale)
    with np.errstate(over="ignore", under="ignore"):
        offset = -lo / scale.astype(working)
    if scheme.zero == "real":
        if not np.isfinite(offset).all():
            tile = _first(~np.isfinite(offset))
            raise NumericalError(f"the zero point {float(lo[tile]):g} / {float(scale[tile]):g} of tile {tile} overflows {working.name}")
        return Grid(scale=scale, zero=offset + spec.integers.lo)
    if scheme.zero == "integer_wide":
        limit = working.type(WIDE_ZERO_LIMIT)
        return Grid(scale=scale, zero=round_to_integer(np.clip(offset, -limit, limit)).astype(np.int16))
    # A range that holds 0 puts the zero point inside the codes by itself, unless the scale was rounded down coarsely: to its stored
    # format, or among subnormal numbers.
    zero = np.clip(round_to_integer(offset) + spec.integers.lo, spec.integers.lo, spec.integers.hi)
    if scheme.empty == "epsilon_scale":
        zero = np.where((lo == 0) & (hi == 0), 0, zero)  # there, a NaN that was cast
    return Grid(scale=scale, zero=zero.astype(spec.integers.dtype))


def _raw_scale(lo: Array, hi: Array, spec: QuantSpec) -> Array:
    """The scheme's scale before it is rounded to its stored format; 0 only by underflow."""
    scheme, working = spec.scheme, lo.dtype
    with np.errstate(over="ignore"):
        span = hi if scheme.steps != "levels" else hi - lo
    if not np.isfinite(span).all():
        tile = _first(~np.isfinite(span))
        raise NumericalError(
            f"the range {float(lo[tile]):g} .. {float(hi[tile]):g} of tile {tile} is wider than {working.name} can hold; "
            "use float64 or rescale"
        )
    if scheme.empty in SPAN_FLOORS:
        span = np.maximum(span, working.type(SPAN_FLOORS[scheme.empty]))
    if scheme.empty == "unit_span":
        span = np.where(span == 0, working.type(1), span)
    with np.errstate(under="ignore"):
        if scheme.steps == "each_end":
            scale = _larger_of_ends(lo, hi, spec)
        else:
            scale = span / working.type(spec.scale_divisor)
    return _with_least_scale(scale, span, scheme.empty, spec.scale_format)


def _larger_of_ends(lo: Array, hi: Array, spec: QuantSpec) -> Array:
    """The scale under which neither end passes its code; for unsigned codes the lower end has none."""
    upper = hi / hi.dtype.type(spec.integers.hi)
    return np.asarray(upper) if spec.integers.lo == 0 else np.maximum(lo / lo.dtype.type(spec.integers.lo), upper)


def _with_least_scale(scale: Array, span: Array, empty: EmptyRule, stored: str | None) -> Array:
    """The rules that act on a scale and not on the range."""
    kind = scale.dtype.type
    least = {"scale_floor": RANGE_FLOOR, "scale_epsilon": EPSILON, "scale_normal": float(np.finfo(scale.dtype).tiny)}.get(empty)
    if least is not None:
        # NNCF forgets the sign of what it raises; AutoRound does not, unless the stored scale has become -0.
        with np.errstate(over="ignore", under="ignore"):
            negative = (scale if stored is None else scale.astype(float_dtype(stored))) < 0
        raised = np.where(negative & (empty == "scale_floor"), -kind(least), kind(least))
        scale = np.where(np.abs(scale) < kind(least), raised, scale)
    if empty == "scale_limits":
        scale = np.clip(scale, kind(SCALE_LIMITS[0]), kind(SCALE_LIMITS[1]))
    if empty in ("unit_scale", "epsilon_scale"):
        scale = np.where(span == 0, kind(1 if empty == "unit_scale" else EPSILON), scale)
    return np.asarray(scale)
