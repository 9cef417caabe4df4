"""Each scheme on numbers worked out by hand, then its IEEE mode against scalar NumPy programs written from the schemes' sources."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from refquant.errors import InputError, NumericalError, UsageError
from refquant.oracle import (
    BINARY16,
    BINARY32,
    BINARY64,
    SCHEMES,
    Uniform,
    UniformGrid,
    exact,
    margin,
    nearest_member,
    quantize_row,
    round_to_integer,
    row,
)

F = Fraction
LIMIT = F(1e-5)  # the binary64 number


@pytest.mark.parametrize(
    ("scheme", "bits", "values", "scale", "zero", "codes"),
    [
        # range [-1, 2], 15 steps of 1/5, 0 at code 5
        ("asym_incl0", 4, "-1 2 1/2 0 1/10", "1/5", 5, [0, 15, 7, 5, 5]),
        # a range that holds no 0 is widened to it, from either side
        ("asym_incl0", 2, "1 3 2", "1", 0, [1, 3, 2]),
        ("asym_incl0", 2, "-1 -3 -2", "1", 3, [2, 0, 1]),
        ("asym_incl0", 2, "0 0", "2/3", 2, [2, 2]),  # [-1, 1]; rn(3/2) = 2
        # not widened: 1..4 in 3 steps of 1; z = clip(-1) = 0, so 4 clips to 3
        ("asym_minmax", 2, "1 4 2", "1", 0, [1, 3, 2]),
        ("asym_minmax", 2, "-4 -1 -3", "1", 3, [0, 2, 0]),
        ("asym_minmax", 2, "-1 2 0", "1", 1, [0, 3, 1]),
        # z unlimited: -100 to -97 is coded exactly
        ("asym_omni", 2, "-100 -97 -99", "1", 100, [0, 3, 1]),
        ("asym_omni", 2, "97 100 98", "1", -97, [0, 3, 1]),
        ("asym_omni", 2, "-30000 30000 0", "10000", 3, [0, 3, 3]),  # scale clipped to 1e4
        ("sym_full", 3, "-3 2 1/2 3/2", "1", 0, [-3, 2, 0, 2]),
        ("sym_narrow", 3, "-6 6 5 -1", "2", 0, [-3, 3, 2, 0]),
        # 2 * 7 / 7 = 2: the grid is -8..6, and +7 clips by half a step
        ("sym_gptq", 3, "7 -7 1 3", "2", 4, [7, 0, 4, 6]),
        ("sym_gptq", 3, "7 1", "2", 4, [7, 4]),
        ("sym_gptq_compat", 3, "7 -7 1 3", "2", 4, [7, 0, 4, 6]),
        ("sym_gptq_compat", 3, "7 1 3", "1", 4, [7, 5, 7]),
        ("sym_gptq", 2, "0", "2/3", 2, [2]),
        ("sym_gptq_compat", 2, "0", "2/3", 2, [2]),
    ],
)
def test_by_hand(scheme, bits, values, scale, zero, codes):
    numbers = [F(text) for text in values.split()]
    coded = quantize_row(numbers, Uniform(scheme, bits))
    assert coded.grids[0].scale == F(scale)
    assert coded.grids[0].zero == zero
    assert coded.codes == codes
    assert coded.values == [F(scale) * (code - zero) for code in codes]


@pytest.mark.parametrize(
    ("scheme", "empty", "scale"),
    [
        ("asym_incl0", None, F(2, 15)),
        ("asym_incl0", "floor", LIMIT / 15),
        ("asym_incl0", "unit_scale", F(1)),
        ("asym_minmax", None, LIMIT / 15),
        ("asym_omni", None, LIMIT),
        ("sym_full", None, LIMIT / 7),
        ("sym_full", "unit_scale", F(1)),
        ("sym_full", "unit_range", F(1, 7)),
        ("sym_narrow", None, LIMIT / 7),
        ("sym_gptq", None, F(2, 15)),
        ("sym_gptq", "floor", 2 * LIMIT / 15),
    ],
)
def test_all_zero_group(scheme, empty, scale):
    coded = quantize_row([F(0), F(0)], Uniform(scheme, 4, empty=empty))
    assert coded.grids[0].scale == scale
    assert coded.values == [0, 0]


def test_constant_group_away_from_zero():
    """asym_minmax: the range is floored at 1e-5 and the zero clamped, so a constant 1 saturates far from 1."""
    coded = quantize_row([F(1), F(1)], Uniform("asym_minmax", 4))
    assert coded.codes == [15, 15]
    assert coded.values == [LIMIT, LIMIT]
    coded = quantize_row([F(1), F(1)], Uniform("asym_omni", 4))
    assert coded.grids[0].zero == -10000  # -1/1e-5 limited: 1e-5 as binary64 is a little more than 1/100000
    assert coded.codes == [15, 15]


def test_a_scale_that_underflows_becomes_the_smallest_number():
    tiny = BINARY32.smallest
    assert Uniform("sym_full", 8, BINARY32, empty="unit_scale").fit([tiny]).scale == tiny
    grid = Uniform("asym_incl0", 4, BINARY64, BINARY16).fit([F(1, 2**30)])
    assert grid.scale == F(1, 2**24)
    with pytest.raises(InputError, match="no scale in exact arithmetic"):
        Uniform("sym_full", 4, empty="own").fit([F(0)])


def test_a_scale_or_range_that_overflows():
    with pytest.raises(NumericalError, match="overflows binary16"):
        Uniform("asym_incl0", 2, BINARY32, BINARY16).fit([F(2**20)])
    with pytest.raises(NumericalError, match="overflows binary32"):
        Uniform("asym_incl0", 2, BINARY32).fit([BINARY32.largest, -BINARY32.largest])


def test_a_stored_scale_is_what_the_zero_and_the_codes_are_computed_from():
    """Three steps of a little more than 1: binary16 moves the scale to 1, and 3/2 from below the boundary onto it."""
    values = [F(0), F(3), F(3, 2)]
    assert quantize_row(values, Uniform("asym_incl0", 2)).codes == [0, 3, 2]
    stretched = [F(0), 3 + F(3, 2**12), F(3, 2)]
    scheme = Uniform("asym_incl0", 2, exact, BINARY16)
    assert scheme.fit(stretched).scale == 1
    assert quantize_row(stretched, scheme).codes == [0, 3, 2]
    assert quantize_row(stretched, Uniform("asym_incl0", 2)).codes == [0, 3, 1]


def test_the_zero_comes_from_the_stored_scale():
    """-lo/s is 3/2 with the stored scale 1, and a little less with the scale before it was stored."""
    stretched = [F(-3, 2), F(3, 2) + F(3, 2**12)]
    assert Uniform("asym_incl0", 2, exact, BINARY16).fit(stretched).zero == 2
    assert Uniform("asym_incl0", 2).fit(stretched).zero == 1


def test_reciprocal_and_division_part_on_ties():
    """The documented case: scale 0.007 and half-integer steps in binary32."""
    scale = BINARY32(F(0.007))
    grid = UniformGrid(scale, 0, -2000, 2000)
    different = 0
    for k in range(-600, 601):
        x = BINARY32(BINARY32(F(k, 2)) * scale)
        a, b = (Uniform("sym_full", 8, BINARY32, reciprocal=flag).encode(x, grid) for flag in (False, True))
        s, value = np.float32(0.007), np.float32(k / 2) * np.float32(0.007)
        assert a == int(np.rint(value / s))
        assert b == int(np.rint(value * (np.float32(1) / s)))
        different += a != b
    assert different > 0


@pytest.mark.parametrize(("rule", "codes"), [("half_away", [-3, 2, 1, 2]), ("floor", [-3, 1, 0, 1]), ("ceil", [-3, 2, 1, 2])])
def test_other_roundings_touch_only_the_codes(rule, codes):
    assert quantize_row([F(-3), F(3, 2), F(1, 2), F(7, 4)], Uniform("sym_full", 3, rule=rule)).codes == codes


def test_groups_with_a_ragged_end():
    values = [F(n) for n in (1, 2, 3, 10, 20, 30, 7)]
    coded = quantize_row(values, Uniform("asym_incl0", 2), group=3)
    assert [grid.scale for grid in coded.grids] == [1, 10, F(7, 3)]
    assert coded.codes == [1, 2, 3, 1, 2, 3, 3]
    whole = quantize_row(values, Uniform("asym_incl0", 2), group=100)
    assert whole == quantize_row(values, Uniform("asym_incl0", 2))
    assert quantize_row([], Uniform("asym_incl0", 2)).codes == []


def test_misuse():
    for make, message in [
        (lambda: Uniform("asym", 4), "unknown scheme 'asym'"),
        (lambda: Uniform("sym_full", 1), "1 bits"),
        (lambda: Uniform("sym_full", 4, empty="x"), "unknown rule 'x'"),
        (lambda: quantize_row([F(1)], Uniform("sym_full", 4), 0), "group size 0"),
    ]:
        with pytest.raises(UsageError, match=message):
            make()
    with pytest.raises(InputError, match="without numbers"):
        Uniform("sym_full", 4).fit([])
    with pytest.raises(InputError, match="not a number of the working format"):
        Uniform("sym_full", 4, BINARY32).fit([F(0.1)])


def ieee_program(scheme, x, bits, kind):
    """The same schemes as straight-line NumPy scalar code, from the sources' formulas."""
    top, half = kind(2**bits - 1), kind(2 ** (bits - 1) - 1)
    lo, hi = kind(min(x)), kind(max(x))
    tiny = kind(1e-5)
    if scheme == "asym_incl0":
        lo, hi = min(lo, kind(0)), max(hi, kind(0))
        if lo == 0 and hi == 0:
            lo, hi = kind(-1), kind(1)
        s = (hi - lo) / top
        z = np.rint(-lo / s)
    elif scheme == "asym_minmax":
        s = max(hi - lo, tiny) / top
        z = np.clip(-np.rint(lo / s), 0, top)
    elif scheme == "asym_omni":
        s = np.clip((hi - lo) / top, tiny, kind(1e4))
        z = np.rint(np.clip(-lo / s, kind(-1e4), kind(1e4)))
    elif scheme in ("sym_full", "sym_narrow"):
        s = max(abs(lo), abs(hi), tiny) / half
        z = kind(0)
    else:
        m = max(abs(lo), abs(hi))
        m = m if m else kind(1)
        s = (m + m) / top
        z = kind(2 ** (bits - 1))
    low = {"sym_full": -(2 ** (bits - 1)), "sym_narrow": -(2 ** (bits - 1)) + 1}.get(scheme, 0)
    high = int(half) if scheme in ("sym_full", "sym_narrow") else int(top)
    codes = np.clip(np.rint(np.array(x, kind) / s) + z, low, high)
    return s, z, codes, s * (codes - z)


