"""Static activation grids: extremes that can be gathered in any grouping, and saturation outside them."""

from functools import reduce

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refquant.core import Grid, Tiling, spec
from refquant.errors import InputError, UsageError
from refquant.methods.activation.static import Extremes, quantize_static, static_grid

PER_TENSOR, PER_FEATURE, PAIRS = (
    spec("int4", granularity="tensor"),
    spec("int4", tiling=Tiling((None, 1))),
    spec("int4", tiling=Tiling((None, 2))),
)


@given(st.integers(0, 2**32), st.lists(st.integers(1, 19), max_size=4))
def test_extremes_do_not_depend_on_the_batches(seed, cuts):
    """[STAT-1] Associative, commutative, idempotent: any cut, any order, any batch twice."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(20, 5)).astype(np.float32)
    batches = [*np.split(x, sorted(set(cuts))), x[:3]]
    rng.shuffle(batches)
    merged = reduce(Extremes.merge, [Extremes.of(b, axis=0) for b in batches])
    for feature in range(5):
        assert merged.lo[feature] == min(x[:, feature].tolist())
        assert merged.hi[feature] == max(x[:, feature].tolist())
    assert merged.lo.dtype == np.float32


def test_extremes_over_several_axes_are_read_only_copies():
    x = np.arange(24.0).reshape(2, 3, 4)
    seen = Extremes.of(x, axis=(0, 1))
    assert (seen.lo.tolist(), seen.hi.tolist()) == ([0, 1, 2, 3], [20, 21, 22, 23])
    with pytest.raises(ValueError, match="read-only"):
        seen.lo[0] = 9


def test_grids_by_hand():
    """[STAT-2] Extremes -3..0, 0..6, 1..2, 0.5..1.5: per tensor, per feature and per pair of features."""
    seen = Extremes.of(np.array([[-3.0, 6.0, 1.0, 0.5], [0.0, 0.0, 2.0, 1.5]]), axis=0)
    grid = static_grid(seen, PER_TENSOR)
    assert (grid.scale.tolist(), grid.zero.tolist()) == ([[9 / 15]], [[5]])
    grid = static_grid(seen, PER_FEATURE)
    assert (grid.scale.tolist(), grid.zero.tolist()) == ([[3 / 15, 6 / 15, 2 / 15, 1.5 / 15]], [[15, 0, 0, 0]])
    grid = static_grid(seen, PAIRS)
    assert (grid.scale.tolist(), grid.zero.tolist()) == ([[9 / 15, 2 / 15]], [[5, 0]])


def test_values_outside_the_calibrated_range_saturate():
    """[STAT-3] Calibrated on -1..2 at 4 bits, step 0.2."""
    grid = static_grid(Extremes.of(np.array([[-1.0], [2.0]]), axis=0), PER_FEATURE)
    x = np.array([[-50.0], [-1.0], [-0.29], [0.0], [0.31], [2.0], [2.09], [1e300]])
    expected = np.array([[-1.0], [-1.0], [-0.2], [0.0], [0.4], [2.0], [2.0], [2.0]])
    np.testing.assert_allclose(quantize_static(x, grid, PER_FEATURE), expected, rtol=1e-15)
    np.testing.assert_array_equal(quantize_static(x[2:3], grid, PER_FEATURE), quantize_static(x, grid, PER_FEATURE)[2:3])
    assert quantize_static(x[:-1].astype(np.float32), grid, PER_FEATURE).dtype == np.float32


def test_a_token_axis_in_the_middle():
    """Values of attention heads, ``[heads, tokens, features]``: one grid a head for all tokens."""
    v = np.random.default_rng(0).normal(size=(3, 7, 4))
    how = spec("int8", tiling=Tiling((1, None, None)))
    grid = static_grid(Extremes.of(v, axis=1), how)
    assert grid.scale.shape == (3, 1, 1)
    for head in range(3):
        lo, hi = min(v[head].min(), 0), max(v[head].max(), 0)
        assert grid.scale[head, 0, 0] == (hi - lo) / 255
    assert (np.abs(quantize_static(v, grid, how) - v) <= grid.scale * 1.0000001).all()


@pytest.mark.parametrize(
    ("what", "error", "message"),
    [
        (lambda: Extremes.of(np.empty((0, 3)), axis=0), InputError, r"at least one value; the array has shape \(0, 3\)"),
        (
            lambda: Extremes.of(np.ones((2, 3)), axis=0).merge(Extremes.of(np.ones((2, 4)), axis=0)),
            InputError,
            r"cannot merge extremes of shapes \(3,\) and \(4,\)",
        ),
        (
            lambda: static_grid(Extremes.of(np.ones((2, 3)), axis=0), spec("int4", granularity="token")),
            InputError,
            r"shared by all tokens; the tiling \(1, None\) cuts the token axis",
        ),
        (lambda: static_grid(Extremes.of(np.array([[1.0, np.nan]]), axis=0), PER_TENSOR), InputError, "are not finite"),
        (
            lambda: static_grid(Extremes.of(np.array([[1.0, np.nan]]), axis=0), spec("int4", granularity="tensor", nan="zero")),
            InputError,
            "are not finite",
        ),
        (lambda: static_grid(Extremes.of(np.array([[1.0, -np.inf]]), axis=0), PER_TENSOR), InputError, "are not finite"),
        (
            lambda: static_grid(Extremes.of(np.ones((2, 3)), axis=0), spec("int4", granularity="tensor", mse=True)),
            UsageError,
            "a clip search needs all values",
        ),
        (
            lambda: quantize_static(np.ones((2, 3)), static_grid(Extremes.of(np.ones((2, 4)), axis=0), PER_FEATURE), PER_FEATURE),
            InputError,
            r"does not fit shape \(2, 3\)",
        ),
        (lambda: quantize_static(np.array([[np.nan]]), Grid(scale=np.ones((1, 1)), zero=np.zeros((1, 1))), PER_TENSOR), InputError, "NaN"),
    ],
)  # fmt: skip
def test_refused(what, error, message):
    with pytest.raises(error, match=message):
        what()


@pytest.mark.parametrize("shape", [(0, 3), (2, 0, 3)])
def test_no_tokens_give_none(shape):
    """As for an expert that gets none; a grid for other features is refused all the same."""
    tilings = Tiling((None, 1)) if len(shape) == 2 else Tiling((1, None, 1))
    how = spec("int4", tiling=tilings)
    seen = np.random.default_rng(0).standard_normal((*shape[:-2], 4, 3))
    grid = static_grid(Extremes.of(seen, axis=-2), how)
    for dtype in (np.float32, np.float64):
        found = quantize_static(np.zeros(shape, dtype), grid, how)
        assert (found.shape, found.dtype) == (shape, dtype)
    with pytest.raises(InputError, match="does not fit"):
        quantize_static(np.zeros((*shape[:-1], 4)), grid, how)
