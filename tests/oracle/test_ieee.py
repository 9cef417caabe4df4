"""Rounding of fractions against NumPy's own casts and operations, against Python's decimal arithmetic, and by hand."""

import decimal
import math
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from refquant.errors import InputError, NumericalError, UsageError
from refquant.oracle import (
    BFLOAT16,
    BINARY16,
    BINARY32,
    BINARY64,
    exact,
    fraction,
    matrix,
    nearest_member,
    round_to_integer,
    row,
)
from refquant.oracle.ieee import floor_log2

FORMATS = [(BINARY16, np.float16), (BFLOAT16, ml_dtypes.bfloat16), (BINARY32, np.float32)]
FINITE = st.floats(allow_nan=False, allow_infinity=False)


def agree(found, expected):
    """`found` is a callable that returns a Fraction or raises on overflow; `expected` a NumPy scalar."""
    if math.isinf(float(expected)):
        with pytest.raises(NumericalError, match="overflows"):
            found()
    else:
        assert found() == Fraction(float(expected))


@pytest.mark.parametrize(("binary", "kind"), FORMATS)
@given(value=st.one_of(FINITE, st.floats(-70000, 70000), st.floats(-1e-37, 1e-37), st.floats(-1e-7, 1e-7)))
@example(65519.99)
@example(65520.0)
@example(2.0**-25)
@example(2.0**-25 * 1.0000001)
@example(2.0**-150)
@example(3.4028235677973366e38)
def test_round_as_numpy_casts(binary, kind, value):
    with np.errstate(all="ignore"):
        agree(lambda: binary(Fraction(value)), np.float64(value).astype(kind))


@pytest.mark.parametrize(("binary", "kind"), FORMATS)
def test_every_halfway_point_of_the_small_formats(binary, kind):
    """All finite numbers of binary16, a fifth of bfloat16, samples of binary32; and the points halfway to the next."""
    if binary is BINARY32:
        bits = np.random.default_rng(1).integers(0, 0x7F7FFFFF, 20000, dtype=np.uint32)[:5000]
        low, high = bits.view(np.float32), (bits + 1).view(np.float32)
    else:
        bits = np.arange(0, 0x7C00 - 1 if binary is BINARY16 else 0x7F80 - 1, 1 if binary is BINARY16 else 5, dtype=np.uint16)
        low, high = bits.view(kind), (bits + 1).view(kind)
    low, high = low.astype(np.float64), high.astype(np.float64)
    middle = (low + high) / 2
    for x, between, cast in zip(low.tolist(), middle.tolist(), middle.astype(kind).astype(np.float64).tolist(), strict=True):
        assert binary(Fraction(x)) == Fraction(x)
        assert binary(Fraction(between)) == Fraction(cast)
        assert binary(-Fraction(between)) == -Fraction(cast)


@given(a=FINITE, b=FINITE)
def test_binary64_operations_are_those_of_this_machine(a, b):
    for name in ("__add__", "__sub__", "__mul__"):
        agree(lambda name=name: BINARY64(getattr(Fraction(a), name)(Fraction(b))), getattr(a, name)(b))
    assume(b != 0)
    with np.errstate(all="ignore"):
        agree(lambda: BINARY64(Fraction(a) / Fraction(b)), np.float64(a) / np.float64(b))


