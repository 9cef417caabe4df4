"""The samplers of Dream and LLaDA2 against the public code, every intermediate state, and their settings."""

import itertools

import numpy as np
import pytest

import model
from model.choosing import inverse_cdf, keep_top_k, keep_top_p
from model.sampling_dream import times, without_replacement
from refquant.errors import InputError, NumericalError, UsageError
from refquant.numerics import FAST
from tests.model.golden import VARIANTS, Replay, expected, loaded, settings

DREAM, LLADA2 = "dream_gqa_f32", "llada2_moe_f32"
DREAM_CASES = [(variant, case) for variant in VARIANTS for case in settings(variant).get("dream_generate", [])]
LLADA2_CASES = [(variant, case) for variant in VARIANTS for case in settings(variant).get("llada2_generate", [])]
DREAM_KEYS = "max_new_tokens steps alg alg_temp temperature top_p top_k eps".split()
LLADA2_KEYS = "gen_length block_length steps threshold temperature eos_id mask_id".split()


def names(cases, key):
    return [f"{variant}-{case[key]}" for variant, case in cases]


def test_every_case_is_here():
    assert (len(DREAM_CASES), len(LLADA2_CASES)) == (7, 3)
    assert {case["alg"] for _, case in DREAM_CASES} == {"origin", "entropy", "maskgit_plus", "topk_margin"}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("variant", "case"), DREAM_CASES, ids=names(DREAM_CASES, "name"))
def test_every_state_of_dream(variant, case, dtype):
    data, place, states = expected(variant), f"dream_generate/{case['name']}/", []
    draws = Replay([data[name] for name in sorted(data) if name.startswith(place + "uniforms/")])
    found = model.generate_dream(
        loaded(variant, dtype),
        data[place + "prompt"],
        attention_mask=data.get(place + "attention_mask"),
        rng=draws,
        observer=lambda index, x: states.append((index, x.copy())),
        **{key: case[key] for key in DREAM_KEYS if key in case},
    )
    assert [index for index, _ in states] == list(range(case["steps"] + 1))
    np.testing.assert_array_equal(np.stack([x for _, x in states]), data[place + "x_steps"])
    np.testing.assert_array_equal(found, data[place + "out"])
    assert draws.left == []


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("variant", "case"), LLADA2_CASES, ids=names(LLADA2_CASES, "case"))
def test_every_window_of_llada2(variant, case, dtype):
    data, place, windows = expected(variant), f"llada2_generate/{case['case']}/", []
    given = {key: case[key] for key in LLADA2_KEYS if key in case}
    m, prompt = loaded(variant, dtype), data[place + "prompt"]
    found = model.generate_llada2(m, prompt, observer=lambda index, x: windows.append((index, x.copy())), **given)
    wanted = [data[name] for name in sorted(data) if name.startswith(place + "x_window/")]
    assert [index for index, _ in windows] == list(range(len(wanted) + 1))
    assert len(wanted) == case["forward_calls"]
    for (_, window), other in zip(windows, wanted):
        np.testing.assert_array_equal(window, other)
    np.testing.assert_array_equal(found, data[place + "returned"])
    for step, other in zip(model.denoise_llada2(m, prompt, **given), wanted, strict=True):
        np.testing.assert_array_equal(step.before, other)


def first_window(**changes):
    case = {key: value for key, value in LLADA2_CASES[0][1].items() if key in LLADA2_KEYS} | changes
    prompt = expected(LLADA2)["llada2_generate/0/prompt"]
    return prompt, case, list(model.denoise_llada2(loaded(LLADA2, "float32"), prompt, **case))


def test_llada2_ends_with_the_block_that_holds_an_end_of_text():
    prompt, case, steps = first_window()
    last = steps[-1].after
    in_first_block = int(last[0, 7])  # the prompt has 6 tokens, the block 8
    m = loaded(LLADA2, "float32")
    found = model.generate_llada2(m, prompt, **case | {"eos_id": in_first_block})
    where = int(np.flatnonzero(last[0, 6:] == in_first_block)[0])
    np.testing.assert_array_equal(found[0], last[0, 6 : 6 + where + 1])
    _, _, stopped = first_window(eos_id=in_first_block)
    assert {step.block for step in stopped} == {1}


