"""How far from optimal: the cut layers, their Hessians, and that nothing beats the optimum."""

import numpy as np
import pytest

import model
import refquant as rq
from refquant.apply.gap import METHODS, embedded_gaps, measure_gaps
from refquant.apply.recipe import Calibration
from refquant.apply.run import open_workbench
from refquant.errors import InputError, UsageError


@pytest.fixture(scope="module")
def bench():
    source = model.embedded_directory()
    return open_workbench(source, model.embedded(), source / "calib.jsonl", 0)


@pytest.fixture(scope="module")
def states(bench):
    return bench.states(Calibration(states="iid", samples=2, prompts=2)).states


def test_every_linear_is_cut_and_the_optimum_is_never_beaten(bench, states):
    gaps = measure_gaps(bench.model, states, rq.spec("int2"), rows=2, columns=6)
    assert [gap.name for gap in gaps] == list(bench.model.linears)
    assert {(gap.rows, gap.columns, gap.tokens) for gap in gaps} == {(2, 6, sum(len(s.ids) for s in states))}
    for gap in gaps:
        assert set(gap.losses) == set(METHODS)
        assert min(gap.ratio(method) for method in METHODS) >= 1 - 1e-12
        assert gap.optimal_rows["optimum"] == 2
    assert sum(gap.ratio("RTN") > 1.001 for gap in gaps) > len(gaps) / 4


def test_losses_are_those_of_the_inputs_that_the_layer_sees(bench, states):
    """The loss of RTN on the first linear, from its inputs taken by a tap of our own."""
    name = next(iter(bench.model.linears))
    gap = measure_gaps(bench.model, states, rq.spec("int3"), rows=3, columns=5)[0]
    h = np.zeros((5, 5))
    for state in states:
        seen = []
        bench.model.logits(state.ids[None], observer=lambda what, x, seen=seen: seen.append(x) if what == f"{name}.input" else None)
        x = seen[0][0, :, :5].astype(np.float64)
        h += x.T @ x
    h += 0.01 * np.trace(h) / 5 * np.eye(5)
    w = bench.model.linears[name].weight[:3, :5].astype(np.float64)
    delta = w - rq.rtn(w, rq.spec("int3")).dequantize()
    assert gap.losses["RTN"] == pytest.approx(np.trace(delta @ h @ delta.T), rel=1e-9)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"rows": 0}, UsageError, "at least one row"),
        ({"columns": 21}, UsageError, "1 to 20 columns"),
        ({"chosen": rq.spec("int4", group_size=4)}, UsageError, "one scale a row"),
        ({"states": ()}, InputError, "there are none"),
    ],
)
def test_borders(bench, states, change, error, message):
    arguments = {"states": states, "chosen": rq.spec("int4"), "rows": 2, "columns": 4} | change
    with pytest.raises(error, match=message):
        measure_gaps(bench.model, arguments.pop("states"), arguments.pop("chosen"), **arguments)


def test_the_embedded_model_by_bits():
    gaps = embedded_gaps(bits=(2, 3), rows=1, columns=4, samples=1)
    assert list(gaps) == [2, 3]
    assert all(len(found) == 28 for found in gaps.values())
