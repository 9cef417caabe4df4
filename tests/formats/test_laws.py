"""Laws of rounding to any format, against random numbers and random formats of the family."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refquant.errors import InputError, NumericalError, UsageError
from refquant.formats import (
    CODEBOOKS,
    FLOATS,
    INTEGERS,
    FloatFormat,
    MemberRounding,
    decode,
    encode,
    find_format,
    from_patterns,
    members_of,
    parse_float,
    round_to_format,
    to_patterns,
)

NEAREST = [mode for mode in MemberRounding if mode.startswith("half") and mode != "half_even"]


@st.composite
def family(draw) -> FloatFormat:
    exponent, mantissa = draw(st.integers(0, 6)), draw(st.integers(0, 7))
    suffix = draw(st.sampled_from(["", "ieee", "fn", "fnuz", "finite"]))
    bias = draw(st.one_of(st.just(""), st.integers(0, 20).map(lambda b: f"b{b}")))
    try:
        return parse_float(f"e{exponent}m{mantissa}{bias}{suffix}")
    except UsageError:
        return find_format("e3m2")


FORMATS = st.one_of(st.sampled_from([*FLOATS, *CODEBOOKS, *INTEGERS]), family())
NUMBERS = st.lists(st.floats(allow_nan=False, width=64), min_size=1, max_size=12)


def scaled(numbers, fmt) -> np.ndarray:
    """Half of the numbers within the format's range, where there is something to round."""
    x = np.array(numbers)
    with np.errstate(invalid="ignore"):
        return np.where(np.arange(len(x)) % 2, np.arctan(x) * fmt.hi, x)


@given(FORMATS, NUMBERS, st.sampled_from(NEAREST))
def test_no_member_is_nearer(fmt, numbers, mode) -> None:
    x = np.clip(scaled(numbers, fmt), -1e300, 1e300)
    if getattr(fmt, "midpoints", "exact") == "float32":
        return  # their boundaries are a little beside the middle, by design
    found = round_to_format(x, fmt, mode)
    values = members_of(fmt).values
    near = np.searchsorted(values, x)
    candidates = values[np.clip(near[:, None] + np.arange(-1, 2), 0, len(values) - 1)]
    for number, got, row in zip(x, found, candidates, strict=True):
        best = min(abs(Fraction(number) - Fraction(c)) for c in row)
        assert abs(Fraction(number) - Fraction(got)) == best


@given(FORMATS, NUMBERS, st.sampled_from(NEAREST))
def test_rounding_is_monotone_and_idempotent(fmt, numbers, mode) -> None:
    x = np.sort(scaled(numbers, fmt))
    once = round_to_format(x, fmt, mode)
    assert (np.diff(once) >= 0).all()
    assert decode(encode(once, fmt, mode), fmt, np.float64).tobytes() == once.tobytes()


@given(FORMATS, NUMBERS, st.sampled_from(["half_away", "half_zero", "trunc", "away"]))
def test_symmetric_formats_round_symmetrically(fmt, numbers, mode) -> None:
    values = members_of(fmt).values
    if not np.array_equal(values, -values[::-1]) or 0 not in values or getattr(fmt, "zero_from_above", None) is not None:
        return
    x = scaled(numbers, fmt)
    np.testing.assert_array_equal(round_to_format(-x, fmt, mode), -round_to_format(x, fmt, mode))


@given(FORMATS, NUMBERS, st.sampled_from(NEAREST))
def test_float32_numbers_get_the_same_code_in_both_dtypes(fmt, numbers, mode) -> None:
    with np.errstate(over="ignore", under="ignore"):
        x = scaled(numbers, fmt).astype(np.float32)
    assert encode(x, fmt, mode).tobytes() == encode(x.astype(np.float64), fmt, mode).tobytes()


@given(FORMATS, NUMBERS)
def test_directed_roundings_enclose(fmt, numbers) -> None:
    x = np.clip(scaled(numbers, fmt), fmt.lo, fmt.hi)
    assert (round_to_format(x, fmt, "floor") <= x).all()
    assert (round_to_format(x, fmt, "ceil") >= x).all()


@pytest.mark.parametrize("fmt", [f for f in (*INTEGERS, *FLOATS, *CODEBOOKS) if f.bits <= 8], ids=lambda f: f.name)
@pytest.mark.parametrize("integers", ["twos_complement", "offset_binary"])
def test_patterns_are_a_bijection(fmt, integers) -> None:
    codes = np.arange(int(fmt.lo), int(fmt.hi) + 1).astype(fmt.dtype) if fmt in INTEGERS else members_of(fmt).codes
    patterns = to_patterns(codes, fmt, integers)
    assert len(set(patterns.tolist())) == len(codes)
    np.testing.assert_array_equal(from_patterns(patterns, fmt, integers), codes)
    if fmt in INTEGERS and fmt.signed:  # against Python's own two's complement
        wanted = [c % (1 << fmt.bits) if integers == "twos_complement" else c + (1 << (fmt.bits - 1)) for c in codes.tolist()]
        assert patterns.tolist() == wanted


def test_normal_float_tables_are_quantiles() -> None:
    """The rule of QLoRA, by mpmath: NF2 and NF3 to the bit, NF4 to what its authors' float32 arithmetic leaves."""
    mp = pytest.importorskip("mpmath")
    with mp.workdps(40):
        for bits, exact in ((2, True), (3, True), (4, False)):
            offset = 1 - (mp.mpf(1) / 2 ** (bits + 1) + mp.mpf(1) / (2 ** (bits + 1) - 2)) / 2
            half = 2 ** (bits - 1)

            def quantile(p):
                return mp.sqrt(2) * mp.erfinv(2 * p - 1)

            values = [quantile(offset + (0.5 - offset) * i / half) for i in range(half)] + [mp.mpf(0)]
            values += [-quantile(offset + (0.5 - offset) * i / (half - 1)) for i in range(half - 1)]
            wanted = np.sort(np.array([float(v / max(values)) for v in values])).astype(np.float32)
            table = np.array(find_format(f"nf{bits}").table)
            assert np.array_equal(table, wanted) if exact else 1e-8 < np.abs(table - wanted).max() < 3e-7


def test_what_cannot_be_asked_for_is_said() -> None:
    nan, e2m1 = np.array([1.0, np.nan]), find_format("e2m1")
    with pytest.raises(InputError, match=r"NaN at index \(1,\)"):
        encode(nan, e2m1)
    with pytest.raises(UsageError, match="e2m1 has no NaN"):
        encode(nan, e2m1, nan="nan")
    with pytest.raises(UsageError, match="e4m3fn has no infinities"):
        encode(nan, find_format("e4m3fn"), overflow="infinity")
    with pytest.raises(NumericalError, match=r"7\.0 at index \(0,\) lies outside e2m1"):
        encode(np.array([7.0]), e2m1, overflow="raise")
    with pytest.raises(InputError, match="not int64"):
        encode(np.array([1]), e2m1)
    with pytest.raises(InputError, match=r"codes of e2m1 lie in 0\.\.15"):
        decode(np.array([16]), e2m1)
    with pytest.raises(UsageError, match="rounding 'nearest' to e2m1; known are half_even"):
        encode(np.array([1.0]), e2m1, "nearest")
    for wrong in ("e0m0", "e8m23", "e9m2", "e4m0ieee", "e0m3ieee"):
        with pytest.raises(UsageError, match=f"format {wrong}"):
            find_format(wrong)
    assert encode(nan, e2m1, nan="zero").tolist() == [2, 0]
