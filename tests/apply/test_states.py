"""Calibration states: what is masked, how many there are, that rollouts are trajectories, and that a seed means the same for ever."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.special
import scipy.stats

from refquant.apply.corpus import CalibrationLine, split_line
from refquant.apply.parts import Calibration
from refquant.apply.rollout import RawUniforms, Rollout, roll_out
from refquant.apply.states import CalibrationSet, batches, calibration_states, state_confidences
from refquant.errors import InputError
from refquant.methods.diffusion.tmas import quotas
from refquant.numerics.draws import uniforms
from refquant.storage import canonical_json, digest
from tests.apply.tiny import states_of, tiny

MASK, EOS = 39, 37
M = tiny(include_bias=False)
SMALL = {"gen_length": 8, "block_length": 4, "min_distinct": 0.0, "prompts": 6, "samples": 20}


def corpus(count=8, seed=0):
    """Texts, answered prompts of several lengths, in turn."""
    rng = np.random.default_rng(seed)
    lines = []
    for i in range(count):
        ids = tuple(int(t) for t in rng.integers(0, 37, 20 + i % 3))
        if i % 2:
            lines.append(CalibrationLine(prompt=ids[:6], response=ids[6 : 9 + i % 5], cut=False))
        else:
            lines.append(CalibrationLine(prompt=(), response=ids, cut=True))
    return lines


LINES = corpus()


def generator(seed=0):
    return np.random.Generator(np.random.PCG64(seed))


def made(states, lines=LINES, seed=0, tokens=None, m=M, eos=EOS, **changes):
    plan = Calibration(**SMALL | {"states": states} | changes)
    return calibration_states(m, lines, plan, generator(seed), eos_id=eos, tokens=tokens)


def pinned(found):
    return digest(canonical_json([[s.line, s.ids.tolist(), s.final_ids.tolist()] for s in found.states]))[:16]


def prompt_of(line, eos=EOS):
    return split_line(line, SMALL["gen_length"], SMALL["block_length"], eos)[0]


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


# Rollouts.


def rolled(lines=LINES, seed=0, **changes):
    plan = Calibration(**SMALL | {"states": "rollout"} | changes)
    return roll_out(M, lines, range(len(lines)), plan, generator(seed), EOS)


@pytest.mark.parametrize("tokens_per_step", [1, 2])
@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_the_states_of_a_rollout_are_one_trajectory(tokens_per_step, temperature):
    rollouts, rejected = rolled(tokens_per_step=tokens_per_step, temperature=temperature)
    assert [r.line for r in rollouts] == list(range(6))
    assert rejected == 0
    for r in rollouts:
        length = len(r.final_ids) - r.prompt_length
        assert len(r.ids) == len(r.masked) == len(r.places) == length // tokens_per_step
        assert (r.ids[0, r.prompt_length :] == MASK).all()  # begins with all masked
        assert not (r.final_ids == MASK).any()
        assert tuple(r.ids[0, : r.prompt_length]) == prompt_of(LINES[r.line])
        for step, (ids, masked) in enumerate(zip(r.ids, r.masked, strict=True)):
            after = r.ids[step + 1] if step + 1 < len(r.ids) else r.final_ids
            committed = (ids == MASK) & (after != MASK)
            assert (masked == (ids == MASK)).all()
            assert (after[~masked] == ids[~masked]).all()  # what is committed stays
            assert (r.final_ids[~masked] == ids[~masked]).all()
            assert np.count_nonzero(committed) == tokens_per_step
            block = step * tokens_per_step // 4
            start = r.prompt_length + 4 * block
            assert committed[start : start + 4].sum() == tokens_per_step  # inside the current block
            place = r.places[step]
            assert (place.prompt, place.step, place.steps, place.block) == (r.line, step, len(r.ids), block)
            assert (place.masked, place.response) == (masked.sum(), length)
            assert (place.block_masked, place.block_length) == (masked[start : start + 4].sum(), 4)


def test_a_rollout_commits_what_the_model_is_surest_of():
    """Against a direct loop over the logits, one sequence at a time."""
    for r in rolled()[0][:3]:
        ids = r.ids[0].copy()
        for step in range(len(r.ids)):
            assert (ids == r.ids[step]).all()
            logits = M.logits(ids[None])[0]
            p = np.exp(logits - logits.max(-1, keepdims=True))
            p = (p / p.sum(-1, keepdims=True)).max(-1)
            start = r.prompt_length + step // 4 * 4
            window = [t for t in range(start, start + 4) if ids[t] == MASK]
            best = max(window, key=lambda t: p[t])
            ids[best] = logits[best].argmax()
        assert (ids == r.final_ids).all()


def test_a_temperature_draws_from_raw_words():
    """The noise of a rollout is the documented function of the generator's words, one draw a step."""
    line = LINES[:1]
    warm, _ = rolled(lines=line, prompts=1, temperature=0.9, seed=3)
    cold, _ = rolled(lines=line, prompts=1)
    again, _ = rolled(lines=line, prompts=1, temperature=0.9, seed=3)
    assert (warm[0].ids == again[0].ids).all()
    assert (warm[0].final_ids != cold[0].final_ids).any()
    rng, ids = generator(3), warm[0].ids[0].copy()
    for step in range(len(warm[0].ids)):
        logits = M.logits(ids[None])
        u = uniforms(rng, logits.shape)
        scores = (np.exp(logits) / (-np.log(u)) ** 0.9)[0]
        p = np.exp(logits[0]) / np.exp(logits[0]).sum(-1, keepdims=True)
        chosen = scores.argmax(-1)
        start = warm[0].prompt_length + step // 4 * 4
        window = [t for t in range(start, start + 4) if ids[t] == MASK]
        best = max(window, key=lambda t: p[t, chosen[t]])
        ids[best] = chosen[best]
    assert (ids == warm[0].final_ids).all()


