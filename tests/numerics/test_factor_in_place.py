"""The factor of the inverse in the memory of the matrix: the bytes of the plain one, no second matrix, and nothing lost on failure."""

import tracemalloc

import numpy as np
import pytest

from refquant.core import spec
from refquant.errors import NotPositiveDefiniteError
from refquant.methods.compensate.gptq import gptq, gptq_trace
from refquant.numerics import FAST, ORDERED, cholesky
from refquant.numerics.cholesky import upper_factor_in_place, upper_factor_of_inverse


def positive(n, seed=0):
    x = np.random.default_rng(seed).standard_normal((2 * n + 1, n))
    return FAST.gram(x) + 0.1 * np.eye(n)


@pytest.mark.parametrize("arithmetic", [FAST, ORDERED], ids=repr)
@pytest.mark.parametrize("step", [1, 3, 1024])
@pytest.mark.parametrize("n", [1, 2, 5, 36, 41])
def test_the_bytes_are_those_of_the_plain_one(monkeypatch, arithmetic, step, n):
    monkeypatch.setattr(cholesky, "STEP", step)
    h = positive(n)
    wanted = upper_factor_of_inverse(h, arithmetic)
    found = upper_factor_in_place(h, arithmetic)
    assert found.tobytes() == wanted.tobytes()
    assert found.flags.c_contiguous
    assert np.shares_memory(found, h) == (arithmetic is FAST)


@pytest.mark.parametrize("arithmetic", [FAST, ORDERED], ids=repr)
@pytest.mark.parametrize("column", [0, 4, 19])
def test_after_a_failure_the_matrix_is_what_it_was(monkeypatch, arithmetic, column):
    monkeypatch.setattr(cholesky, "STEP", 3)
    h = positive(20)
    h[column, column] = -1.0
    before = h.copy()
    with pytest.raises(NotPositiveDefiniteError, match=f"its pivot at column {column} is not positive") as found:
        upper_factor_in_place(h, arithmetic)
    assert found.value.pivot == column
    assert h.tobytes() == before.tobytes()


def test_there_is_no_second_matrix(monkeypatch):
    monkeypatch.setattr(cholesky, "STEP", 32)
    h = positive(512)
    tracemalloc.start()
    try:
        upper_factor_in_place(h)
        assert tracemalloc.get_traced_memory()[1] < h.nbytes / 8
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("order", [False, True])
@pytest.mark.parametrize("layout", ["C", "F"])
def test_gptq_is_its_trace_whatever_the_layout(order, layout):
    w, h = np.random.default_rng(3).standard_normal((6, 24)), np.array(positive(24), order=layout)
    kept = h.copy()
    plan = spec("int3", group_size=8)
    one, other = gptq(w, h, plan, act_order=order), gptq_trace(w, h, plan, act_order=order)
    assert one.digest() == other.quantized.digest()
    assert np.array_equal(h, kept)
    with pytest.raises(NotPositiveDefiniteError, match=r"damping=.* would work"):
        gptq(w, kept - 0.1 * np.eye(24) - np.diag(np.full(24, kept.diagonal().min() * 0.2)), plan, damping=0)
