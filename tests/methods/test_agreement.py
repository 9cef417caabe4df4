"""The assertion that compares GPTQ runs must itself be able to fail, and must not fail on ties."""

from dataclasses import replace

import numpy as np
import pytest

from refquant.core import hessian, spec
from refquant.methods.compensate.gptq import gptq_trace
from tests.methods.agreement import Run, assert_same_decisions, inverse_factor


def _case():
    rng = np.random.default_rng(11)
    w, x = rng.normal(size=(5, 12)), rng.normal(size=(40, 12))
    trace = gptq_trace(w, hessian(x), spec("int3"), act_order=True)
    q = trace.quantized
    return w, trace, Run(codes=q.codes, scale=q.scale, zero=q.zero.astype(float), lo=0, hi=7)


def _forced(trace, w, run, row, step, code):
    """`run` with another code at one step, and the rest of that row decided again from there on."""
    upper, order = inverse_factor(trace.hessian), trace.order
    codes = run.codes.astype(int)
    rest = w[row, order].copy()
    for i in range(len(order)):
        place = rest[i] / run.scale[row, 0] + run.zero[row, 0]
        codes[row, order[i]] = code if i == step else np.clip(np.rint(place), run.lo, run.hi)
        value = run.scale[row, 0] * (codes[row, order[i]] - run.zero[row, 0])
        rest[i:] -= (rest[i] - value) / upper[i, i] * upper[i, i:]
    return replace(run, codes=codes)


def test_accepts_itself():
    w, trace, run = _case()
    assert_same_decisions(trace, w, run, 1e-9)


@pytest.mark.parametrize("step", [0, 5, 11])
def test_refuses_a_wrong_code_even_with_all_later_ones_right(step):
    w, trace, run = _case()
    code = int(run.codes[2, trace.order[step]])
    wrong = _forced(trace, w, run, 2, step, code + 1 if code < 7 else code - 1)
    with pytest.raises(AssertionError, match=r"row 2: the first difference, at step"):
        assert_same_decisions(trace, w, wrong, 1e-9)
    with pytest.raises(AssertionError, match="re-anchored"):
        assert_same_decisions(trace, w, wrong, 1e-9, same_grid=False)


def test_accepts_the_other_side_of_a_tie_but_no_error_behind_it():
    w, trace, run = _case()
    row, step = 1, 3
    code = int(run.codes[row, trace.order[step]])
    other = code + 1 if code < 7 else code - 1
    tie = _forced(trace, w, run, row, step, other)
    margins = trace.margins.copy()
    bound = abs(trace.decided[row, step] / run.scale[row, 0] + run.zero[row, 0] - other) - 0.5 + 1e-12
    margins[row, step] = bound
    near_tie = replace(trace, margins=margins)
    assert_same_decisions(near_tie, w, tie, bound)
    assert (tie.codes[row] != run.codes[row]).sum() >= 1
    last = trace.order[-1]
    spoilt = tie.codes.copy()
    spoilt[row, last] = spoilt[row, last] - 3 if spoilt[row, last] > 3 else spoilt[row, last] + 3
    with pytest.raises(AssertionError, match="re-anchored"):
        assert_same_decisions(near_tie, w, replace(tie, codes=spoilt), bound)
