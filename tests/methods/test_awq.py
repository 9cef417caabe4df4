"""AWQ against the authors' code on one layer: losses of all candidates, factors, limits; and the laws of both searches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file

from refquant.core import spec
from refquant.errors import InputError, NumericalError, UsageError
from refquant.methods.scale.awq import awq, channel_factors, search_factors
from refquant.methods.scale.limits import clip_to_limits, search_limits
from refquant.methods.scale.site import ScaleSite

RECORDED = load_file(Path(__file__).parents[1] / "data" / "quant" / "llm_awq_search.safetensors")
W = {name.rpartition(".")[2]: array for name, array in RECORDED.items() if name.startswith("search.w.")}
X = {name.rpartition(".")[2]: array for name, array in RECORDED.items() if name.startswith("search.x.")}
HEADS, WIDTH = 4, 32


def heads(x):
    return x.reshape(len(x), HEADS, WIDTH).transpose(1, 0, 2)


def rope(x):
    turned = np.concatenate([-x[..., WIDTH // 2 :], x[..., : WIDTH // 2]], axis=-1)
    return x * RECORDED["search.cos"][0] + turned * RECORDED["search.sin"][0]


def attention(weights):
    q, k, v = (heads(X["q_proj"] @ w.T) for w in weights)
    scores = rope(q) @ rope(k).transpose(0, 2, 1) / np.float32(np.sqrt(WIDTH))
    scores = np.exp(scores - scores.max(-1, keepdims=True))
    mixed = scores / scores.sum(-1, keepdims=True) @ v
    return mixed.transpose(1, 0, 2).reshape(len(X["q_proj"]), -1) @ W["o_proj"].T


def mlp(weights):
    gate, up = (X["gate_proj"] @ w.T for w in weights)
    return (gate / (1 + np.exp(-gate)) * up) @ W["down_proj"].T


SETS = {
    "self_attn.q_proj": (("q_proj", "k_proj", "v_proj"), attention),
    "self_attn.o_proj": (("o_proj",), None),
    "mlp.gate_proj": (("gate_proj", "up_proj"), mlp),
    "mlp.down_proj": (("down_proj",), None),
}


@pytest.mark.parametrize("group", [32, 128])
@pytest.mark.parametrize("bits", [3, 4])
@pytest.mark.parametrize("place", SETS)
def test_the_search_for_factors_is_the_authors(place, bits, group):
    """[AWQ-1] [AWQ-2] [AWQ-3]: every candidate's loss, the choice, the factors, to the rounding of float32 sums."""
    names, outputs = SETS[place]
    out = {k: RECORDED[f"search.b{bits}.g{group}.{place}.{k}"] for k in ("losses", "scales", "best_ratio", "x_mean_abs")}
    found = search_factors(X[names[0]], [W[n] for n in names], spec(f"int{bits}", group_size=group, scheme="asym_minmax"), outputs)
    assert found.alpha == out["best_ratio"][0]
    np.testing.assert_allclose(found.magnitudes, out["x_mean_abs"], rtol=1e-6)
    np.testing.assert_allclose(found.factors, out["scales"], rtol=1e-6)
    np.testing.assert_allclose(found.losses, out["losses"], rtol=1e-5)


@pytest.mark.parametrize("name", ["mlp.up_proj", "self_attn.v_proj"])
def test_the_search_for_limits_is_the_authors(name):
    """[AWQ-4] [AWQ-5]: all 512 limits of each weight."""
    last = name.rpartition(".")[2]
    found = search_limits(W[last], X[last], spec("int4", group_size=32, scheme="asym_minmax"), sample_tokens=8)
    np.testing.assert_array_equal(found.limits, RECORDED[f"clip.b4.g32.{name}.max"][..., 0])


def test_limits_on_groups_are_those_of_each_group_alone_ragged_tail_included():
    rng = np.random.default_rng(3)
    w, x = rng.normal(size=(5, 22)), rng.normal(size=(40, 22))
    whole = search_limits(w, x, spec("int3", group_size=8, scheme="sym_full"))
    for g, columns in enumerate((slice(0, 8), slice(8, 16), slice(16, 22))):
        alone = search_limits(w[:, columns], x[:, columns], spec("int3", scheme="sym_full"))
        np.testing.assert_array_equal(whole.limits[:, g], alone.limits[:, 0])
        for i, loss in enumerate(whole.losses[:, :, g]):  # the plain formula, one number at a time
            for r in range(len(w)):
                limit = np.abs(w[r, columns]).max() * (1 - i / 20)
                clipped = np.clip(w[r, columns], -limit, limit)
                s = np.abs(clipped).max() / 3
                change = s * np.clip(np.rint(clipped / s), -4, 3) - w[r, columns]
                np.testing.assert_allclose(loss[r], np.mean((x[:, columns] @ change) ** 2), rtol=1e-9)


