"""The factorization against the optimal brain surgeon, LAPACK and itself; the true optimum against GPTQ."""

from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refquant.errors import UsageError
from refquant.oracle import UniformGrid, best_assignment, gptq, matrix, quadratic_loss
from refquant.oracle.quadratic import prepare, unit_factor_of_inverse
from tests.oracle.layers import identity, inverted, layers, multiply

F = Fraction


@given(layers())
def test_factor(layer):
    hessian = prepare(*layer, F(1, 100)).hessian
    factor, pivots = unit_factor_of_inverse(hessian)
    size = len(hessian)
    assert all(factor[i][j] == (i == j) for i in range(size) for j in range(i + 1))
    transposed = [list(column) for column in zip(*factor, strict=True)]
    scaled = [[x / pivot for x in line] for line, pivot in zip(factor, pivots, strict=True)]
    assert multiply(multiply(transposed, scaled), hessian) == identity(size)


@given(layers())
def test_factor_is_that_of_the_optimal_brain_surgeon(layer):
    """[GPTQ-2]: row i is row 0 of the inverse of what remains of H, divided by its first entry; and that entry is 1 / D_i."""
    hessian = prepare(*layer, F(1, 100)).hessian
    factor, pivots = unit_factor_of_inverse(hessian)
    for i in range(len(hessian)):
        remaining = inverted([line[i:] for line in hessian[i:]])
        assert pivots[i] == 1 / remaining[0][0]
        assert factor[i][i:] == [x / remaining[0][0] for x in remaining[0]]


def test_factor_against_lapack():
    generator = np.random.default_rng(3)
    x = generator.integers(-8, 9, (40, 6)) / 4
    h = x.T @ x
    factor, pivots = unit_factor_of_inverse(matrix(h))
    upper = np.linalg.cholesky(np.linalg.inv(h)).T
    np.testing.assert_allclose(np.array(factor, float), upper / np.diag(upper)[:, None], rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(np.array(pivots, float), np.diag(upper) ** -2, rtol=1e-10)


@settings(deadline=None, max_examples=40)
@given(layers(most=4, rows=1), st.booleans())
def test_never_better_than_the_best_assignment(layer, act_order):
    weights, hessian = layer
    grid = UniformGrid(F(1, 2), 1, 0, 3)
    prepared = prepare(weights, hessian, F(1, 100))
    codes, best = best_assignment(prepared.weights[0], prepared.hessian, [grid] * len(hessian))
    assert gptq(weights, hessian, [[grid]], act_order=act_order).loss >= best
    for trial in product(range(4), repeat=len(hessian)):
        difference = [w - grid.scale * (code - grid.zero) for w, code in zip(prepared.weights[0], trial, strict=True)]
        loss = sum(x * y for x, y in zip(multiply([difference], prepared.hessian)[0], difference, strict=True))
        assert loss >= best
        assert (loss == best) >= (list(trial) == codes)


def test_greedy_is_not_always_best():
    """Somewhere GPTQ loses to the optimum, or the test above could be passed by calling brute force GPTQ."""
    generator = np.random.default_rng(0)
    grid = UniformGrid(F(1), 0, -2, 1)
    worse = 0
    for _ in range(20):
        hessian = matrix((lambda x: x.T @ x)(generator.integers(-4, 5, (6, 3))))
        weights = [[F(int(n), 8) for n in generator.integers(-12, 8, 3)]]
        result = gptq(weights, hessian, [[grid]])
        prepared = prepare(weights, hessian, F(1, 100))
        worse += result.loss > best_assignment(weights[0], prepared.hessian, [grid] * 3)[1]
    assert 0 < worse < 20


def test_best_assignment_is_bounded():
    with pytest.raises(UsageError, match="1048576 assignments"):
        best_assignment([F(0)] * 5, identity(5), [UniformGrid(F(1), 0, 0, 15)] * 5)


def test_quadratic_loss():
    assert quadratic_loss([F(1), F(-2)], [[F(3), F(1)], [F(1), F(5)]]) == 3 - 4 + 20
