"""The sampler and the likelihood bound against the public scripts, every intermediate state."""

import numpy as np
import pytest

import model
from model.likelihood import masked_losses
from tests.model.golden import RICH, VARIANTS, Replay, expected, loaded, settings

CASES = [(variant, case) for variant in VARIANTS for case in settings(variant)["generate"]]
NAMES = [f"{variant}-{case['name']}" for variant, case in CASES]
KEYWORDS = "gen_length block_length steps temperature cfg_scale remasking logits_eos_inf confidence_eos_eot_inf eos_id eot_id".split()


def arguments(variant, case):
    data, place = expected(variant), f"generate/{case['name']}/"
    given = {key: case[key] for key in KEYWORDS if key in case}
    draws = [data[name] for name in sorted(data) if name.startswith(place + "uniforms/")]
    return data[place + "prompt"], {**given, "attention_mask": data.get(place + "attention_mask"), "rng": Replay(draws)}


def test_every_case_is_here():
    assert len(CASES) == 38
    assert {case["name"] for variant, case in CASES if variant == RICH} >= {"masks_in_prompt", "left_padded_cfg"}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("variant", "case"), CASES, ids=NAMES)
def test_every_state_of_every_case(variant, case, dtype):
    prompt, given = arguments(variant, case)
    states = []
    found = model.generate(loaded(variant, dtype), prompt, observer=lambda index, x: states.append((index, x.copy())), **given)
    data, place = expected(variant), f"generate/{case['name']}/"
    assert [index for index, _ in states] == list(range(case["steps"] + 1))
    np.testing.assert_array_equal(np.stack([x for _, x in states]), data[place + "x_steps"])
    np.testing.assert_array_equal(found, data[place + "out"])
    assert np.count_nonzero(found == case["mask_id"]) == case["tokens_left_masked"]
    assert given["rng"].left == []


def test_logits_of_the_first_step():
    case = next(case for variant, case in CASES if variant == RICH and case["name"] == "one_block_16_steps")
    prompt, given = arguments(RICH, case)
    first = next(model.denoise(loaded(RICH, "float32"), prompt, **given))
    wanted = expected(RICH)["generate/one_block_16_steps/step0_logits_f32"]
    assert np.abs(first.logits - wanted).max() < 1e-5 * np.abs(wanted).max()


@pytest.mark.parametrize(("dtype", "tail", "bound"), [("float32", "value_f32", 1e-5), ("float64", "value_f64", 1e-13)])
@pytest.mark.parametrize("case", settings(RICH)["loglik"], ids=lambda case: f"case{case['case']}")
def test_likelihood_of_the_recorded_masks(case, dtype, tail, bound):
    data, place = expected(RICH), f"loglik/{case['case']}/"
    tokens = np.concatenate([data[place + "prompt"], data[place + "answer"]])
    losses = [
        masked_losses(loaded(RICH, dtype), x, p, tokens, case["prompt_len"], cfg_scale=case["cfg_scale"])
        for x, p in zip(data[place + "perturbed"], data[place + "p_mask"], strict=True)
    ]
    wanted = -data[place + tail][0]  # the script returns a log-likelihood, we its negative
    assert abs(np.mean(losses) - wanted) < bound * wanted


def test_mask_counts_are_those_of_the_recorded_batches():
    from model.likelihood import stratified_counts

    for case in settings(RICH)["loglik"]:
        data, place = expected(RICH), f"loglik/{case['case']}/"
        mask_id = loaded(RICH, "float32").config.mask_token_id
        for copies in data[place + "perturbed"]:
            counts = np.count_nonzero(copies == mask_id, axis=1)
            found = stratified_counts(int(counts[0]), case["answer_len"], len(copies))
            np.testing.assert_array_equal(found, counts)