@given(st.integers(0, 2**32 - 1), st.integers(2, 5), st.sampled_from([1, 3, 4, 16]))
def test_laws_of_the_searches(seed, bits, group):
    rng = np.random.default_rng(seed)
    w, x = rng.standard_t(2, (3, 12)), rng.standard_t(2, (9, 12))
    s = spec(f"int{bits}", group_size=group, scheme="asym_minmax")
    found = search_factors(x, [w], s)
    assert found.losses[0] >= found.losses.min() == found.losses[round(found.alpha * 20)]
    assert not (found.losses[: round(found.alpha * 20)] <= found.losses.min()).any()  # the first wins ties
    np.testing.assert_array_equal(channel_factors(found.magnitudes, 0.0), np.ones(12))
    np.testing.assert_allclose(found.factors.max() * found.factors.min(), 1, rtol=1e-12)
    limits = search_limits(w, x, s)
    top = np.abs(s.tiling.blocks(w, 0.0)).max(axis=s.tiling.inner_axes)
    assert (limits.limits >= 0.55 * top * (1 - 1e-15)).all()
    assert (limits.limits <= top).all()
    clipped = clip_to_limits(w, limits.limits, s)
    assert (np.abs(clipped) <= np.abs(w)).all()


def test_the_first_candidate_wins_ties():
    """A weight of zeros has no error under any factor or limit, and inputs of zeros none under any weight."""
    rng = np.random.default_rng(4)
    s = spec("int3", group_size=4, scheme="sym_full")
    for w, x in ((np.zeros((3, 8)), rng.normal(size=(9, 8))), (rng.normal(size=(3, 8)), np.zeros((9, 8)))):
        assert search_factors(x, [w], s).alpha == 0
        np.testing.assert_array_equal(search_limits(w, x, s).limits, np.abs(w.reshape(3, 2, 4)).max(-1))


def test_every_so_manieth_token_is_looked_at():
    """As in the code: 11 tokens for a sample of 4 are every second one, which are 6."""
    rng = np.random.default_rng(6)
    w, x, s = rng.normal(size=(3, 8)), rng.normal(size=(11, 8)), spec("int3", scheme="asym_minmax")
    np.testing.assert_array_equal(search_limits(w, x, s, sample_tokens=4).losses, search_limits(w, x[::2], s).losses)


def test_token_weights_count_tokens_as_often_as_they_say():
    rng = np.random.default_rng(5)
    w, x, s = rng.normal(size=(4, 8)), rng.normal(size=(10, 8)), spec("int3", group_size=4, scheme="asym_minmax")
    counts = np.array([3, 1, 0, 2, 1, 1, 4, 0, 1, 1])
    weighted = search_factors(x, [w], s, token_weights=counts)
    repeated = search_factors(np.repeat(x, counts, axis=0), [w], s)
    np.testing.assert_allclose(weighted.losses, repeated.losses, rtol=1e-12)
    np.testing.assert_allclose(weighted.factors, repeated.factors, rtol=1e-12)
    limits = [search_limits(w, x, s, token_weights=counts), search_limits(w, np.repeat(x, counts, axis=0), s)]
    np.testing.assert_allclose(limits[0].losses, limits[1].losses, rtol=1e-10)
    np.testing.assert_allclose(
        search_factors(x, [w], s, token_weights=np.full(10, 2.5)).losses, search_factors(x, [w], s).losses, rtol=1e-12
    )


def test_duo_scaling_is_autoawqs_formula():
    rng = np.random.default_rng(7)
    w, x = [rng.normal(size=(n, 8)) for n in (3, 5)], rng.normal(size=(20, 8))
    found = search_factors(x, w, spec("int4", group_size=4, scheme="asym_minmax"), scaling="duo")
    both = np.concatenate(w).reshape(-1, 4)
    u = (np.abs(both) / (np.abs(both).max(1, keepdims=True) + 1e-6)).reshape(8, 8).mean(0)
    s = np.maximum(np.abs(x).mean(0) ** found.alpha / (u ** (1 - found.alpha) + 1e-4), 1e-4)
    np.testing.assert_allclose(found.factors, s / np.sqrt(s.max() * s.min()), rtol=1e-12)
    assert not np.allclose(channel_factors(found.magnitudes, 0.0, u), 1)


def test_a_salient_channel_raises_the_exponent():
    rng = np.random.default_rng(11)
    x, w = rng.normal(size=(256, 32)), rng.normal(size=(32, 32))
    x[:, 5] *= 100
    w[:, 5] /= 100
    assert search_factors(x, [w], spec("int3", group_size=32, scheme="asym_minmax")).alpha > 0


