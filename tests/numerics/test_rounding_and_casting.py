"""Rounding against fractions, and casts at the edges of their dtypes."""

from __future__ import annotations

import math
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refquant.errors import InputError, NumericalError, UsageError
from refquant.numerics.arrays import read_only
from refquant.numerics.casting import FLOAT_DTYPES, as_working, float_dtype, round_scale, smallest_positive
from refquant.numerics.rounding import Rounding, round_to_integer

numbers = st.one_of(
    st.integers(-(2**53), 2**53).map(lambda n: n / 2),
    st.floats(allow_nan=False, allow_infinity=False),
    st.floats(-3, 3),
    st.sampled_from([0.49999999999999994, -0.49999999999999994, 0.5, -0.5, 4503599627370495.5, 4503599627370497.0]),
)


def exactly(x: Fraction, mode: Rounding) -> int:
    whole, part = math.floor(x), x - math.floor(x)
    match mode:
        case Rounding.FLOOR:
            return whole
        case Rounding.CEIL:
            return whole + (part > 0)
        case Rounding.HALF_EVEN:
            return round(x)
        case Rounding.HALF_AWAY:
            return whole + (part > Fraction(1, 2) or (part == Fraction(1, 2) and x > 0))
    raise AssertionError(mode)


@pytest.mark.parametrize("mode", [mode for mode in Rounding if mode != Rounding.TRUNC_HALF])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@given(value=numbers)
def test_rounding_is_that_of_fractions(mode: Rounding, dtype: type, value: float) -> None:
    with np.errstate(all="ignore"):
        x = np.array([value], dtype=dtype)
    if not np.isfinite(x[0]):
        return
    before = x.tobytes()
    rounded = round_to_integer(x, mode)
    assert rounded.dtype == dtype
    assert x.tobytes() == before
    assert int(rounded[0]) == exactly(Fraction(float(x[0])), mode)


def test_trunc_half_is_the_c_idiom_with_its_faults() -> None:
    x = np.array([0.49999997, -0.7, -0.5, -1.5, 2.5, 8388609.0], dtype=np.float32)
    assert round_to_integer(x, Rounding.TRUNC_HALF).tolist() == [1, 0, 0, -1, 3, 8388610]
    assert round_to_integer(x, Rounding.HALF_AWAY).tolist() == [0, -1, -1, -2, 3, 8388609]


@pytest.mark.parametrize("mode", Rounding)
def test_what_is_no_number_stays(mode: Rounding) -> None:
    rounded = round_to_integer(np.array([np.inf, -np.inf, np.nan]), mode)
    assert rounded[:2].tolist() == [np.inf, -np.inf]
    assert np.isnan(rounded[2])


def test_unknown_modes() -> None:
    with pytest.raises(UsageError, match="unknown rounding 'up'"):
        round_to_integer(np.ones(1), "up")  # type: ignore[arg-type]


def test_as_working_is_exact_and_copies_only_where_it_must() -> None:
    for name, dtype in FLOAT_DTYPES.items():
        x = np.array([1.5, -0.0, 65280.0], dtype=dtype)
        working = as_working(x)
        assert working.dtype == (np.float64 if name == "float64" else np.float32)
        assert working.tolist() == [1.5, -0.0, 65280.0]
        assert (working is x) == (name in ("float32", "float64"))
    every_half = np.arange(1 << 16, dtype=np.uint16)
    for dtype in (np.float16, ml_dtypes.bfloat16):
        narrow = every_half.view(dtype)
        finite = narrow[(every_half & ((1 << 15) - 1)) < (0x7C00 if dtype is np.float16 else 0x7F80)]
        assert as_working(finite).astype(dtype).tobytes() == finite.tobytes()
        assert np.isfinite(as_working(finite)).all()
        assert np.isnan(as_working(narrow)).sum() > 0, "signalling NaNs among them, and no warning"
    with pytest.raises(InputError, match="the weight has dtype int64; allowed are float16, bfloat16"):
        as_working(np.array([1]), "the weight")
    with pytest.raises(UsageError, match="unknown floating dtype 'float8'"):
        float_dtype("float8")


def test_smallest_positive_numbers() -> None:
    expected = {"float16": 2.0**-24, "bfloat16": 2.0**-133, "float32": 2.0**-149, "float64": 2.0**-1074}
    assert {name: smallest_positive(dtype) for name, dtype in FLOAT_DTYPES.items()} == expected


@pytest.mark.parametrize(
    ("name", "scale", "stored"),
    [
        ("float16", 1 + 2.0**-11, 1.0),  # a tie goes to the even neighbour
        ("float16", 1 + 3 * 2.0**-11, 1 + 2.0**-9),
        ("float16", 65519.0, 65504.0),
        ("float16", 3 * 2.0**-25, 2.0**-23),
        ("float16", 2.0**-25, 2.0**-24),  # would be 0
        ("float16", 0.0, 2.0**-24),
        ("bfloat16", 1 + 2.0**-8, 1.0),
        ("bfloat16", 2.0**-140, 2.0**-133),
        ("float32", 1 + 2.0**-24, 1.0),
        ("float32", 1e-60, 2.0**-149),
        ("float64", 5e-324, 5e-324),
    ],
)
def test_scales_are_rounded_once_and_never_vanish(name: str, scale: float, stored: float) -> None:
    with np.errstate(all="raise"):
        result = round_scale(np.array([scale]), FLOAT_DTYPES[name], "here")
    assert result.dtype == FLOAT_DTYPES[name]
    assert float(result[0]) == stored


def test_a_float32_scale_that_vanished_is_no_smaller_than_float32_can_divide_by() -> None:
    assert float(round_scale(np.zeros(1, dtype=np.float32), FLOAT_DTYPES["float64"], "here")[0]) == 2.0**-149


@pytest.mark.parametrize(("name", "scale"), [("float16", 65520.0), ("bfloat16", 3.4e38), ("float32", 3.5e38)])
def test_scales_too_large_name_their_tile(name: str, scale: float) -> None:
    with pytest.raises(
        NumericalError, match=rf"here: scale {scale:g} of tile \(1, 0\) exceeds the largest {name} number".replace("+", r"\+")
    ):
        round_scale(np.array([[1.0], [scale]]), FLOAT_DTYPES[name], "here")


def test_read_only_leaves_the_argument_alone() -> None:
    x = np.arange(6).reshape(2, 3)
    for array in (x, x.T, np.array(3.0)):
        frozen = read_only(array)
        assert frozen.shape == array.shape
        assert np.array_equal(frozen, array)
        assert frozen.flags.c_contiguous
        assert not frozen.flags.writeable
        assert array.flags.writeable
