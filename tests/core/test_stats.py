"""Statistics against plain loops over integers, where every sum is exact, and at the edges."""

from __future__ import annotations

from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refquant.core import Stats, hessian
from refquant.core.metrics import mean_squared_error, noise_to_signal, output_error, signal_to_quantization_noise
from refquant.errors import InputError, NumericalError
from refquant.numerics.arrays import Array

integers = st.integers(-50, 50)


def tokens(features: int) -> st.SearchStrategy[Array]:
    return st.lists(st.lists(integers, min_size=features, max_size=features), max_size=7).map(
        lambda rows: np.array(rows, dtype=np.float64).reshape(len(rows), features)
    )


def same(a: Stats, b: Stats) -> bool:
    return a.tokens == b.tokens and a.hessian.tobytes() == b.hessian.tobytes() and a.absmax.tobytes() == b.absmax.tobytes()


@given(x=tokens(3), data=st.data())
def test_hessian_is_the_sum_of_its_tokens(x: Array, data: st.DataObject) -> None:
    roots = np.array(data.draw(st.lists(st.integers(0, 5), min_size=len(x), max_size=len(x))), dtype=np.float64)
    for weights, factors in ((None, np.ones(len(x))), (roots * roots, roots * roots)):
        h = hessian(x, weights)
        for i in range(3):
            for j in range(3):
                assert h[i, j] == sum(int(w) * int(t[i]) * int(t[j]) for w, t in zip(factors, x, strict=True))


@given(a=tokens(4), b=tokens(4), c=tokens(4))
def test_merging_is_associative_and_order_free_while_sums_are_exact(a: Array, b: Array, c: Array) -> None:
    of_a, of_b, of_c = Stats.of(a), Stats.of(b), Stats.of(c)
    together = Stats.of(np.concatenate([a, b, c]))
    assert same(of_a.merge(of_b).merge(of_c), together)
    assert same(of_a.merge(of_b.merge(of_c)), together)
    assert same(of_c.merge(of_a).merge(of_b), together)


def test_all_weights_one_is_no_weights_to_the_byte() -> None:
    x = np.random.Generator(np.random.PCG64(1)).standard_normal((5, 7, 6)).astype(np.float32)
    assert same(Stats.of(x, np.ones((5, 7))), Stats.of(x))


@pytest.mark.parametrize(
    "layout", [lambda x: x, np.asfortranarray, lambda x: np.repeat(x, 2, axis=1)[:, ::2], lambda x: np.repeat(x, 2, axis=0)[::2]]
)
def test_hessian_is_symmetric_in_any_layout(layout: object) -> None:
    x = layout(np.random.Generator(np.random.PCG64(2)).standard_normal((301, 37)))  # type: ignore[operator]
    h = hessian(x)
    assert np.array_equal(h, h.T)
    assert (np.linalg.eigvalsh(h) > 0).all()


def test_padding_tokens_may_hold_anything() -> None:
    x = np.array([[1.0, -2.0], [np.nan, np.inf], [3.0, 0.5]])
    stats = Stats.of(x, np.array([1.0, 0.0, 1.0]))
    assert (stats.tokens, stats.absmax.tolist()) == (2, [3.0, 2.0])
    assert same(stats, Stats.of(x[[0, 2]]))
    with pytest.raises(InputError, match="calibration input 1 holds nan at feature 0"):
        hessian(x)


def test_signalling_nans_are_nans_without_a_warning() -> None:
    for dtype, bits, kind in (
        (np.float16, 0x7D01, np.uint16),
        (ml_dtypes.bfloat16, 0x7F81, np.uint16),
        (np.float32, 0x7F800001, np.uint32),
    ):
        x = np.ones((3, 9), dtype=dtype)
        x.view(kind)[0, 1] = bits
        with pytest.raises(InputError, match="holds nan at feature 1"):
            hessian(x)
        assert Stats.of(x, np.array([0.0, 1.0, 1.0])).tokens == 2
        with pytest.raises(InputError, match="holds nan"):
            mean_squared_error(x, x)


def test_narrow_and_integer_inputs() -> None:
    x = np.array([[1.5, -2.0], [0.25, 3.0]])
    for dtype in (np.float16, ml_dtypes.bfloat16, np.float32):
        stats = Stats.of(x.astype(dtype))
        assert stats.hessian.dtype == np.float64
        assert stats.hessian.tolist() == hessian(x).tolist()
        assert stats.absmax.astype(float).tolist() == [1.5, 3.0]
    assert Stats.of(np.array([[-128, 3]], dtype=np.int8)).absmax.tolist() == [128.0, 3.0]


