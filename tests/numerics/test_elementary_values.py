"""Elementary functions where the result is known exactly: special values of C99's Annex F, exact cases, symmetries, shapes."""

from __future__ import annotations

import math
from collections.abc import Callable

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refquant.errors import InputError
from refquant.numerics.arrays import Array
from refquant.numerics.elementary import cos, erf, exp, log, power, sin
from refquant.numerics.elementary.elementwise import BLOCK

INF, NAN = math.inf, math.nan
ONE_ARGUMENT = [exp, log, sin, cos, erf]
DTYPES = [np.float32, np.float64]
TINY = {np.float32: 2.0**-149, np.float64: 2.0**-1074}
LARGEST = {dtype: float(np.finfo(dtype).max) for dtype in DTYPES}

numbers = st.floats(allow_nan=False, allow_infinity=False)
positive = st.floats(min_value=2.0**-1074, allow_infinity=False)


def same(got: Array, want: Array) -> bool:
    """Equal to the last bit, signs of zeros included; any NaN equals any other."""
    return np.array_equal(got, want, equal_nan=True) and np.array_equal(np.signbit(got), np.signbit(want))


def of(function: Callable[..., Array], *values: float, dtype: type = np.float64) -> float:
    return float(function(*(np.array([v], dtype=dtype) for v in values))[0])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("function", "pairs"),
    [
        (exp, [(0.0, 1.0), (-0.0, 1.0), (INF, INF), (-INF, 0.0), (1e4, INF), (-1e4, 0.0), (NAN, NAN), (1e-30, 1.0)]),
        (log, [(1.0, 0.0), (0.0, -INF), (-0.0, -INF), (INF, INF), (-INF, NAN), (-1.0, NAN), (-1e-40, NAN), (NAN, NAN)]),
        (sin, [(0.0, 0.0), (-0.0, -0.0), (INF, NAN), (-INF, NAN), (NAN, NAN), (1e-30, 1e-30)]),
        (cos, [(0.0, 1.0), (-0.0, 1.0), (INF, NAN), (-INF, NAN), (NAN, NAN), (1e-30, 1.0)]),
        (erf, [(0.0, 0.0), (-0.0, -0.0), (INF, 1.0), (-INF, -1.0), (6.5, 1.0), (-30.0, -1.0), (NAN, NAN)]),
    ],
    ids=["exp", "log", "sin", "cos", "erf"],
)
def test_special_values_are_those_of_annex_f(function: Callable[[Array], Array], pairs: list[tuple[float, float]], dtype: type) -> None:
    arguments, results = np.array(pairs).astype(dtype).T.copy()
    assert same(function(arguments), results)


@pytest.mark.parametrize(
    ("dtype", "last_finite", "last_subnormal"),
    [
        (np.float32, "0x1.62e42ep+6", "-0x1.9fe368p+6"),
        (np.float64, "0x1.62e42fefa39efp+9", "-0x1.74910d52d3051p+9"),
    ],
)
def test_exp_overflows_and_vanishes_where_the_dtype_ends(dtype: type, last_finite: str, last_subnormal: str) -> None:
    top, bottom = dtype(float.fromhex(last_finite)), dtype(float.fromhex(last_subnormal))
    assert np.isfinite(of(exp, top, dtype=dtype))
    assert of(exp, np.nextafter(top, dtype(INF)), dtype=dtype) == INF
    assert of(exp, bottom, dtype=dtype) == TINY[dtype]
    assert of(exp, np.nextafter(bottom, dtype(-INF)), dtype=dtype) == 0


@pytest.mark.parametrize("dtype", DTYPES)
def test_ends_of_the_dtype_have_the_logarithms_that_they_have(dtype: type) -> None:
    bits = {np.float32: (-149, 128), np.float64: (-1074, 1024)}[dtype]
    lowest, top = (float(dtype(k * math.log(2))) for k in bits)
    assert of(log, TINY[dtype], dtype=dtype) == pytest.approx(lowest, rel=1e-15 if dtype == np.float64 else 1e-7)
    assert of(log, LARGEST[dtype], dtype=dtype) == pytest.approx(top, rel=1e-15 if dtype == np.float64 else 1e-7)


