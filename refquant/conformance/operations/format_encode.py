"""Numbers to codes of every floating-point and integer format: ties, their neighbours, both ends, zeros, what is no number."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from refquant.conformance.case import Case
from refquant.conformance.operation import Arrays, Operation, Parameter, Parameters, Part
from refquant.conformance.streams import Stream, words
from refquant.formats import FLOATS, INTEGERS, FloatFormat, Format, IntFormat, MemberRounding, encode, find_format, members_of
from refquant.numerics import FAST, Arithmetic
from refquant.numerics.arrays import Array
from refquant.oracle import round_to_integer
from refquant.oracle.formats import encode_number

NAME = "format.encode"
MOST_BOUNDARIES = 300
"""Of formats with more decision boundaries, cases hold this many; streams hold all."""
ALL_ROUNDINGS = ("int1", "int3", "uint3", "int4_narrow")
"""Integer formats that are tried under every rounding; the others differ from them in width alone."""

FIELDS = "; ".join(
    f"{f.name} {int(f.signed)}/{f.exponent_bits}/{f.mantissa_bits}, {f.bias}, {'yes' if f.infinities else 'no'}, {f.nan}, {f.lowest}"
    for f in FLOATS
)
FORMATS_DOC = f"""Formats, as name sign/exponent/mantissa bits, bias, infinities, nan, lowest: {FIELDS}. A code is sign | E | M from the top
bit down; its value is (1 + M / 2^m) * 2^(E - bias), and with E = 0 and lowest = gradual, M / 2^m * 2^(1 - bias). nan = ieee: the top E is
infinity for M = 0 and NaN for others; all_ones: E and M all ones are NaN; negative_zero: the code of -0 is NaN. lowest = normal: E = 0 is
like any other, so there is no 0. intB is two's complement, uintB unsigned, intB_narrow without the lowest code."""
DOC = f"""Every number is rounded once, from its own dtype, to a member of the format. {FORMATS_DOC} Codes of integer formats are the
integers. Rounding: half_even, half_away, half_zero, half_up, half_down take the nearest member, and on ties the one with the even
significand (of two powers of two without mantissa bits the larger), the larger magnitude, the smaller, the upper, the lower; floor, ceil,
trunc, away take the member below, above, towards 0, away from 0. A number that rounds to 0 keeps its sign where the format has -0.
overflow acts on infinities, and on numbers that would round beyond the last member if the exponents went on: saturate (to the last
member), infinity, nan; directed rounding towards the inside leaves finite numbers inside. Numbers below a format without sign (0 too if it
has none) become NaN, or its smallest member if they saturate. nan says what NaN becomes: nan (with its sign; IEEE's quiet one without
other bits) or zero."""


def reference(inputs: Arrays, parameters: Parameters, *, arithmetic: Arithmetic = FAST) -> dict[str, Array]:
    """Encode."""
    fmt = find_format(parameters["format"])
    return {"codes": encode(inputs["x"], fmt, parameters["rounding"], overflow=parameters["overflow"], nan=parameters["nan"])}


def by_oracle(x: Array, parameters: Parameters) -> Array:
    """Codes, each by looking at every member; of wide integers, by rounding and clipping, which takes less time."""
    fmt = find_format(parameters["format"])
    if isinstance(fmt, IntFormat) and fmt.bits > 8:
        whole = [round_to_integer(Fraction(number), parameters["rounding"]) for number in x.astype(np.float64).tolist()]
        return np.array([min(max(number, fmt.lo), fmt.hi) for number in whole], dtype=fmt.dtype)
    codes = []
    for number in x.astype(np.float64).tolist():
        minus, word = math.copysign(1.0, number) < 0, "" if math.isfinite(number) else "nan" if math.isnan(number) else f"{number:+}"
        exact: Fraction | str = word or Fraction(number)
        if word == "nan" and parameters["nan"] == "zero":
            exact, minus = Fraction(0), False
        codes.append(encode_number(exact, fmt, parameters["rounding"], overflow=parameters["overflow"], negative=minus))
    return np.array(codes, dtype=fmt.dtype)


@dataclass(frozen=True, slots=True)
class _Numbers:
    """Numbers for one format: the slug's end, why, and under which policies."""

    slug: str
    flags: tuple[str, ...]
    x: Array
    overflow: str = "saturate"
    nan: str = ""
    rounding: str = "half_even"


def _policies(fmt: Format) -> tuple[list[str], list[str]]:
    """What a format can do with numbers outside, and with NaN."""
    has_nan = isinstance(fmt, FloatFormat) and fmt.nan_code is not None
    has_infinity = isinstance(fmt, FloatFormat) and fmt.infinities
    return ["saturate"] + ["infinity"] * has_infinity + ["nan"] * has_nan, ["nan"] * has_nan + ["zero"]


def _thinned(values: Array) -> Array:
    """At most about `MOST_BOUNDARIES`: both ends, the middle, and every so many between."""
    if len(values) <= MOST_BOUNDARIES:
        return values
    middle, every = len(values) // 2, -(-len(values) // (MOST_BOUNDARIES // 2))
    chosen = {*range(20), *range(len(values) - 20, len(values)), *range(middle - 30, middle + 30), *range(0, len(values), every)}
    return values[sorted(chosen)]


