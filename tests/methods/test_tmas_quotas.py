"""How TMAS splits samples over bins, by hand and against the oracle."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refquant import oracle
from refquant.errors import InputError, UsageError
from refquant.methods.diffusion.tmas import PROPORTIONS, capped_quotas, quotas


def test_128_samples():
    """[TMAS-2] 38.4, 25.6, 25.6, 38.4: two left over, to the two fractions of 0.6."""
    assert quotas(PROPORTIONS, 128) == [38, 26, 26, 38]


@pytest.mark.parametrize(
    ("shares", "samples", "expected"),
    [
        ((0.3, 0.2, 0.2, 0.3), 10, [3, 2, 2, 3]),
        ((0.3, 0.2, 0.2, 0.3), 1, [1, 0, 0, 0]),  # fractions 0.3, 0.2, 0.2, 0.3: a tie, lower index
        ((0.3, 0.2, 0.2, 0.3), 2, [1, 0, 0, 1]),
        ((0.3, 0.2, 0.2, 0.3), 5, [2, 1, 1, 1]),  # 1.5, 1, 1, 1.5
        ((1, 1, 1), 4, [2, 1, 1]),
        ((1, 1, 1), 5, [2, 2, 1]),
        ((0.1, 0.2, 0.7), 10, [1, 2, 7]),  # 0.1 * 10 and 0.7 * 10 as binary fractions are not 1 and 7
        ((0, 1, 0), 3, [0, 3, 0]),
        ((3, 2, 2, 3), 0, [0, 0, 0, 0]),
        ((2.5,), 7, [7]),
    ],
)
def test_by_hand(shares, samples, expected):
    assert quotas(shares, samples) == expected


@given(st.lists(st.integers(0, 20), min_size=1, max_size=6).filter(any), st.integers(0, 200))
def test_oracle(tenths, samples):
    found = quotas([t / 10 for t in tenths], samples)
    assert found == oracle.largest_remainder([Fraction(t, 10) for t in tenths], samples)
    assert sum(found) == samples


@pytest.mark.parametrize(
    ("available", "samples", "expected"),
    [
        ((1, 9, 9, 9), 10, [1, 3, 2, 4]),  # 2 missing over shares 2, 2, 3: 0.57, 0.57, 0.86 -> the last, then the second
        ((10, 0, 0, 0), 10, [10, 0, 0, 0]),
        ((9, 9, 9, 0), 10, [4, 3, 3, 0]),  # 3, 2, 2, 0, then 3 over 3, 2, 2: 1.29, 0.86, 0.86
        ((2, 2, 2, 4), 10, [2, 2, 2, 4]),
        ((0, 4, 1, 9), 10, [0, 4, 1, 5]),  # cascade: 2, 1, 3, then 4 over 2, 3 -> 2, 2 (1.6, 2.4)
    ],
)
def test_shortfall_by_hand(available, samples, expected):
    """[TMAS-3]"""
    assert capped_quotas(PROPORTIONS, samples, available) == expected


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 12)), min_size=1, max_size=5), st.integers(0, 40))
def test_shortfall_oracle(bins, samples):
    """[TMAS-3]"""
    available = [count for _, count in bins]
    samples = min(samples, sum(available))
    found = capped_quotas([share / 10 for share, _ in bins], samples, available)
    assert found == oracle.quotas([Fraction(share, 10) for share, _ in bins], samples, available)
    assert sum(found) == samples
    assert all(f <= a for f, a in zip(found, available, strict=True))


def test_a_share_of_0_gives_only_what_nobody_else_has():
    assert capped_quotas((0, 1, 1), 4, (9, 2, 2)) == [0, 2, 2]
    assert capped_quotas((0, 1, 1), 6, (9, 2, 2)) == [2, 2, 2]


@pytest.mark.parametrize(
    ("what", "error", "message"),
    [
        (lambda: quotas((0, 0), 3), UsageError, r"proportions are finite, not negative and not all 0; got \(0, 0\)"),
        (lambda: quotas((-0.1, 1.1), 3), UsageError, "not negative"),
        (lambda: quotas((np.nan, 1), 3), UsageError, "finite"),
        (lambda: quotas((np.inf, 1), 3), UsageError, "finite"),
        (lambda: quotas((), 3), UsageError, r"got \(\)"),
        (lambda: quotas((1, 1), -1), UsageError, "an integer of at least 0, not -1"),
        (lambda: quotas((1, 1), 2.5), UsageError, "not 2.5"),
        (lambda: capped_quotas((1, 1), 3, (1, 1)), InputError, "3 samples were asked of 2 states"),
        (lambda: capped_quotas((1, 1), 3, (9, 9, 9)), UsageError, "2 proportions were given for 3 bins"),
        (lambda: capped_quotas((0, 0), 3, (9, 9)), UsageError, "not all 0"),
        (lambda: capped_quotas((-1, 1), 3, (0, 9)), UsageError, "not negative"),
    ],
)
def test_refused(what, error, message):
    with pytest.raises(error, match=message):
        what()