@pytest.mark.parametrize("scheme", [name for name in SCHEMES if name != "sym_gptq_compat"])
@pytest.mark.parametrize(("binary", "kind"), [(BINARY32, np.float32), (BINARY64, np.float64)])
@given(
    values=st.lists(
        st.one_of(st.floats(-4, 4, width=32), st.floats(-(2.0**-100), 2.0**-100, width=32), st.integers(-40, 40).map(lambda n: n / 8)),
        min_size=1,
        max_size=9,
    ),
    bits=st.integers(2, 8),
)
def test_ieee_mode_is_what_numpy_computes(scheme, binary, kind, values, bits):
    with np.errstate(all="ignore"):
        scale, zero, codes, decoded = ieee_program(scheme, values, bits, kind)
    assume(scale > 0)
    assert np.isfinite(decoded).all()
    coded = quantize_row(row(values), Uniform(scheme, bits, binary))
    assert coded.grids[0].scale == F(float(scale))
    assert coded.grids[0].zero == int(zero)
    assert coded.codes == codes.astype(int).tolist()
    assert coded.values == row(decoded.tolist())


@given(values=st.lists(st.fractions(-5, 5, max_denominator=50), min_size=1, max_size=8), bits=st.integers(2, 5))
def test_codes_are_the_nearest_members_in_exact_arithmetic(values, bits):
    for scheme in SCHEMES:
        quantizer = Uniform(scheme, bits)
        coded = quantize_row(values, quantizer)
        grid = coded.grids[0]
        members = [grid.scale * (code - grid.zero) for code in range(grid.lo, grid.hi + 1)]
        for x, value in zip(values, coded.values, strict=True):
            nearest = members[nearest_member(x, members)]
            assert abs(value - x) == abs(nearest - x)


