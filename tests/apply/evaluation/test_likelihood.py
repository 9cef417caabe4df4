"""The NLL bound against full enumeration, and the distances against definitions written out."""

import itertools
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import scipy.special
import scipy.stats

import model
from refquant.apply.evaluation.batches import rows_at_once
from refquant.apply.evaluation.data import Text
from refquant.apply.evaluation.distances import Distributions, kl_divergence, total_variation
from refquant.apply.evaluation.intervals import Bootstrap
from refquant.apply.evaluation.likelihood import likelihoods, mask_error, score_texts
from refquant.apply.evaluation.masks import draw_masks, mask_counts, text_masks
from refquant.errors import NumericalError
from refquant.numerics import FAST
from tests.apply.evaluation.stubs import MASK, Table, hashed, tiny, uniform

BOOTSTRAP = Bootstrap(seed=0, resamples=200)


def text(ids):
    return Text(ids=tuple(ids), domain="d", where="here")


def surprise_of_set(m, ids, chosen):
    """Mean of -log p over a set of masked positions, in plain Python."""
    seen = [MASK if i in chosen else t for i, t in enumerate(ids)]
    logits = m.logits(np.array([seen]))[0].astype(np.float64)
    return sum(-math.log(scipy.special.softmax(logits[i])[ids[i]]) for i in chosen) / len(chosen)


def exact_bound(m, ids):
    """Definition 2.1 per token, over every mask: the mean over l of the mean over sets of size l."""
    length = len(ids)
    by_size = [
        np.mean([surprise_of_set(m, ids, chosen) for chosen in itertools.combinations(range(length), size)])
        for size in range(1, length + 1)
    ]
    return float(np.mean(by_size)), by_size


@pytest.mark.parametrize("length", [1, 2, 5, 6])
def test_every_mask_scores_what_its_definition_says(length):
    m, ids = tiny(), [3, 1, 4, 1, 5, 9][:length]
    sets = [chosen for size in range(1, length + 1) for chosen in itertools.combinations(range(length), size)]
    masked = np.array([[i in chosen for i in range(length)] for chosen in sets])
    scores = score_texts({"m": m}, [np.array(ids)], [masked])
    expected = [surprise_of_set(m, ids, chosen) for chosen in sets]
    # float32 logits depend a little on how many sequences share a pass
    np.testing.assert_allclose(scores[0, 0, 0], expected, rtol=1e-5)


def test_the_estimate_converges_to_the_enumerated_bound():
    m, ids = tiny(), [3, 1, 4, 7, 5]
    exact, by_size = exact_bound(m, ids)
    (found,) = likelihoods({"m": m}, [text(ids)] * 600, 3, 0, BOOTSTRAP)
    error = found.nll_per_text.std() / math.sqrt(600)
    assert abs(found.nll.mean - exact) < 4 * error
    assert error < 0.02 * exact
    assert found.perplexity == pytest.approx(math.exp(found.nll.mean))
    # l/L of 1/5; 2/5; 3/5; 4/5 and 1: the bins (0,1/4], (1/4,1/2], (1/2,3/4], (3/4,1]
    expected = [by_size[0], by_size[1], by_size[2], (by_size[3] + by_size[4]) / 2]
    assert [e.mean for e in found.nll_by_ratio] == pytest.approx(expected, rel=0.06)


@pytest.mark.parametrize("length", range(1, 14))
@pytest.mark.parametrize("masks", [1, 2, 3, 4, 7, 16])
def test_each_count_is_uniform_over_the_offset(length, masks):
    counts = np.array([mask_counts(first, length, masks) for first in range(1, length + 1)])  # [offsets, masks]
    for k in range(masks):
        assert sorted(counts[:, k].tolist()) == list(range(1, length + 1))
    for row in counts:  # and spread evenly: no value is used twice more than another
        often = Counter(row.tolist())
        used = [often[value] for value in range(1, length + 1)]
        assert max(used) - min(used) <= 1


def test_counts_are_those_of_lladas_script_where_masks_divide_the_length():
    # round(linspace(k, k + (b-1) L/b, b)), wrapped, written out for k = 5, L = 12, b = 4
    assert mask_counts(5, 12, 4).tolist() == [5, 8, 11, 2]


def test_sets_are_uniform_given_their_size():
    rng = np.random.default_rng(3)
    sets = Counter(tuple(np.flatnonzero(row)) for _ in range(3000) for row in draw_masks(4, 1, rng))
    assert len(sets) == 15
    for size in range(1, 5):
        drawn = [count for chosen, count in sets.items() if len(chosen) == size]
        assert scipy.stats.chisquare(drawn).pvalue > 1e-4 if len(drawn) > 1 else drawn[0] > 600


def test_masks_of_a_text_depend_on_nothing_else():
    many = [text_masks(9, index, 20, 4) for index in range(5)]
    assert np.array_equal(many[3], text_masks(9, 3, 20, 4))
    assert not np.array_equal(many[3], many[4])
    assert not np.array_equal(many[3], text_masks(8, 3, 20, 4))


def test_a_uniform_model_needs_log_v_a_token():
    (found,) = likelihoods({"m": uniform(16)}, [text([3, 4, 5, 6]), text([7, 8])], 5, 1, BOOTSTRAP)
    assert found.nll.mean == pytest.approx(math.log(16), abs=1e-15)
    assert found.perplexity == pytest.approx(16)
    assert (found.nll.n, found.nll.low, found.nll.high) == (2, found.nll.mean, found.nll.mean)