def test_thresholds_and_schedules_of_llada2():
    _, _, steps = first_window(block_length=16, steps=16, threshold=0.0)
    assert len(steps) == 1  # every token exceeds 0, so one step fills the block
    _, _, steps = first_window(block_length=16, steps=16, threshold=1.0)  # 16 steps are capped at 10: 2, 2, 2, 2, 2, ...
    assert [np.count_nonzero(step.committed) for step in steps] == [2] * 5
    _, _, steps = first_window(block_length=16, steps=16, threshold=1.0, minimal_topk=5)  # 2 steps of 8
    assert [np.count_nonzero(step.committed) for step in steps] == [8, 2]


def test_llada2_may_end_within_a_block():
    prompt, case, steps = first_window(block_length=16, steps=16, threshold=1.0)
    ends = 0
    for stop in {int(token) for token in steps[-1].after[0, 6:]}:
        wanted = next(  # the first step that commits it with no mask before its first place
            step.step
            for step in steps
            if (stop in step.after[0, step.committed[0]] and 159 not in step.after[0, 6 : 6 + int(np.argmax(step.after[0, 6:] == stop))])
            or step is steps[-1]
        )
        _, _, early = first_window(block_length=16, steps=16, threshold=1.0, eos_id=stop, eos_early_stop=True)
        assert early[-1].step == wanted
        ends += wanted < 4
        found = model.generate_llada2(loaded(LLADA2, "float32"), prompt, **case | {"eos_id": stop, "eos_early_stop": True})
        assert found[0, -1] == stop
    assert ends


def test_llada2_blocks_do_not_see_later_ones():
    m = loaded(LLADA2, "float64")
    ids = np.arange(12)[None] * 7
    other = ids.copy()
    other[:, 8:] += 1
    mask = model.block_causal(12, 4)
    assert np.abs(m.logits(ids, mask) - m.logits(other, mask))[:, :8].max() < 1e-12
    assert np.abs(m.logits(ids) - m.logits(other))[:, :8].max() > 1e-3


def test_no_more_tokens_than_asked_for():
    m, prompt = loaded(LLADA2, "float32"), np.arange(5)[None]
    for length, block, steps in itertools.product((1, 3, 9), (2, 4), (1, 3, 50)):
        found = model.generate_llada2(m, prompt, gen_length=length, block_length=block, steps=steps, mask_id=159, eos_id=0)
        assert found.shape[1] <= length
        assert found.shape[1] == length or found[0, -1] == 0


def test_times_are_those_of_linspace():
    for steps, eps in ((1, 1e-3), (6, 1e-3), (512, 1e-3), (7, 0.5)):
        found = times(steps, eps)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, np.linspace(1, eps, steps + 1), rtol=0, atol=2e-7)
        assert (found[0], found[-1]) == (1, np.float32(eps))


def test_top_p_keeps_the_token_that_crosses():
    logits = np.log(np.array([[0.1, 0.4, 0.2, 0.3]]))
    for top_p, kept in ((0.05, [1]), (0.41, [1, 3]), (0.69, [1, 3]), (0.71, [1, 2, 3]), (0.95, [0, 1, 2, 3]), (None, [0, 1, 2, 3])):
        found = keep_top_p(logits, top_p, FAST)
        assert np.flatnonzero(found[0] > -100).tolist() == kept, top_p
        np.testing.assert_array_equal(found[0, kept], logits[0, kept])


def test_top_k_keeps_ties():
    found = keep_top_k(np.array([[1.0, 3.0, 2.0, 2.0, 0.0]]), 2)
    assert np.flatnonzero(found[0] > -100).tolist() == [1, 2, 3]
    assert keep_top_k(np.zeros((1, 3)), 9).tolist() == [[0, 0, 0]]


def test_draws_have_the_right_frequencies():
    rng = np.random.default_rng(0)
    weights = np.array([0.5, 0.0, 0.2, 0.3])
    found = inverse_cdf(np.tile(weights, (20000, 1)), rng.random(20000))
    np.testing.assert_allclose(np.bincount(found, minlength=4) / 20000, weights, atol=0.015)
    marks = without_replacement(np.tile(weights, (20000, 1)), np.full(20000, 2), rng.random((20000, 4)), FAST)
    assert (marks.sum(axis=1) == 2).all()
    pairs = {  # chance of the set {a, b}: a then b, or b then a
        (a, b): weights[a] * weights[b] / (1 - weights[a]) + weights[b] * weights[a] / (1 - weights[b]) for a, b in ((0, 2), (0, 3), (2, 3))
    }
    for (a, b), chance in pairs.items():
        assert abs((marks[:, a] & marks[:, b]).mean() - chance) < 0.015
    assert not marks[:, 1].any()


