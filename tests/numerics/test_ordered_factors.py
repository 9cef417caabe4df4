"""Cholesky factors, triangular solutions and inverses of the ordered lane: residuals against fractions, and where they stop."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from refquant.errors import InputError, NotPositiveDefiniteError
from refquant.numerics import FAST, ORDERED
from refquant.numerics.arrays import Array
from refquant.numerics.cholesky import upper_factor_of_inverse
from refquant.numerics.exact_product import product
from refquant.numerics.triangular import LEAF, solve_lower

U = 2.0**-53
SIZES = [1, 2, 5, LEAF - 1, LEAF, LEAF + 1, LEAF + 20]


def positive(seed: int, n: int, condition: float = 1e3) -> Array:
    """Symmetric and positive definite, eigenvalues spread geometrically."""
    rng = np.random.Generator(np.random.PCG64(seed))
    q = np.linalg.qr(rng.standard_normal((n, n)))[0]
    h = (q * np.geomspace(1, 1 / condition, n)) @ q.T
    return (h + h.T) / 2


def fractions(x: Array) -> list[list[Fraction]]:
    return [[Fraction(float(v)) for v in row] for row in x]


def residual(a: Array, b: Array, c: Array) -> Array:
    """``|a b - c|`` without rounding, then as floats."""
    rows, columns, target = fractions(a), fractions(b.T), fractions(c)
    found = [
        [abs(sum(p * q for p, q in zip(row, column, strict=True)) - want) for column, want in zip(columns, wants, strict=True)]
        for row, wants in zip(rows, target, strict=True)
    ]
    return np.array([[float(v) for v in row] for row in found])


@pytest.mark.parametrize("n", SIZES)
def test_the_factor_multiplies_back(n: int) -> None:
    h = positive(n, n)
    lower = ORDERED.cholesky(h)
    assert np.array_equal(lower, np.tril(lower))
    assert (residual(lower, lower.T, h) <= (n + 3) * U * (np.abs(lower) @ np.abs(lower).T) * 1.01).all()


@pytest.mark.parametrize("n", SIZES)
def test_the_inverse_and_solutions_multiply_back(n: int) -> None:
    lower = np.linalg.cholesky(positive(n + 1, n, 1e8))
    inverse = ORDERED.inverse_lower(lower)
    assert np.array_equal(inverse, np.tril(inverse))
    assert (residual(lower, inverse, np.eye(n)) <= (n + 3) * U * (np.abs(lower) @ np.abs(inverse)) * 1.01).all()
    y = np.random.Generator(np.random.PCG64(n)).standard_normal((n, 3))
    x = solve_lower(lower, y, product)
    assert (residual(lower, x, y) <= (n + 3) * U * (np.abs(lower) @ np.abs(x)) * 1.01).all()


@pytest.mark.parametrize("condition", [1e2, 1e8, 1e12])
def test_large_ill_conditioned_factors_are_as_good_as_lapacks(condition: float) -> None:
    """Residuals in extended precision; one that is ten times LAPACK's would show a missing slice."""
    h = positive(7, 512, condition)
    found, peer = (upper_factor_of_inverse(h, lane) for lane in (ORDERED, FAST))
    lower, lapack = ORDERED.cholesky(h), FAST.cholesky(h)
    for ours, theirs in (
        (np.abs(product(lower, lower.T, 4) - h).max(), np.abs(product(lapack, lapack.T, 4) - h).max()),
        (
            np.abs(product(found.T, product(found, h, 4), 4) - np.eye(512)).max(),
            np.abs(product(peer.T, product(peer, h, 4), 4) - np.eye(512)).max(),
        ),
    ):
        assert ours <= 4 * theirs + 16 * U


def test_a_hilbert_matrix_is_factored_as_fractions_say() -> None:
    """Forward error of the factor of an ill-conditioned matrix against exact elimination."""
    n = 6
    h = np.array([[Fraction(27720, i + j + 1) for j in range(n)] for i in range(n)])  # integers, so float64 holds them
    lower = np.zeros((n, n), dtype=object)
    rest = h.copy()
    pivots = []
    for j in range(n):  # h = L D L^T exactly
        pivots.append(rest[j, j])
        lower[j:, j] = rest[j:, j] / rest[j, j]
        rest = rest - np.outer(lower[:, j], lower[:, j]) * pivots[j]
    expected = np.array([[float(lower[i, j]) * float(np.sqrt(float(pivots[j]))) for j in range(n)] for i in range(n)])
    found = ORDERED.cholesky(h.astype(np.float64))
    assert np.abs(found - expected).max() <= 1e7 * U * np.abs(expected).max()  # the condition is 1.5e7


@pytest.mark.parametrize("n", [3, LEAF, 2 * LEAF + 9])
def test_the_first_pivot_that_is_not_positive_is_named(n: int) -> None:
    for pivot in {0, 1, n // 2, n - 1}:
        for value in (0.0, -1.0):
            h = np.eye(n)
            h[pivot, pivot] = value
            with pytest.raises(NotPositiveDefiniteError, match=f"pivot {pivot} is not positive") as found:
                ORDERED.cholesky(h)
            with pytest.raises(NotPositiveDefiniteError) as peer:
                FAST.cholesky(h)
            assert found.value.pivot == peer.value.pivot == pivot


def test_nan_is_no_pivot() -> None:
    with pytest.raises(NotPositiveDefiniteError):
        ORDERED.cholesky(np.array([[1.0, 0.0], [np.nan, 1.0]]))


def test_singular_triangles_and_odd_shapes_are_refused() -> None:
    with pytest.raises(NotPositiveDefiniteError, match="entry 1 of its diagonal is 0"):
        ORDERED.inverse_lower(np.diag([1.0, 0.0, 2.0, 0.0]))
    for function in (ORDERED.cholesky, ORDERED.inverse_lower):
        with pytest.raises(InputError, match="square"):
            function(np.ones((2, 3)))


def test_arguments_stay_and_only_the_lower_triangle_is_read() -> None:
    h = positive(1, 70)
    before = h.tobytes()
    lower = ORDERED.cholesky(h)
    ORDERED.inverse_lower(lower)
    assert h.tobytes() == before
    assert ORDERED.cholesky(np.tril(h) + np.triu(np.full_like(h, np.nan), 1)).tobytes() == lower.tobytes()
    assert ORDERED.cholesky(np.asfortranarray(h)).tobytes() == lower.tobytes()
    assert ORDERED.cholesky(np.zeros((0, 0))).shape == ORDERED.inverse_lower(np.zeros((0, 0))).shape == (0, 0)