def test_raw_uniforms_stay_below_one_in_float32(monkeypatch):
    assert RawUniforms(generator()).random((4,), np.float64).tolist() == uniforms(generator(), 4).tolist()
    monkeypatch.setattr("refquant.apply.rollout.uniforms", lambda rng, shape: np.full(shape, 1 - 2.0**-53))  # rounds to 1 in float32
    drawn = RawUniforms(generator()).random((2, 3), np.float32)
    assert drawn.dtype == np.float32
    assert drawn.shape == (2, 3)
    assert (drawn < 1).all()


def test_the_share_of_distinct_tokens():
    def share(*response):
        ids = np.array([9, 9, *response])
        return Rollout(line=0, prompt_length=2, ids=ids[None], masked=ids[None] == MASK, final_ids=ids, places=()).distinct_share(EOS)

    assert share(1, 2, 3, 4) == 1
    assert share(1, 1, 1, 2) == 0.5
    assert share(1, 1, EOS, 2, 3) == 0.5  # what comes behind the first end token does not count
    assert share(EOS, 1, 2) == 0


def test_rollouts_that_repeat_themselves_are_rejected_counted_and_replaced():
    everyone, _ = rolled(prompts=8)
    shares = [r.distinct_share(EOS) for r in everyone]
    gate = sorted(set(shares))[1]
    good = [r.line for r, share in zip(everyone, shares, strict=True) if share >= gate]
    assert 0 < len(good) < 8
    kept, rejected = rolled(prompts=8, min_distinct=gate)
    assert [r.line for r in kept] == good
    assert rejected == 8 - len(good)
    few, rejected = rolled(prompts=2, min_distinct=gate)
    assert [r.line for r in few] == good[:2]
    assert rejected == good[1] - 1
    assert made("tmas", min_distinct=gate, prompts=8).rejected == 8 - len(good)


def test_a_silent_model_leaves_no_rollout():
    class Always:
        """Says the same token everywhere."""

        config, arithmetic, dtype = M.config, M.arithmetic, M.dtype

        def logits(self, ids, attention_mask=None):
            return np.tile(np.eye(40)[7] * 5, (*np.shape(ids), 1))

    plan = Calibration(**SMALL | {"min_distinct": 0.9})
    with pytest.raises(InputError, match=r"all 8 rollouts repeat themselves \(share of distinct tokens under 0.9\); none is left"):
        roll_out(Always(), LINES, range(8), plan, generator(), EOS)


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


# Confidences.


@pytest.mark.parametrize("whose", ["argmax", "final_token"])
@pytest.mark.parametrize("batch_tokens", [4096, 20])
def test_confidences_by_hand(whose, batch_tokens):
    states = states_of()
    found = state_confidences(M, states, whose, batch_tokens)
    assert [c.shape for c in found] == [s.ids.shape for s in states]
    for c, s in zip(found, states, strict=True):
        logits = M.logits(s.ids[None])[0]
        p = scipy.special.softmax(logits, axis=-1)
        expected = p.max(-1) if whose == "argmax" else [p[t, token] for t, token in enumerate(s.final_ids)]
        np.testing.assert_allclose(c, expected, rtol=1e-12)
        assert c.dtype == np.float64
        assert (c <= 1).all()


def test_batches_hold_equal_lengths_and_all_states_once():
    states = states_of(lengths=(9, 12, 9, 5, 9, 9))
    found = list(batches(states, 18))
    assert found == [[3], [0, 2], [4, 5], [1]]
    assert list(batches(states, 1)) == [[3], [0], [2], [4], [5], [1]]  # a sequence longer than the budget goes alone
