"""Every format against the oracle: what every code means, and every tie with the numbers beside it, in both dtypes and all roundings."""

from __future__ import annotations

from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest

from refquant.errors import NumericalError, UsageError
from refquant.formats import CODEBOOKS, FLOATS, Codebook, FloatFormat, IntFormat, MemberRounding, decode, encode, find_format, members_of
from refquant.oracle.formats import all_codes, code_meaning, encode_number

FAMILY = [find_format(name) for name in ("e0m3", "e3m0", "e2m2", "e3m3fn", "ue5m3", "e4m2fnuz", "e2m2ieee", "e3m2b5")]
FAMILY += [
    FloatFormat(name="p3", exponent_bits=5, mantissa_bits=2, bias=16, infinities=True, nan="negative_zero"),  # IEEE P3109's order
    FloatFormat(name="flushed", exponent_bits=3, mantissa_bits=2, bias=3, lowest="zero"),
    FloatFormat(name="no_zero", exponent_bits=3, mantissa_bits=1, bias=3, lowest="normal"),
]
INTEGERS = [IntFormat(bits=b, signed=s) for b in (1, 2, 4, 8) for s in (True, False)] + [IntFormat(bits=4, signed=True, narrow=True)]
WIDE = ("binary16", "bfloat16")
SMALL = [f for f in (*FLOATS, *CODEBOOKS, *FAMILY, *INTEGERS) if f.name not in WIDE]


def meaning_of(x) -> Fraction | str:
    if np.isnan(x):
        return "nan"
    return Fraction(float(x)) if np.isfinite(x) else "+inf" if x > 0 else "-inf"


def around_decisions(fmt, dtype) -> np.ndarray:
    """Members, midpoints, and both neighbours of each; what lies at and beyond the ends; zeros, tiny and huge numbers, infinities."""
    values = members_of(fmt).values
    middle = (values[1:] + values[:-1]) / 2
    gap = np.diff(values)
    step = gap[-1] if len(gap) else 1.0
    beyond = values[-1] + step * np.array([0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0])
    below = values[0] - (gap[0] if len(gap) else 1.0) * np.array([0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0])
    far = np.array([0.0, 1e-300, -1e-300, 1e-45, -1e-45, 3e38, -3e38, 1e300, -1e300])
    with np.errstate(over="ignore", under="ignore"):
        x = np.concatenate([values, middle, beyond, below, far]).astype(dtype)
        top = np.array([np.inf, -np.inf, -0.0], dtype=dtype)
        return np.concatenate([x, np.nextafter(x, dtype(np.inf)), np.nextafter(x, dtype(-np.inf)), top])


def allowed(fmt) -> list[tuple[str, str]]:
    """Roundings and overflow policies that the format has."""
    roundings = []
    for mode in MemberRounding:
        try:
            encode(np.array([0.0]), fmt, mode)
        except UsageError:
            assert mode in ("half_even", "trunc"), mode
            continue
        roundings.append(str(mode))
    policies = ["saturate"]
    if isinstance(fmt, FloatFormat):
        policies += ["infinity"] * (fmt.infinities and fmt.signed) + ["nan"] * (fmt.nan_code is not None)
    return [(mode, policy) for mode in roundings for policy in policies]


def check(fmt, dtype, mode, policy, every=1) -> None:
    x = around_decisions(fmt, dtype)[::every]
    if policy != "saturate":  # which matters at the ends alone
        values = members_of(fmt).values
        x = x[(x >= values[-2:][0]) | (x <= values[:2][-1]) | (np.abs(x) < 1e-30)]
    ours = encode(x, fmt, mode, overflow=policy)
    assert ours.dtype == fmt.dtype
    theirs = [encode_number(meaning_of(v), fmt, mode, overflow=policy, negative=bool(np.signbit(v))) for v in x]
    wrong = np.flatnonzero(ours != np.array(theirs))
    assert not wrong.size, [(float(x[i]).hex(), int(ours[i]), theirs[i]) for i in wrong[:5]]


@pytest.mark.parametrize("fmt", [*FLOATS, *CODEBOOKS, *FAMILY, *INTEGERS], ids=lambda f: f.name)
def test_every_code_means_what_its_definition_says(fmt) -> None:
    codes = np.array(all_codes(fmt))
    for dtype in (np.float32, np.float64)[fmt.bits > 8 :]:
        values = decode(codes, fmt, dtype)
        assert [meaning_of(v) for v in values] == [code_meaning(int(c), fmt) for c in codes]
        if isinstance(fmt, FloatFormat) and fmt.negative_zero_code is not None:
            assert np.signbit(values[fmt.negative_zero_code])
            assert (
                np.signbit(values).sum()
                == len(values) // 2 - np.isnan(values[len(values) // 2 :]).sum() + np.signbit(values[np.isnan(values)]).sum()
            )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("fmt", SMALL, ids=lambda f: f.name)
