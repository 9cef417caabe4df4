"""``weights.working``: statistics and codes in float32, where nobody was promised the bits."""

from __future__ import annotations

import numpy as np
import pytest

import model
from refquant import gptq
from refquant.apply.quantize import quantize_model
from refquant.apply.run import comparison
from refquant.core import RunningStats, Stats
from refquant.errors import UsageError
from refquant.numerics import ORDERED
from tests.apply.tiny import recipe, states_of, tiny

NARROW = recipe({"working": "float32"})


def test_codes_are_those_of_float32_on_statistics_of_float32():
    """[GPTQ-1] The first linear, by hand: the inputs of the first block's queries, batch by batch."""
    m, states = tiny("float32"), states_of((9, 9, 12))
    found = quantize_model(m, NARROW, states)
    name, seen = "model.transformer.blocks.0.q_proj", []
    for group in ((0, 1), (2,)):
        m.logits(np.stack([states[i].ids for i in group]), observer=lambda what, x: seen.append(x) if what == f"{name}.input" else None)
    parts = []
    for x in seen:
        running = RunningStats(16, working="float32")
        running.add(x)
        parts.append(running.stats())
    hessian = parts[0].hessian + parts[1].hessian
    by_hand = gptq(
        m.linears[name].weight.astype(np.float64), hessian, NARROW.weights.spec(), block_size=NARROW.weights.block_size, working="float32"
    )
    assert found.weights[name].digest() == by_hand.digest()
    assert (hessian != Stats.of(np.concatenate([x.reshape(-1, 16) for x in seen])).hessian).any()  # float32 it was


@pytest.mark.parametrize("working", ["float32", "float64"])
def test_codes_are_decided_in_what_the_recipe_says(monkeypatch, working):
    seen = []

    def spied(*arguments, **options):
        seen.append(options["working"])
        return gptq(*arguments, **options)

    monkeypatch.setattr("refquant.apply.weight_quantizing.gptq", spied)
    quantize_model(tiny("float32"), recipe({"working": working}), states_of((9,)))
    assert seen == [working] * 14


def test_it_is_close_to_float64():
    m, states = tiny("float32"), states_of((12,) * 8)
    narrow, wide = quantize_model(m, NARROW, states), quantize_model(m, recipe(), states)
    assert narrow.records != wide.records
    for one, other in zip(narrow.records, wide.records, strict=True):
        assert one.rtn_error == pytest.approx(other.rtn_error, rel=1e-2)
    same = [np.mean(narrow.weights[name].codes == wide.weights[name].codes) for name in wide.weights]
    assert min(same) > 0.9


def test_the_ordered_lane_refuses_it_before_anything_is_computed():
    m = tiny("float32")
    m = model.build(m.config, m.parameters, "float32", arithmetic=ORDERED)
    with pytest.raises(UsageError, match=r"^weights.working is 'float32'.*allowed in the ordered lane: 'float64'$"):
        quantize_model(m, NARROW, [])


def test_rows_that_a_recipe_is_compared_with_compute_as_they_can():
    rows = comparison(NARROW)
    assert [row.weights.working for row in rows.values()] == ["float64", "float32"]