def _beside(x: Array, dtype: Any) -> Array:
    """The numbers just below and just above."""
    given = x.astype(dtype)
    with np.errstate(under="ignore", over="ignore"):
        return np.concatenate([np.nextafter(given, dtype(-np.inf)), np.nextafter(given, dtype(np.inf))])


def _around_the_ends(fmt: Format) -> Array:
    """The last member, the tie behind it, what lies beyond, and the neighbours of all of them, at both ends."""
    top, bottom = float(fmt.hi), float(fmt.lo)
    step = fmt.spacing_at_top if isinstance(fmt, FloatFormat) else 1.0
    last = float(np.finfo(np.float32).max)  # what is beyond the last exponent of bfloat16 and e8m0 stays within float32
    above = [top, *(min(top + step * k, max(last, top)) for k in (0.25, 0.5, 0.75, 1, 1.5, 2, 16))]
    below = [-number for number in above]
    if isinstance(fmt, IntFormat) and fmt.signed:
        below = [bottom - step * k for k in (0, 0.25, 0.5, 0.75, 1, 1.5, 2, 16)]
    points = np.array([*above, *below, -top - 1, -1.0, -0.5, -math.ldexp(1.0, -30)])
    return np.concatenate([points.astype(np.float32), _beside(points, np.float32)])


