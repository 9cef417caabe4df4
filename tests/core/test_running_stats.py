"""Statistics of a stream against those of everything at once, in both lanes and both working dtypes."""

from functools import reduce

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refquant.core import Stats, running_stats
from refquant.core.running_stats import RunningStats
from refquant.errors import InputError, NumericalError, UsageError
from refquant.numerics import FAST, ORDERED


def streamed(x, cuts, weights=None, **options):
    running = RunningStats(x.shape[-1], **options)
    for start, stop in zip([0, *cuts], [*cuts, len(x)]):
        running.add(x[start:stop], None if weights is None else weights[start:stop])
    return running


@settings(max_examples=40)
@given(
    seed=st.integers(0, 2**32),
    tokens=st.integers(0, 40),
    features=st.integers(1, 9),
    cuts=st.lists(st.integers(0, 40), max_size=4),
    weighted=st.booleans(),
    run=st.sampled_from([1, 7, 64]),
    square=st.sampled_from([1, 2, 4, 256]),
    working=st.sampled_from(["float64", "float32"]),
)
def test_while_sums_are_exact_the_bytes_are_those_of_everything_at_once(seed, tokens, features, cuts, weighted, run, square, working):
    """[GPTQ-1] Small integers and weights that are squares: every sum is exact in float32 too."""
    rng = np.random.default_rng(seed)
    x = rng.integers(-9, 10, size=(tokens, features)).astype(np.float32)
    weights = rng.integers(0, 4, size=tokens).astype(np.float64) ** 2 if weighted else None
    cuts = sorted(min(cut, tokens) for cut in cuts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(running_stats, "RUN", run)
        patch.setattr(running_stats, "SQUARE", square)
        found = streamed(x, cuts, weights, working=working).stats()
    whole = Stats.of(x, weights)
    assert found.tokens == whole.tokens
    assert found.hessian.tobytes() == whole.hessian.tobytes()
    assert found.absmax.tobytes() == whole.absmax.tobytes()


def test_in_the_ordered_arithmetic_the_bytes_are_always_those():
    x = np.random.default_rng(0).normal(size=(30, 5))
    found, whole = streamed(x, [1, 17], arithmetic=ORDERED).stats(), Stats.of(x, arithmetic=ORDERED)
    assert found.hessian.tobytes() == whole.hessian.tobytes()
    assert found.digits is not None
    assert RunningStats(5, arithmetic=ORDERED).stats().tokens == 0


@pytest.mark.parametrize("run", [1, 16, 4096])
def test_float32_keeps_its_bound(monkeypatch, run):
    monkeypatch.setattr(running_stats, "RUN", run)
    x = np.random.default_rng(1).normal(size=(3000, 12)).astype(np.float32)
    exact = x.astype(np.float64).T @ x.astype(np.float64)
    sizes = np.abs(x).astype(np.float64).T @ np.abs(x)
    off = np.abs(streamed(x, [700, 1900], working="float32").stats().hessian - exact)
    assert (off <= min(run, 3000) * 2.0**-24 * sizes + 1e-12 * sizes).all()
    assert off.max() > 0  # float32 it was
    np.testing.assert_allclose(streamed(x, [700, 1900]).stats().hessian, exact, rtol=0, atol=1e-12 * sizes.max())


@pytest.mark.parametrize("arithmetic", [FAST, ORDERED])
@pytest.mark.parametrize("cuts", [[], [1], [0, 9, 9, 17]])
def test_statistics_that_are_taken_are_those_that_are_merged(arithmetic, cuts):
    """[GPTQ-1] Sums of two Hessians, in order: the bytes of :meth:`Stats.merge`, in the fast lane, too."""
    rng = np.random.default_rng(0)
    x, weights = rng.normal(size=(30, 5)), rng.random(30)
    parts = [Stats.of(x[a:b], weights[a:b], arithmetic) for a, b in zip([0, *cuts], [*cuts, 30], strict=True)]
    running = RunningStats(5, arithmetic=arithmetic)
    for part in parts:
        running.take(part)
    found, merged = running.stats(), reduce(Stats.merge, parts)
    assert (found.tokens, found.hessian.tobytes(), found.absmax.tobytes()) == (30, merged.hessian.tobytes(), merged.absmax.tobytes())
    kept = found.hessian.copy()
    running.take(parts[0])
    running.add(x[:3])
    assert (found.hessian == kept).all()
    assert running.stats().tokens == 33 + parts[0].tokens


def test_statistics_that_cannot_be_taken():
    other = {arithmetic: Stats.of(np.ones((2, 3)), arithmetic=arithmetic) for arithmetic in (FAST, ORDERED)}
    for mine, theirs in ((FAST, ORDERED), (ORDERED, FAST)):
        with pytest.raises(InputError, match="cannot merge statistics of the ordered arithmetic with those of another"):
            RunningStats(3, arithmetic=mine).take(other[theirs])
    with pytest.raises(InputError, match="cannot merge statistics of 4 and 3 features"):
        RunningStats(4).take(other[FAST])
    running = RunningStats(1)
    huge = Stats.of(np.full((1, 1), 1.2e154))
    running.take(huge)
    running.take(huge)
    with pytest.raises(NumericalError, match="overflows float64"):
        running.stats()


def test_more_can_be_added_after_a_look():
    x = np.random.default_rng(2).integers(-5, 6, size=(20, 3)).astype(np.float64)
    running = streamed(x[:8], [], working="float32")
    first = running.stats()
    kept = first.hessian.copy()
    running.add(x[8:])
    assert (first.hessian == kept).all()
    assert running.stats().hessian.tobytes() == Stats.of(x).hessian.tobytes()


def test_what_is_refused_leaves_what_was_there():
    running = RunningStats(3)
    running.add(np.ones((2, 3)))
    with pytest.raises(InputError, match="calibration input 0 holds nan"):
        running.add(np.full((1, 3), np.nan))
    with pytest.raises(InputError, match="inputs have 4 features; the statistics are of 3"):
        running.add(np.ones((1, 4)))
    with pytest.raises(InputError, match="token weights are finite"):
        running.add(np.ones((1, 3)), np.array([-1.0]))
    assert running.stats().tokens == 2
    assert (running.stats().hessian == 2).all()
    with pytest.raises(UsageError, match="working is 'float64' or 'float32', not 'int8'"):
        RunningStats(3, working="int8")
    with pytest.raises(UsageError, match="the ordered arithmetic takes products in float64"):
        RunningStats(3, working="float32", arithmetic=ORDERED)


@pytest.mark.parametrize(("working", "size"), [("float32", 1e30), ("float64", 1e200)])
def test_overflow_is_said(working, size):
    running = RunningStats(2, working=working)
    running.add(np.full((1, 2), size))
    with pytest.raises(NumericalError, match=f"overflows {working}"):
        running.stats()


def test_the_sum_is_made_in_its_own_memory():
    x, wanted = np.eye(4)[:2] * 3 + 1, np.triu(1.0 + np.array([[17, 8, 5, 5], [8, 17, 5, 5], [5, 5, 2, 2], [5, 5, 2, 2]]))
    total = np.ones((4, 4))
    FAST.add_gram(total, x)
    assert np.triu(total).tolist() == wanted.tolist()
    assert total[1, 0] == 1  # the other triangle was left alone
    for odd in (np.ones((4, 8))[:, ::2], np.ones((4, 4), dtype=np.float32)):
        FAST.add_gram(odd, x)
        assert np.triu(odd).tolist() == wanted.tolist()
