"""A recipe of the user's own that puts rewrites together, typed on the command line, on a checkpoint of each kind."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

import model
from refquant.apply.checkpoint import load, load_quantized
from refquant.apply.recipe import Recipe
from tests.cli.conftest import write_lines

DATA = Path(__file__).parents[1] / "data" / "llada"
QUAROT = '[[rewrites]]\nmethod = "quarot"\nodd_sizes = "blocks"\nseed = 3\n'
AWQ = '[[rewrites]]\nmethod = "awq"\ncandidates = 4\ninapplicable = "skip"\n'
SMOOTHING = '[[rewrites]]\nmethod = "smoothquant"\nalpha = 0.7\n'
DUQUANT = '[[rewrites]]\nmethod = "duquant"\nblock = 8\nsteps = 3\n'
REST = """name = "mine"
[weights]
method = "{method}"
bits = 16
group_size = 16
scale_format = "float32"
[activations]
method = "per_token"
bits = 16
[calibration]
states = "clean"
samples = 6
min_expert_tokens = 1
"""
TOGETHER = {
    "quarot, awq, gptq": (QUAROT + AWQ, "gptq", ["quarot", "awq"]),
    "smoothquant, duquant, rtn": (SMOOTHING + DUQUANT, "rtn", ["smoothquant", "duquant"]),
    "smoothquant, awq, dash_q": (SMOOTHING + AWQ, "dash_q", ["smoothquant", "awq"]),
}


FAMILIES = ("base_mha_f32", "dream_gqa_f32", "llada_moe_f32", "llada2_moe_f32")
FAST = [*((name, "quarot, awq, gptq") for name in FAMILIES), ("dream_gqa_f32", "smoothquant, duquant, rtn")]
CASES = [
    (name, each) if (name, each) in FAST else pytest.param(name, each, marks=pytest.mark.slow) for name in FAMILIES for each in TOGETHER
]


def checkpoint_of(name, tmp_path):
    folder = Path(shutil.copytree(DATA / name, tmp_path / name))
    shutil.copyfile(model.embedded_directory() / "tokenizer.json", folder / "tokenizer.json")
    rng = np.random.default_rng(0)
    write_lines(folder / "calib.jsonl", [{"ids": rng.integers(0, 150, length).tolist()} for length in (30, 41, 38, 30, 27, 36)])
    return folder


@pytest.mark.parametrize(("name", "together"), CASES)
def test_two_rewrites_in_a_recipe_of_ones_own(run, tmp_path, name, together):
    """16 bits behind two rewrites stay near the model as it came: each rewrite and its undoing met the other one's tensors.

    (At 8 bits a mixture's routers choose other experts here and there, whatever the method.)
    """
    tables, method, methods = TOGETHER[together]
    family, recipe = checkpoint_of(name, tmp_path), tmp_path / "mine.toml"
    recipe.write_text(REST.format(method=method) + tables)
    ran = run("quantize", str(family), "--recipe", str(recipe), "--out", "out", "--no-compare", "--format", "json")
    assert ran.code == 0, ran.err
    out = Path(ran.json["folder"])
    assert [part["method"] for part in json.loads((out / "quantization.json").read_text())["recipe"]["rewrites"]] == methods
    assert [*dict.fromkeys(note["method"] for note in load_quantized(out).rewritten.notes)] == methods
    before, after = model.load(family, "float64"), load(out, "float64")
    ids = np.random.default_rng(1).integers(0, 150, (2, 12))
    y = before.logits(ids)
    moved = after.logits(ids) - y
    assert 0 < np.sqrt((moved * moved).mean() / (y * y).mean()) < 1e-3


def test_rewrites_that_do_not_go_together_are_told_before_anything_is_read(run, tmp_path):
    recipe = tmp_path / "mine.toml"
    for tables, told in (
        (AWQ + QUAROT, "quarot rewrites the whole model before any block is reached; it has to stand before awq"),
        (QUAROT + DUQUANT, "quarot and duquant both transform queries and keys"),
        ('[[rewrites]]\nmethod = "spinquant"\n', "a rewrite is a table with a method of smoothquant, awq, quarot, duquant, soloq"),
    ):
        recipe.write_text(REST.format(method="rtn") + tables)
        ran = run("quantize", "--recipe", str(recipe), "--out", "out", "--no-compare")
        assert ran.code in (2, 3)
        assert told in ran.err
        assert len(ran.err.strip().splitlines()) == 1
        assert not Path("out").exists()


def test_the_recipe_in_the_readme_is_one():
    text = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"```toml\n(.*?)```", text, re.S)
    recipe = Recipe.from_toml(shown)
    assert [part.method for part in recipe.rewrites] == ["quarot", "awq"]
