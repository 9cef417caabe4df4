"""DASH-Q: closed forms against fractions, the result against every grid of a fine search, and that it never is worse than the start."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refquant.core import spec
from refquant.core.fitting import fit_grid
from refquant.errors import InputError, UsageError
from refquant.methods.grid.dash_q import dash_q, least_squares
from refquant.methods.grid.rtn import rtn

SCHEMES = ("asym_incl0", "asym_minmax", "asym_omni", "sym_full", "sym_narrow", "sym_gptq")


def loss(w, q, h):
    """[DASHQ-1]  of the whole weight."""
    delta = w - q.dequantize(np.dtype(np.float64))
    return float((h * delta * delta).sum())


def test_the_scale_is_the_weighted_mean_of_a_line_through_the_zero_point():
    """[DASHQ-3]  in fractions; the zero point of sym_gptq is 8, always."""
    rng = np.random.default_rng(0)
    w, h, codes = rng.standard_normal((1, 6)), rng.random(6), rng.integers(0, 16, 6).astype(float)
    chosen = spec("int4", scheme="sym_gptq")
    scale, zero = least_squares(w[None], codes[None, None], h[None, None], fit_grid(w, chosen), chosen)
    above = sum(Fraction(h[j]) * Fraction(w[0, j]) * Fraction(codes[j] - 8) for j in range(6))
    assert zero.tolist() == [[8]]
    assert scale[0, 0] == pytest.approx(float(above / sum(Fraction(h[j]) * Fraction(codes[j] - 8) ** 2 for j in range(6))), rel=1e-12)


def test_scale_and_zero_are_a_weighted_line():
    """[DASHQ-4]  found back from numbers that lie on one, whatever the weights."""
    chosen = spec("int4", scheme="asym_omni")
    codes = np.array([[[1.0, 3.0, 4.0, 9.0, 15.0]]])
    values, h = 0.25 * (codes - 6), np.array([[[1.0, 0.0, 5.0, 0.1, 2.0]]])
    scale, zero = least_squares(values, codes, h, fit_grid(values[0], chosen), chosen)
    assert (float(scale[0, 0]), int(zero[0, 0])) == (pytest.approx(0.25, rel=1e-12), 6)


def test_no_grid_of_a_fine_search_is_much_better():
    """[DASHQ-2]  One row, symmetric, three bits: all scales in steps of a thousandth. The alternation finds a local minimum."""
    rng = np.random.default_rng(5)
    ratios = []
    for _ in range(20):
        w, h = rng.standard_normal((1, 24)), np.exp(rng.standard_normal(24))
        scales = np.arange(1, 3000)[:, None] / 1000 * np.abs(w).max() / 3
        best = (h * (w - scales * np.clip(np.rint(w / scales), -4, 3)) ** 2).sum(axis=1).min()
        ratios.append(loss(w, dash_q(w, h, spec("int3", scheme="sym_full")), h) / best)
    assert min(ratios) > 1 - 1e-3
    assert np.median(ratios) < 1.25


@given(st.integers(0, 2**32 - 1), st.sampled_from(SCHEMES), st.sampled_from([2, 3, 4]), st.sampled_from([None, "float16"]))
def test_it_is_never_worse_than_rtn(seed, scheme, bits, scale_format):
    rng = np.random.default_rng(seed)
    w, h = rng.standard_normal((3, 17)) * np.exp(rng.standard_normal((3, 1))), np.exp(2 * rng.standard_normal(17))
    h[rng.random(17) < 0.2] = 0
    chosen = spec(f"int{bits}", scheme=scheme, group_size=7, scale_format=scale_format)
    assert loss(w, dash_q(w, h, chosen), h) <= loss(w, rtn(w, chosen), h) * (1 + 1e-12)


@given(st.integers(0, 2**32 - 1), st.sampled_from(SCHEMES), st.sampled_from(["bfloat16", "float32"]))
def test_more_turns_are_never_worse(seed, scheme, scale_format):
    """Zero points and scales that are rounded could undo what the closed forms gain; such turns do not count."""
    rng = np.random.default_rng(seed)
    w, h = rng.standard_normal((8, 14)) + rng.standard_normal((8, 1)), np.exp(3 * rng.standard_normal(14))
    chosen = spec("int3", scheme=scheme, group_size=7, scale_format=scale_format)
    losses = [loss(w, dash_q(w, h, chosen, steps=steps), h) for steps in range(6)]
    assert all(after <= before * (1 + 1e-12) for before, after in pairwise(losses))


def test_it_gains_where_columns_differ():
    rng = np.random.default_rng(7)
    w, h = rng.standard_normal((16, 64)), np.exp(2 * rng.standard_normal(64))
    for scheme in SCHEMES:
        chosen = spec("int3", scheme=scheme, group_size=20)
        assert loss(w, dash_q(w, h, chosen), h) < 0.75 * loss(w, rtn(w, chosen), h), scheme


def test_a_constant_factor_and_columns_that_do_not_count_change_nothing():
    rng = np.random.default_rng(9)
    w, h = rng.standard_normal((4, 16)), rng.random(16)
    chosen = spec("int3", group_size=8)
    assert dash_q(w, h, chosen).digest() == dash_q(w, 4 * h, chosen).digest()
    assert dash_q(w, np.zeros(16), chosen).digest() == rtn(w, chosen).digest()
    assert dash_q(w, h, chosen, steps=0).digest() == rtn(w, chosen).digest()


@pytest.mark.parametrize(
    ("h", "chosen", "error", "message"),
    [
        (np.ones(3), spec("int4"), InputError, "needs an importance"),
        (np.array([1.0, -1.0]), spec("int4"), InputError, "not negative"),
        (np.array([1.0, np.nan]), spec("int4"), InputError, "not negative"),
        (np.ones(2), spec("nf4"), UsageError, "not an integer format"),
        (np.ones(2), spec("mxfp4"), UsageError, "nested"),
    ],
)
def test_what_does_not_fit_is_refused(h, chosen, error, message):
    with pytest.raises(error, match=message):
        dash_q(np.ones((1, 2)), h, chosen)
