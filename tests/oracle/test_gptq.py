"""Exact GPTQ: the laws of its algebra hold with ==, and a plain float64 program decides the same wherever the margin allows."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from refquant.errors import InputError, NotPositiveDefiniteError, UsageError
from refquant.oracle import (
    BINARY64,
    Uniform,
    UniformGrid,
    gptq,
    matrix,
    quantize_row,
    weighted_hessian,
)
from refquant.oracle.quadratic import prepare, unit_factor_of_inverse
from tests.oracle.layers import inverted, layers

F = Fraction


def minmax_grids(weights, group=None, bits=2):
    return [quantize_row(line, Uniform("asym_incl0", bits), group).grids for line in weights]


def test_two_columns_by_hand():
    """H = [[2, 1], [1, 2]]: the error 2/5 of the first column moves -(1/2)(2/5) = -1/5 the other way: 2/5 + 1/5 = 3/5 rounds to 1."""
    grid = UniformGrid(F(1), 0, -8, 7)
    result = gptq([[F(2, 5), F(2, 5)]], [[F(2), F(1)], [F(1), F(2)]], [[grid]], percdamp=F(0))
    assert result.codes == [[0, 1]]
    assert [decision.error for decision in result.decisions[0]] == [F(2, 5), F(-2, 5)]
    assert result.margins == [[F(1, 10), F(1, 10)]]
    assert result.pivots == [F(3, 2), F(2)]
    assert result.loss == F(4, 25) * F(3, 2) + F(4, 25) * 2 == F(14, 25)


@given(layers(), st.booleans(), st.sampled_from([None, 1, 2, 3]))
def test_loss_is_the_sum_of_squared_scaled_errors(layer, act_order, group):
    weights, hessian = layer
    result = gptq(weights, hessian, minmax_grids(weights, group), group=group, act_order=act_order)
    total = sum(
        (line[column].error ** 2 * pivot for line in result.decisions for column, pivot in zip(result.order, result.pivots, strict=True)),
        F(0),
    )
    assert result.loss == total


@given(layers())
def test_diagonal_hessian_is_rounding_to_nearest(layer):
    weights, hessian = layer
    size = len(hessian)
    diagonal = [[hessian[i][i] + 1 if i == j else F(0) for j in range(size)] for i in range(size)]
    grids = minmax_grids(weights)
    assert gptq(weights, diagonal, grids).codes == [quantize_row(line, Uniform("asym_incl0", 2)).codes for line in weights]


@given(layers(), st.fractions(F(1, 50), 50), st.booleans())
def test_a_factor_on_the_hessian_changes_nothing(layer, factor, act_order):
    weights, hessian = layer
    scaled = [[factor * x for x in line] for line in hessian]
    assume(all(hessian[i][i] for i in range(len(hessian))))  # a dead column counts as 1, whatever the others are
    grids = minmax_grids(weights)
    one, other = (gptq(weights, h, grids, act_order=act_order) for h in (hessian, scaled))
    assert one.decisions == other.decisions
    assert other.loss == factor * one.loss


@given(layers(rows=1), st.randoms())
def test_act_order_does_not_depend_on_the_order_of_inputs(layer, random):
    weights, hessian = layer
    size = len(hessian)
    assume(len({hessian[i][i] for i in range(size)}) == size)
    assume(all(hessian[i][i] for i in range(size)))
    shuffled = random.sample(range(size), size)
    grids = minmax_grids(weights)
    one = gptq(weights, hessian, grids, act_order=True)
    moved_weights = [[line[i] for i in shuffled] for line in weights]
    moved_hessian = [[hessian[i][j] for j in shuffled] for i in shuffled]
    other = gptq(moved_weights, moved_hessian, grids, act_order=True)
    assert [[line[i] for i in shuffled] for line in one.codes] == other.codes


def test_act_order_is_stable_and_damping_comes_after_dead_columns():
    hessian = [[F(0)] * 4 for _ in range(4)]
    for i, x in enumerate([1, 0, 3, 3]):
        hessian[i][i] = F(x)
    prepared = prepare([[F(5), F(6), F(7), F(8)]], hessian, F(1, 2), act_order=True)
    assert prepared.order == [2, 3, 0, 1]
    assert prepared.weights == [[7, 8, 5, 0]]
    assert prepared.damping == F(1, 2) * (1 + 1 + 3 + 3) / 4
    assert [prepared.hessian[i][i] for i in range(4)] == [4, 4, 2, 2]


@given(layers())
def test_dead_columns_give_zero_weights(layer):
    weights, hessian = layer
    assume(len(hessian) > 1)
    hessian = [[F(0) if 0 in (i, j) else x for j, x in enumerate(line)] for i, line in enumerate(hessian)]
    assume(hessian[1][1] > 0)
    assert all(line[0] == 0 for line in gptq(weights, hessian, minmax_grids(weights)).values)


@given(layers(), st.sampled_from([1, 2, 3]))
def test_dynamic_groups_see_all_compensation(layer, group):
    """The first group's grid is the fixed one; each later grid is that of the weights just before its columns are decided."""
    weights, hessian = layer
    seen = []
    scheme = Uniform("asym_incl0", 2)

    def fit(values):
        seen.append(list(values))
        return scheme.fit(values)

    result = gptq(weights, hessian, fit, group=group)
    prepared = prepare(weights, hessian, F(1, 100))
    expected = []
    for line, values in zip(prepared.weights, result.values, strict=True):
        for start in range(0, len(line), group):
            expected.append(_conditional_optimum(line, values, prepared.hessian, start)[:group])
    assert seen == expected


