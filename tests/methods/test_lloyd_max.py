"""Lloyd-Max codebooks against Max's tables and mpmath, tiles coded with them, and the scale that makes them unbiased."""

from __future__ import annotations

import itertools

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refquant.core import QuantSpec, Tiling
from refquant.core.qtensor import QTensor
from refquant.errors import InputError, NumericalError, UsageError
from refquant.methods.codebook.lloyd_max import gaussian_codebook, lloyd_max, lloyd_max_levels, lloyd_max_spec
from refquant.numerics.ordered import ORDERED

# J. Max, Quantizing for minimum distortion, IRE Trans. Inf. Theory 6 (1960), table I: positive levels, and mean squared error.
MAX = {
    1: ([0.7980], 0.3634),
    2: ([0.4528, 1.510], 0.1175),
    3: ([0.2451, 0.7560, 1.344, 2.152], 0.03454),
    4: ([0.1284, 0.3881, 0.6568, 0.9424, 1.256, 1.618, 2.069, 2.733], 0.009497),
}


@pytest.mark.parametrize("bits", MAX)
def test_levels_are_those_that_max_printed(bits):
    levels = lloyd_max_levels(bits)
    np.testing.assert_allclose(levels[len(levels) // 2 :], MAX[bits][0], atol=6e-4)  # his table is rounded to four digits, not always well
    assert np.array_equal(levels, -levels[::-1])


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 5, 8])
def test_every_level_is_the_mean_of_its_cell(bits):
    """[LLOYD-1] [LLOYD-2]  in 40 digits; and for four bits and fewer the error is Max's."""
    levels = lloyd_max_levels(bits)
    with mpmath.workdps(40):
        c = [mpmath.mpf(float(value)) for value in levels]
        borders = [-mpmath.inf, *((a + b) / 2 for a, b in itertools.pairwise(c)), mpmath.inf]
        mass = [mpmath.ncdf(b) - mpmath.ncdf(a) for a, b in itertools.pairwise(borders)]
        mean = [(mpmath.npdf(a) - mpmath.npdf(b)) / m for a, b, m in zip(borders, borders[1:], mass, strict=False)]
        assert max(abs(found - wanted) for found, wanted in zip(c, mean, strict=True)) < mpmath.mpf(10) ** (-9)
        if bits in MAX:
            error = 1 - mpmath.fsum(m * x * x for m, x in zip(mass, c, strict=True))
            assert float(error) == pytest.approx(MAX[bits][1], rel=1e-3)


def test_the_lanes_agree_on_the_codebook():
    for bits in (2, 4):
        np.testing.assert_allclose(lloyd_max_levels(bits, ORDERED), lloyd_max_levels(bits), rtol=1e-9)
        assert gaussian_codebook(bits, ORDERED).table == gaussian_codebook(bits).table


def test_codes_are_the_nearest_levels_of_what_the_root_mean_square_divides():
    """[LLOYD-3]"""
    rng = np.random.default_rng(0)
    z = rng.standard_normal((3, 20))
    q = lloyd_max(z, lloyd_max_spec(3, group_size=10), correction=False)
    root = np.sqrt((z.reshape(3, 2, 10) ** 2).mean(axis=2))
    np.testing.assert_allclose(q.scale, root, rtol=1e-14)
    levels = lloyd_max_levels(3)
    nearest = np.abs(z[..., None] / np.repeat(root, 10, axis=1)[..., None] - levels).argmin(axis=-1)
    assert np.array_equal(q.codes, nearest)


@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.integers(-300, 300))
def test_the_corrected_scale_makes_it_unbiased_along_itself(seed, bits, exponent):
    """[LLOYD-4]"""
    z = np.ldexp(np.random.default_rng(seed).standard_normal((2, 30)), exponent)
    q = lloyd_max(z, lloyd_max_spec(bits))
    assert np.array_equal(q.codes, lloyd_max(np.ldexp(z, -exponent), lloyd_max_spec(bits)).codes)
    unit, values = np.ldexp(z, -exponent), np.ldexp(q.dequantize(np.dtype(np.float64)), -exponent)
    np.testing.assert_allclose((values * unit).sum(axis=1), (unit * unit).sum(axis=1), rtol=1e-9)
    mirrored = lloyd_max(-z, lloyd_max_spec(bits)).codes
    assert np.array_equal(mirrored, (1 << bits) - 1 - q.codes)


def test_correction_costs_error_and_keeps_the_length():
    z = np.random.default_rng(1).standard_normal((50, 256))
    plain, corrected = (lloyd_max(z, lloyd_max_spec(2), correction=c).dequantize() for c in (False, True))
    assert ((z - plain) ** 2).mean() == pytest.approx(0.1175, rel=0.05)
    assert ((z - corrected) ** 2).mean() > ((z - plain) ** 2).mean()
    assert (plain * z).sum() < 0.95 * (z * z).sum()


def test_specs_read_back_and_tensors_are_made_again():
    chosen = lloyd_max_spec(3, group_size=16, scale_format="float16")
    assert QuantSpec.from_json(chosen.to_json()) == chosen
    q = lloyd_max(np.random.default_rng(2).standard_normal((4, 40)), chosen)
    assert QTensor.from_parts(q.parts(), chosen, q.origin).digest() == q.digest()
    assert float(q.bits_per_weight) == 3 + 3 * 16 / 40


def test_a_tile_of_zeros_stays_next_to_zero():
    q = lloyd_max(np.zeros((2, 4), dtype=np.float32), lloyd_max_spec(4))
    assert np.abs(q.dequantize()).max() < 1e-44


@pytest.mark.parametrize("bits", [0, 9, True, 2.0])
def test_other_bits_are_refused(bits):
    with pytest.raises(UsageError, match="1 to 8 bits"):
        lloyd_max_levels(bits)


def test_broken_numbers_are_refused():
    with pytest.raises(InputError, match="root mean square"):
        lloyd_max(np.array([[1.0, np.inf]]), lloyd_max_spec(2))
    with pytest.raises(NumericalError, match="float16"):
        lloyd_max(np.array([[1e6, 1.0]]), lloyd_max_spec(2, scale_format="float16"))
    assert lloyd_max(np.ones((2, 2, 2)), lloyd_max_spec(1).with_tiling(Tiling.token(3))).shape == (2, 2, 2)
