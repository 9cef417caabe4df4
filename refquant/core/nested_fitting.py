"""Fitting scales that are stored in a format: shared exponents, two-level scales, double quantization."""

from __future__ import annotations

import numpy as np

from refquant.core.grid import Grid
from refquant.core.scales import CodedScales, ScaleSpec, smallest_positive_member
from refquant.core.spec import QuantSpec
from refquant.errors import NumericalError, UsageError
from refquant.formats import FloatFormat, decode, encode
from refquant.numerics import FAST, Arithmetic
from refquant.numerics.arrays import Array
from refquant.numerics.casting import FLOAT_DTYPES, smallest_positive

TINY = float(np.finfo(np.float32).tiny)


def coded_grid(largest: Array, spec: QuantSpec, scales: ScaleSpec, arithmetic: Arithmetic = FAST) -> Grid:
    """The grid whose scales are stored as `scales` says.

    Parameters
    ----------
    largest : ndarray of float32 or float64, one number a tile
        Largest magnitude of each tile.
    spec : QuantSpec
        Of the elements.
    scales : ScaleSpec
    arithmetic : Arithmetic
        For the mean, where one is taken off.

    Raises
    ------
    NumericalError
        If an outer scale overflows its dtype, or a scale that elements are divided by is not positive.
    """
    if scales.rule != "nearest":
        coded = CodedScales(codes=encode(power_of_two_scale(largest, spec, scales), scales.format, "floor"))
        grid = _grid(coded, scales)
        if scales.coded_by != "normal":
            return grid
        return Grid(scale=grid.scale, zero=None, coded=coded, multiplier=1 / np.maximum(grid.scale, np.float32(TINY)))
    with np.errstate(over="ignore", under="ignore"):
        raw = largest / largest.dtype.type(spec.scale_divisor)
        if scales.outer is None:
            return _grid(CodedScales(codes=_members(raw, largest, scales)), scales)
        if scales.center == "mean":
            return _centered(raw, scales, arithmetic)
        top = scales.outer_tiling(_flat(largest, scales).ndim)
        tops = np.asarray(top.blocks(_flat(largest, scales), 0.0).max(axis=top.inner_axes, initial=0.0), dtype=largest.dtype)
        span = largest.dtype.type(spec.scale_divisor * scales.format.hi)
        # A tile of zeros has no scale; any outer scale will do for it, and 1 says so.
        outer = np.where(tops == 0, 1, tops / span if scales.outer_kind == "factor" else span / np.where(tops == 0, 1, tops))
        outer = _stored(outer, scales)
        wide = _expanded(outer.astype(largest.dtype), largest.shape, scales)
        ratio = raw / wide if scales.outer_kind == "factor" else wide * raw
    coded = CodedScales(codes=_members(ratio, largest, scales), outer=outer)
    grid = _grid(coded, scales)
    if scales.coded_by != "reciprocals":
        return grid
    with np.errstate(over="ignore", under="ignore"):
        inverse = np.float32(1) / _expanded(outer.astype(np.float32), largest.shape, scales)
        return Grid(scale=grid.scale, zero=None, coded=coded, multiplier=inverse / decode(coded.codes, scales.format))


def power_of_two_scale(largest: Array, spec: QuantSpec, scales: ScaleSpec) -> Array:
    """Powers of two by the scale rule, float64; the smallest one where a tile is empty.

    Exponents are read from the number itself (``frexp``). A logarithm in float32 moves maxima just beside a power of two onto it, which is
    a fault of several programs.
    """
    top, exponent = float(spec.scale_divisor), np.frexp(largest)[1] - 1
    emax = int(np.frexp(top)[1]) - 1
    fraction = np.frexp(largest)[0]  # in [1/2, 1)
    match scales.rule:
        case "floor":
            chosen = exponent - emax
        case "ceil":
            chosen = exponent - emax + (fraction != 0.5)
        case "rceil":
            chosen = exponent - emax + (fraction > np.frexp(top)[0])
        case _:
            if not isinstance(spec.format, FloatFormat):
                raise UsageError(f"scale rule 'even' rounds to the mantissa of the elements; {spec.format.name} has none")
            half = 1 / (1 << (spec.format.mantissa_bits + 2))
            chosen = exponent - emax + (fraction.astype(np.float64) >= 1 - half)
    return np.ldexp(1.0, np.where(largest == 0, -127, np.clip(chosen, -127, 127)))