def _conditional_optimum(weights, values, hessian, start):
    """The remaining weights that minimize the quadratic form once the first `start` are fixed, from the normal equations."""
    size = len(weights)
    if start == 0:
        return list(weights)
    inverse = inverted([line[start:] for line in hessian[start:]])
    pull = [sum((hessian[i][j] * (values[j] - weights[j]) for j in range(start)), F(0)) for i in range(start, size)]
    shift = [sum((x * y for x, y in zip(line, pull, strict=True)), F(0)) for line in inverse]
    return [w - s for w, s in zip(weights[start:], shift, strict=True)]


@given(layers())
def test_current_weights_are_the_conditional_optimum(layer):
    """Every decision is made on the best real-valued continuation of the decisions before it."""
    weights, hessian = layer
    result = gptq(weights, hessian, minmax_grids(weights))
    prepared = prepare(weights, hessian, F(1, 100))
    for line, decisions in zip(prepared.weights, result.decisions, strict=True):
        values = [decision.value for decision in decisions]
        for i, decision in enumerate(decisions):
            assert decision.value + decision.error == _conditional_optimum(line, values, prepared.hessian, i)[0]


def float64_gptq(w, h, bits, group, act_order, static, block):
    """The authors' algorithm as a plain NumPy program, with lazy blocks; returns codes in the original order."""
    w, h = w.copy(), h.copy()
    n = len(h)
    dead = np.diag(h) == 0
    h[dead, dead] = 1
    w[:, dead] = 0
    top = 2**bits - 1

    def fit(x):
        low, high = np.minimum(x.min(1), 0), np.maximum(x.max(1), 0)
        low, high = np.where((low == 0) & (high == 0), -1, low), np.where((low == 0) & (high == 0), 1, high)
        scale = (high - low) / top
        return scale, np.rint(-low / scale)

    static_grids = [fit(w[:, k : k + group]) for k in range(0, n, group)]
    perm = np.argsort(-np.diag(h), kind="stable") if act_order else np.arange(n)
    w, h = w[:, perm], h[perm][:, perm]
    h += 0.01 * np.mean(np.diag(h)) * np.eye(n)
    u = np.linalg.cholesky(np.linalg.inv(h)).T
    codes = np.zeros(w.shape, int)
    for i1 in range(0, n, block):
        i2 = min(i1 + block, n)
        inner, errors = w[:, i1:i2].copy(), np.zeros((len(w), i2 - i1))
        for i in range(i1, i2):
            if static:
                scale, zero = static_grids[perm[i] // group]
            elif i % group == 0:
                scale, zero = fit(w[:, i : i + group])
            codes[:, i] = np.clip(np.rint(inner[:, i - i1] / scale) + zero, 0, top)
            errors[:, i - i1] = (inner[:, i - i1] - scale * (codes[:, i] - zero)) / u[i, i]
            inner[:, i - i1 :] -= np.outer(errors[:, i - i1], u[i, i:i2])
        w[:, i2:] -= errors @ u[i1:i2, i2:]
    return codes[:, np.argsort(perm)]


@pytest.mark.parametrize("block", [1, 3, 4, 12])
@pytest.mark.parametrize("group", [4, 5, 12])
@pytest.mark.parametrize("act_order", [False, True])
@pytest.mark.parametrize("static", [False, True])
def test_against_the_authors_algorithm_in_float64(block, group, act_order, static):
    """Same codes wherever no decision of the row is within 1e-9 steps of its boundary."""
    generator = np.random.default_rng([block, group, act_order, static])
    x = generator.normal(size=(30, 12)).round(3) @ np.triu(np.ones((12, 12)))
    x[:, 7] = 0
    w = generator.normal(size=(3, 12)).round(4)
    h = np.array([[float(v) for v in line] for line in weighted_hessian(matrix(x))])
    codes = float64_gptq(w, h, 3, group, act_order, static, block)
    scheme = Uniform("asym_incl0", 3, BINARY64)
    dead_zeroed = prepare(matrix(w), matrix(h), F(0)).weights
    fixed = [quantize_row(line, scheme, group).grids for line in dead_zeroed]
    result = gptq(
        matrix(w),
        matrix(h),
        fixed if static else scheme.fit,
        group=group,
        percdamp=F(0.01),
        act_order=act_order,
        lazy_block=block,
        stored=BINARY64,
    )
    compared = 0
    for mine, theirs, margins in zip(result.codes, codes.tolist(), result.margins, strict=True):
        if min(margins) > 1e-9:
            assert mine == theirs
            compared += 1
    assert compared >= 2


def test_lazy_blocks_matter_only_to_dynamic_groups_inside_them():
    generator = np.random.default_rng(8)
    hessian = weighted_hessian(matrix(generator.integers(-4, 5, (9, 6))))
    weights = matrix(generator.integers(-16, 17, (2, 6)) / 8)
    scheme = Uniform("asym_incl0", 2)
    full = gptq(weights, hessian, scheme.fit, group=2)
    assert gptq(weights, hessian, scheme.fit, group=2, lazy_block=2).decisions == full.decisions
    assert gptq(weights, hessian, scheme.fit, group=2, lazy_block=6).decisions != full.decisions
    fixed = minmax_grids(weights, 2)
    assert gptq(weights, hessian, fixed, group=2, lazy_block=6).decisions == gptq(weights, hessian, fixed, group=2).decisions


def test_not_positive_definite():
    with pytest.raises(NotPositiveDefiniteError, match="pivot 0 is 0") as caught:
        gptq([[F(1), F(1)]], [[F(1), F(1)], [F(1), F(1)]], [[UniformGrid(F(1), 0, 0, 3)]], percdamp=F(0))
    assert caught.value.pivot == 0
    with pytest.raises(NotPositiveDefiniteError, match="pivot 1 is -1"):
        unit_factor_of_inverse([[F(1), F(0)], [F(0), F(-1)]])


def test_inputs_do_not_change_and_misuse_is_told():
    weights, hessian = [[F(1), F(2)]], [[F(0), F(0)], [F(0), F(2)]]
    before = [list(line) for line in weights], [list(line) for line in hessian]
    gptq(weights, hessian, minmax_grids(weights), act_order=True)
    assert (weights, hessian) == before
    with pytest.raises(InputError, match="not symmetric"):
        gptq(weights, [[F(1), F(1)], [F(0), F(1)]], minmax_grids(weights))
    with pytest.raises(InputError, match="2 columns"):
        gptq([[F(1)]], hessian, minmax_grids(weights))
    with pytest.raises(UsageError, match="at least 1"):
        gptq(weights, hessian, minmax_grids(weights), group=0)
