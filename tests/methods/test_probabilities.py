"""Quantized softmax output against the exact grid in Fractions."""

from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refquant.errors import InputError, UsageError
from refquant.methods.activation.probabilities import quantize_probabilities
from refquant.oracle import nearest_member


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_every_result_is_the_nearest_multiple_of_the_exact_step(bits, dtype):
    """[PROB-1] [PROB-2] Grid k / (2^b - 1) as Fractions, one rounding of the step and one of the product away."""
    steps = 2**bits - 1
    grid = [Fraction(k, steps) for k in range(steps + 1)]
    p = np.random.default_rng(bits).random(300).astype(dtype)
    found = quantize_probabilities(p, bits)
    assert found.dtype == dtype
    for x, y in zip(p.tolist(), found.tolist(), strict=True):
        exact = grid[nearest_member(Fraction(x), grid)]
        assert y == pytest.approx(float(exact), rel=2 * float(np.finfo(dtype).eps))


def test_4_bits_drop_what_is_under_a_thirtieth():
    """[PROB-2] 1/30 is the boundary between 0 and 1/15; a row of 31 equal probabilities vanishes whole."""
    under, over = np.nextafter(1 / 30, 0), np.nextafter(np.nextafter(1 / 30, 1), 1)
    np.testing.assert_array_equal(quantize_probabilities(np.array([0.0, under, over]), 4), [0, 0, 1 / 15])
    assert (quantize_probabilities(np.full((2, 31), 1 / 31), 4) == 0).all()
    assert (quantize_probabilities(np.full((2, 29), 1 / 29), 4) == 1 / 15).all()
    np.testing.assert_allclose(quantize_probabilities(np.full((2, 31), 1 / 31), 4, "row_max"), 1 / 31, rtol=1e-15)


@pytest.mark.parametrize("bits", range(1, 17))
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
@pytest.mark.parametrize("scale_range", ["unit", "row_max"])
def test_0_and_1_stay(bits, dtype, scale_range):
    p = np.array([[0, 1]], dtype=dtype)
    found = quantize_probabilities(p, bits, scale_range)
    assert found.dtype == p.dtype
    assert found.astype(float).tolist() == [[0.0, 1.0]]


def test_row_maximum_by_hand():
    """[PROB-1] Each row has its own step, a third of its maximum."""
    p = np.array([[0.3, 0.14, 0.06, 0.04], [0.6, 0.31, 0.29, 0.0], [0.0, 0.0, 0.0, 0.0]])
    expected = [[0.3, 0.1, 0.1, 0.0], [0.6, 0.4, 0.2, 0.0], [0, 0, 0, 0]]
    np.testing.assert_allclose(quantize_probabilities(p, 2, "row_max"), expected, rtol=1e-15)
    np.testing.assert_allclose(quantize_probabilities(p, 2), [[1 / 3, 0, 0, 0], [2 / 3, 1 / 3, 1 / 3, 0], [0] * 4], rtol=1e-15)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_row_of_subnormal_numbers_has_a_step_that_is_not_0(dtype):
    tiny = np.finfo(dtype).smallest_subnormal
    np.testing.assert_array_equal(quantize_probabilities(np.array([[tiny, 0]], dtype), 4, "row_max"), np.array([[tiny, 0]], dtype))


def test_a_softmax_that_exceeds_1_by_rounding_saturates():
    assert quantize_probabilities(np.array([1.000001], np.float32), 8)[0] == 1
    assert quantize_probabilities(np.array([1.00001], np.float64), 16)[0] == 1  # 65535.66 steps


def test_ties_go_to_the_even_step():
    """[PROB-2] 1/30 in float64 is exactly half of 1/15; 0.5 is half of the single step of 1 bit."""
    assert quantize_probabilities(np.array([0.5]), 1)[0] == 0
    assert quantize_probabilities(np.array([[1.0, 0.5]]), 1, "row_max").tolist() == [[1, 0]]
    assert quantize_probabilities(np.array([1 / 30]), 4)[0] == 0
    assert quantize_probabilities(np.array([0.5]), 2)[0] == 2 / 3


@given(st.integers(1, 12), st.sampled_from(["unit", "row_max"]), st.integers(0, 2**32))
def test_idempotent_monotone_and_row_by_row(bits, scale_range, seed):
    p = np.random.default_rng(seed).dirichlet(np.ones(6), size=(2, 3))
    found = quantize_probabilities(p, bits, scale_range)
    if scale_range == "unit":
        np.testing.assert_array_equal(quantize_probabilities(found, bits), found)
    order = np.argsort(p, axis=-1)
    assert (np.diff(np.take_along_axis(found, order, -1), axis=-1) >= 0).all()
    np.testing.assert_array_equal(quantize_probabilities(p[1, 2], bits, scale_range), found[1, 2])


def test_empty_rows():
    assert quantize_probabilities(np.empty((3, 0)), 4, "row_max").shape == (3, 0)


@pytest.mark.parametrize(
    ("p", "bits", "scale_range", "error", "message"),
    [
        (np.array([0.5]), 0, "unit", UsageError, "probabilities take 1 to 16 bits, not 0"),
        (np.array([0.5]), 17, "unit", UsageError, "not 17"),
        (np.array([0.5]), True, "unit", UsageError, "not True"),
        (np.array([0.5]), 4.0, "unit", UsageError, "not 4.0"),
        (np.array([0.5]), 4, "rows", UsageError, "range is 'unit' or 'row_max', not 'rows'"),
        (np.array([0.5, 1.1]), 4, "unit", InputError, r"probabilities lie in \[0, 1\]; found 0.5 .. 1.1"),
        (np.array([-1e-9, 1]), 4, "unit", InputError, r"found -1e-09 .. 1.0"),
        (np.array([0.5, np.nan]), 4, "unit", InputError, "found nan"),
        (np.array([0, 1]), 4, "unit", InputError, "the array of probabilities has dtype int64"),
    ],
)
def test_refused(p, bits, scale_range, error, message):
    with pytest.raises(error, match=message):
        quantize_probabilities(p, bits, scale_range)
