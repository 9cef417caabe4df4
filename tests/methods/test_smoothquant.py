"""SmoothQuant against the authors' code, and the laws of its factors."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file

from refquant.core.rewrite import rewrite_tensors
from refquant.errors import InputError, NumericalError, UsageError
from refquant.methods.scale.site import ScaleSite
from refquant.methods.scale.smoothquant import smoothing_factors, smoothquant

RECORDED = load_file(Path(__file__).parents[1] / "data" / "quant" / "smoothquant_factors.safetensors")
ROLES = {"norm": "norm", "q": "linear", "k": "linear"}
SITE = ScaleSite(place="attn_in", searched=("q", "k"), consumers=("q", "k"), producer="norm")
ULP = {"f16": 2.0**-11, "f32": 2.0**-24, "f64": 2.0**-53}


def recorded(dtype, alpha):
    """Inputs of one recorded case, and what came out."""
    first, own = f"smooth.{dtype}.a0.5.", f"smooth.{dtype}.a{alpha}."
    inputs = {name: RECORDED[first + name] for name in ("act_absmax", "ln_w_in", "ln_b_in", "w0_in", "w1_in")}
    return inputs, {name.removeprefix(own): array for name, array in RECORDED.items() if name.startswith(own)}


@pytest.mark.parametrize("alpha", ["0.0", "0.5", "0.75", "1.0"])
@pytest.mark.parametrize("dtype", ["f16", "f32", "f64"])
def test_factors_are_the_authors(dtype, alpha):
    """[SMOOTH-1] [SMOOTH-2]: equal where no power is taken; elsewhere torch's power is off by a unit in the last place or two."""
    inputs, out = recorded(dtype, alpha)
    weights = [inputs["w0_in"], inputs["w1_in"]]
    if not np.isfinite(out["scales"]).all():  # their float16 code stores infinities
        with pytest.raises(NumericalError, match="overflows float16"):
            smoothing_factors(inputs["act_absmax"], weights, float(alpha))
        return
    found = smoothing_factors(inputs["act_absmax"], weights, float(alpha))
    assert found.dtype == out["scales"].dtype
    if alpha in ("0.0", "1.0") or dtype == "f16":
        np.testing.assert_array_equal(found, out["scales"])
    np.testing.assert_allclose(found.astype(float), out["scales"].astype(float), rtol=6 * ULP[dtype])


@pytest.mark.parametrize("alpha", ["0.0", "1.0"])
@pytest.mark.parametrize("dtype", ["f32", "f64"])
def test_the_rewritten_layer_is_the_authors_byte_for_byte(dtype, alpha):
    """[SMOOTH-3], behind a norm with a bias."""
    inputs, out = recorded(dtype, alpha)
    tensors = {"norm.weight": inputs["ln_w_in"], "norm.bias": inputs["ln_b_in"], "q.weight": inputs["w0_in"], "k.weight": inputs["w1_in"]}
    rewrite = smoothquant(SITE, inputs["act_absmax"], {"q": inputs["w0_in"], "k": inputs["w1_in"]}, float(alpha))
    found = rewrite_tensors(rewrite, tensors, ROLES)
    for name, ours in (("ln_w", "norm.weight"), ("ln_b", "norm.bias"), ("w0", "q.weight")):
        if name in out:
            np.testing.assert_array_equal(found[ours], out[name])


def test_a_gain_that_overflows_raises_where_their_code_stores_infinities():
    inputs, out = recorded("f16", "0.5")
    assert not np.isfinite(out["ln_w"]).all()
    tensors = {"norm.weight": inputs["ln_w_in"], "norm.bias": inputs["ln_b_in"], "q.weight": inputs["w0_in"], "k.weight": inputs["w1_in"]}
    rewrite = smoothquant(SITE, inputs["act_absmax"], {"q": inputs["w0_in"], "k": inputs["w1_in"]}, 0.5)
    with pytest.raises(NumericalError, match=r"norm\.weight.*does not fit float16"):
        rewrite_tensors(rewrite, tensors, ROLES)


magnitudes = st.lists(st.integers(0, 1 << 20), min_size=1, max_size=6)


@given(st.data())
def test_alpha_one_half_gives_both_sides_the_root_of_the_product(data):
    """With every magnitude a square of a power of two the identity is exact."""
    n = data.draw(st.integers(1, 6))
    powers = st.lists(st.integers(-6, 6), min_size=n, max_size=n)
    a, m = (4.0 ** np.array(data.draw(powers)) for _ in range(2))
    s = smoothing_factors(a, [np.stack([m, -m / 2])], 0.5)
    np.testing.assert_array_equal(a / s, np.sqrt(a) * np.sqrt(m))
    np.testing.assert_array_equal(m * s, np.sqrt(a) * np.sqrt(m))


