"""`refquant export` and `refquant import` as typed."""

from __future__ import annotations

import pytest

from refquant.apply.checkpoint import load_quantized
from refquant.apply.recipe import find_recipe


@pytest.fixture
def weights(run, checkpoint, tmp_path):
    (tmp_path / "here" / "rows.toml").write_text(find_recipe("rtn-w4a16").replace(weights={"group_size": -1}).to_toml())
    assert run("quantize", checkpoint, "--recipe", "rows.toml", "--out", "q4", "--no-compare").code == 0
    return run


def test_there_and_back(weights, tmp_path):
    ran = weights("export", "q4", "--to", "compressed-tensors", "--out", "ct")
    assert ran.code == 0, ran.err
    assert ran.err == ""
    assert "14 linears in compressed-tensors (pack-quantized)" in ran.out
    assert "exact" in ran.out
    ran = weights("import", "ct", "--out", "back", "--format", "json")
    assert ran.code == 0, ran.err
    assert ran.json["layout"] == "compressed-tensors"
    here = tmp_path / "here"
    before, after = load_quantized(here / "q4").weights, load_quantized(here / "back").weights
    assert {name: q.digest() for name, q in before.items()} == {name: q.digest() for name, q in after.items()}


def test_a_loss_is_asked_for_and_told(weights):
    refused = weights("export", "q4", "--to", "gptq", "--out", "gptq")
    assert refused.code == 3
    assert "16 rows" in refused.err
    assert refused.err.count("\n") == 1
    ran = weights("export", "q4", "--to", "dequantized", "--variant", "bfloat16", "--requantize", "--out", "half", "--format", "json")
    assert ran.code == 0, ran.err
    assert ran.json["exact"] is False
    assert all(loss["noise_to_signal"] > 0 for loss in ran.json["losses"].values())
    table = weights("export", "q4", "--to", "dequantized", "--variant", "bfloat16", "--requantize", "--out", "half2").out
    assert "requantized 14 linears; the worst" in table


@pytest.mark.parametrize(
    ("typed", "code", "says"),
    [
        (["export", "q4", "--to", "exl2", "--out", "x"], 2, ["exl2", "gptq"]),
        (["export", "q4", "--to", "gptq"], 2, ["--out"]),
        (["export", "q4", "--to", "gptq", "--variant", "v9", "--out", "x"], 2, ["v9", "v1"]),
        (["export", "nowhere", "--to", "gptq", "--out", "x"], 3, ["nowhere"]),
        (["export", "q4", "--to", "awq", "--out", "q4"], 3, ["q4", "exists"]),
        (["import", "q4", "--out", "x"], 3, ["quantization_config", "--from"]),
        (["import", "nowhere", "--out", "x"], 3, ["nowhere"]),
        (["import", "q4", "--from", "gptq", "--out", "x"], 3, ["quantization_config"]),
    ],
)
def test_refusals(weights, tmp_path, typed, code, says):
    ran = weights(*typed)
    assert ran.code == code, ran.err
    assert all(part in ran.err for part in says), ran.err
    assert ran.err.count("\n") == 1
    assert not (tmp_path / "here" / "x").exists()