def test_every_tie_and_its_neighbours(fmt, dtype) -> None:
    quick = ("half_even", "half_down") if dtype == np.float64 else ("half_even",)
    for mode, policy in allowed(fmt):
        if fmt.bits < 8 or mode in quick:
            check(fmt, dtype, mode, policy)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("fmt", [f for f in SMALL if f.bits >= 8], ids=lambda f: f.name)
def test_every_tie_and_its_neighbours_in_every_rounding(fmt, dtype) -> None:
    for mode, policy in allowed(fmt):
        check(fmt, dtype, mode, policy)


@pytest.mark.parametrize(
    ("name", "dtype", "kind"),
    [("binary16", np.float64, np.float16), ("binary16", np.float32, np.float16), ("bfloat16", np.float32, ml_dtypes.bfloat16)],
)
def test_every_tie_of_the_wide_formats_is_rounded_as_numpy_and_ml_dtypes_do(name, dtype, kind) -> None:
    x = around_decisions(find_format(name), dtype)
    with np.errstate(over="ignore", under="ignore"):
        wanted = x.astype(kind).view(np.uint16)
    np.testing.assert_array_equal(encode(x, find_format(name), overflow="infinity"), wanted)


@pytest.mark.slow
@pytest.mark.parametrize("name", WIDE)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_some_ties_of_the_wide_formats_in_every_rounding(name, dtype) -> None:
    for mode, policy in allowed(find_format(name)):
        check(find_format(name), dtype, mode, policy, every=97)


@pytest.mark.parametrize("fmt", SMALL, ids=lambda f: f.name)
def test_outside_is_the_same_for_every_policy(fmt) -> None:
    """``overflow="raise"`` refuses what the oracle calls outside, number by number."""
    x = around_decisions(fmt, np.float64)
    x = x[np.argsort(np.abs(x), kind="stable")][:: max(1, len(x) // 30)]
    for mode in {m for m, _ in allowed(fmt)}:
        for value in x:
            outcomes = []
            for run in (
                lambda v, m=mode: int(encode(np.array([v]), fmt, m, overflow="raise")[0]),
                lambda v, m=mode: encode_number(meaning_of(v), fmt, m, overflow="raise", negative=bool(np.signbit(v))),
            ):
                try:
                    outcomes.append(run(value))
                except NumericalError:
                    outcomes.append("outside")
            assert outcomes[0] == outcomes[1], (float(value).hex(), mode)


def test_a_way_through_float32_gives_wrong_ties() -> None:
    """A number just beside a tie, too near for float32 to tell: rounding twice lands on the tie and then on the even neighbour."""
    e4m3 = find_format("e4m3fn")
    for tie, nearest in ((1.0625, 1.125), (1.1875, 1.125)):
        x = np.nextafter(np.array([tie]), 2.0 if nearest > tie else 0.0)
        assert decode(encode(x, e4m3), e4m3)[0] == nearest
        twice = encode(x.astype(np.float32), e4m3)
        assert decode(twice, e4m3)[0] == {1.0625: 1.0, 1.1875: 1.25}[tie]


def test_codebooks_whose_even_codes_are_not_neighbours_say_so() -> None:
    with pytest.raises(UsageError, match="no meaning for mixed: the codes of 0 and 1 are both even; name another rule"):
        encode(np.array([0.3]), Codebook(name="mixed", bits=2, table=(0.0, 2.0, 1.0)), "half_even")
    with pytest.raises(UsageError, match="no zero between"):
        encode(np.array([0.3]), find_format("binary"), "trunc")


@pytest.mark.parametrize("fmt", SMALL, ids=lambda f: f.name)
def test_large_arrays_take_a_short_cut_to_the_same_codes(fmt) -> None:
    """Numbers with every pattern of upper bits, at both ends, and everything about decisions: as many at once and few at a time."""
    upper = np.arange(1 << 16, dtype=np.uint32) << 16
    ends = np.concatenate([upper, upper | 0xFFFF]).view(np.float32)
    x = np.concatenate([ends[~np.isnan(ends)], around_decisions(fmt, np.float32)])
    for mode in {mode for mode, _ in allowed(fmt)} & {"half_even", "half_down", "floor", "ceil"}:
        at_once = encode(x, fmt, mode)
        in_pieces = np.concatenate([encode(piece, fmt, mode) for piece in np.array_split(x, len(x) // 3000)])
        np.testing.assert_array_equal(at_once, in_pieces)
        np.testing.assert_array_equal(encode(x.reshape(1, -1)[:, ::-1], fmt, mode)[0, ::-1], at_once)  # strides do not matter