def _numbers(fmt: Format) -> Iterator[_Numbers]:
    values = members_of(fmt).values
    middles = _thinned((values[1:] + values[:-1]) / 2)
    sign: tuple[str, ...] = ("negative",) * fmt.signed
    ends, nans = _policies(fmt)
    spread = _thinned(values)[:: max(1, len(values) // 40)]
    between = (spread * 1.0390625 + np.float64(fmt.hi) / 1024)[:40]
    yield _Numbers("ordinary", ("ordinary", *sign), np.clip(between, float(fmt.lo), float(fmt.hi)).astype(np.float32))
    yield _Numbers("ties", ("tie", *sign), middles.astype(np.float32))
    for policy in ends:
        beside = ("near-tie",) if policy == "saturate" else ()
        yield _Numbers(f"ends-{policy}", ("out-of-range", "saturation", *beside), _around_the_ends(fmt), overflow=policy)
    if isinstance(fmt, FloatFormat):
        yield from _of_floats(fmt, values, middles, sign, ends, nans)
    if isinstance(fmt, FloatFormat) or fmt.name in ALL_ROUNDINGS:
        yield from _other_roundings(fmt, values, middles, sign)


def _of_floats(
    fmt: FloatFormat, values: Array, middles: Array, sign: tuple[str, ...], ends: list[str], nans: list[str]
) -> Iterator[_Numbers]:
    yield _Numbers("near-ties", ("near-tie", *sign), _beside(middles, np.float32))
    yield _Numbers("near-ties-f64", ("near-tie", *sign), _beside(middles, np.float64))
    half = np.abs(values[np.abs(values) < 32768]).astype(np.float16)
    half = half[half > 0][:40]
    if len(half):
        yield _Numbers("f16", ("ordinary",), np.concatenate([half, np.nextafter(half, np.float16(0))]))
    smallest, normal = fmt.smallest, fmt.smallest_normal
    low = np.concatenate([values[np.abs(values) <= normal], middles[np.abs(middles) < normal], [smallest / 2, normal]])
    low = _thinned(low)
    if fmt.mantissa_bits:
        yield _Numbers("subnormals", ("subnormal",), np.concatenate([low.astype(np.float32), _beside(low, np.float32)]))
    tiny = np.array([0.0, -0.0, smallest / 4, -smallest / 4, smallest / 2, -smallest / 2, smallest, -smallest, 1e-45, -1e-45])
    flags = ("negative-zero", "negative") if fmt.signed else ("negative",)
    yield _Numbers("zeros", flags, tiny.astype(np.float32))
    if not fmt.signed:
        for policy in ends[1:]:
            yield _Numbers(f"zeros-{policy}", flags, tiny.astype(np.float32), overflow=policy)
    powers = values[(values > 0) & (np.frexp(values)[0] == 0.5)][1:]
    below = np.nextafter(powers.astype(np.float32), np.float32(0))
    nearer = (powers * (1 - math.ldexp(1.0, -fmt.mantissa_bits - 2))).astype(np.float32)  # the tie below each power
    if len(powers):
        whole = np.concatenate([below, nearer, np.nextafter(nearer, np.float32(0)), np.nextafter(nearer, np.float32(np.inf))])
        yield _Numbers("binades", ("binade",), whole if not fmt.signed else np.concatenate([whole, -whole[::3]]))
    signs = np.array([np.nan, np.copysign(np.nan, -1.0), np.inf, -np.inf, 1.0, 3e38, -3e38], dtype=np.float32)
    for policy in ends:
        for nan in nans:
            yield _Numbers(f"not-finite-{policy}-{nan}", ("not-finite",), signs, overflow=policy, nan=nan)


def _other_roundings(fmt: Format, values: Array, middles: Array, sign: tuple[str, ...]) -> Iterator[_Numbers]:
    """Every decision boundary of every other rule, and both neighbours."""
    ends, _ = _policies(fmt)
    for rule in MemberRounding:
        if rule is MemberRounding.HALF_EVEN:
            continue
        boundaries = middles if rule.startswith("half") else _thinned(values)
        x = np.concatenate([boundaries.astype(np.float32), _beside(boundaries, np.float32)])
        flag = ("tie", "near-tie") if rule.startswith("half") else ("ordinary",)
        yield _Numbers(rule.replace("_", "-"), (*flag, *sign), x, rounding=rule)
        yield _Numbers(f"{rule.replace('_', '-')}-ends", ("out-of-range",), _around_the_ends(fmt), rounding=rule, overflow=ends[-1])


def cases() -> Iterator[Case]:
    """Every format of the catalogue."""
    formats: tuple[Format, ...] = (*FLOATS, *INTEGERS)
    for fmt in formats:
        for given in _numbers(fmt):
            nan = given.nan or _policies(fmt)[1][0]
            parameters = {"format": fmt.name, "rounding": str(given.rounding), "overflow": given.overflow, "nan": nan}
            yield Case(
                operation=NAME,
                slug=f"{fmt.name}-{given.slug}",
                parameters=parameters,
                inputs={"x": given.x},
                expected={"codes": by_oracle(given.x, parameters)},
                flags=tuple(dict.fromkeys(given.flags)),
                lane="exact",
            )


def _random(fmt: FloatFormat, number: int) -> Stream:
    """Numbers of all sizes around a format's, with few and with many bits."""
    lowest = int(np.frexp(fmt.smallest)[1]) - 4
    lowest = max(lowest, -126)
    span = min(fmt.emax + 3, 127) - lowest

    def make(start: int, stop: int) -> dict[str, Array]:
        w = words(number, start, stop)
        n = (w >> np.uint64(41) | np.uint64(1 << 23)) >> (w % np.uint64(24))
        shift = ((w >> np.uint64(8)) % np.uint64(span)).astype(np.int32) + lowest
        exact = np.ldexp(n.astype(np.float64), shift - np.frexp(n.astype(np.float64))[1] + 1)
        return {"x": np.where(w >> np.uint64(40) & np.uint64(1), -exact, exact).astype(np.float32)}

    return Stream(
        slug=f"{fmt.name}-random",
        what=f"element i is float32: n = (w >> 41 | 2^23) >> (w mod 24), scaled by a power of two into 2^e .. 2^(e+1), "
        f"e = (w >> 8) mod {span} + {lowest}; negative if bit 40 of w is set; w = word i of seed {number}",
        parameters={"format": fmt.name, "rounding": "half_even", "overflow": "saturate", "nan": _policies(fmt)[1][0]},
        make=make,
        rows=1 << 20,
        block=1 << 16,
    )


def _boundaries(fmt: FloatFormat) -> Stream:
    """Every member of a format, every tie and both its neighbours."""
    count = 1 + int(np.flatnonzero(fmt.table == fmt.hi)[0])
    numbers = np.append(fmt.table[:count], fmt.hi + fmt.spacing_at_top)

    def make(start: int, stop: int) -> dict[str, Array]:
        place = np.arange(start, stop)
        code, which = place // 8, place // 2 % 4
        middle = ((numbers[code] + numbers[code + 1]) / 2).astype(np.float32)
        beside = [np.nextafter(middle, np.float32(end)) for end in (0, np.inf)]
        x = np.where(which == 0, numbers[code].astype(np.float32), np.where(which == 2, middle, np.where(which == 1, beside[0], beside[1])))
        return {"x": np.where(place % 2, -x, x).astype(np.float32)}

    return Stream(
        slug=f"{fmt.name}-boundaries",
        what="elements 8 c + 2 k + s, float32, c = 0 .. the largest finite code: k = 0 the number of code c; k = 2 the middle between it "
        "and that of code c + 1 (behind the last, as if the exponents went on); k = 1 and 3 the float32 numbers below and above that "
        "middle; s = 1 negates",
        parameters={"format": fmt.name, "rounding": "half_even", "overflow": "infinity", "nan": "nan"},
        make=make,
        rows=8 * count,
        block=8 * count // 16,
    )


OPERATION = Operation(
    name=NAME,
    level="formats",
    doc=DOC,
    inputs=(Part("x", "numbers", "float16, float32 or float64", "[n]"),),
    outputs=(Part("codes", "codes, in the smallest integer dtype that holds them", "uint8, uint16, int8 or int16", "[n]"),),
    parameters=(
        Parameter("format", "a floating-point or integer format"),
        Parameter("rounding", f"one of {', '.join(MemberRounding)}"),
        Parameter("overflow", "saturate, infinity or nan"),
        Parameter("nan", "nan or zero"),
    ),
    reference=reference,
    cases=cases,
    streams=(*(_random(fmt, 200 + number) for number, fmt in enumerate(FLOATS)), *(_boundaries(fmt) for fmt in FLOATS if fmt.bits == 16)),
)
