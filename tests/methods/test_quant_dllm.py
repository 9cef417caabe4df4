"""Quant-dLLM: each partial step against least squares in fractions or all signs by hand, the laws of the alternation, the loss identity."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refquant.core.binary_tensor import binary_sum
from refquant.errors import InputError, NumericalError, UsageError
from refquant.methods.allocate.abmp import allocate_orders, block_scores
from refquant.methods.binary import quant_dllm as module
from refquant.methods.binary.quant_dllm import fit_binary, importance_of, nearest_signs, quant_dllm, saliency_of


def problem(seed=0, rows=6, columns=20, tokens=60):
    rng = np.random.default_rng(seed)
    w = rng.standard_normal((rows, columns))
    x = rng.standard_normal((tokens, columns)) * np.exp(rng.standard_normal(columns))
    return w, x.T @ x


def test_saliency_is_the_weight_over_the_diagonal_of_the_inverse():
    """[DAQ-1]"""
    w, h = problem()
    inverse = np.linalg.inv(h)
    u = np.linalg.cholesky(inverse).T
    np.testing.assert_allclose(saliency_of(w, u, "inverse"), (w / np.diagonal(inverse)) ** 2, rtol=1e-9)
    np.testing.assert_allclose(saliency_of(w, u, "factor"), (w / np.diagonal(u)) ** 2, rtol=1e-9)
    with pytest.raises(UsageError, match="'inverse' or 'factor'"):
        saliency_of(w, u, "other")


def test_what_is_far_beyond_the_mean_counts_more():
    """[DAQ-2]  99 ones and a hundred: mean 1.99, deviation 9.85."""
    z = np.ones((10, 10))
    z[3, 4] = 100.0
    expected = np.ones((10, 10))
    expected[3, 4] = 2.0
    assert np.array_equal(importance_of(z, 2.0, 3.0), expected)
    assert np.array_equal(importance_of(z, 2.0, 10.0), np.ones((10, 10)))


def test_the_start_is_means_of_magnitudes_term_by_term():
    """[DAQ-3]"""
    fit = fit_binary(np.array([[1.0, -3.0], [2.0, 2.0]]), np.ones((2, 2)), orders=1, steps=0)
    assert fit.rows.tolist() == [[2.0, 2.0]]
    assert fit.columns.tolist() == [[0.75, 1.25]]
    assert fit.codes.tolist() == [[1, 0], [1, 1]]


def fractions(array):
    return [[Fraction(float(value)) for value in row] for row in array]


@pytest.mark.parametrize("term", [0, 1])
def test_scales_are_weighted_least_squares(term):
    """[DAQ-4] [DAQ-5]  in fractions, from the formulas of a line through the origin."""
    rng = np.random.default_rng(8)
    w, importance = rng.standard_normal((3, 4)), 1.0 + rng.integers(0, 2, (3, 4))
    codes = rng.integers(0, 4, (3, 4)).astype(np.uint8)
    rows, columns = rng.standard_normal((2, 3)), rng.standard_normal((2, 4))
    found = module._scales(w, importance * importance, codes, rows, columns, term, module.FAST)
    across = module._scales(w.T, (importance * importance).T, codes.T, columns, rows, term, module.FAST)
    ww, ll, a, c = fractions(w), fractions(importance), fractions(rows), fractions(columns)

    def sign(i, j, k):
        return 1 if codes[i, j] >> k & 1 else -1

    def left(i, j):
        other = 1 - term
        return ww[i][j] - sign(i, j, other) * a[other][i] * c[other][j]

    for i in range(3):
        above = sum(ll[i][j] ** 2 * left(i, j) * sign(i, j, term) * c[term][j] for j in range(4))
        assert found[i] == pytest.approx(float(above / sum(ll[i][j] ** 2 * c[term][j] ** 2 for j in range(4))), rel=1e-12)
    for j in range(4):
        above = sum(ll[i][j] ** 2 * left(i, j) * sign(i, j, term) * a[term][i] for i in range(3))
        assert across[j] == pytest.approx(float(above / sum(ll[i][j] ** 2 * a[term][i] ** 2 for i in range(3))), rel=1e-12)


def test_signs_are_the_nearest_of_all():
    """[DAQ-6]"""
    rng = np.random.default_rng(1)
    w, rows, columns = rng.standard_normal((3, 4)), rng.standard_normal((3, 3)), rng.standard_normal((3, 4))
    codes = nearest_signs(w, rows, columns)
    found = np.abs(w - binary_sum(codes, rows, columns))
    for i, j in np.ndindex(3, 4):
        sums = [sum(s * r * c for s, r, c in zip(signs, rows[:, i], columns[:, j], strict=True)) for signs in product((-1, 1), repeat=3)]
        assert found[i, j] == pytest.approx(min(abs(w[i, j] - total) for total in sums), abs=1e-12)


@given(st.integers(0, 2**32 - 1), st.integers(1, 3), st.floats(1, 8), st.booleans())
def test_no_step_raises_the_weighted_loss(seed, orders, emphasis, dead):
    rng = np.random.default_rng(seed)
    w = rng.standard_normal((5, 7)) * np.exp(2 * rng.standard_normal((5, 1)))
    w[:, 2] *= not dead
    importance = np.where(rng.random((5, 7)) < 0.2, emphasis, 1.0)
    losses = fit_binary(w, importance, orders, steps=6).losses
    assert len(losses) == 1 + 6 * (2 * orders + 1)
    assert all(after <= before * (1 + 1e-12) + 1e-28 for before, after in pairwise(losses))


def test_what_is_a_sum_of_signs_is_found():
    rng = np.random.default_rng(2)
    w = binary_sum(rng.integers(0, 2, (8, 9)).astype(np.uint8), rng.random((1, 8)) + 0.5, rng.random((1, 9)) + 0.5)
    fit = fit_binary(w, np.ones(w.shape), orders=1, steps=30)
    np.testing.assert_allclose(fit.values, w, rtol=1e-12)


def test_a_block_is_fitted_to_what_makes_up_for_those_before_it():
    """[DAQ-7]  What is left of a block is spread by least squares: the columns to come move to the least tr((W - W') H (W - W')^T)."""
    w, h = problem(columns=21)
    damped = h + 0.01 * np.diagonal(h).mean() * np.eye(21)
    q = quant_dllm(w, h, block=8, ratio=0, damping=0.01, scale_format="float64").dequantize(np.dtype(np.float64))
    z = (w / np.diagonal(np.linalg.inv(damped))) ** 2
    importance = np.where(z > z.mean() + 3 * z.std(), 2.0, 1.0)
    for start, stop in ((0, 8), (8, 16), (16, 21)):
        error = w[:, :start] - q[:, :start]
        moved = w[:, start:] + error @ damped[:start, start:] @ np.linalg.inv(damped[start:, start:])
        fit = fit_binary(moved[:, : stop - start], importance[:, start:stop], 2, 15)
        np.testing.assert_allclose(fit.values, q[:, start:stop], rtol=1e-6, atol=1e-9)


def test_compensation_pays():
    """With the Hessian's correlations the output error is below that of the same fit with the diagonal alone."""
    rng = np.random.default_rng(4)
    mix = rng.standard_normal((32, 32)) + 2 * rng.standard_normal((32, 1))
    x = rng.standard_normal((400, 32)) @ mix
    w, h = rng.standard_normal((16, 32)), x.T @ x
    deltas = [w - quant_dllm(w, s, block=8).dequantize(np.dtype(np.float64)) for s in (h, np.diag(np.diagonal(h)))]
    compensated, plain = (np.trace(d @ h @ d.T) for d in deltas)
    assert compensated < 0.7 * plain


