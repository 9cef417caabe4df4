"""IA-AQ: the loss as a plain norm in loops, the search against brute force and the oracle, and what the options mean."""

import itertools
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refquant import oracle
from refquant.core import spec
from refquant.errors import InputError, UsageError
from refquant.methods.activation.static import Extremes, quantize_static, static_grid
from refquant.methods.diffusion.ia_aq import ALPHAS, AttentionSample, ia_aq

INT4 = spec("int4")


def sample(seed, heads=4, kv_heads=2, tokens=7, features=3, rows=False):
    rng = np.random.default_rng(seed)
    a = rng.dirichlet(np.full(tokens, 0.3), size=(heads, tokens))
    v = rng.standard_t(3, size=(kv_heads, tokens, features))
    return AttentionSample(probabilities=a, values=v, query_rows=rng.random(tokens) < 0.5 if rows else None)


def rounded(v, scale, zero, bits=4):
    """Fake quantization in loops over the definition."""
    out = np.empty_like(v)
    for index in np.ndindex(v.shape):
        code = min(max(int(np.rint(v[index] / scale)) + zero, 0), 2**bits - 1)
        out[index] = scale * (code - zero)
    return out


def norm_in_loops(samples, head, scale, zero, features=slice(None)):
    """[IAAQ-2] |A (V_hat - V)|_F^2 over all samples and over the heads that share this kv head."""
    total = 0.0
    for s in samples:
        share = s.probabilities.shape[0] // s.values.shape[0]
        v = s.values[head][:, features]
        delta = rounded(v, scale, zero) - v
        for h in range(head * share, (head + 1) * share):
            a = s.probabilities[h] if s.query_rows is None else s.probabilities[h][s.query_rows]
            for query in range(len(a)):
                for feature in range(delta.shape[1]):
                    total += sum(a[query, t] * delta[t, feature] for t in range(len(delta))) ** 2
    return total


def widest(samples, head, features=slice(None)):
    """[IAAQ-1] s0 and z from the extremes over all samples, 0 included."""
    numbers = np.concatenate([s.values[head][:, features].ravel() for s in samples])
    lo, hi = min(numbers.min(), 0), max(numbers.max(), 0)
    return (hi - lo) / 15, int(np.rint(-lo / ((hi - lo) / 15)))


def test_the_default_candidates():
    """[IAAQ-3] 1.00, 0.99, ..., 0.80."""
    assert [Fraction(str(a)) for a in ALPHAS] == [Fraction(100 - i, 100) for i in range(21)]


@settings(max_examples=15)
@given(seed=st.integers(0, 2**32), rows=st.booleans())
def test_gram_form_is_the_direct_norm(seed, rows):
    """[IAAQ-1] [IAAQ-2] [IAAQ-4]"""
    samples = [sample(seed, rows=rows), sample(seed + 1, tokens=5, rows=rows)]
    alphas = (1.0, 0.93, 0.8)
    choice = ia_aq(samples, INT4, alphas=alphas)
    for head in range(2):
        scale, zero = widest(samples, head)
        assert int(choice.grid.zero[head, 0, 0]) == zero
        for k, alpha in enumerate(alphas):
            assert choice.losses[k, head, 0] == pytest.approx(norm_in_loops(samples, head, alpha * scale, zero), rel=1e-9, abs=1e-15)


@settings(max_examples=40)
@given(
    seed=st.integers(0, 2**32),
    per=st.sampled_from(["head", "feature"]),
    gram=st.sampled_from(["exact", "mass"]),
    scheme=st.sampled_from(["asym_incl0", "asym_minmax", "sym_full"]),
    bits=st.integers(2, 6),
)
def test_never_above_min_max_and_the_grid_is_the_chosen_candidate(seed, per, gram, scheme, bits):
    """[IAAQ-3]"""
    samples, how = [sample(seed), sample(seed + 1)], spec(f"int{bits}", scheme=scheme)
    choice = ia_aq(samples, how, per=per, gram=gram)
    least = np.take_along_axis(choice.losses, choice.chosen[None], axis=0)[0]
    assert (least <= choice.losses).all()
    assert (least <= choice.losses[0]).all()
    assert choice.alphas[0] == 1
    plain = ia_aq(samples, how, alphas=(1.0,), per=per, gram=gram)
    alpha = np.array(choice.alphas)[choice.chosen].reshape(choice.grid.scale.shape)
    np.testing.assert_allclose(choice.grid.scale, alpha * plain.grid.scale, rtol=1e-14)
    if scheme != "sym_full":
        np.testing.assert_array_equal(choice.grid.zero, plain.grid.zero)
    if gram == "exact":  # and what the layer computes at run time has that loss
        direct = 0.0
        for s in samples:
            delta = quantize_static(s.values, choice.grid, choice.spec) - s.values
            direct += (np.einsum("hqt,htf->hqf", s.probabilities, np.repeat(delta, 2, axis=0)) ** 2).sum()
        assert least.sum() == pytest.approx(direct, rel=1e-9)