def test_origin_with_temperature_draws_for_what_it_commits():
    m, prompt = loaded(DREAM, "float32"), [[1, 2, 3]]
    given = {"max_new_tokens": 8, "steps": 4, "temperature": 0.8}
    run = [model.generate_dream(m, prompt, **given, rng=np.random.default_rng(seed)) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(run[0], run[1])
    assert (run[0] != run[2]).any()
    assert 195 not in run[0]
    steps = list(model.denoise_dream(m, prompt, max_new_tokens=8, steps=4, alg="entropy", alg_temp=0.5, rng=np.random.default_rng(2)))
    assert sum(np.count_nonzero(step.committed) for step in steps) == 8


def test_a_row_with_fewer_masks_loses_tokens_to_the_mask():
    m = loaded(DREAM, "float32")
    prompt = np.array([[5, 195, 195, 195], [5, 6, 7, 8]])  # 7 masks in one row, 4 in the other
    steps = list(model.denoise_dream(m, prompt, max_new_tokens=4, steps=1, alg="maskgit_plus"))
    np.testing.assert_array_equal(np.count_nonzero(steps[0].committed, axis=1), [5, 5])  # int((7 + 4) / 2)
    assert np.count_nonzero(steps[0].after[1] == 195) == 1


DREAM_SETTINGS = {
    "alg": ({"alg": "random"}, "alg is 'random'; allowed: origin, entropy, maskgit_plus, topk_margin"),
    "no rng": ({}, "rng is None with alg 'origin'"),
    "no rng for positions": ({"alg": "entropy", "alg_temp": 0.1}, "rng is None with alg_temp 0.1"),
    "no rng for tokens": ({"alg": "entropy", "temperature": 0.5}, "rng is None with temperature 0.5"),
    "eps": ({"eps": 0}, "eps is 0; allowed: a number above 0 and at most 1"),
    "top_p": ({"alg": "entropy", "top_p": 1.5}, "top_p is 1.5"),
    "top_k": ({"alg": "entropy", "top_k": 0}, "top_k is 0; allowed: an integer of at least 1"),
    "steps": ({"steps": 0}, "steps is 0"),
    "tokens": ({"alg": "entropy", "max_new_tokens": -1}, "max_new_tokens is -1"),
}


@pytest.mark.parametrize(("given", "message"), DREAM_SETTINGS.values(), ids=DREAM_SETTINGS)
def test_settings_of_dream(given, message):
    with pytest.raises(UsageError, match=message):
        model.denoise_dream(loaded(DREAM, "float32"), [[1]], **given)


LLADA2_SETTINGS = {
    "block": ({"block_length": 0}, "block_length is 0"),
    "threshold": ({"mask_id": 159, "threshold": float("nan")}, "threshold is nan"),
    "minimal": ({"minimal_topk": 200}, "minimal_topk is 200; allowed: at most gen_length 128"),
    "no mask": ({}, "mask_id .* is None; allowed: a token id, 0 to 159"),
    "eos": ({"mask_id": 159, "eos_id": 160}, "eos_id .* is 160"),
    "unknown": ({"remasking": "random"}, "there is no setting 'remasking'"),
    "no rng": ({"temperature": 1.0}, "rng is None with temperature 1.0"),
}


@pytest.mark.parametrize(("given", "message"), LLADA2_SETTINGS.values(), ids=LLADA2_SETTINGS)
def test_settings_of_llada2(given, message):
    with pytest.raises(UsageError, match=message):
        model.denoise_llada2(loaded(LLADA2, "float32"), [[1]], **given)


def test_llada2_takes_one_prompt_and_its_own_family():
    with pytest.raises(InputError, match="prompt_ids has 2 rows; allowed: 1"):
        model.generate_llada2(loaded(LLADA2, "float32"), [[1], [2]], mask_id=159)
    with pytest.raises(UsageError, match="this is a Dream model; allowed: one that takes block-causal masks"):
        model.generate_llada2(loaded(DREAM, "float32"), [[1]])


@pytest.mark.parametrize("variant", [DREAM, LLADA2])
def test_logits_that_are_not_finite_stop(variant):
    m = loaded(variant, "float32")
    name = m.linear_groups(0)[1][0]
    broken = m.replace({name: lambda x: np.full((*x.shape[:-1], m.config.d_model), np.inf, np.float32)})
    run = model.generate_dream if variant == DREAM else model.generate_llada2
    given = {"alg": "entropy", "max_new_tokens": 2, "steps": 1} if variant == DREAM else {"mask_id": 159, "gen_length": 2}
    with np.errstate(invalid="ignore", over="ignore"), pytest.raises((NumericalError, InputError)):
        run(broken, [[1]], **given)
