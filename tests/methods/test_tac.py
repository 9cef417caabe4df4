"""TAC against scipy's matrix root, closed forms, and the moments that it promises."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg

from refquant.errors import InputError, UsageError
from refquant.methods.activation.tac import AffineCorrection, Moments, tac
from refquant.numerics.ordered import ORDERED


def activations(seed, tokens=400, channels=12):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((tokens, channels)) @ rng.standard_normal((channels, channels)) + 3 * rng.standard_normal(channels)


def pair(block=4):
    z = activations(0)
    noisy = 0.7 * z + 0.3 * activations(1)
    return z, noisy, Moments.of(z, block), Moments.of(noisy, block)


def test_moments_are_those_of_numpy_in_any_grouping():
    """[TAC-1]"""
    z = activations(2)
    merged = Moments.of(z[:100].reshape(4, 25, 12), 4).merge(Moments.of(z[100:], 4))
    for i in range(3):
        part = z[:, 4 * i : 4 * i + 4]
        np.testing.assert_allclose(merged.mean[i], part.mean(axis=0), rtol=1e-12)
        np.testing.assert_allclose(merged.covariance[i], np.cov(part.T, bias=True), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("lane", [None, ORDERED])
def test_mean_and_covariance_are_matched(lane):
    """[TAC-2] [TAC-4]"""
    z, noisy, wanted, found = pair()
    options = {} if lane is None else {"arithmetic": lane}
    corrected = Moments.of(tac(wanted, found, damping=0, **options).apply(noisy), 4)
    np.testing.assert_allclose(corrected.mean, wanted.mean, atol=1e-9)
    np.testing.assert_allclose(corrected.covariance, wanted.covariance, atol=1e-8 * np.abs(wanted.covariance).max())
    assert z.shape == noisy.shape


def test_the_map_is_that_of_optimal_transport():
    """[TAC-2]  by scipy's root, and damped as the docstring says."""
    _, _, wanted, found = pair()
    correction = tac(wanted, found, damping=0.1)
    for i in range(3):
        added = 0.1 * np.trace(wanted.covariance[i]) / 4 * np.eye(4)
        c, d = wanted.covariance[i] + added, found.covariance[i] + added
        root = scipy.linalg.sqrtm(d).real
        inverse = np.linalg.inv(root)
        expected = inverse @ scipy.linalg.sqrtm(root @ c @ root).real @ inverse
        np.testing.assert_allclose(correction.matrices[i], expected, atol=1e-9)
        np.testing.assert_allclose(correction.offset[i], wanted.mean[i] - expected @ found.mean[i], atol=1e-8)


def test_shrinkage_ends_at_a_shift():
    """[TAC-3]"""
    _, noisy, wanted, found = pair()
    shifted = tac(wanted, found, shrinkage=1)
    np.testing.assert_allclose(shifted.matrices, np.broadcast_to(np.eye(4), (3, 4, 4)), atol=1e-15)
    np.testing.assert_allclose(shifted.apply(noisy).mean(axis=0), wanted.mean.ravel(), atol=1e-9)
    whole, half = (tac(wanted, found, shrinkage=rho).matrices for rho in (0, 0.5))
    np.testing.assert_allclose(half, (whole + np.eye(4)) / 2, atol=1e-12)


def test_equal_moments_give_the_identity_and_still_channels_stay():
    m = Moments.of(activations(3), 4)
    same = tac(m, m)
    np.testing.assert_allclose(same.matrices, np.broadcast_to(np.eye(4), (3, 4, 4)), atol=1e-9)
    still = tac(Moments.of(np.full((5, 4), 2.0), 4), Moments.of(np.full((5, 4), 1.5), 4))
    np.testing.assert_allclose(still.apply(np.full((1, 4), 1.5)), np.full((1, 4), 2.0), atol=1e-12)


def test_the_dtype_stays_and_what_does_not_fit_is_refused():
    _, noisy, wanted, found = pair()
    correction = tac(wanted, found)
    assert correction.apply(noisy.astype(np.float32).reshape(4, 100, 12)).dtype == np.float32
    with pytest.raises(InputError, match="12 channels does not fit"):
        correction.apply(np.ones((2, 8)))
    with pytest.raises(UsageError, match="do not divide"):
        Moments.of(noisy, 5)
    with pytest.raises(InputError, match="at least one token"):
        Moments.of(noisy[:0], 4)
    with pytest.raises(InputError, match="not of the same blocks"):
        tac(wanted, Moments.of(noisy, 3))
    with pytest.raises(InputError, match="cannot merge"):
        wanted.merge(Moments.of(noisy, 3))
    with pytest.raises(UsageError, match="shrinkage 0 to 1"):
        tac(wanted, found, shrinkage=2)
    with pytest.raises(InputError, match="a correction is"):
        AffineCorrection(matrices=np.ones((2, 3, 3)), offset=np.ones((2, 2)))
