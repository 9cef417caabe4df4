"""The likelihood bound against the enumeration of all masks, and the draws it is made of."""

import itertools
from fractions import Fraction

import numpy as np
import pytest

import model
from model.likelihood import masked_copies, masked_losses, stratified_counts
from tests.model.golden import RICH, loaded

PROMPT, ANSWER = [3, 7], [11, 200, 5]


def surprise(m, ids, position, token):
    row = m.logits([ids])[0, position].astype(np.float64)
    return float(np.log(np.exp(row - row.max()).sum()) + row.max() - row[token])


def exact_bound(m):
    """Every mask count, every set of that many positions."""
    total, length = 0.0, len(ANSWER)
    for count in range(1, length + 1):
        sets = list(itertools.combinations(range(length), count))
        for chosen in sets:
            ids = PROMPT + [m.config.mask_token_id if i in chosen else token for i, token in enumerate(ANSWER)]
            loss = sum(surprise(m, ids, len(PROMPT) + i, ANSWER[i]) for i in chosen)
            total += loss * length / count / len(sets) / length
    return total


def test_the_estimate_goes_to_the_enumerated_value():
    m = loaded(RICH, "float64")
    exact = exact_bound(m)
    found = [model.nll_bound(m, PROMPT, ANSWER, mc_num=24, batch_size=6, rng=np.random.default_rng(s)) for s in range(40)]
    error = np.std(found) / np.sqrt(len(found))
    assert abs(np.mean(found) - exact) < 4 * error
    assert error < 0.02 * exact


def test_one_token_is_exact():
    m = loaded(RICH, "float64")
    wanted = surprise(m, [*PROMPT, m.config.mask_token_id], 2, 9)
    found = model.nll_bound(m, PROMPT, [9], mc_num=1, batch_size=1, rng=np.random.default_rng(0))
    assert found == pytest.approx(wanted, rel=1e-13)


def test_no_prompt():
    m = loaded(RICH, "float64")
    found = model.nll_bound(m, [], [9], mc_num=2, batch_size=2, rng=np.random.default_rng(0))
    assert found == pytest.approx(surprise(m, [m.config.mask_token_id], 0, 9), rel=1e-13)


def test_the_same_generator_state_gives_the_same_masks():
    m = loaded(RICH, "float32")
    one, two = (model.nll_bound(m, PROMPT, ANSWER, mc_num=8, batch_size=4, rng=np.random.default_rng(3)) for _ in range(2))
    assert one == two


def test_masked_copies():
    m, mask_id = loaded(RICH, "float32"), 257
    answer = list(range(10, 17))
    copies, p_mask = masked_copies(m, PROMPT, answer, mc_num=4000, batch_size=8, rng=np.random.default_rng(0))
    assert copies.shape == p_mask.shape == (500, 8, 9)
    assert (copies[..., :2] == PROMPT).all()
    masked = copies[..., 2:] == mask_id
    assert ((copies[..., 2:] == answer) | masked).all()
    counts = masked.sum(-1)
    np.testing.assert_array_equal(p_mask, np.broadcast_to((counts / 7)[..., None], p_mask.shape))
    for batch in counts:
        np.testing.assert_array_equal(batch, stratified_counts(int(batch[0]), 7, 8))
    # Each count equally often (first column: 500 independent draws), each position too: five standard deviations.
    first = np.bincount(counts[:, 0], minlength=8)[1:]
    assert np.abs(first - 500 / 7).max() < 5 * np.sqrt(500 / 7)
    assert np.abs(masked.mean((0, 1)) - counts.mean() / 7).max() < 5 * 0.5 / np.sqrt(4000)


def test_stratified_counts_against_exact_fractions():
    for length, batch in itertools.product(range(1, 20), (1, 2, 3, 4, 5, 8, 16)):
        for first in range(1, length + 1):
            exact = [round(first + Fraction(i * length, batch)) for i in range(batch)]  # round() is half to even
            assert stratified_counts(first, length, batch).tolist() == [(c - 1) % length + 1 for c in exact]


def test_a_mask_in_the_prompt_counts():
    m = loaded(RICH, "float64")
    ids, tokens = [257, 7, 257], [257, 7, 9]
    (found,) = masked_losses(m, [ids], np.full((1, 3), 0.5), tokens, 2)
    assert found == pytest.approx(2 * (surprise(m, ids, 0, 257) + surprise(m, ids, 2, 9)), rel=1e-13)


def test_guidance():
    m = loaded(RICH, "float64")
    ids, blind = [3, 7, 257], [257, 257, 257]
    conditional, unconditional = m.logits([ids])[0, 2], m.logits([blind])[0, 2]
    row = unconditional + 1.7 * (conditional - unconditional)
    wanted = np.log(np.exp(row - row.max()).sum()) + row.max() - row[9]
    (found,) = masked_losses(m, [ids], np.ones((1, 3)), [3, 7, 9], 2, cfg_scale=0.7)
    assert found == pytest.approx(wanted, rel=1e-12)


def test_greedy_is_what_a_loop_over_single_commits_gives():
    for variant in (RICH, "dream_gqa_f32"):
        m = loaded(variant, "float64")
        mask, ids = m.config.mask_token_id, [3, 7, *[m.config.mask_token_id] * 4]
        for _ in range(4):
            logits = m.logits([ids])[0]
            if variant != RICH:
                logits = np.concatenate([logits[:1], logits[:-1]])
            odds = np.exp(logits - logits.max(axis=1, keepdims=True))
            odds /= odds.sum(axis=1, keepdims=True)
            place = max((j for j in range(6) if ids[j] == mask), key=lambda j: odds[j].max())
            ids[place] = int(odds[place].argmax())
        assert model.is_greedy(m, ids[:2], ids[2:])
        for j in range(4):
            wrong = [*ids[2 : 2 + j], (ids[2 + j] + 1) % 150, *ids[3 + j :]]
            assert not model.is_greedy(m, ids[:2], wrong)
