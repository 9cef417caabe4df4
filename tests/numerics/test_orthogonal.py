"""Random Gaussians and orthogonal matrices: orthogonality, moments, and the distribution that Haar's measure demands of an entry."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from refquant.errors import UsageError
from refquant.numerics.draws import uniforms
from refquant.numerics.orthogonal import gaussians, random_orthogonal


def test_gaussians_are_normal() -> None:
    drawn = gaussians(np.random.default_rng(1), 20000)
    assert stats.kstest(drawn, "norm").pvalue > 1e-3
    assert abs(np.corrcoef(drawn[0::2], drawn[1::2])[0, 1]) < 0.03


def test_gaussians_by_hand() -> None:
    (u, v), (w, z) = uniforms(np.random.default_rng(7), (2, 2)).tolist()
    expected = [
        math.sqrt(-2 * math.log(1 - u)) * math.cos(2 * math.pi * v),
        math.sqrt(-2 * math.log(1 - u)) * math.sin(2 * math.pi * v),
        math.sqrt(-2 * math.log(1 - w)) * math.cos(2 * math.pi * z),
    ]
    np.testing.assert_allclose(gaussians(np.random.default_rng(7), 3), expected, rtol=1e-14)


@pytest.mark.parametrize("size", [1, 2, 3, 17, 127])
def test_rows_and_columns_are_orthonormal(size: int) -> None:
    q = random_orthogonal(np.random.default_rng(size), size)
    np.testing.assert_allclose(q @ q.T, np.eye(size), atol=1e-13)
    np.testing.assert_allclose(q.T @ q, np.eye(size), atol=1e-13)


def test_every_entry_has_the_distribution_of_haars_measure() -> None:
    # The square of one entry of a Haar matrix of size n is Beta(1/2, (n-1)/2), its sign even; both hold in the corners, where the
    # reflections that are not drawn (the last one, the signs) would show first.
    rng = np.random.default_rng(3)
    drawn = np.array([random_orthogonal(rng, 4) for _ in range(4000)])
    for row, column in [(0, 0), (0, 3), (3, 0), (3, 3), (1, 2)]:
        entry = drawn[:, row, column]
        assert stats.kstest(entry * entry, stats.beta(0.5, 1.5).cdf).pvalue > 1e-3
        assert abs(np.count_nonzero(entry > 0) - 2000) < 160
    determinants = np.linalg.det(drawn)
    assert abs(np.count_nonzero(determinants > 0) - 2000) < 160  # both halves of O(4)


@pytest.mark.parametrize("size", [0, -1, 2.0, True])
def test_sizes_are_positive_integers(size: object) -> None:
    with pytest.raises(UsageError, match="positive integer"):
        random_orthogonal(np.random.default_rng(0), size)  # type: ignore[arg-type]
