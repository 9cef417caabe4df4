"""What quantization does to the embedded, trained model. The statements with intervals are slow: ``pytest -m slow tests/apply``."""

from __future__ import annotations

from functools import cache

import pytest

import model
from refquant.apply.evaluation import Sizes, evaluate, read_evaluation_set
from refquant.apply.recipe import find_recipe
from refquant.apply.run import Workbench, baseline, open_workbench

FOLDER = model.embedded_directory()
# Likelihood only: the smallest trajectory, no task items.
LIKELIHOOD = Sizes(texts=64, masks=16, items=0, trajectory_texts=1, trajectory_items=0, prefix=8, continuation=8)


@cache
def bench(seed: int = 0) -> Workbench:
    return open_workbench(FOLDER, model.embedded(), FOLDER / "calib.jsonl", seed)


def test_gptq_is_below_rtn_in_output_error_on_every_linear():
    """By the records, whose errors have a test of their own: 28 linears, 3 bits, 24 short calibration states."""
    plan = find_recipe("w3").replace(calibration={"samples": 24, "prompts": 24})
    records = bench().quantize(plan).records
    assert len(records) == 28
    assert {r.name for r in records if not 0 < r.error < r.rtn_error} == set()


def differences(plans):
    """Paired NLL differences in nats a token, one Estimate a plan, on the same texts and masks."""
    one = bench()
    candidates = {name: one.quantize(plan).attach(one.model) for name, plan in plans.items()}
    found = evaluate(one.model, candidates, one.tokenizer, read_evaluation_set(), LIKELIHOOD)
    return {name: found.row(name).likelihood.difference for name in plans}


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_w8a8_costs_less_than_a_hundredth_of_a_nat():
    found = differences({"w8a8": find_recipe("w8a8")})["w8a8"]
    assert found.n == LIKELIHOOD.texts
    assert found.high < 0.01, found


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_rtn_is_clearly_worse_at_w4a4_w3_and_w2():
    plans = {name: baseline(find_recipe(recipe), "rtn") for name, recipe in (("W4A4", "rtn-w4a4"), ("W3", "w3"), ("W2", "w2"))}
    found = differences(plans)
    assert {name: estimate.low > 0 for name, estimate in found.items()} == dict.fromkeys(plans, True), found
    assert found["W2"].low > found["W3"].high


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", ["gptq-w4a16", "gptq-w4a4", "w2"])
@pytest.mark.parametrize("seed", [0, 1])
def test_gptq_is_below_rtn_in_output_error_with_the_shipped_calibration(name, seed):
    records = bench(seed).quantize(find_recipe(name)).records
    assert len(records) == 28
    assert {r.name: (r.error, r.rtn_error) for r in records if not 0 < r.error < r.rtn_error} == {}
