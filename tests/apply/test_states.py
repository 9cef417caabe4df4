"""Calibration states: what is masked, how many there are, that rollouts are trajectories, and that a seed means the same for ever."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.special
import scipy.stats

from refquant.apply.corpus import CalibrationLine, split_line
from refquant.apply.parts import Calibration
from refquant.apply.rollout import roll_out
from refquant.apply.states import CalibrationSet, batches, calibration_states, state_confidences
from refquant.errors import InputError
from refquant.methods.diffusion.tmas import quotas
from tests.apply.sampled import EOS, LINES, MASK, SMALL, M, generator, made, pinned, prompt_of
from tests.apply.tiny import states_of, tiny


@pytest.mark.parametrize("states", ["clean", "iid", "rollout", "tmas"])
def test_states_are_consistent(states):
    found = made(states)
    assert len(found.states) == SMALL["samples"]
    assert len({s.line for s in found.states}) <= SMALL["prompts"]
    for s in found.states:
        prompt = prompt_of(LINES[s.line])
        assert tuple(s.ids[: len(prompt)]) == prompt  # masks only in the response
        assert not s.masked[: len(prompt)].any()
        assert (s.masked == (s.ids == MASK)).all()
        assert (s.final_ids[~s.masked] == s.ids[~s.masked]).all()
        assert s.ids.dtype.kind == "i"
        assert s.masked.dtype == bool
        assert not s.ids.flags.writeable
    assert found.tokens == sum(len(s.ids) for s in found.states)


def test_no_calibration_no_states():
    assert made("none").states == ()


@pytest.mark.parametrize(
    ("states", "expected"),
    [("clean", "a2f06b7fdfd5ff4a"), ("iid", "26741638756ca43b"), ("rollout", "e6f628b1f7434b06"), ("tmas", "a5f3186deb9487ff")],
)
def test_a_seed_means_the_same_for_ever(states, expected):
    """Literal: raw words of PCG64 decide, and no NumPy distribution. (The rollouts' argmaxes have wide margins in float64.)"""
    assert pinned(made(states)) == pinned(made(states)) == expected
    assert pinned(made(states, seed=1)) != expected


def test_all_samplers_take_the_same_lines_at_the_same_lengths():
    sets = {states: made(states, samples=40) for states in ("clean", "iid", "rollout", "tmas")}
    lines = {states: {s.line for s in found.states} for states, found in sets.items()}
    assert lines["clean"] == lines["iid"] == lines["rollout"] == lines["tmas"]
    assert len(lines["iid"]) == SMALL["prompts"]
    for found in sets.values():
        for s in found.states:
            assert len(s.ids) == len(sum(split_line(LINES[s.line], 8, 4, EOS), ()))


def test_clean_and_iid_go_round_the_lines_and_share_their_text():
    clean, iid = made("clean"), made("iid")
    order = [s.line for s in clean.states]
    assert order == [s.line for s in iid.states]
    assert order == [order[i % SMALL["prompts"]] for i in range(SMALL["samples"])]
    for a, b in zip(clean.states, iid.states, strict=True):
        assert not a.masked.any()
        assert (a.ids == a.final_ids).all()
        assert (a.ids == b.final_ids).all()
        assert tuple(a.ids) == sum(split_line(LINES[a.line], 8, 4, EOS), ())


def test_mask_ratios_are_uniform():
    """200 long responses: Kolmogorov-Smirnov against the uniform law, and the masks of one state fall anywhere."""
    text = [CalibrationLine(prompt=(), response=tuple(i % 30 for i in range(400)), cut=True)]
    found = made("iid", lines=text, gen_length=200, block_length=4, samples=200)
    ratios = [s.masked[200:].mean() for s in found.states]
    assert scipy.stats.kstest(ratios, "uniform").pvalue > 0.01
    half = [s.masked[200:] for s in found.states if 0.4 < s.masked[200:].mean() < 0.6]
    assert abs(np.mean([h[:100].mean() - h[100:].mean() for h in half])) < 0.05


def test_responses_are_filled_with_end_tokens():
    line = CalibrationLine(prompt=(1, 2), response=(3, 4, 5), cut=False)
    found = made("clean", lines=[line], samples=1)
    assert found.states[0].ids.tolist() == [1, 2, 3, 4, 5, EOS]
    assert made("clean", lines=[line], samples=1, eos=None).states[0].ids.tolist() == [1, 2, 3, 4, 5]


def test_drawn_states_are_those_of_the_rollouts():
    found = made("rollout", samples=30)
    order = list(dict.fromkeys(s.line for s in made("clean").states))  # the lines in the order in which a seed takes them
    recorded, _ = roll_out(M, LINES, order, Calibration(**SMALL), generator(), EOS)
    known = {(r.line, ids.tobytes(), r.final_ids.tobytes()) for r in recorded for ids in r.ids}
    drawn = [(s.line, s.ids.tobytes(), s.final_ids.tobytes()) for s in found.states]
    assert set(drawn) <= known
    assert len(set(drawn)) == 30  # without replacement


def test_progress_counts_to_its_total():
    seen = []
    plan = Calibration(**SMALL | {"states": "rollout"})
    calibration_states(M, LINES, plan, generator(), eos_id=EOS, progress=lambda *a: seen.append(a))
    assert [s[1] for s in seen] == list(range(1, len(seen) + 1))
    assert {s[0] for s in seen} == {"rollouts"}
    assert {s[2] for s in seen} == {len(seen)}


def test_tmas_fills_its_bins():
    found = made("tmas", samples=20, prompts=8)
    bins = [0] * 4
    for s in found.states:
        prompt = prompt_of(LINES[s.line])
        masked, length = int(s.masked.sum()), len(s.ids) - len(prompt)
        bins[(length - masked) * 4 // length] += 1  # one token a step: time is the share that is committed
    assert bins == quotas((0.3, 0.2, 0.2, 0.3), 20) == [6, 4, 4, 6]


# Budgets.


@pytest.mark.parametrize("states", ["clean", "iid", "rollout", "tmas"])
def test_equal_token_budgets(states):
    budget = 150
    found = made(states, tokens=budget)
    assert found.tokens == budget
    assert all(len(s.ids) for s in found.states)
    for s in found.states:
        assert s.ids.shape == s.masked.shape == s.final_ids.shape


def test_a_budget_beyond_the_samples_draws_more_masks_and_refuses_more_rollouts():
    whole = made("iid")
    more = made("iid", tokens=whole.tokens + 30)
    assert more.tokens == whole.tokens + 30
    assert [s.ids.tolist() for s in more.states[: len(whole.states)]] == [s.ids.tolist() for s in whole.states]
    for states in ("rollout", "tmas"):
        total = made(states).tokens
        with pytest.raises(InputError, match=rf"{total + 1} calibration tokens were asked of states with {total}"):
            made(states, tokens=total + 1)


def test_a_budget_does_not_cut_the_last_rollouts_off():
    whole = made("tmas", samples=40)
    half = made("tmas", samples=40, tokens=whole.tokens // 2)
    assert {s.line for s in half.states} == {s.line for s in whole.states}

    def early(found):
        return np.mean([s.masked.sum() * 2 >= len(s.ids) - len(prompt_of(LINES[s.line])) for s in found.states])

    assert abs(early(half) - early(whole)) < 0.25


def test_limited_cuts_the_last_state():
    found = CalibrationSet(states=tuple(states_of(lengths=(9, 12, 9))), rejected=2)
    cut = found.limited(15)
    assert [len(s.ids) for s in cut.states] == [9, 6]
    assert (cut.states[1].ids == found.states[1].ids[:6]).all()
    assert (cut.states[1].masked == found.states[1].masked[:6]).all()
    assert (cut.states[1].final_ids == found.states[1].final_ids[:6]).all()
    assert cut.rejected == 2
    assert [len(s.ids) for s in found.limited(21).states] == [9, 12]
    assert [len(s.ids) for s in found.limited(30).states] == [9, 12, 9]
    with pytest.raises(InputError, match="31 calibration tokens were asked of states with 30"):
        found.limited(31)


# Too little.


def test_too_few_lines_or_states():
    bare = [CalibrationLine(prompt=(1, 2), response=None, cut=False)]
    for states in ("clean", "iid"):
        with pytest.raises(InputError, match=f"calibration states '{states}' need lines with a text or a response; the file has prompts"):
            made(states, lines=bare)
    assert len(made("rollout", lines=bare, samples=8, prompts=1).states) == 8
    for states in ("rollout", "tmas"):
        with pytest.raises(InputError, match="9 samples were asked of 8 recorded states; record more rollouts or draw fewer"):
            made(states, lines=bare, samples=9, prompts=1)
    short = [CalibrationLine(prompt=(), response=(1, 2, 3), cut=True)]
    with pytest.raises(InputError, match="calibration line 1 has 3 tokens; a rollout needs 8"):
        made("tmas", lines=short)


def test_a_model_without_a_mask_token_draws_no_masks():
    with pytest.raises(InputError, match="the model's config names no mask_token_id"):
        made("iid", m=tiny(mask_token_id=None))
    assert not any(state.masked.any() for state in made("clean", m=tiny(mask_token_id=None)).states)


# Confidences.


@pytest.mark.parametrize("whose", ["argmax", "final_token", "margin"])
@pytest.mark.parametrize("batch_tokens", [4096, 20])
def test_confidences_by_hand(whose, batch_tokens):
    states = states_of()
    found = state_confidences(M, states, whose, batch_tokens)
    assert [c.shape for c in found] == [s.ids.shape for s in states]
    for c, s in zip(found, states, strict=True):
        logits = M.logits(s.ids[None])[0]
        p = scipy.special.softmax(logits, axis=-1)
        in_order = np.sort(p, axis=-1)
        expected = {
            "argmax": in_order[:, -1],
            "final_token": [p[t, token] for t, token in enumerate(s.final_ids)],
            "margin": in_order[:, -1] - in_order[:, -2],
        }[whose]
        np.testing.assert_allclose(c, expected, rtol=1e-12, atol=1e-15)
        assert c.dtype == np.float64
        assert (c <= 1).all()


def test_batches_hold_equal_lengths_and_all_states_once():
    states = states_of(lengths=(9, 12, 9, 5, 9, 9))
    found = list(batches(states, 18))
    assert found == [[3], [0, 2], [4, 5], [1]]
    assert list(batches(states, 1)) == [[3], [0], [2], [4], [5], [1]]  # a sequence longer than the budget goes alone


def test_stored_states_are_taken_as_they_are_and_in_order():
    lines = [CalibrationLine(prompt=(), response=(5, 6, 7), cut=True, masked=m) for m in ((0, 2), None, (), (1,))]
    plan = Calibration(states="stored", samples=2)
    found = calibration_states(M, lines, plan, np.random.default_rng(0), eos_id=EOS)
    assert [s.ids.tolist() for s in found.states] == [[MASK, 6, MASK], [5, 6, 7]]
    assert [s.masked.tolist() for s in found.states] == [[True, False, True], [False] * 3]
    assert [s.final_ids.tolist() for s in found.states] == [[5, 6, 7]] * 2
    assert [s.line for s in found.states] == [0, 2]
    assert calibration_states(M, lines, plan, np.random.default_rng(0), eos_id=EOS, tokens=4).tokens == 4
    with pytest.raises(InputError, match="4 stored states were asked of a calibration file with 3"):
        calibration_states(M, lines, Calibration(states="stored", samples=4), np.random.default_rng(0), eos_id=EOS)