@pytest.mark.parametrize("per", ["head", "feature"])
def test_alpha_1_is_min_max(per):
    """[IAAQ-1] The same bytes as a static grid of the extremes."""
    samples = [sample(3), sample(4)]
    seen = Extremes.of(samples[0].values, axis=1).merge(Extremes.of(samples[1].values, axis=1))
    choice = ia_aq(samples, spec("int4", scale_format="float16"), alphas=(1.0,), per=per)
    grid = static_grid(seen, choice.spec)
    assert choice.grid.scale.dtype == np.float16
    assert choice.grid.scale.tobytes() == grid.scale.tobytes()
    assert choice.grid.zero.tobytes() == grid.zero.tobytes()
    assert choice.grid.scale.shape == ((2, 1, 1) if per == "head" else (2, 1, 3))


@settings(max_examples=25)
@given(seed=st.integers(0, 2**32), bits=st.integers(2, 4))
def test_against_the_exact_search(seed, bits):
    """[IAAQ-2] [IAAQ-3] Losses in Fractions; the same candidate unless two lie within rounding error."""
    s = sample(seed, heads=1, kv_heads=1, tokens=4, features=2)
    v = s.values - s.values.mean()  # both signs, so that a range with 0 is the range as found
    choice = ia_aq([AttentionSample(probabilities=s.probabilities, values=v)], spec(f"int{bits}"))
    exact = oracle.search_value_scale([(oracle.matrix(s.probabilities[0]), oracle.matrix(v[0]))], bits)
    losses = [float(x) for x in exact.losses][::-1]
    np.testing.assert_allclose(choice.losses[:, 0, 0], losses, rtol=1e-9, atol=1e-15)
    runner_up = sorted(losses)[1]
    if runner_up > min(losses) * (1 + 1e-9):
        assert int(choice.chosen[0, 0]) == 20 - exact.index


def test_equal_losses_take_the_larger_alpha():
    """[IAAQ-3] Nobody attends: every candidate loses nothing. And the first of a given order wins."""
    v = np.array([[[1.0], [-1.0]]])
    silent = AttentionSample(probabilities=np.zeros((1, 2, 2)), values=v)
    assert ia_aq([silent], INT4).chosen.tolist() == [[0]]
    assert ia_aq([silent], INT4, alphas=(0.8, 1.0)).chosen.tolist() == [[0]]
    hidden = AttentionSample(probabilities=np.full((1, 2, 2), 0.5), values=v, query_rows=np.zeros(2, bool))
    assert ia_aq([hidden], INT4).chosen.tolist() == [[0]]


@pytest.mark.parametrize("seed", range(4))
def test_features_separate(seed):
    """[IAAQ-4] The best of each feature by itself is the best of all combinations."""
    samples, alphas = [sample(seed, heads=2, kv_heads=1, tokens=5)], (1.0, 0.94, 0.88, 0.8)
    choice = ia_aq(samples, INT4, alphas=alphas, per="feature")
    grids = [widest(samples, 0, slice(f, f + 1)) for f in range(3)]
    assert choice.grid.zero[0, 0].tolist() == [zero for _, zero in grids]

    def together(combination):
        out = np.stack(
            [rounded(samples[0].values[0, :, f], alphas[k] * s, z) for f, (k, (s, z)) in enumerate(zip(combination, grids, strict=True))],
            axis=-1,
        )
        return sum(((a @ (out - samples[0].values[0])) ** 2).sum() for a in samples[0].probabilities)

    best = min(itertools.product(range(4), repeat=3), key=together)
    assert choice.chosen[0].tolist() == list(best)
    assert np.take_along_axis(choice.losses, choice.chosen[None], 0).sum() == pytest.approx(together(best), rel=1e-9)


def test_heads_that_share_values_add_up():
    """Grouped queries: the loss of a kv head is the sum over the consecutive heads that it serves."""
    shared = sample(5, heads=6, kv_heads=2)
    repeated = AttentionSample(probabilities=shared.probabilities, values=np.repeat(shared.values, 3, axis=0))
    whole, single = ia_aq([shared], INT4), ia_aq([repeated], INT4)
    assert single.losses.shape == (21, 6, 1)
    np.testing.assert_allclose(whole.losses[:, :, 0], single.losses[:, :, 0].reshape(21, 2, 3).sum(axis=2), rtol=1e-9)


def test_query_rows_are_the_rows_that_count():
    full = sample(6, rows=True)
    kept = np.where(full.query_rows[:, None], full.probabilities, 0)
    zeroed = AttentionSample(probabilities=kept, values=full.values)
    np.testing.assert_allclose(ia_aq([full], INT4).losses, ia_aq([zeroed], INT4).losses, rtol=1e-12)
    everything = AttentionSample(probabilities=full.probabilities, values=full.values)
    assert not np.allclose(ia_aq([everything], INT4).losses, ia_aq([full], INT4).losses, rtol=0.01)