# What C99, F.9.4.4, says of pow; y is the exponent.
POWERS = [
    *[(x, y, 1.0) for x in (0.0, -0.0, 1.0, -3.0, INF, -INF, NAN) for y in (0.0, -0.0)],
    *[(1.0, y, 1.0) for y in (INF, -INF, NAN, 1e30, -0.5)],
    *[(0.0, y, INF) for y in (-1.0, -2.0, -0.5, -INF)],
    *[(0.0, y, 0.0) for y in (1.0, 2.0, 0.5, INF, 1e-30)],
    *[(-0.0, -1.0, -INF), (-0.0, -3.0, -INF), (-0.0, -2.0, INF), (-0.0, -0.5, INF), (-0.0, -INF, INF)],
    *[(-0.0, 1.0, -0.0), (-0.0, 3.0, -0.0), (-0.0, 2.0, 0.0), (-0.0, 0.5, 0.0), (-0.0, INF, 0.0)],
    *[(-1.0, INF, 1.0), (-1.0, -INF, 1.0), (-1.0, 3.0, -1.0), (-1.0, 4.0, 1.0), (-1.0, 0.5, NAN), (-1.0, 1e30, 1.0)],
    *[(0.5, INF, 0.0), (-0.5, INF, 0.0), (2.0, INF, INF), (-2.0, INF, INF), (INF, INF, INF), (-INF, INF, INF)],
    *[(0.5, -INF, INF), (-0.5, -INF, INF), (2.0, -INF, 0.0), (-2.0, -INF, 0.0), (INF, -INF, 0.0), (-INF, -INF, 0.0)],
    *[(INF, 2.0, INF), (INF, 0.5, INF), (INF, -0.5, 0.0), (INF, -3.0, 0.0)],
    *[(-INF, 3.0, -INF), (-INF, 2.0, INF), (-INF, 0.5, INF), (-INF, -3.0, -0.0), (-INF, -2.0, 0.0), (-INF, -0.5, 0.0)],
    *[(-2.0, 3.0, -8.0), (-2.0, -2.0, 0.25), (-2.0, 0.5, NAN), (-8.0, 1 / 3, NAN), (-2.0, 1e10, INF), (-2.0, -1e10, 0.0)],
    *[(NAN, 1.0, NAN), (2.0, NAN, NAN), (NAN, NAN, NAN), (0.0, NAN, NAN), (NAN, INF, NAN), (INF, NAN, NAN)],
    *[(2.0, 1e38, INF), (2.0, -1e38, 0.0), (0.5, 1e38, 0.0), (0.5, -1e38, INF), (0.9999, 1e30, 0.0)],
]


@pytest.mark.parametrize("dtype", DTYPES)
def test_powers_are_those_of_annex_f(dtype: type) -> None:
    x, y, want = np.array(POWERS).astype(dtype).T.copy()
    got = power(x, y)
    wrong = [(a, b, w, g) for a, b, w, g in zip(x, y, want, got, strict=True) if not same(np.array([g]), np.array([w]))]
    assert not wrong


def test_huge_exponents_do_not_become_nan() -> None:
    x = np.array([2.0, 0.5, 1 + 2.0**-52, 1 - 2.0**-53, 1.0, 1 + 2.0**-52])
    y = np.array([1.7e308, 1.7e308, 1.7e308, -1.7e308, 1.7e308, 5e-324])
    assert power(x, y).tolist() == [INF, 0.0, INF, INF, 1.0, 1.0]


@given(x=positive)
def test_the_first_power_is_the_number_itself(x: float) -> None:
    assert of(power, x, 1.0) == x
    assert of(power, -x, 1.0) == -x
    assert of(power, x, 0.0) == 1


@given(k=st.integers(0, 94_906_265), j=st.integers(0, 208_063), n=st.integers(-1074, 1023))
def test_powers_that_are_numbers_come_out_exactly(k: int, j: int, n: int) -> None:
    assert of(power, k, 2.0) == k * k
    assert of(power, k * k, 0.5) == k
    assert of(power, j, 3.0) == j**3
    assert of(power, 2.0, n) == math.ldexp(1.0, n)
    assert of(power, 4.0, n / 2) == math.ldexp(1.0, n)


@given(k=st.integers(0, 2**24 - 1))
def test_squares_halfway_between_float32_numbers_round_to_even(k: int) -> None:
    assert of(power, k, 2.0, dtype=np.float32) == np.float32(k * k)


def test_float32_ties_are_among_the_squares() -> None:
    assert of(power, 4097, 2.0, dtype=np.float32) == 16785408 == 4097**2 - 1  # lies between ...408 and ...410


@given(x=positive)
def test_square_roots_as_powers_are_within_a_unit(x: float) -> None:
    assert abs(of(power, x, 0.5) - math.sqrt(x)) <= math.ulp(math.sqrt(x))


