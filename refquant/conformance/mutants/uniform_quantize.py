"""A uniform quantizer in plain loops over tiles, with one fault to choose."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import product

import ml_dtypes
import numpy as np

from refquant.conformance.mutants.mutant import Mutant
from refquant.conformance.mutants.rounding import half_away
from refquant.conformance.operation import Arrays, Parameters
from refquant.numerics.arrays import Array

SIGNED = ("sym_full", "sym_narrow")
STORED = {"float16": np.dtype(np.float16), "bfloat16": np.dtype(ml_dtypes.bfloat16)}
TINY = np.finfo(np.float32).tiny

FAULTS: dict[str, tuple[str, str]] = {
    "half_away": ("tie", "codes are rounded half away from zero"),
    "trunc_half": ("negative", "codes are trunc(x / s + 0.5)"),
    "floor": ("ordinary", "codes are floor(x / s)"),
    "zero_before_rounding": ("tie", "the zero point is added before the quotient is rounded, so that ties depend on it"),
    "reciprocal": ("near-tie", "x is multiplied by 1 / s"),
    "wide_quotient": ("near-tie", "the quotient is computed in float64"),
    "cast_before_clip": ("saturation", "codes are cast to the narrow integer first, and wrap around"),
    "no_clip": ("saturation", "codes are not clipped"),
    "scale_not_stored": ("stored-scale", "codes belong to the scale before it is rounded to its stored format"),
    "zero_not_stored": ("stored-scale", "zero points belong to the scale before it is rounded to its stored format"),
    "stored_by_cutting": ("stored-scale", "scales are cut to their stored format instead of rounded"),
    "zero_off_by_one": ("zero-point", "zero points are one too large"),
    "zero_truncated": ("zero-point", "zero points are cut to integers"),
    "zero_half_away": ("zero-point", "zero points are rounded half away from zero"),
    "boundary_early": ("group-boundary", "groups begin one column early"),
    "boundary_late": ("group-boundary", "groups end one column late: the range takes in a neighbour"),
    "stale_statistics": ("group-statistics", "a group is coded with the scale of the group before"),
    "tail_dropped": ("ragged-group", "the ragged last group keeps the scale of the last whole one"),
    "tail_padded": ("ragged-group", "the zeros that pad the last group enter its range"),
    "zero_range_zero_scale": ("zero-range", "a tile of zeros has the scale 0, replaced by 1"),
    "no_floor": ("tiny", "the scheme's floor of 1e-5 is left out"),
    "other_floor": ("tiny", "every range is at least 1e-5 wide"),
    "constant_unwidened": ("constant", "a tile of one value has the range [0, 0]"),
    "range_without_zero": ("one-sided", "the range is not widened to hold 0"),
    "one_sided_half": ("one-sided", "a symmetric range without negative numbers begins at 0"),
    "range_of_upper_end": ("negative", "the largest number stands for the largest magnitude"),
    "percentile": ("outlier", "the second largest magnitude makes the range"),
    "flushed": ("subnormal-scale", "subnormal scales are flushed to the smallest normal number"),
    "narrow": ("lowest-code", "the lowest signed code is left out"),
    "levels_off_by_one": ("ordinary", "the range is divided by the number of codes, not of steps"),
    "full_divisor": ("ordinary", "symmetric scales are divided by 2^(b-1)"),
    "row_scales": ("shared-range", "every row has a scale of its own"),
    "absolute_zero_limit": ("one-sided", "zero points are clipped to the codes where the scheme does not"),
    "block_first_row": ("block-tile", "the first row of a block makes its range"),
    "block_all_rows": ("block-tile", "the range of a block is that of its columns in all rows"),
    "block_all_columns": ("block-tile", "the range of a block is that of its rows in all columns"),
    "block_tail_above": ("block-tile", "a block with fewer rows has the range of the block above"),
    "block_grid_turned": ("block-tile", "scales are written by columns of blocks"),
}
"""``name: (flag that must catch it, what is wrong)``."""


@dataclass(frozen=True, slots=True)
class _Scheme:
    name: str
    bits: int
    fault: str

    @property
    def lo(self) -> int:
        if self.name not in SIGNED:
            return 0
        return -(1 << (self.bits - 1)) + int(self.name == "sym_narrow" or self.fault == "narrow")

    @property
    def hi(self) -> int:
        return (1 << (self.bits - 1)) - 1 if self.name in SIGNED else (1 << self.bits) - 1


def quantize(inputs: Arrays, parameters: Parameters, *, fault: str = "") -> Mapping[str, Array]:
    """Uniform quantization, tile by tile; wrong in one way if a fault is named."""
    x = np.asarray(inputs["x"])
    x = x.astype(np.float64 if x.dtype == np.float64 else np.float32)
    scheme = _Scheme(str(parameters["scheme"]), int(parameters["bits"]), fault)
    narrow = np.dtype(f"{'i' if scheme.name in SIGNED else 'u'}{1 if scheme.bits <= 8 else 2}")
    codes = np.zeros(x.shape, narrow)
    scales: dict[tuple[int, int], Array] = {}
    zeros: dict[tuple[int, int], int] = {}
    before: tuple[Array, int, Array] | None = None
    whole = parameters["granularity"] == "tensor"
    tiles = _blocks(x, parameters["group"], fault) if parameters["granularity"] == "block" else _tiles(x, parameters["group"], whole, fault)
    for tile, place, seen in tiles:
        values = x[seen]
        if fault == "tail_padded" and parameters["group"] and values.size % parameters["group"]:
            values = np.append(values, x.dtype.type(0))
        scale, zero, used = _grid(values, scheme, parameters["scale_format"], fault)
        ragged = parameters["group"] is not None and x[place].size % parameters["group"]
        if before is not None and tile[1] and (fault == "stale_statistics" or (fault == "tail_dropped" and ragged)):
            scale, zero, used = before
        before = scale, zero, used
        scales[tile], zeros[tile] = scale, zero
        codes[place] = _codes(x[place], used, zero, scheme, narrow, str(parameters["rounding"]), fault)
    shape = tuple(1 + max(tile[axis] for tile in scales) for axis in (0, 1))
    dtype = STORED.get(parameters["scale_format"], x.dtype)
    grid = {
        "scale": np.array([scales[t] for t in sorted(scales)]).astype(dtype),
        "zero": np.array([zeros[t] for t in sorted(zeros)], np.int32),
    }
    if fault == "row_scales" and whole:
        shape = (1, 1)  # a scale is asked for once; the first row's is given
        grid = {name: array[:1] for name, array in grid.items()}
    return {"codes": codes} | {name: array.reshape(shape) for name, array in grid.items()}


Place = tuple[slice | int, slice]


def _tiles(x: Array, group: int | None, whole: bool, fault: str) -> Iterator[tuple[tuple[int, int], Place, Place]]:
    """Index of every tile, where it is, and where its range is taken from."""
    rows, columns = x.shape
    if whole and fault != "row_scales":
        yield (0, 0), (slice(None), slice(None)), (slice(None), slice(None))
        return
    width = group or columns
    for row in range(rows):
        for tile, start in enumerate(range(0, columns, width)):
            stop = start + width
            place = slice(start, stop)
            if fault == "boundary_early":
                place = slice(max(0, start - 1), stop - 1 if stop < columns else columns)
            yield (row, tile), (row, place), (row, slice(start, stop + 1) if fault == "boundary_late" else place)


def _blocks(x: Array, side: int, fault: str) -> Iterator[tuple[tuple[int, int], Place, Place]]:
    """As :func:`_tiles`, of squares."""
    rows, columns = x.shape
    for top, left in product(range(0, rows, side), range(0, columns, side)):
        down, across = slice(top, top + side), slice(left, left + side)
        seen = {
            "block_first_row": (slice(top, top + 1), across),
            "block_all_rows": (slice(None), across),
            "block_all_columns": (down, slice(None)),
            "block_tail_above": (slice(top - side, top) if 0 < top > rows - side else down, across),
        }
        tile = (left // side, top // side) if fault == "block_grid_turned" else (top // side, left // side)
        yield tile, (down, across), seen.get(fault, (down, across))


def _grid(values: Array, scheme: _Scheme, stored: str | None, fault: str) -> tuple[Array, int, Array]:
    """The stored scale, the zero point, and the scale that codes are computed with."""
    exact, low = _scale(values, scheme, fault)
    scale = exact
    if stored is not None:
        with np.errstate(over="ignore", under="ignore"):
            scale = exact.astype(STORED[stored])
            if fault == "stored_by_cutting" and scale.astype(exact.dtype) > exact:
                scale = (scale.view(np.uint16) - np.uint16(1)).view(STORED[stored])
    if scale == 0:
        smallest = ml_dtypes.finfo(scale.dtype).smallest_subnormal  # type: ignore[no-untyped-call]
        scale = np.asarray(smallest, dtype=scale.dtype)
    working = np.asarray(scale, dtype=values.dtype)
    if fault == "flushed" and working < TINY:
        scale = working = np.asarray(TINY, dtype=values.dtype)
    zero = _zero(low, exact if fault == "zero_not_stored" and exact > 0 else working, scheme, fault)
    return np.asarray(scale), zero, exact if fault == "scale_not_stored" and exact > 0 else working


def _scale(values: Array, scheme: _Scheme, fault: str) -> tuple[Array, Array]:
    """The scale before it is stored, and the lower end of the range."""
    low, high = _range(values, scheme, fault)
    floor = values.dtype.type(1e-5)
    has_floor = scheme.name in SIGNED or scheme.name in ("asym_minmax", "asym_omni")
    with np.errstate(under="ignore"):
        if scheme.name in SIGNED:
            top = np.maximum(high, floor) if fault != "no_floor" else high
            scale = top / values.dtype.type((1 << (scheme.bits - 1)) - (0 if fault == "full_divisor" else 1))
            return np.asarray(scale), -top
        span = high - low
        if (scheme.name == "asym_minmax" and fault != "no_floor") or (fault == "other_floor" and not has_floor):
            span = np.maximum(span, floor)
        scale = span / values.dtype.type((1 << scheme.bits) - (0 if fault == "levels_off_by_one" else 1))
    if scheme.name == "asym_omni":
        scale = np.minimum(np.maximum(scale, floor) if fault != "no_floor" else scale, values.dtype.type(1e4))
    return np.asarray(scale), low


def _range(values: Array, scheme: _Scheme, fault: str) -> tuple[Array, Array]:
    low, high, zero = values.min(), values.max(), values.dtype.type(0)
    if fault == "percentile" and values.size > 2:
        low, high = np.sort(values.ravel())[[1, -2]]
    if fault == "constant_unwidened" and low == high:
        low = high = zero
    if scheme.name == "asym_incl0" and fault != "range_without_zero":
        low, high = np.minimum(low, zero), np.maximum(high, zero)
    if scheme.name.startswith("sym"):
        top = high if fault == "range_of_upper_end" else np.maximum(-low, high)
        half = low >= 0 and scheme.name == "sym_gptq_half_range"
        halved = low >= 0 and scheme.name == "sym_gptq" and fault == "one_sided_half"
        top = np.maximum(top, zero)
        low, high = (zero, top) if half or halved else (-top, top)
    widened = scheme.name == "asym_incl0" or scheme.name.startswith("sym_gptq")
    if widened and low == high == 0:
        one = values.dtype.type(1)
        scaled = one * ((1 << scheme.bits) - 1) / 2 if fault == "zero_range_zero_scale" else one
        low, high = -scaled, scaled
    return np.asarray(low), np.asarray(high)


def _zero(low: Array, scale: Array, scheme: _Scheme, fault: str) -> int:
    if scheme.name in SIGNED:
        return 0
    if scheme.name.startswith("sym"):
        return 1 << (scheme.bits - 1)
    with np.errstate(over="ignore", under="ignore"):
        steps = np.asarray(-low / scale)
    limit = 1e4
    steps = np.clip(steps, -limit, limit) if scheme.name == "asym_omni" else steps
    rounded = np.trunc(steps) if fault == "zero_truncated" else half_away(steps) if fault == "zero_half_away" else np.rint(steps)
    if scheme.name != "asym_omni" or fault == "absolute_zero_limit":
        rounded = np.clip(rounded, 0, scheme.hi)
    return int(rounded) + (fault == "zero_off_by_one")


def _codes(x: Array, scale: Array, zero: int, scheme: _Scheme, narrow: np.dtype[np.integer], rounding: str, fault: str) -> Array:
    wide = x.astype(np.float64) if fault == "wide_quotient" else x
    # The reciprocal of a subnormal scale is infinite, and times 0 it is no number: that is the fault's own.
    with np.errstate(over="ignore", under="ignore", invalid="ignore", divide="ignore"):
        steps = np.asarray(wide * (x.dtype.type(1) / scale) if fault == "reciprocal" else wide / scale.astype(wide.dtype))
    steps = np.where(np.isnan(steps), steps.dtype.type(0), steps)
    if fault == "zero_before_rounding":
        return np.asarray(np.clip(np.rint(steps + steps.dtype.type(zero)), scheme.lo, scheme.hi).astype(narrow))
    named: dict[str, Callable[[Array], Array]] = {
        "half_away": half_away,
        "trunc_half": lambda v: np.trunc(v + v.dtype.type(0.5)),
        "floor": np.floor,
        "ceil": np.ceil,
    }
    chosen = fault if fault in named and rounding == "half_even" else rounding
    codes = np.asarray(named[chosen](steps) if chosen in named else np.rint(steps)) + zero
    if fault in ("cast_before_clip", "no_clip"):
        with np.errstate(invalid="ignore"):
            whole = np.clip(codes, -(2**40), 2**40).astype(np.int64)
        if fault == "no_clip":
            info = np.iinfo(narrow)
            return np.asarray(np.clip(whole, info.min, info.max).astype(narrow))
        members = 1 << scheme.bits
        wrapped = np.remainder(whole - scheme.lo, members) + scheme.lo
        return np.asarray(np.clip(wrapped, scheme.lo, scheme.hi).astype(narrow))
    return np.asarray(np.clip(codes, scheme.lo, scheme.hi).astype(narrow))


MUTANTS = tuple(
    Mutant(name=f"uniform-{fault}", operation="uniform.quantize", flag=flag, what=what, run=partial(quantize, fault=fault))
    for fault, (flag, what) in FAULTS.items()
)
RIGHT = {"uniform.quantize": quantize}
