"""Roots from products against an eigendecomposition, and where there is none."""

from __future__ import annotations

import numpy as np
import pytest

from refquant.errors import NumericalError
from refquant.numerics.matrix_root import root_and_inverse_root
from refquant.numerics.ordered import ORDERED


def stack(condition, count=3, size=16, seed=0):
    rng = np.random.default_rng(seed)
    q = np.linalg.qr(rng.standard_normal((count, size, size)))[0]
    values = np.geomspace(1, 1 / condition, size) * np.exp(rng.standard_normal((count, 1)))
    a = q @ (values[..., None] * q.swapaxes(-1, -2))
    return (a + a.swapaxes(-1, -2)) / 2


@pytest.mark.parametrize("condition", [1.0, 1e2, 1e4, 1e8])
def test_roots_are_those_of_the_eigenvalues(condition):
    a = stack(condition)
    root, inverse = root_and_inverse_root(a)
    values, vectors = np.linalg.eigh(a)
    expected = vectors @ (np.sqrt(values)[..., None] * vectors.swapaxes(-1, -2))
    accuracy = 1e-14 * max(condition, 10)
    np.testing.assert_allclose(root, expected, atol=accuracy * np.abs(expected).max())
    np.testing.assert_allclose(inverse @ root, np.broadcast_to(np.eye(16), a.shape), atol=10 * accuracy)
    assert np.array_equal(root, root.swapaxes(-1, -2))


def test_the_ordered_lane_finds_the_same():
    a = stack(100.0)
    for fast, ordered in zip(root_and_inverse_root(a), root_and_inverse_root(a, ORDERED), strict=True):
        np.testing.assert_allclose(ordered, fast, rtol=0, atol=1e-12 * np.abs(fast).max())


@pytest.mark.parametrize("a", [np.zeros((2, 2)), np.diag([1.0, 0.0]), np.diag([1.0, -1.0]), np.array([[np.nan]])])
def test_matrices_without_a_root_are_refused(a):
    with pytest.raises(NumericalError, match=r"root"):
        root_and_inverse_root(a)