def _centered(raw: Array, scales: ScaleSpec, arithmetic: Arithmetic) -> Grid:
    """Double quantization: the mean is taken off, the rest divided by its largest magnitude."""
    raw = raw.astype(np.float32)
    offset = np.float32(arithmetic.mean(raw.astype(np.float64))) if raw.size else np.float32(0)
    rest = _flat(raw - offset, scales)
    tiling = scales.outer_tiling(rest.ndim)
    tops = np.asarray(np.abs(tiling.blocks(rest, 0.0)).max(axis=tiling.inner_axes, initial=0.0))
    outer = _stored(np.where(tops == 0, 1, tops / np.float32(scales.format.hi)), scales)
    wide = tiling.expand(np.float32(1) / outer.astype(np.float32), rest.shape)
    codes = encode(np.asarray(rest * wide), scales.format).reshape(raw.shape)
    coded = CodedScales(codes=codes, outer=outer, offset=np.array(offset))
    if scales.coded_by == "stored":
        return _grid(coded, scales)
    with np.errstate(over="ignore"):
        inverse = np.float32(1) / np.where(raw == 0, np.float32(1), raw)
    return Grid(scale=coded.decoded(scales), zero=None, coded=coded, multiplier=inverse)


def _grid(coded: CodedScales, scales: ScaleSpec) -> Grid:
    scale = coded.decoded(scales)
    wrong = ~((scale > 0) & np.isfinite(scale))
    if wrong.any():
        tile = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise NumericalError(
            f"the stored scale {float(scale[tile]):g} of tile {tile} cannot be divided by; scale the tensor, or coded_by='raw'"
        )
    return Grid(scale=scale, zero=None, coded=coded)


def _members(ratio: Array, largest: Array, scales: ScaleSpec) -> Array:
    """Codes of scales in units of the outer scale, none of them 0."""
    fmt = scales.format
    if scales.least == "smallest_normal" and isinstance(fmt, FloatFormat):
        ratio = np.maximum(ratio, ratio.dtype.type(fmt.smallest_normal))
    codes = encode(ratio, fmt)
    smallest = smallest_positive_member(fmt)
    codes = np.where(decode(codes, fmt) <= 0, _code(smallest if scales.zero_as is None else scales.zero_as, scales), codes)
    if scales.empty_as is not None:
        codes = np.where(largest == 0, _code(scales.empty_as, scales), codes)
    return codes.astype(fmt.dtype)


def _code(member: float, scales: ScaleSpec) -> Array:
    return encode(np.array(member), scales.format)


def _flat(array: Array, scales: ScaleSpec) -> Array:
    return array.reshape(-1) if scales.flat else array


def _expanded(outer: Array, shape: tuple[int, ...], scales: ScaleSpec) -> Array:
    inside = (int(np.prod(shape)),) if scales.flat else shape
    wide = np.broadcast_to(scales.outer_tiling(len(inside)).expand(outer, inside), inside)
    return wide.reshape(shape)


def _stored(outer: Array, scales: ScaleSpec) -> Array:
    dtype = FLOAT_DTYPES[scales.outer or "float32"]
    with np.errstate(over="ignore", under="ignore"):
        stored = outer.astype(dtype)
    wide = stored.astype(np.float64)
    if not np.isfinite(wide).all():
        raise NumericalError(f"an outer scale {float(np.max(outer)):g} overflows {dtype.name}; store it as float32 or rescale the tensor")
    return np.where(wide == 0, np.asarray(smallest_positive(dtype), dtype=dtype), stored)