def test_nothing_to_count() -> None:
    stats = Stats.of(np.empty((0, 3)))
    assert (stats.tokens, stats.absmax.tolist(), stats.hessian.tolist()) == (0, [0.0] * 3, [[0.0] * 3] * 3)
    assert Stats.of(np.empty((4, 0))).hessian.shape == (0, 0)
    assert same(stats.merge(Stats.of(np.array([[1.0, 2.0, 3.0]]))), Stats.of(np.array([[1.0, 2.0, 3.0]])))
    assert Stats.of(np.full((2, 3), np.nan), np.zeros(2)).tokens == 0


def test_what_is_not_allowed_is_said() -> None:
    x = np.ones((3, 2))
    with pytest.raises(InputError, match=r"shape \[..., features\]; found \(3,\)"):
        hessian(np.ones(3))
    with pytest.raises(InputError, match="inputs have dtype complex128"):
        hessian(x * 1j)
    for weights in (np.ones(2), np.ones((3, 1))):
        with pytest.raises(InputError, match="token_weights has shape"):
            Stats.of(x, weights)
    for bad in (-1.0, np.nan, np.inf):
        with pytest.raises(InputError, match="finite and not negative"):
            Stats.of(x, np.array([1.0, 1.0, bad]))
    with pytest.raises(InputError, match="cannot merge statistics of 2 and 3 features"):
        Stats.of(x).merge(Stats.of(np.ones((1, 3))))
    with pytest.raises(InputError, match="statistics hold"):
        Stats(tokens=1, hessian=np.eye(3), absmax=np.ones(2))
    with pytest.raises(NumericalError, match=r"entry \(0, 0\) of the Hessian overflows"):
        hessian(np.array([[1e200, 1.0]]))
    huge = Stats.of(np.array([[1.2e154]]))
    with pytest.raises(NumericalError, match="overflows"):
        huge.merge(huge)


@given(a=st.lists(integers, min_size=1, max_size=9), data=st.data())
def test_metrics_are_ratios_of_exact_sums(a: list[int], data: st.DataObject) -> None:
    b = data.draw(st.lists(integers, min_size=len(a), max_size=len(a)))
    x, y = np.array(a, dtype=np.float32), np.array(b, dtype=np.float32)
    noise, signal = sum((i - j) ** 2 for i, j in zip(a, b, strict=True)), sum(i * i for i in a)
    assert mean_squared_error(x, y) == float(Fraction(noise, len(a)))
    if signal:
        assert noise_to_signal(x, y) == float(Fraction(noise, signal))
        assert noise_to_signal(x * np.float32(2.0**60), y * np.float32(2.0**60)) == float(Fraction(noise, signal))
    else:
        assert noise_to_signal(x, y) == (np.inf if noise else 0)


def test_metrics_at_the_edges() -> None:
    assert signal_to_quantization_noise(np.ones(2), np.ones(2)) == np.inf
    assert signal_to_quantization_noise(np.zeros(2), np.ones(2)) == -np.inf
    assert signal_to_quantization_noise(np.array([100.0]), np.array([99.0])) == pytest.approx(40)
    assert mean_squared_error(np.array([1e300]), np.array([-1e300])) == np.inf
    assert noise_to_signal(np.array([1e308]), np.array([-1e308])) == 4
    assert noise_to_signal(np.array([5e-324]), np.array([0.0])) == 1
    for bad in (np.nan, np.inf):
        with pytest.raises(InputError, match=r"approximation holds .* at index \(1,\)"):
            mean_squared_error(np.ones(2), np.array([1.0, bad]))
    with pytest.raises(InputError, match="must agree"):
        mean_squared_error(np.ones(2), np.ones(3))
    with pytest.raises(InputError, match="empty"):
        noise_to_signal(np.ones(0), np.ones(0))
    with pytest.raises(InputError, match="Hessian"):
        output_error(np.ones((2, 3)), np.ones((2, 3)), np.eye(2))


@given(rows=st.lists(st.lists(integers, min_size=3, max_size=3), min_size=1, max_size=4))
def test_output_error_is_the_error_of_the_outputs(rows: list[list[int]]) -> None:
    w = np.array(rows, dtype=np.float64)
    x = np.array([[1.0, 2.0, -1.0], [0.0, 3.0, 1.0], [5.0, 0.0, 2.0]])
    q = np.rint(w / 7) * 7
    by_hand = sum((sum((w[i, k] - q[i, k]) * t[k] for k in range(3))) ** 2 for t in x for i in range(len(w)))
    assert output_error(w, q, hessian(x)) == by_hand