@given(x=numbers)
def test_symmetries_hold_to_the_bit(x: float) -> None:
    for odd in (sin, erf):
        assert same(odd(np.array([-x])), -odd(np.array([x])))
    assert of(cos, -x) == of(cos, x)


@given(x=st.lists(st.floats(width=32), max_size=20), dtype=st.sampled_from(DTYPES))
def test_results_stay_in_their_range(x: list[float], dtype: type) -> None:
    array = np.array(x, dtype=dtype)
    for function in (sin, cos, erf):
        assert not np.any(np.abs(function(array)) > 1)
    assert not np.any(exp(array) < 0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("function", [*ONE_ARGUMENT, lambda x: power(x, 1.7)], ids=["exp", "log", "sin", "cos", "erf", "power"])
def test_an_element_does_not_depend_on_its_place_or_its_neighbours(function: Callable[[Array], Array], dtype: type) -> None:
    rng = np.random.default_rng(30)
    x = rng.normal(size=2 * BLOCK + 37).astype(dtype) * 30
    x[[5, BLOCK, -1]] = [np.inf, 1e-320, 1e30]
    whole = function(x)
    for start, stop, step in ((0, 1, 1), (3, 1000, 7), (BLOCK - 2, BLOCK + 2, 1), (2 * BLOCK, 2 * BLOCK + 37, 1)):
        assert same(function(x[start:stop:step]), whole[start:stop:step])
    assert same(function(x[::-1]), whole[::-1])
    assert same(function(x[:64].reshape(8, 8).T), whole[:64].reshape(8, 8).T)
    assert same(function(x[5]), whole[5])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("function", [*ONE_ARGUMENT, lambda x: power(x, 2.5)])
def test_shape_and_dtype_stay_and_arguments_are_not_written(function: Callable[[Array], Array], dtype: type) -> None:
    for shape in ((), (0,), (3, 0, 2), (1,), (2, 3, 4)):
        x = np.full(shape, 0.7, dtype=dtype)
        x.flags.writeable = False
        result = function(x)
        assert isinstance(result, np.ndarray)
        assert (result.shape, result.dtype, result.flags.c_contiguous) == (shape, dtype, True)
        assert np.all(x == dtype(0.7))
        assert result.flags.writeable
        assert not np.shares_memory(result, x)


def test_powers_broadcast_and_promote_as_numpy_does() -> None:
    x = np.array([[1.5], [2.5]], dtype=np.float32)
    assert power(x, np.arange(3, dtype=np.float32)).shape == (2, 3)
    assert power(x, 0.1).dtype == np.float32
    assert power(x, 2).tolist() == [[2.25], [6.25]]
    assert power(x, np.array([0.1])).dtype == np.float64
    assert power(x[:0], 2.0).shape == (0, 1)
    # A Python number becomes float32 beside float32, before anything is computed.
    assert same(power(x, 0.1), power(x, np.float32(0.1)))
    assert same(power(np.array([2.0]), np.full((3, 2), 0.3)), power(np.full((3, 2), 2.0), 0.3))


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_nan_that_comes_out_is_the_same(dtype: type) -> None:
    pattern = {np.float32: 0x7FC00000, np.float64: 0x7FF8000000000000}[dtype]
    unsigned = {np.float32: np.uint32, np.float64: np.uint64}[dtype]
    quiet, other = np.array([pattern, pattern + 5], dtype=unsigned)
    sign = unsigned(1) << unsigned(8 * dtype().itemsize - 1)
    arguments = np.array([quiet, other, quiet | sign, other | sign, np.array(-INF, dtype=dtype).view(unsigned)]).view(dtype)
    for function in (exp, log, sin, cos, erf, lambda x: power(x, 0.5), lambda x: power(dtype(2), x)):
        result = function(arguments)
        assert {hex(bits) for bits in result[np.isnan(result)].view(unsigned)} == {hex(pattern)}
        assert np.isnan(result[:4]).all()


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.int64, np.bool_, np.complex128, np.longdouble, np.dtype(">f8")])
def test_other_dtypes_are_refused(dtype: type) -> None:
    if np.dtype(dtype) == np.float64:
        pytest.skip("longdouble is float64 on this machine")
    for function in ONE_ARGUMENT:
        with pytest.raises(InputError, match=f"{function.__name__} of an array of dtype"):
            function(np.ones(3, dtype=dtype))
    with pytest.raises(InputError, match="power of an array of dtype"):
        power(np.ones(3), np.ones(3, dtype=dtype))