def test_blocks_by_their_scores():
    """[ABMP-1] [ABMP-2]"""
    z = np.array([[1.0, 2.0, 0.0, 7.0, 5.0], [1.0, 0.0, 0.0, 1.0, 0.5]])
    assert block_scores(z, [0, 2, 4, 5]).tolist() == [4.0, 8.0, 5.5]
    assert allocate_orders(np.array([4.0, 8.0, 5.5]), 1 / 3).tolist() == [1, 3, 2]
    assert allocate_orders(np.array([1.0, 1.0, 1.0, 1.0]), 0.25).tolist() == [3, 2, 2, 1]
    assert allocate_orders(np.arange(20.0), 0.05).tolist() == [1, *[2] * 18, 3]
    assert allocate_orders(np.arange(19.0), 0.05).tolist() == [2] * 19


@given(st.lists(st.floats(0, 1e6), min_size=0, max_size=30), st.floats(0, 0.5))
def test_the_mean_stays_and_more_bits_need_a_higher_score(scores, ratio):
    given_bits = allocate_orders(np.array(scores), ratio)
    assert int(given_bits.astype(int).sum()) == 2 * len(scores)
    for high, low in product(range(len(scores)), repeat=2):
        assert given_bits[high] <= given_bits[low] or scores[high] >= scores[low]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: quant_dllm(np.ones((2, 3)), np.eye(2)), InputError, "are needed"),
        (lambda: quant_dllm(np.array([[np.nan]]), np.eye(1)), InputError, "finite"),
        (lambda: quant_dllm(np.ones((1, 2)), np.array([[1.0, 2.0], [0.0, 1.0]])), InputError, "not symmetric"),
        (lambda: quant_dllm(np.ones((1, 2)), np.eye(2), orders=4), UsageError, "1 to 3"),
        (lambda: quant_dllm(np.ones((1, 2)), np.eye(2), emphasis=0), UsageError, "emphasis"),
        (lambda: quant_dllm(np.full((1, 2), 1e6), np.eye(2)), NumericalError, "overflows float16"),
        (lambda: allocate_orders(np.ones(3), 0.6), UsageError, "0 to 0.5"),
        (lambda: allocate_orders(np.ones(3), 0.2, bits=3), UsageError, "goes with 2"),
        (lambda: allocate_orders(np.array([np.nan]), 0.2), InputError, "no NaN"),
    ],
)
def test_what_cannot_be_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_inputs_are_not_written_to_and_dead_ones_cost_nothing():
    w, h = problem()
    h[3], h[:, 3] = 0, 0
    before = w.copy(), h.copy()
    q = quant_dllm(w, h, block=8)
    assert np.array_equal(w, before[0])
    assert np.array_equal(h, before[1])
    assert np.isfinite(q.dequantize()).all()
    assert quant_dllm(np.empty((3, 0)), np.empty((0, 0))).shape == (3, 0)