@given(a=st.floats(width=32, allow_nan=False, allow_infinity=False), b=st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_binary32_operations_are_those_of_numpy(a, b):
    x, y = np.float32(a), np.float32(b)
    with np.errstate(all="ignore"):
        agree(lambda: BINARY32(Fraction(a) - Fraction(b)), x - y)
        agree(lambda: BINARY32(Fraction(a) * Fraction(b)), x * y)
        if b:
            agree(lambda: BINARY32(Fraction(a) / Fraction(b)), x / y)


@given(x=st.floats(0, allow_infinity=False))
@example(5e-324)
@example(2.0)
@example(4.0)
def test_sqrt(x):
    assert BINARY64.sqrt(Fraction(x)) == Fraction(math.sqrt(x))
    with np.errstate(all="ignore"):
        small = np.float32(x)
    if np.isfinite(small):
        assert BINARY32.sqrt(Fraction(float(small))) == Fraction(float(np.sqrt(small)))


@given(x=st.fractions(0, 10))
def test_sqrt_of_what_is_no_float(x):
    with decimal.localcontext(prec=200):
        reference = (decimal.Decimal(x.numerator) / decimal.Decimal(x.denominator)).sqrt()
    assert BINARY64.sqrt(x) == Fraction(float(reference))


@given(x=st.fractions())
def test_rounding_is_the_identity_on_its_own_results_and_odd(x):
    for binary in (BINARY16, BFLOAT16, BINARY32, BINARY64):
        try:
            rounded = binary(x)
        except NumericalError:
            assert abs(x) > binary.largest
            continue
        assert binary(rounded) == rounded
        assert binary(-x) == -rounded
    assert exact(x) == x


def test_limits():
    for binary, info in [(BINARY16, np.finfo(np.float16)), (BINARY32, np.finfo(np.float32)), (BINARY64, np.finfo(np.float64))]:
        assert binary.largest == Fraction(float(info.max))
        assert binary.smallest == Fraction(float(info.smallest_subnormal))
    assert BFLOAT16.largest == Fraction(float(ml_dtypes.finfo(ml_dtypes.bfloat16).max))


@given(x=st.fractions(min_value=Fraction(1, 10**30)))
def test_floor_log2(x):
    exponent = floor_log2(x)
    assert Fraction(2) ** exponent <= x < Fraction(2) ** (exponent + 1)


@given(x=st.fractions(-(10**6), 10**6))
def test_integers_by_other_means(x):
    number = decimal.Decimal(x.numerator * 2) / 2  # an integer or a half, exactly
    half = Fraction(x.numerator, 2)
    for value, known in [(half, decimal.Decimal(x.numerator) / 2), (Fraction(x.numerator), number)]:
        assert round_to_integer(value, "half_even") == int(known.to_integral_value(decimal.ROUND_HALF_EVEN))
        assert round_to_integer(value, "half_away") == int(known.to_integral_value(decimal.ROUND_HALF_UP))
        assert round_to_integer(value, "floor") == int(known.to_integral_value(decimal.ROUND_FLOOR))
        assert round_to_integer(value, "ceil") == int(known.to_integral_value(decimal.ROUND_CEILING))
    assert round_to_integer(x) == round(x)


def test_integers_by_hand():
    """Columns: half_even, half_away, trunc_half, floor, ceil."""
    table = {
        "5/2": (2, 3, 3, 2, 3),
        "7/2": (4, 4, 4, 3, 4),
        "-5/2": (-2, -3, -2, -3, -2),
        "-7/2": (-4, -4, -3, -4, -3),
        "12/5": (2, 2, 2, 2, 3),
        "-12/5": (-2, -2, -1, -3, -2),
        "-1/2": (0, -1, 0, -1, 0),
        "1/2": (0, 1, 1, 0, 1),
        "-13/10": (-1, -1, 0, -2, -1),
        "3": (3, 3, 3, 3, 3),
        "-3": (-3, -3, -2, -3, -3),
    }
    for text, expected in table.items():
        found = tuple(round_to_integer(Fraction(text), rule) for rule in ("half_even", "half_away", "trunc_half", "floor", "ceil"))
        assert found == expected, text
    with pytest.raises(UsageError, match="unknown rounding 'up'"):
        round_to_integer(Fraction(1), "up")


@given(x=st.fractions(-20, 20), rule=st.sampled_from(["half_even", "half_away", "floor", "ceil"]))
def test_members_that_are_integers_are_rounding_to_integers(x, rule):
    """Even codes are even integers if the lowest member is even."""
    members = [Fraction(m) for m in range(-8, 8)]
    expected = min(max(round_to_integer(x, rule), -8), 7)
    assert members[nearest_member(x, members, rule)] == expected


@given(st.sets(st.fractions(-5, 5), min_size=1, max_size=9), st.fractions(-6, 6))
def test_no_member_is_nearer(members, x):
    members = sorted(members)
    for rule in ("half_even", "half_away"):
        chosen = members[nearest_member(x, members, rule)]
        assert abs(chosen - x) == min(abs(member - x) for member in members)
    below = members[nearest_member(x, members, "floor")]
    assert below == max((m for m in members if m <= x), default=members[0])
    above = members[nearest_member(x, members, "ceil")]
    assert above == min((m for m in members if m >= x), default=members[-1])


def test_members_on_ties():
    members = [Fraction(m) for m in (-6, -1, 0, 2, 4)]
    assert nearest_member(Fraction(1), members) == 2
    assert nearest_member(Fraction(3), members) == 4
    assert nearest_member(Fraction(1), members, "half_away") == 3
    assert nearest_member(Fraction(-7, 2), members, "half_away") == 0
    assert nearest_member(Fraction(-1, 2), members, "half_away") == 1
    assert nearest_member(Fraction(0), [Fraction(-1), Fraction(1)], "half_away") == 1
    for wrong in ([], [Fraction(1), Fraction(1)], [Fraction(2), Fraction(1)]):
        with pytest.raises(UsageError, match="strictly increasing"):
            nearest_member(Fraction(0), wrong)
    with pytest.raises(UsageError, match="trunc_half"):
        nearest_member(Fraction(0), members, "trunc_half")


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64, ml_dtypes.bfloat16, np.int64, np.uint8, bool])
def test_numbers_come_in_exactly(kind):
    values = np.array([[0, 1], [0.1, 3]]).astype(kind)
    assert matrix(values) == [[Fraction(float(x)) for x in line] for line in values]
    assert row(values[1].tolist()) == matrix(values)[1]


def test_what_is_no_number():
    for value in (math.nan, math.inf, np.float32("nan"), "1", None, ml_dtypes.bfloat16("inf"), 1j):
        with pytest.raises(InputError, match="a finite number is needed"):
            fraction(value)
    with pytest.raises(InputError, match="row 1, index 0: found nan"):
        matrix([[1.0], [math.nan]])
    with pytest.raises(InputError, match="row 1 has 2 numbers, row 0 has 1"):
        matrix([[1], [1, 2]])
