"""Dynamic per-token quantization against QuaRot's ActQuantizer and against what a token may depend on."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file

from refquant.core import Tiling, spec
from refquant.errors import InputError
from refquant.methods.activation.per_token import quantize_per_token

QUAROT = load_file(Path(__file__).parents[1] / "data" / "quant" / "quarot_fake_quant.safetensors")
X = QUAROT["q.input"]


def same_numbers(found, expected):
    """Equal bytes, but for the sign of zero: QuaRot goes through integers, which have no -0."""
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal((found + 0.0).view(np.uint32), (expected + 0.0).view(np.uint32))


@pytest.mark.parametrize("clip", [1.0, 0.9])
@pytest.mark.parametrize("symmetric", [True, False])
def test_quarot(symmetric, clip):
    """[TOK-1] [TOK-2] Every row: zeros, constants, outliers of 1e4, 2^-60, one sign only."""
    how = spec("int4", scheme="sym_full" if symmetric else "asym_incl0", empty="unit_scale" if symmetric else None, range_ratio=clip)
    same_numbers(quantize_per_token(X, how), QUAROT[f"aq.b4.sym{int(symmetric)}.g-1.clip{clip}.deq"])


def test_quarot_in_groups_of_64():
    how = spec("int4", scheme="sym_full", empty="unit_scale", group_size=64)
    same_numbers(quantize_per_token(X, how), QUAROT["aq.b4.sym1.g64.clip1.0.deq"])


def test_the_floor_of_weights_is_not_that_of_activations():
    """``sym_full`` by itself floors the maximum at 1e-5, as QuaRot does for weights; the rows of 2^-60 and 1e-12 would vanish."""
    found = quantize_per_token(X, spec("int4", scheme="sym_full"))
    expected = QUAROT["aq.b4.sym1.g-1.clip1.0.deq"]
    assert np.flatnonzero((found != expected).any(axis=1)).tolist() == [7, 15]
    assert (found[[7, 15]] == 0).all()


def test_asymmetric_groups_of_one_value_are_finite():
    """QuaRot does not widen a group's range to 0, and gives NaN for a constant group; ours gives the constant."""
    theirs = QUAROT["aq.b4.sym0.g64.clip1.0.deq"]
    ours = quantize_per_token(X, spec("int4", group_size=64))
    assert np.isnan(theirs[1]).all()
    np.testing.assert_allclose(ours[1], 0.37, rtol=1e-6)
    assert np.isfinite(ours).all()
    both = [
        row for row in range(len(X)) if all(min(part) <= 0 <= max(part) and min(part) < max(part) for part in (X[row, :64], X[row, 64:]))
    ]
    assert len(both) > 8
    same_numbers(ours[both], theirs[both])


HOW = [spec("int4", scheme="sym_full", empty="unit_scale"), spec("int4"), spec("int4", group_size=5), spec("int8", scale_format="float16")]


@pytest.mark.parametrize("how", HOW)
@given(seed=st.integers(0, 2**32), keep=st.integers(1, 5))
def test_a_token_depends_on_itself_alone(how, seed, keep):
    x = np.random.default_rng(seed).standard_t(2, size=(6, 13))
    whole = quantize_per_token(x, how)
    assert quantize_per_token(x[:keep], how).tobytes() == whole[:keep].tobytes()
    assert quantize_per_token(x[keep : keep + 1], how).tobytes() == whole[keep : keep + 1].tobytes()
    assert quantize_per_token(x[::-1], how).tobytes() == whole[::-1].tobytes()


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_leading_axes_are_tokens(how, dtype):
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 13)).astype(dtype)
    found = quantize_per_token(x, how)
    assert (found.shape, found.dtype) == (x.shape, dtype)
    np.testing.assert_array_equal(found.reshape(24, 13), quantize_per_token(x.reshape(24, 13), how))


@pytest.mark.parametrize("how", HOW)
def test_a_token_of_zeros_stays_zero_and_half_precision_is_worked_in_float32(how):
    found = quantize_per_token(np.zeros((2, 13), np.float16), how)
    assert found.dtype == np.float32
    assert (found == 0).all()
    assert quantize_per_token(np.empty((0, 13)), how).shape == (0, 13)


@pytest.mark.parametrize(
    ("x", "how", "message"),
    [
        (X, spec("int4", granularity="tensor"), r"needs a tiling \(1, None\) or \(1, group size\), not \(None, None\)"),
        (X, spec("int4", tiling=Tiling((2, None))), r"not \(2, None\)"),
        (X, spec("int4", tiling=Tiling((1, 1, None))), r"not \(1, 1, None\)"),
        (X[0], spec("int4"), r"does not fit an array of shape \(128,\)"),
        (X.astype(int), spec("int4"), "dtype int64"),
        (np.array([[1.0, np.nan]]), spec("int4"), "NaN"),
        (np.array([[1.0], [np.inf]]), spec("int4"), r"tile \(1, 0\) .* infinity"),
    ],
)
def test_refused(x, how, message):
    with pytest.raises(InputError, match=message):
        quantize_per_token(x, how)
