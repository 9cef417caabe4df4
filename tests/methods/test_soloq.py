"""SoloQ's rotation against the dense matrix multiplied out, and what it does to an outlier."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg

from refquant.core.transform import BlockRotation, Permutation, through
from refquant.errors import UsageError
from refquant.methods.rotate.soloq import soloq


def rotation(width=24, block=4, seed=5):
    return soloq(width, np.random.default_rng(seed), block=block)


def test_it_is_a_permutation_then_a_kronecker_product():
    """[SOLOQ-1] [SOLOQ-2] [SOLOQ-3]  x P diag(eps) (I (x) H) (Q (x) I), with features of one place side by side in the end."""
    mixed, inside, order, across = rotation()
    assert isinstance(mixed, Permutation)
    assert isinstance(across, BlockRotation)
    hadamard = scipy.linalg.hadamard(4) / 2
    q = across.blocks[0]
    dense = np.kron(np.eye(6), hadamard) @ np.kron(q, np.eye(4))
    x = np.random.default_rng(1).standard_normal((3, 24))
    expected = (x[:, mixed.order] * inside.signs) @ dense
    by_place = expected.reshape(3, 6, 4).swapaxes(1, 2).reshape(3, 24)
    np.testing.assert_allclose(through(rotation(), x), by_place, atol=1e-13)
    np.testing.assert_allclose(q @ q.T, np.eye(6), atol=1e-14)
    assert not np.array_equal(mixed.order, np.arange(24))
    assert np.array_equal(order.order[:6], np.arange(0, 24, 4))


def test_products_stay():
    x, w = np.random.default_rng(2).standard_normal((2, 5, 24))
    turned = w
    for transform in rotation():
        turned = transform.undo(turned)
    np.testing.assert_allclose(through(rotation(), x) @ turned.T, x @ w.T, atol=1e-12)


def test_an_outlier_is_spread_over_all_features():
    spread = [np.abs(through(rotation(768, 64, seed), np.eye(768)[:1] * 100)).max() for seed in range(5)]
    assert max(spread) < 100 * 0.25  # the dense matrix has entries of about 1/sqrt(768) = 0.036, a block of 12 x 12 rotated ones more


def test_the_same_generator_gives_the_same_rotation():
    first, second, other = rotation(), rotation(), rotation(seed=6)
    assert all(np.array_equal(a, b) for s, t in zip(first, second, strict=True) for a, b in zip(s.parts().values(), t.parts().values()))
    assert not np.array_equal(first[0].order, other[0].order)


def test_one_block_and_odd_sizes():
    assert through(rotation(8, 8), np.eye(8)).shape == (8, 8)
    with pytest.raises(UsageError, match="the block has to divide the width"):
        rotation(24, 16)