@given(magnitudes, st.integers(0, 2**32 - 1))
def test_whole_powers_by_fractions(a, seed):
    """alpha 0 and 1 round one quotient; floors as in the code."""
    a = np.array(a, dtype=np.float64)
    w = np.random.default_rng(seed).integers(-8, 9, (3, len(a))) / 8.0
    m = [max(Fraction(float(v)), Fraction(1e-5)) for v in np.abs(w).max(0)]
    zero, one = smoothing_factors(a, [w], 0.0), smoothing_factors(a, [w], 1.0)
    for j, top in enumerate(m):
        assert zero[j] == max(float(1 / top), 1e-5)
        assert one[j] == max(a[j], 1e-5)


def test_the_two_readings_of_the_weight_maximum_and_the_floor():
    small, large = np.full((2, 2), 0.25), np.full((2, 2), 4.0)
    a = np.array([4.0, 0.0])
    assert smoothing_factors(a, [small, large]).tolist() == [1.0, 1e-5]
    assert smoothing_factors(a, [small, large], weight_maximum="first").tolist() == [4.0, 1e-5]
    floored = smoothing_factors(a, [small, large], weight_maximum="first", activation_floor=1e-5)
    np.testing.assert_allclose(floored[1], np.sqrt(1e-5) / 0.5, rtol=1e-15)


def test_the_linears_that_are_counted():
    """DuQuant's and the QDLM study's codes look at one linear of a place, whichever place in the list it has."""
    weights = {"q": np.full((2, 2), 0.25), "k": np.full((2, 2), 4.0)}
    a = np.array([4.0, 4.0])
    found = {counted: smoothquant(SITE, a, weights, counted=counted).steps[0].transform.factors[0] for counted in ((), ("q",), ("k",))}
    assert found == {(): 1.0, ("q",): 4.0, ("k",): 1.0}
    with pytest.raises(UsageError, match="'v' is no linear of attn_in; counted are some of q, k"):
        smoothquant(SITE, a, weights, counted=("v",))


def product_error(x, w, bits, factors=1.0, tokens=slice(None)):
    """Relative error of these tokens' products, both sides rounded by one scale a tensor behind factors; plain NumPy."""

    def rounded(a):
        step = np.abs(a).max() / (2 ** (bits - 1) - 1)
        return np.rint(a / step) * step

    exact = x @ w.T
    change = (rounded(x / factors) @ rounded(w * factors).T - exact)[tokens]
    return np.sqrt((change * change).sum() / (exact[tokens] * exact[tokens]).sum())


def test_what_smoothing_is_worth():
    """At 8 bits a channel 100 times as large costs the others, and smoothing gives them back; one massive token at 4 bits it does not."""
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((64, 32)), rng.standard_normal((16, 32))
    loud, small = x.copy(), w.copy()
    loud[:, 5] *= 100
    small[:, 5] /= 100
    factors = smoothing_factors(np.abs(loud).max(axis=0), [small])
    assert product_error(loud, small, 8) > 0.4
    assert product_error(loud, small, 8, factors) < 0.02
    massive, others = x.copy(), np.arange(64) != 3
    massive[3, 5] = 3e5
    factors = smoothing_factors(np.abs(massive).max(axis=0), [w])
    assert product_error(x, w, 4, tokens=others) < 0.25
    assert product_error(massive, w, 4, factors, others) > 0.9


def test_what_does_not_fit_is_refused():
    a, w = np.ones(2), np.ones((3, 2))
    for wrong, allowed in (
        (lambda: smoothing_factors(a, [w], 1.5), "alpha lies in"),
        (lambda: smoothing_factors(a, [w], weight_maximum="last"), "'all' or 'first'"),
        (lambda: smoothing_factors(a, [w], activation_floor=-1), "at least 0"),
    ):
        with pytest.raises(UsageError, match=allowed):
            wrong()
    for wrong, allowed in (
        (lambda: smoothing_factors(a, []), "no weight"),
        (lambda: smoothing_factors(a, [w, w.astype(np.float32)]), "one dtype"),
        (lambda: smoothing_factors(np.ones(3), [w]), "channels"),
        (lambda: smoothing_factors(-a, [w]), "not negative"),
        (lambda: smoothing_factors(a, [w * np.nan]), "not finite"),
    ):
        with pytest.raises(InputError, match=allowed):
            wrong()
    blocked = ScaleSite(place="attn_out", searched=("q",), consumers=("q",), obstacle="grouped heads")
    with pytest.raises(InputError, match="attn_out of q takes no factors: grouped heads"):
        smoothquant(blocked, a, {"q": w})
