"""The sampler's rules on made-up logits, against a second sampler in plain loops."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import model
from model.commit import commit_schedule
from refquant.numerics import FAST

MASK, ROWS = 4, 6


class MadeUp:
    """Logits that depend on the sequence in a fixed, random way; counts its calls."""

    def __init__(self, seed=0, logits=None):
        self.config = SimpleNamespace(mask_token_id=MASK, embedding_rows=ROWS, eos_token_id=1)
        self.arithmetic, self.seed, self.fixed, self.calls = FAST, seed, logits, []

    def logits(self, ids, attention_mask=None):
        self.calls.append((ids.copy(), None if attention_mask is None else attention_mask.copy()))
        if self.fixed is not None:
            return np.broadcast_to(self.fixed, (*ids.shape, ROWS)).copy()
        rows = [np.random.default_rng([self.seed, *row]).normal(0, 2, (len(row), ROWS)) for row in ids.tolist()]
        return np.array(rows).reshape(*ids.shape, ROWS)


def slow_sampler(m, prompt, gen, block_length, steps, eos=None, doubtful=None):
    """Greedy, one sequence, lists and loops; returns every state."""
    x = [*prompt, *[MASK] * gen]
    states, blocks = [list(x)], gen // block_length
    for b in range(blocks):
        begin, end = len(prompt) + b * block_length, len(prompt) + (b + 1) * block_length
        masks = sum(token == MASK for token in x[begin:end])
        per_step = [masks // (steps // blocks)] * (steps // blocks)
        for i in range(masks % (steps // blocks)):
            per_step[i] += 1
        for wanted in per_step:
            scores = m.logits(np.array([x]))[0].tolist()
            candidates = []
            for i, row in enumerate(scores):
                if eos is not None:
                    row[eos] = -math.inf
                best = row.index(max(row))
                if doubtful is not None:
                    row[doubtful[0]] = row[doubtful[1]] = -math.inf
                total = math.fsum(math.exp(v - max(row)) for v in row)
                if x[i] == MASK and i < end:
                    candidates.append((-math.exp(row[best] - max(row)) / total, i, best))
            for _, i, best in sorted(candidates)[:wanted]:
                x[i] = best
            states.append(list(x))
    return states


@st.composite
def runs(draw):
    block, blocks, per_block = draw(st.integers(1, 5)), draw(st.integers(1, 3)), draw(st.integers(1, 6))
    prompt = draw(st.lists(st.integers(0, ROWS - 1), min_size=0, max_size=4))
    return prompt, block * blocks, block, per_block * blocks, draw(st.integers(0, 999))


@settings(max_examples=150, deadline=None)
@given(runs(), st.sampled_from(["plain", "no eos", "doubtful"]))
def test_every_state_is_that_of_the_loops(run, switch):
    prompt, gen, block, steps, seed = run
    given_switches = {
        "plain": {},
        "no eos": {"logits_eos_inf": True},
        "doubtful": {"confidence_eos_eot_inf": True, "eot_id": 2},
    }
    for_loops = {"plain": {}, "no eos": {"eos": 1}, "doubtful": {"doubtful": (1, 2)}}
    states = []
    model.generate(
        MadeUp(seed),
        np.array([prompt], dtype=int).reshape(1, -1),
        gen_length=gen,
        block_length=block,
        steps=steps,
        observer=lambda _, x: states.append(x[0].tolist()),
        **given_switches[switch],
    )
    assert states == slow_sampler(MadeUp(seed), prompt, gen, block, steps, **for_loops[switch])


@settings(max_examples=60, deadline=None)
@given(runs())
def test_steps_tell_the_whole_story(run):
    prompt, gen, block, steps, seed = run
    m = MadeUp(seed)
    previous = None
    ids = np.array([prompt, prompt[::-1]], dtype=int).reshape(2, -1)
    for number, step in enumerate(model.denoise(m, ids, gen_length=gen, block_length=block, steps=steps)):
        assert (step.step, step.block) == (number, number // (steps // (gen // block)))
        assert len(m.calls) == number + 1  # one forward pass a step
        np.testing.assert_array_equal(step.before, m.calls[-1][0])
        np.testing.assert_array_equal(step.before if previous is None else previous, step.before)
        np.testing.assert_array_equal(step.masked, step.before == MASK)
        np.testing.assert_array_equal(step.predicted, step.logits.argmax(-1))
        exact = np.exp(step.logits) / np.exp(step.logits).sum(-1, keepdims=True)
        assert np.abs(step.confidence - exact.max(-1)).max() < 1e-12
        assert not (step.committed & ~step.masked).any()
        assert not step.committed[:, len(prompt) + (step.block + 1) * block :].any()
        np.testing.assert_array_equal(step.after, np.where(step.committed, step.predicted, step.before))
        for array in (
            step.before,
            step.after,
            step.logits,
            step.confidence,
            step.committed,
            step.masked,
            step.predicted,
        ):
            assert not array.flags.writeable
        previous = step.after
    assert number == steps - 1


def test_ties_go_to_the_lowest_index():
    order = []
    m = MadeUp(logits=[1.0, 3.0, 3.0, 0.0, 0.0, 3.0])
    for step in model.denoise(m, [[0]], gen_length=6, block_length=6, steps=3):
        assert set(step.predicted.ravel().tolist()) == {1}
        order.append(np.flatnonzero(step.committed[0]).tolist())
    assert order == [[1, 2], [3, 4], [5, 6]]


@given(st.integers(0, 40), st.integers(1, 12))
def test_schedule(masks, steps):
    (row,) = commit_schedule(np.array([masks]), steps).tolist()
    assert sum(row) == masks
    assert len(row) == steps
    assert row == sorted(row, reverse=True)
    assert max(row) - min(row) <= 1


def test_a_predicted_mask_spends_its_slot():
    m = MadeUp(logits=[0.0, 0.0, 0.0, 0.0, 9.0, 0.0])
    out = model.generate(m, [[0]], gen_length=4, block_length=4, steps=4)
    assert out.tolist() == [[0, MASK, MASK, MASK, MASK]]
    assert len(m.calls) == 4


def test_guidance_masks_the_prompt_only_and_tiles_the_padding_mask():
    m = MadeUp(3)
    prompt, padding = [[0, 2, 3], [5, 5, 1]], [[1, 1, 1], [0, 1, 1]]
    step, last = list(model.denoise(m, prompt, attention_mask=padding, gen_length=2, block_length=2, steps=2, cfg_scale=0.5))
    ids, mask = m.calls[1]
    np.testing.assert_array_equal(ids[:2], last.before)
    np.testing.assert_array_equal(ids[2:, :3], np.full((2, 3), MASK))
    np.testing.assert_array_equal(ids[2:, 3:], last.before[:, 3:])  # what was generated stays
    np.testing.assert_array_equal(mask, [[1, 1, 1, 1, 1], [0, 1, 1, 1, 1]] * 2)
    conditional, unconditional = m.logits(ids)[:2], m.logits(ids)[2:]
    np.testing.assert_allclose(last.logits, unconditional + 1.5 * (conditional - unconditional), rtol=1e-14)
    assert step.step == 0


def test_gumbel_noise_is_added_to_logits():
    m, temperature = MadeUp(5), 0.7
    for step, again in zip(
        model.denoise(m, [[0]], gen_length=4, block_length=4, steps=4, temperature=temperature, rng=np.random.default_rng(9)),
        [np.random.default_rng(9).random((4, 1, 5, ROWS))] * 4,
        strict=True,
    ):
        noise = -np.log(-np.log(again[step.step]))
        np.testing.assert_array_equal(step.predicted, (step.logits + temperature * noise).argmax(-1))
        clean = np.exp(step.logits) / np.exp(step.logits).sum(-1, keepdims=True)
        chosen = np.take_along_axis(clean, step.predicted[..., None], -1)[..., 0]
        np.testing.assert_allclose(step.confidence, chosen, rtol=1e-12)


def test_uniform_numbers_of_zero_are_never_chosen():
    class Zeros:
        def random(self, size, dtype, /):
            draw = np.zeros(size, dtype)
            draw[..., 3] = 0.5
            return draw

    (step,) = model.denoise(MadeUp(1), [[0]], gen_length=1, block_length=1, steps=1, temperature=1.0, rng=Zeros())
    assert step.predicted.tolist() == [[3, 3]]


def test_sampling_repeats_with_the_same_generator_state():
    settings = {"gen_length": 6, "block_length": 3, "steps": 4, "temperature": 1.0, "remasking": "random"}
    one, two, other = (model.generate(MadeUp(2), [[0]], rng=np.random.default_rng(s), **settings) for s in (1, 1, 2))
    np.testing.assert_array_equal(one, two)
    assert (one != other).any()


@pytest.mark.parametrize("switch", [{"logits_eos_inf": True}, {"confidence_eos_eot_inf": True, "eot_id": 2}])
def test_the_logits_of_a_step_are_those_before_the_switches(switch):
    m = MadeUp(4)
    (step,) = model.denoise(m, [[0]], gen_length=2, block_length=2, steps=1, **switch)
    np.testing.assert_array_equal(step.logits, m.logits(step.before))


def test_with_a_temperature_only_the_end_of_turn_loses_its_confidence():
    settings = {"gen_length": 2, "block_length": 2, "steps": 1, "temperature": 0.5, "confidence_eos_eot_inf": True}
    (step,) = model.denoise(MadeUp(4), [[0]], rng=np.random.default_rng(0), eot_id=2, **settings)
    weights = np.exp(step.logits)
    weights[..., 2] = 0  # eot; eos, which is 1, keeps its weight
    clean = weights / weights.sum(-1, keepdims=True)
    chosen = np.take_along_axis(clean, step.predicted[..., None], -1)[..., 0]
    np.testing.assert_allclose(step.confidence, chosen, rtol=1e-12)


def test_gumbel_noise_is_float64_whatever_the_logits_are():
    # exp(201) is beyond float32. With a small temperature the largest logit must still win.
    m = MadeUp(logits=np.array([200, 203, 201, 190, 0, 202], dtype=np.float32))
    settings = {"gen_length": 3, "block_length": 3, "steps": 1, "temperature": 0.01}
    (step,) = model.denoise(m, [[0]], rng=np.random.default_rng(0), **settings)
    assert step.logits.dtype == np.float32
    assert step.predicted.tolist() == [[1] * 4]
