"""In the ordered lane statistics are a function of the set of tokens: no grouping, order or weight bookkeeping shows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refquant.core import Stats, hessian
from refquant.errors import InputError, NumericalError
from refquant.numerics import FAST, ORDERED
from refquant.numerics.arrays import Array

value = st.one_of(st.floats(-10, 10, width=32), st.floats(-(2.0**-30), 2.0**-30, width=32), st.just(0.0), st.floats(-1e6, 1e6, width=32))


def same(a: Stats, b: Stats) -> bool:
    assert a.digits is not None
    assert b.digits is not None
    arrays = [(a.hessian, b.hessian), (a.absmax, b.absmax), (a.digits.top, b.digits.top), (a.digits.parts, b.digits.parts)]
    return a.tokens == b.tokens and all(x.tobytes() == y.tobytes() for x, y in arrays)


@given(data=st.data(), features=st.integers(1, 4), weighted=st.booleans())
def test_statistics_do_not_depend_on_grouping_or_order(data: st.DataObject, features: int, weighted: bool) -> None:
    row = st.lists(value, min_size=features, max_size=features)
    rows = data.draw(st.lists(row, min_size=1, max_size=9))
    x = np.array(rows, dtype=np.float32)
    weights = np.array(data.draw(st.lists(st.floats(0, 3), min_size=len(x), max_size=len(x)))) if weighted else np.ones(len(x))
    order = np.array(data.draw(st.permutations(range(len(x)))), dtype=int)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(x)), max_size=4)))
    groups = [Stats.of(x[g], weights[g], ORDERED) for g in np.split(order, cuts)]
    whole = Stats.of(x, weights, ORDERED)
    while len(groups) > 1:  # any binary tree of merges, either way around
        i = data.draw(st.integers(0, len(groups) - 2))
        right = groups.pop(i + 1)
        groups[i] = groups[i].merge(right) if data.draw(st.booleans()) else right.merge(groups[i])
    assert same(groups[0], whole)
    assert whole.hessian.tobytes() == hessian(x, weights, ORDERED).tobytes()


def test_floating_point_sums_would_depend_on_it() -> None:
    x = np.random.Generator(np.random.PCG64(0)).standard_normal((300, 20))
    halves = [Stats.of(x[:150], arithmetic=FAST), Stats.of(x[150:], arithmetic=FAST)]
    assert halves[0].merge(halves[1]).hessian.tobytes() != Stats.of(x, arithmetic=FAST).hessian.tobytes()
    ordered = [Stats.of(part, arithmetic=ORDERED) for part in (x[:150], x[150:])]
    assert same(ordered[0].merge(ordered[1]), Stats.of(x, arithmetic=ORDERED))


def test_lanes_agree_and_do_not_mix() -> None:
    x = np.random.Generator(np.random.PCG64(1)).standard_normal((500, 30)).astype(np.float32)
    fast, ordered = Stats.of(x, arithmetic=FAST), Stats.of(x, arithmetic=ORDERED)
    assert np.abs(fast.hessian - ordered.hessian).max() < 1e-12 * fast.hessian.max()
    for a, b in ((fast, ordered), (ordered, fast)):
        with pytest.raises(InputError, match="ordered arithmetic"):
            a.merge(b)


def test_overflow_is_told_in_this_lane_too() -> None:
    huge = Stats.of(np.full((1, 2), 1e154), arithmetic=ORDERED)
    assert np.isfinite(huge.hessian).all()
    with pytest.raises(NumericalError, match="overflows float64"):
        Stats.of(np.full((1, 2), 1e155), arithmetic=ORDERED)
    with pytest.raises(NumericalError, match="overflows float64"):
        huge.merge(huge)


def test_padding_of_weight_zero_may_hold_anything() -> None:
    x: Array = np.array([[1.0, 2.0], [np.nan, np.inf], [3.0, 0.0]])
    stats = Stats.of(x, np.array([1.0, 0.0, 4.0]), ORDERED)
    assert stats.hessian.tolist() == [[37.0, 2.0], [2.0, 4.0]]