def test_the_rewrite_divides_the_producer_and_multiplies_the_consumers():
    rng = np.random.default_rng(13)
    x, w = rng.normal(size=(30, 8)) * np.arange(1, 9) ** 2, rng.normal(size=(4, 8))
    s = spec("int3", scheme="asym_minmax")
    site = ScaleSite(place="mlp_in", searched=("gate",), consumers=("gate", "router"), producer="fused", first=2, width=12)
    rewrite = awq(site, x, {"gate": w}, s)
    found = search_factors(x, [w], s)
    assert rewrite.notes == {"gate": found.alpha}
    assert rewrite.names == ("fused", "gate", "router")
    joint = rewrite.steps[0]
    np.testing.assert_array_equal(joint.transform.factors, np.concatenate([[1, 1], found.factors, [1, 1]]))
    np.testing.assert_array_equal(joint.consumed.factors, found.factors)


def test_what_does_not_fit_is_refused():
    w, x, s = np.ones((2, 4)), np.ones((3, 4)), spec("int4", scheme="asym_minmax")
    for wrong, told in (
        (lambda: search_factors(x[:0], [w], s), "at least one token"),
        (lambda: search_factors(x, [], s), "at least one weight"),
        (lambda: search_factors(x, [w.astype(np.float32)], s), "float64"),
        (lambda: search_factors(x * np.inf, [w], s), "an input holds a number that is not finite"),
        (lambda: search_factors(x, [w * np.nan], s, scaling="duo"), "a weight holds a number that is not finite"),
        (lambda: search_limits(w * np.inf, x, s), "a weight holds a number that is not finite"),
        (lambda: search_limits(w, x[:, :3], s), "found float64"),
        (lambda: search_factors(x, [w], s, token_weights=np.zeros(3)), "not all 0"),
    ):
        with pytest.raises(InputError, match=told):
            wrong()
    for wrong, told in (
        (lambda: search_factors(x, [w], s, candidates=0), "at least 1"),
        (lambda: search_limits(w, x, s, max_shrink=0.01), "nothing to try"),
        (lambda: search_limits(w, x, spec("int4", scheme="asym_minmax", granularity="tensor")), "row by row"),
    ):
        with pytest.raises(UsageError, match=told):
            wrong()
    large, rng = np.full((2, 4), 1e30, np.float32), np.random.default_rng(0)
    for wrong, told in (
        (lambda: search_factors(large, [large], s), "the module's own output is not finite in float32"),
        (lambda: search_factors(x, [w], s, lambda _: np.full((3, 2), np.nan)), "the module's own output is not finite in float64"),
        (lambda: search_factors(1e100 * rng.normal(size=(3, 4)), [1e100 * rng.normal(size=(2, 4))], s), "no candidate of 20 has finite"),
    ):
        with pytest.raises(NumericalError, match=told):
            wrong()


@pytest.mark.parametrize("scaling", ["activations", "duo"])
@pytest.mark.parametrize("kind", ["silent channel", "silent inputs", "no weights", "all alike", "subnormal", "one token", "one channel"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_corners_have_finite_factors_and_limits(dtype, kind, scaling):
    """Ragged groups throughout: 37 channels in groups of 16. No limit is above its group's maximum."""
    rng = np.random.default_rng(3)
    x, w = rng.standard_normal((5, 37)).astype(dtype), rng.standard_normal((3, 37)).astype(dtype)
    match kind:
        case "silent channel":
            x[:, 4] = 0
        case "silent inputs":
            x[:] = 0
        case "no weights":
            w[:] = 0
        case "all alike":
            x[:], w[:] = 1, 1
        case "subnormal":
            x, w = x * np.finfo(dtype).tiny, w * np.finfo(dtype).tiny
        case "one token":
            x = x[:1]
        case "one channel":
            x, w = x[:, :1], w[:, :1]
    s = spec("int3", scheme="asym_minmax", group_size=16)
    found = search_factors(x, [w, w[:2]], s, scaling=scaling)
    assert (np.isfinite(found.factors) & (found.factors > 0)).all()
    assert found.losses[round(found.alpha * 20)] == np.nanmin(found.losses)
    limits = search_limits(w, x, s).limits
    top = [np.abs(w[:, start : start + 16]).max(axis=1) for start in range(0, w.shape[1], 16)]
    assert limits.shape == (3, len(top))
    assert ((limits >= 0.549 * np.stack(top, axis=1)) & (limits <= np.stack(top, axis=1))).all()


def test_a_candidate_without_a_finite_loss_never_wins():
    x, w, s = np.ones((3, 4)), np.ones((2, 4)), spec("int4", scheme="asym_minmax")
    calls = iter([0.0, np.nan, np.inf, 3.0, 2.0, 5.0])  # the module as it is, then five candidates
    found = search_factors(x, [w], s, lambda _: np.full((3, 1), next(calls)), candidates=5)
    assert found.alpha == 3 / 5