@given(x=st.fractions(-9, 9), scale=st.fractions(F(1, 9), 3), zero=st.integers(-3, 9))
def test_margin_is_the_distance_to_another_code(x, scale, zero):
    grid = UniformGrid(scale, zero, 0, 7)
    quantizer = Uniform("asym_omni", 3)
    code = quantizer.encode(x, grid)
    distance = margin(x, code, grid)
    assert distance >= 0
    little = F(1, 1000)
    if distance > little:
        for sign in (1, -1):
            assert quantizer.encode(x + sign * (distance - little) * scale, grid) == code
    assert {quantizer.encode(x + sign * (distance + little) * scale, grid) for sign in (1, -1)} != {code}


@given(x=st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_huge_quotients_saturate(x):
    grid = UniformGrid(BINARY32.smallest, 3, 0, 15)
    code = Uniform("asym_incl0", 4, BINARY32).encode(F(x), grid)
    assert code == min(max(round_to_integer(F(x) / grid.scale) + 3, 0), 15)
    assert math.isfinite(x)


def test_a_zero_point_stays_inside_the_codes_where_the_stored_scale_is_coarse():
    """The range -1.25 units .. 0 has a scale of 5/12 units; stored as 1/3 it would put the zero at 4, outside 0..3."""

    def cut_to_thirds(x):
        return F(x.numerator * 3 // x.denominator, 3)

    grid = Uniform("asym_incl0", 2, scale_format=cut_to_thirds).fit([F(-5, 4), F(0)])
    assert (grid.scale, grid.zero) == (F(1, 3), 3)
