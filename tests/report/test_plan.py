"""The plan's sizes against those of the run: rewritten tensors, transforms at run time, corrections, sums of signs."""

from __future__ import annotations

import pytest

import model
from refquant.apply.quantize import quantize_model
from refquant.apply.recipe import find_recipe
from refquant.apply.rewrite_parts import Awq, BlockRotations, RandomBlockRotations, Rotations, Smoothing
from refquant.report.footprint import quantized_footprint
from refquant.report.plan import plan_json, plan_parts
from refquant.storage import open_checkpoint
from tests.apply.folders import states
from tests.apply.tiny import recipe, write_folder

TINY = {"method": "rtn", "group_size": 8}
ROTATED = (Rotations(),)
CASES = {
    "plain": (recipe(TINY), {}),
    "smoothing": (recipe(TINY, rewrites=(Smoothing(),)), {}),
    "factors of all places, online where heads are grouped": (
        recipe(TINY, rewrites=(Awq(candidates=2, places=("attn_in", "attn_out", "mlp_in", "mlp_out"), inapplicable="online"),)),
        {},
    ),
    "rotations of a tied model": (recipe(TINY, rewrites=ROTATED), {"weight_tying": True}),
    "rotations without quantized weights": (recipe({"method": "none"}, rewrites=ROTATED, calibration={"states": "none"}), {}),
    "a random rotation": (recipe(TINY, rewrites=(Rotations(rotations=("R1",), matrix="orthogonal"),)), {}),
    "block rotations": (recipe(TINY, rewrites=(BlockRotations(block=8, steps=2),)), {}),
    "block rotations apart": (recipe(TINY, rewrites=(BlockRotations(block=4, steps=2, shared=False, scores=False),)), {}),
    "rotations, then smoothing": (recipe(TINY, rewrites=(*ROTATED, Smoothing(places=("mlp_in",)))), {}),
    "soloq": (find_recipe("soloq-w4a4").replace(rewrites=(RandomBlockRotations(block=8),), weights={"group_size": 8}), {}),
    "tac": (recipe(attention_output={"method": "tac", "block": 4}), {}),
    "sums of signs": (recipe({"method": "quant_dllm", "bits": 2, "group_size": 8, "mixed_ratio": 0.5}), {}),
    "some skipped": (recipe(TINY, rewrites=(Smoothing(),), skip=("q_proj",)), {}),
}


@pytest.mark.parametrize("name", CASES)
def test_the_plan_knows_the_size_of_the_result(tmp_path, name):
    plan, changes = CASES[name]
    source = write_folder(tmp_path / "source", **changes)
    m, stored = model.load(source), open_checkpoint(source)
    tree = plan_json(m, stored, plan, {"it": plan}, tmp_path / "out", "d" * 64, 3, False)
    quantized = quantize_model(m, plan, states(m))
    assert tree["bytes"] == quantized_footprint(stored, quantized, m.linears).nbytes
    changed = set(quantized.rewritten.tensors)
    if name.startswith("factors"):  # a search may choose factors of one, and the tensor stays as it was
        assert changed < set(tree["rewritten"])
    else:
        assert changed == set(tree["rewritten"])
    assert not set(tree["rewritten"]) & set(tree["kept"])
    text = "\n".join(str(part) for part in plan_parts(m, stored, plan, {"it": plan}, tmp_path / "out", "d" * 64, 3, False))
    assert ("# Rewritten and kept" in text) == bool(quantized.rewritten.tensors or tree["run_time_bytes"])
