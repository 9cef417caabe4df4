"""Rollouts: one trajectory each, what the sampler commits, its noise from raw words, and the gate against repetition."""

from __future__ import annotations

import numpy as np
import pytest

from model import denoise
from refquant.apply.parts import Calibration
from refquant.apply.rollout import RawUniforms, Rollout, roll_out
from refquant.errors import InputError
from refquant.numerics.draws import uniforms
from tests.apply.sampled import EOS, LINES, MASK, SMALL, M, generator, made, prompt_of, rolled


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


@pytest.mark.parametrize("batch_tokens", [1, 40, 10**6])
@pytest.mark.parametrize("kind", [np.random.PCG64, np.random.MT19937, np.random.PCG64DXSM])
def test_a_sequence_draws_what_it_would_draw_among_all(monkeypatch, batch_tokens, kind):
    """However a shape's lines are cut into batches, against the sampler on all of them at once; and what is drawn next is the same."""
    monkeypatch.setattr("refquant.apply.rollout.BATCH_TOKENS", batch_tokens)
    monkeypatch.setattr("refquant.apply.rollout.SKIPPED", 1000)
    order, plan = [0, 1, 2, 3, 5, 6], Calibration(**SMALL | {"states": "rollout", "temperature": 0.9})
    rng, other = np.random.Generator(kind(4)), np.random.Generator(kind(4))
    rollouts, _ = roll_out(M, LINES, order, plan, rng, EOS)
    shapes = {}
    for r in rollouts:
        shapes.setdefault((r.prompt_length, len(r.final_ids)), []).append(r)
    assert max(map(len, shapes.values())) > 1
    for (start, length), members in shapes.items():
        prompts = np.array([r.ids[0, :start] for r in members])
        steps = length - start
        for step in denoise(M, prompts, gen_length=steps, block_length=4, steps=steps, temperature=0.9, rng=RawUniforms(other)):
            assert (step.before == np.stack([r.ids[step.step] for r in members])).all()
        assert (step.after == np.stack([r.final_ids for r in members])).all()
    assert uniforms(rng, 3).tolist() == uniforms(other, 3).tolist()


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
