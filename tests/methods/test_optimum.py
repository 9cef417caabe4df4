"""OBQ and the optimum against exact runs in Fractions and against all assignments.

[OBQ-1] [OBQ-2] [OBQ-3] [OBQ-4] [OPT-1] [OPT-2] [OPT-3]
"""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import refquant as rq
from refquant.core import Grid
from refquant.errors import NumericalError
from refquant.methods.compensate.gptq import gptq_trace
from refquant.methods.compensate.obq import obq
from refquant.methods.compensate.optimum import optimum
from refquant.methods.compensate.quadratic import Quadratic
from refquant.oracle.quadratic import best_assignment
from refquant.oracle.uniform import UniformGrid

PROBLEMS = st.tuples(
    st.integers(0, 2**32 - 1), st.integers(1, 5), st.sampled_from(["asym_incl0", "sym_full", "sym_gptq"]), st.sampled_from([2, 3])
)


def problem(seed, columns, rows=3):
    """A correlated problem whose numbers have few bits, so that Fractions stay small."""
    rng = np.random.default_rng(seed)
    x = np.rint(rng.standard_normal((12, columns)) @ rng.standard_normal((columns, columns)) * 8) / 8
    return np.rint(rng.standard_normal((rows, columns)) * 64) / 64, x.T @ x


def exact(array):
    return [[Fraction(float(value)) for value in row] for row in array]


def exact_grids(quantized, columns):
    fmt = quantized.spec.format
    for row in range(len(quantized.scale)):
        zero = 0 if quantized.zero is None else int(quantized.zero[row, 0])
        yield [UniformGrid(Fraction(float(quantized.scale[row, 0])), zero, fmt.lo, fmt.hi)] * columns


def exact_obq(w, h, grid):
    """[OBQ-1] to [OBQ-4] in Fractions, by Gauss-Jordan on what is left instead of updating an inverse."""
    n = len(w)
    w, left, codes, loss = list(w), list(range(n)), [0] * n, Fraction(0)
    ties = False
    while left:
        inverse = gauss_jordan([[h[i][j] for j in left] for i in left])
        best = None
        for k, p in enumerate(left):
            code = min(max(round(w[p] / grid.scale) + grid.zero, grid.lo), grid.hi)  # Python rounds half to even
            error = w[p] - grid.scale * (code - grid.zero)
            cost = error * error / inverse[k][k]
            ties |= best is not None and abs(cost - best[0]) < Fraction(1, 10**9)
            place = w[p] / grid.scale + grid.zero
            ties |= abs(abs(place - round(place)) - Fraction(1, 2)) < Fraction(1, 10**9)
            if best is None or cost < best[0]:
                best = (cost, k, p, code, error)
        cost, k, p, codes[p], error = best
        loss += cost
        for j, column in enumerate(left):
            w[column] -= error / inverse[k][k] * inverse[k][j]
        left.remove(p)
    return codes, loss, ties


def gauss_jordan(matrix):
    n = len(matrix)
    rows = [row + [Fraction(int(i == j)) for j in range(n)] for i, row in enumerate(matrix)]
    for i in range(n):
        rows[i] = [value / rows[i][i] for value in rows[i]]
        for k in range(n):
            if k != i:
                rows[k] = [a - rows[k][i] * b for a, b in zip(rows[k], rows[i], strict=True)]
    return [row[n:] for row in rows]


@given(PROBLEMS.filter(lambda case: case[1] * case[3] <= 8))  # at most 256 assignments a row
@settings(max_examples=25)
def test_the_search_finds_what_trying_everything_finds(case):
    seed, columns, scheme, bits = case
    w, h = problem(seed, columns)
    spec = rq.spec(f"int{bits}", scheme=scheme)
    found = optimum(w, h, spec)
    solved = Quadratic.of(w, h, spec, 0.01)
    losses = solved.loss(found.dequantize())
    for row, grids in enumerate(exact_grids(found, columns)):
        _, best = best_assignment(exact(solved.weight)[row], exact(solved.hessian), grids)
        assert losses[row] == pytest.approx(float(best), rel=1e-9, abs=1e-12)


@given(PROBLEMS)
@settings(max_examples=25)
def test_obq_follows_the_exact_greedy_order(case):
    seed, columns, scheme, bits = case
    w, h = problem(seed, columns)
    spec = rq.spec(f"int{bits}", scheme=scheme)
    found = obq(w, h, spec)
    solved = Quadratic.of(w, h, spec, 0.01)
    losses = solved.loss(found.dequantize())
    for row, grids in enumerate(exact_grids(found, columns)):
        codes, loss, ties = exact_obq(exact(solved.weight)[row], exact(solved.hessian), grids[0])
        if not ties:
            assert found.codes[row].tolist() == codes
            assert losses[row] == pytest.approx(float(loss), rel=1e-7, abs=1e-9)


@pytest.mark.parametrize("seed", range(10))
def test_no_method_beats_the_optimum(seed):
    w, h = problem(seed, 10)
    spec = rq.spec("int3")
    solved = Quadratic.of(w, h, spec, 0.01)
    best = solved.loss(optimum(w, h, spec).dequantize())
    for other in (rq.rtn(w, spec), rq.gptq(w, h, spec), rq.gptq(w, h, spec, act_order=True), obq(w, h, spec)):
        assert (solved.loss(other.dequantize()) >= best * (1 - 1e-12)).all()


@pytest.mark.parametrize("seed", range(10))
def test_the_first_leaf_is_gptq_in_reverse_order(seed):
    w, h = problem(seed, 9)
    spec = rq.spec("int3")
    reverse = gptq_trace(w, h, spec, act_order=np.arange(9)[::-1].copy())
    babai = optimum(w, h, spec, first_leaf=True)
    assert reverse.margins.min() > 1e-9
    assert babai.codes.tolist() == reverse.quantized.codes.tolist()


def test_a_diagonal_hessian_leaves_nothing_to_gain():
    w = np.random.default_rng(3).standard_normal((3, 8))  # no ties
    h, spec = np.diag(np.arange(1.0, 9.0)), rq.spec("int3")
    codes = rq.rtn(w, spec).codes.tolist()
    assert obq(w, h, spec).codes.tolist() == codes
    assert optimum(w, h, spec).codes.tolist() == codes


def test_outliers_go_first_only_when_asked():
    w, h = np.array([[0.2, 9.0]]), np.array([[1.0, 0.9], [0.9, 1.0]])
    spec = rq.spec("int2")
    grid = Grid(scale=np.array([[1.0]]), zero=np.array([[0]], dtype=np.uint8))
    # 0.2 -> 0 costs less; then 9 + 0.2 * 0.9... -> 3. The outlier first moves 6 * 0.9 steps onto the other column.
    assert obq(w, h, spec, grid=grid, damping=0.0).codes.tolist() == [[0, 3]]
    assert obq(w, h, spec, grid=grid, damping=0.0, outliers_first=True).codes.tolist() == [[3, 3]]


def test_a_search_that_grows_too_large_raises():
    w, h = problem(0, 10)
    with pytest.raises(NumericalError, match="more than 3 nodes"):
        optimum(w, h, rq.spec("int4"), max_nodes=3)
