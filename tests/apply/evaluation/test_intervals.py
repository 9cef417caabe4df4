"""Intervals and tests of shares, against published values, SciPy and a second way to resample."""

import math

import numpy as np
import pytest
import scipy.stats

from refquant.apply.evaluation import intervals
from refquant.apply.evaluation.intervals import Bootstrap
from refquant.apply.evaluation.proportions import mcnemar, proportion


@pytest.mark.parametrize("n", [2, 7, 64])
def test_bootstrap_is_percentiles_of_means_over_indices_of_raw_words(n):
    values = np.random.default_rng(n).normal(size=n) ** 3
    words = np.random.PCG64([5, 2]).random_raw(400 * n)  # nothing of so few words is rejected
    means = [math.fsum(values[int(w) % n] for w in row) / n for row in words.reshape(400, n)]
    found = Bootstrap(seed=5, resamples=400).mean(values)
    assert found.mean == pytest.approx(math.fsum(values) / n, rel=1e-13)
    assert (found.low, found.high) == pytest.approx(np.percentile(means, [2.5, 97.5]), rel=1e-12)
    assert found.n == n


def test_bootstrap_literal():
    # made once with an independent loop over random_raw words; guards the seed derivation for good
    found = Bootstrap(seed=0).mean(np.array([1.0, 2.0, 4.0, 8.0, 16.0]))
    assert (found.mean, found.low, found.high, found.n) == pytest.approx(LITERAL, rel=1e-14)


LITERAL = (6.2, 2.0, 11.4, 5)


def test_chunks_do_not_matter(monkeypatch):
    values = np.random.default_rng(0).normal(size=30)
    whole = Bootstrap(seed=1, resamples=999).mean(values)
    monkeypatch.setattr(intervals, "_CHUNK", 100)
    assert Bootstrap(seed=1, resamples=999).mean(values) == whole


def test_bootstrap_covers():
    """95% intervals of the mean of 40 normal numbers hold the truth in 500 trials about as often as they say."""
    rng = np.random.default_rng(11)
    held = 0
    for trial in range(500):
        found = Bootstrap(seed=trial, resamples=400).mean(rng.normal(3.0, 2.0, size=40))
        held += found.low <= 3.0 <= found.high
    # percentile intervals at n = 40 hold about 94%; the limits are 4 standard errors around that
    assert 0.90 <= held / 500 <= 0.98


def test_undefined_values_are_left_out_and_few_have_no_interval():
    found = Bootstrap(seed=0).mean(np.array([1.0, np.nan, 3.0]))
    assert (found.mean, found.n) == (2.0, 2)
    one, none = Bootstrap(seed=0).mean(np.array([7.0])), Bootstrap(seed=0).mean(np.array([np.nan]))
    assert (one.mean, one.low, one.high, one.n) == (7.0, None, None, 1)
    assert (none.mean, none.low, none.high, none.n) == (None, None, None, 0)


def test_equal_values_have_an_interval_of_no_width():
    found = Bootstrap(seed=0, resamples=50).mean(np.full(33, 0.1))
    assert found.low == found.high == found.mean


@pytest.mark.parametrize(  # Newcombe, Statistics in Medicine 17 (1998) 857-872, table I, method 3
    ("hits", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_published(hits, n, low, high):
    found = proportion(np.arange(n) < hits)
    assert (round(found.low, 4), round(found.high, 4)) == (low, high)


def test_wilson_is_scipys():
    for n in (1, 2, 9, 40, 1000):
        for hits in sorted({0, 1, n // 3, n - 1, n}):
            expected = scipy.stats.binomtest(hits, n).proportion_ci(method="wilson")
            found = proportion(np.arange(n) < hits)
            assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-12)
            assert (found.hits, found.n) == (hits, n)


def test_nothing_to_count():
    found = proportion(np.zeros(0, dtype=bool))
    assert (found.hits, found.n, found.share, found.low, found.high) == (0, 0, None, None, None)


def answers(both, lost, gained, neither):
    reference = [True] * (both + lost) + [False] * (gained + neither)
    candidate = [True] * both + [False] * lost + [True] * gained + [False] * neither
    return np.array(reference), np.array(candidate)


def test_mcnemar_published():
    # Fagerland, Lydersen & Laake, BMC Med Res Methodol 13:91 (2013), table 2: 1, 1, 7, 12; exact conditional p = 0.070
    found = mcnemar(*answers(1, 1, 7, 12))
    assert (found.lost, found.gained, found.n, round(found.p_value, 3)) == (1, 7, 21, 0.070)


@pytest.mark.parametrize(("lost", "gained"), [(0, 0), (3, 3), (2, 10), (10, 2), (59, 121), (0, 1200)])
def test_mcnemar_is_the_binomial_test(lost, gained):
    found = mcnemar(*answers(5, lost, gained, 4))
    expected = scipy.stats.binomtest(lost, lost + gained).pvalue if lost + gained else 1.0
    assert found.p_value == pytest.approx(expected, rel=1e-10)
    assert (found.lost, found.gained) == (lost, gained)