def test_mass_is_another_objective():
    """Two tokens of weight 1/2, errors of opposite sign: they cancel in A V but not in the masses, 0 against e^2, by hand."""
    v = np.array([[[1.5], [-1.5], [0.13], [-0.13]]])
    a = np.zeros((1, 4, 4))
    a[0, 0] = [0, 0, 0.5, 0.5]
    samples = [AttentionSample(probabilities=a, values=v)]
    how = spec("int4", scheme="sym_full")  # step 1.5 / 7, 0.13 becomes one step
    error = 1.5 / 7 - 0.13
    assert ia_aq(samples, how, alphas=(1.0,)).losses[0, 0, 0] == pytest.approx(0, abs=1e-30)
    assert ia_aq(samples, how, alphas=(1.0,), gram="mass").losses[0, 0, 0] == pytest.approx(error**2, rel=1e-12)
    s = sample(7)
    masses = ia_aq([s], INT4, alphas=(1.0,), gram="mass")
    delta = quantize_static(s.values, masses.grid, masses.spec) - s.values
    for head in range(2):
        mass = s.probabilities[2 * head : 2 * head + 2].sum(axis=(0, 1))
        assert masses.losses[0, head, 0] == pytest.approx(float((mass[:, None] * delta[head] ** 2).sum()), rel=1e-12)


def test_samples_add_up_in_any_order():
    samples = [sample(seed, tokens=4 + seed) for seed in range(4)]
    forth, back = ia_aq(samples, INT4), ia_aq(samples[::-1], INT4)
    np.testing.assert_allclose(forth.losses, back.losses, rtol=1e-12)
    assert forth.grid.scale.tobytes() == back.grid.scale.tobytes()
    twice = ia_aq(samples * 2, INT4)
    np.testing.assert_allclose(twice.losses, 2 * forth.losses, rtol=1e-12)
    np.testing.assert_array_equal(twice.chosen, forth.chosen)


def test_inputs_are_not_touched_and_may_be_float32():
    s = sample(8)
    before = s.probabilities.tobytes(), s.values.tobytes()
    ia_aq([s], INT4)
    assert (s.probabilities.tobytes(), s.values.tobytes()) == before
    narrow = AttentionSample(probabilities=s.probabilities.astype(np.float32), values=s.values.astype(np.float32))
    wide = AttentionSample(probabilities=narrow.probabilities.astype(float), values=narrow.values.astype(float))
    assert ia_aq([narrow], INT4).losses.tobytes() == ia_aq([wide], INT4).losses.tobytes()


A, V = np.full((2, 3, 3), 1 / 3), np.arange(6.0).reshape(1, 3, 2)


def bad(a=A, v=V, rows=None):
    return [AttentionSample(probabilities=A, values=V), AttentionSample(probabilities=a, values=v, query_rows=rows)]


@pytest.mark.parametrize(
    ("samples", "options", "error", "message"),
    [
        ([], {}, InputError, "at least one calibration sample"),
        (bad(a=A[0]), {}, InputError, r"sample 1: probabilities \(3, 3\) do not fit values \(1, 3, 2\)"),
        (bad(v=V[0]), {}, InputError, r"do not fit values \(3, 2\)"),
        (bad(a=A[:, :2]), {}, InputError, r"probabilities \(2, 2, 3\) do not fit"),
        (bad(v=V[:, :2]), {}, InputError, r"do not fit values \(1, 2, 2\)"),
        (bad(v=np.ones((3, 3, 2))), {}, InputError, r"do not fit values \(3, 3, 2\)"),
        (bad(a=np.empty((2, 0, 0)), v=np.empty((1, 0, 2))), {}, InputError, r"do not fit values \(1, 0, 2\)"),
        (bad(v=V[..., :1]), {}, InputError, r"sample 1 has values \(1, 3, 1\), sample 0 \(1, 3, 2\); only T may differ"),
        (bad(rows=np.ones(2, bool)), {}, InputError, r"query_rows is a boolean array of shape \(3,\), not bool of \(2,\)"),
        (bad(rows=np.arange(3)), {}, InputError, r"not int64 of \(3,\)"),
        (bad(a=A * np.nan), {}, InputError, "sample 1: the probabilities hold NaN or an infinity"),
        (bad(v=V - np.inf), {}, InputError, "sample 1: the values hold NaN or an infinity"),
        (bad(), {"alphas": ()}, UsageError, r"alphas lie in \(0, 1\]; got \(\)"),
        (bad(), {"alphas": (1.0, 0.0)}, UsageError, r"alphas lie in \(0, 1\]"),
        (bad(), {"alphas": (1.01,)}, UsageError, r"alphas lie in \(0, 1\]"),
        (bad(), {"alphas": (np.nan,)}, UsageError, r"alphas lie in \(0, 1\]"),
        (bad(), {"per": "token"}, UsageError, "per is 'head' or 'feature', not 'token'"),
        (bad(), {"gram": "trace"}, UsageError, "gram is 'exact' or 'mass', not 'trace'"),
        (bad(), {"spec": spec("int4", mse=True)}, UsageError, "a clip search needs all values"),
    ],
)
def test_refused(samples, options, error, message):
    with pytest.raises(error, match=message) as failure:
        ia_aq(**{"samples": samples, "spec": INT4} | options)
    assert "\n" not in str(failure.value)