def test_the_reference_differs_from_itself_by_exactly_nothing():
    m = tiny()
    reference, same = likelihoods({"a": m, "b": m}, [text([3, 1, 4, 7, 5])] * 6, 4, 1, BOOTSTRAP)
    for row in (reference, same):
        for estimate in (row.difference, row.kl, row.reverse_kl, row.total_variation, row.flips, *row.difference_by_ratio):
            assert (estimate.mean, estimate.low, estimate.high) == (0.0, 0.0, 0.0)
    assert reference.nll == same.nll


def test_statistics_of_a_candidate_by_the_definitions():
    a, b, ids = hashed(7, 1), hashed(7, 2), np.array([3, 1, 4, 6])
    masked = np.array([[True, False, True, True], [False, True, False, False]])
    scores = score_texts({"a": a, "b": b}, [ids], [masked])
    for row, hidden in enumerate(masked):
        seen = np.where(hidden, MASK, ids)[None]
        p, q = (scipy.special.softmax(m.logits(seen)[0].astype(np.float64), axis=-1)[hidden] for m in (a, b))
        expected = [
            -np.log(q[np.arange(len(q)), ids[hidden]]).mean(),
            np.mean([scipy.stats.entropy(x, y) for x, y in zip(p, q)]),
            np.mean([scipy.stats.entropy(y, x) for x, y in zip(p, q)]),
            np.mean([np.maximum(x - y, 0).sum() for x, y in zip(p, q)]),
            np.mean(p.argmax(-1) != q.argmax(-1)),
        ]
        np.testing.assert_allclose(scores[1, :, 0, row], expected, rtol=1e-12)


def test_distances_by_hand():
    p = Distributions.of(np.log(np.array([[0.5, 0.25, 0.25]])))
    q = Distributions.of(np.log(np.array([[0.25, 0.25, 0.5]])))
    assert kl_divergence(p, q)[0] == pytest.approx(0.25 * math.log(2))
    assert total_variation(p, q)[0] == pytest.approx(0.25)


def test_distributions_survive_huge_logits_and_take_the_lowest_index_of_ties():
    d = Distributions.of(np.array([[1e4, 1e4, -1e4]], dtype=np.float32))
    assert d.top.tolist() == [0]
    assert d.p.tolist() == [[0.5, 0.5, 0.0]]
    assert kl_divergence(d, d).tolist() == [0.0]


def test_texts_of_different_lengths_keep_their_places():
    m = hashed(9)
    ids = [[3, 4, 5], [6, 7], [8, 1, 2]]
    masked = [np.ones((2, len(i)), dtype=bool) for i in ids]
    scores = score_texts({"m": m}, [np.array(i) for i in ids], masked)
    for index, one in enumerate(ids):
        expected = surprise_of_set(m, one, range(len(one)))
        assert scores[0, 0, index] == pytest.approx([expected, expected], rel=1e-12)


def test_a_bin_without_masks_is_left_out_of_n():
    (found,) = likelihoods({"m": uniform(4)}, [text([1, 2, 3, 1])] * 3, 1, 0, BOOTSTRAP)
    assert sum(e.n for e in found.nll_by_ratio) == 3
    assert all((e.mean is None) == (e.n == 0) for e in found.nll_by_ratio)


def test_a_broken_model_is_named():
    broken = Table(lambda ids: np.full((len(ids), 5), np.nan), 5)
    with pytest.raises(NumericalError, match=r"^model 'bad': the logits are not finite$"):
        likelihoods({"good": uniform(5), "bad": broken}, [text([1, 2])], 1, 0, BOOTSTRAP)


def test_batches_are_bounded_by_the_vocabulary():
    assert rows_at_once(128, 1024) == 16
    assert rows_at_once(4096, 126464) == 1


def test_no_text_gives_no_number():
    (found,) = likelihoods({"m": uniform(4)}, [], 3, 0, BOOTSTRAP)
    assert (found.nll.mean, found.nll.n, found.perplexity) == (None, 0, None)


def test_a_perplexity_beyond_float64_is_not_a_number():
    sure = Table(lambda ids: np.tile([2000.0, 0, 0], (len(ids), 1)), 3)
    (found,) = likelihoods({"m": sure}, [text([1, 2])], 2, 0, BOOTSTRAP)
    assert (found.nll.mean, found.perplexity) == (2000.0, None)


def test_the_error_from_the_masks_alone_is_what_repeating_the_draw_shows():
    """Texts fixed, masks drawn again and again: the bound's spread is at most the reported error, and of its size."""
    rng = np.random.default_rng(3)
    values = rng.standard_normal((5, 8)) * np.arange(1, 6)[:, None]
    by_hand = np.sqrt(sum(row.var(ddof=1) / 8 for row in values)) / 5
    assert mask_error(values, FAST) == pytest.approx(by_hand, rel=1e-12)
    spread = np.std([np.mean(rng.standard_normal((5, 8)) * np.arange(1, 6)[:, None]) for _ in range(4000)])
    expected = np.mean([mask_error(rng.standard_normal((5, 8)) * np.arange(1, 6)[:, None], FAST) for _ in range(4000)])
    assert expected == pytest.approx(spread, rel=0.05)
    assert mask_error(values[:, :1], FAST) is None
    assert mask_error(values[:0], FAST) is None


def test_a_models_logits_are_read_at_the_positions_of_their_tokens():
    """Dream predicts the next position: a mask at j is scored by the row at j - 1."""
    m = model.load(Path(__file__).parents[2] / "data" / "llada" / "dream_gqa_f32", "float64")
    ids = np.array([5, 6, 7, 8, 9])
    masked = np.array([[False, False, True, False, False]])
    seen = np.where(masked, m.config.mask_token_id, ids)
    row = m.logits(seen)[0, 1]
    expected = scipy.special.logsumexp(row) - row[7]
    assert score_texts({"dream": m}, [ids], [masked])[0, 0, 0, 0] == pytest.approx(expected, rel=1e-12)
