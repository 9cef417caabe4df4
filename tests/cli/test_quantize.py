"""The main command from end to end on a small checkpoint: what it prints, what it writes, and that it does not do its work twice."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import safetensors.numpy

from refquant.apply.recipe import Recipe, find_recipe
from tests.cli.conftest import contents

LABELS = ["RTN", "GPTQ", "dllmquant-w4a4", "dllmquant-w4a4, 4-bit softmax"]


@pytest.fixture(scope="module")
def whole(checkpoint, tmp_path_factory):
    """One whole run, as JSON, and where."""
    import subprocess
    import sys

    here = tmp_path_factory.mktemp("whole")
    words = [sys.executable, "-m", "refquant", "quantize", str(checkpoint), "--quick", "--format", "json"]
    done = subprocess.run(words, check=True, capture_output=True, text=True, cwd=here)
    return json.loads(done.stdout), here, done.stderr


def test_every_row_is_measured_on_the_same_data(whole):
    found, _, _ = whole
    assert list(found["rows"]) == sorted(LABELS)
    assert [row["name"] for row in found["evaluation"]["rows"]] == ["full precision", *LABELS]
    assert found["evaluation"]["used"]["texts"] == 2
    assert found["own_row"] == "dllmquant-w4a4"
    tokens = {row["calibration"]["tokens"] for row in found["rows"].values()}
    assert len(tokens) == 1  # as many for GPTQ and RTN as for the recipe
    assert tokens.pop() > 0
    states = {label: row["calibration"]["states"] for label, row in found["rows"].items()}
    assert states == {"RTN": "iid", "GPTQ": "iid", "dllmquant-w4a4": "tmas", "dllmquant-w4a4, 4-bit softmax": "tmas"}


def test_the_folder_holds_what_the_output_says(whole):
    found, here, err = whole
    folder = here / found["folder"]
    assert [path.name for path in here.iterdir()] == [folder.name]
    assert folder.name == f"quantized-dllmquant-w4a4-{found['run_digest'][:12]}"
    description = json.loads((folder / "quantization.json").read_text())
    assert description["digest"] == found["folder_digest"]
    assert description["run_digest"] == found["run_digest"]
    assert description["recipe"] == found["rows"]["dllmquant-w4a4"]["recipe"]
    assert not found["reused"]
    assert "Traceback" not in err


def test_bits_are_those_of_the_stored_arrays(whole, checkpoint):
    """Counted from the file by itself: 4 bits a code and a zero, 16 a scale; everything else as stored."""
    found, here, _ = whole
    stored = safetensors.numpy.load_file(here / found["folder"] / "model.safetensors")
    codes = sum(a.size for name, a in stored.items() if name.endswith(".codes"))
    zeros = sum(a.size for name, a in stored.items() if name.endswith(".zero"))
    scales = sum(a.size for name, a in stored.items() if name.endswith(".scale"))
    assert scales == zeros > 0
    size = found["rows"]["dllmquant-w4a4"]["size"]
    assert size["weights"] == codes
    assert size["weight_bits"] == 4 * codes + 4 * zeros + 16 * scales
    original = safetensors.numpy.load_file(checkpoint / "model.safetensors")
    assert size["parameters"] == sum(a.size for a in original.values())
    kept = sum(a.size for name, a in stored.items() if name in original) * 32
    description = json.loads((here / found["folder"] / "quantization.json").read_text())
    static = sum(len(grid["scale"]) * (32 + 8) for grid in description["value_scales"].values())  # float32 scales, zeros in bytes
    assert size["model_bits"] == size["weight_bits"] + kept + static
    reference = found["reference"]["size"]
    assert reference["bits_per_weight"] == reference["bits_per_parameter"] == "32"


def test_the_same_run_again_is_verified_and_used(run, whole, checkpoint, monkeypatch):
    found, here, _ = whole
    monkeypatch.chdir(here)
    before = contents(here)
    again = run_in(run, here, monkeypatch, "quantize", checkpoint, "--quick", "--format", "json")
    assert again.code == 0
    assert "verified" in again.err
    assert again.json["reused"]
    for key in ("folder", "folder_digest", "reloaded_logits_sha256", "evaluation"):
        assert again.json[key] == found[key], key
    assert contents(here) == before


def run_in(run, folder, monkeypatch, *words):
    monkeypatch.chdir(folder)
    return run(*words)


def test_the_table_cuts_nothing(run, whole, checkpoint, monkeypatch):
    _, here, _ = whole
    ran = run_in(run, here, monkeypatch, "quantize", checkpoint, "--quick")
    assert ran.code == 0
    assert "\x1b" not in ran.out
    assert "…" not in ran.out
    tables = ran.out.split("95% intervals:")[0]
    assert max(len(line.rstrip()) for line in tables.splitlines() if "sampler" not in line) <= 100
    for part in ("full precision", "RTN", "GPTQ", "DLLMQuant W4A4", "NLL bound", "KL", "free-running", "agreement", "True bits"):
        assert part in ran.out
    assert "reloaded: logits identical (SHA-256 " in ran.out


def test_a_dry_run_computes_and_writes_nothing(run, checkpoint, tmp_path, monkeypatch):
    def never(*args, **kwargs):
        raise AssertionError("a dry run computes nothing")

    monkeypatch.setattr("model.transformer.Transformer.logits", never)
    monkeypatch.setattr("model.transformer.Transformer.block", never)
    before = contents(tmp_path)
    ran = run("quantize", checkpoint, "--dry-run")
    assert ran.code == 0
    assert ran.err == ""
    for part in ("[weights]", "4-bit softmax", "16 x 16", "run digest", "blocks.0.q_proj", "wte.weight", "6 lines found"):
        assert part in ran.out
    plan = run("quantize", checkpoint, "--dry-run", "--format", "json").json
    assert contents(tmp_path) == before
    assert Recipe.from_dict(plan["recipe"]) == find_recipe("dllmquant-w4a4")
    assert len(plan["linears"]) == 14
    assert not any("ff_out" in name and "blocks" not in name for name in plan["linears"])  # the head shares the name


@pytest.mark.parametrize("recipe", ["dllmquant-w4a4", "w3", "rtn-w4a16"])
def test_the_plan_keeps_its_word(run, checkpoint, tmp_path, recipe):
    typed = ["quantize", checkpoint, "--quick", "--no-compare", "--recipe", recipe, "--out", tmp_path / "out", "--format", "json"]
    plan = run(*typed, "--dry-run").json
    done = run(*typed).json
    assert sum(entry["bits"] for entry in plan["linears"].values()) == done["rows"][done["own_row"]]["size"]["weight_bits"]
    assert plan["run_digest"] == done["run_digest"]
    assert plan["folder"] == done["folder"]
    assert set(plan["linears"]) == {record["name"] for record in done["rows"][done["own_row"]]["linears"]}


def test_the_plan_counts_permutations(run, checkpoint, tmp_path):
    text = find_recipe("w3").replace(weights={"act_order": True, "group_size": 8}, name="ordered").to_toml()
    (tmp_path / "ordered.toml").write_text(text)
    typed = ["quantize", checkpoint, "--quick", "--no-compare", "--recipe", tmp_path / "ordered.toml", "--out", tmp_path / "out"]
    plan, done = run(*typed, "--dry-run", "--format", "json").json, run(*typed, "--format", "json").json
    assert sum(entry["bits"] for entry in plan["linears"].values()) == done["rows"]["ordered"]["size"]["weight_bits"]


def test_no_compare_measures_nothing(run, checkpoint):
    ran = run("quantize", checkpoint, "--quick", "--no-compare", "--format", "json")
    assert ran.json["evaluation"] is None
    assert list(ran.json["rows"]) == ["dllmquant-w4a4"]


def test_a_baseline_is_saved_under_its_own_name(run, checkpoint, tmp_path):
    """GPTQ's row of the table and the recipe gptq-w4a16 are the same; the folder must carry the recipe's name."""
    ran = run("quantize", checkpoint, "--quick", "--recipe", "gptq-w4a16", "--out", "folder", "--format", "json")
    assert list(ran.json["rows"]) == ["GPTQ", "RTN"]
    assert ran.json["own_row"] == "GPTQ"
    description = json.loads((tmp_path / "here" / "folder" / "quantization.json").read_text())
    assert description["recipe"]["name"] == "gptq-w4a16"


def test_seed_and_samples_change_the_run(run, checkpoint):
    def digest(*more):
        return run("quantize", checkpoint, "--dry-run", "--format", "json", *more).json["run_digest"]

    assert len({digest(), digest("--seed", 1), digest("--samples", 64), digest("--quick"), digest("--recipe", "w3")}) == 5
    assert digest("--seed", 0) == digest()


def test_without_held_out_texts_there_is_no_table(run, small):
    (small / "eval.jsonl").unlink()
    ran = run("quantize", small, "--quick")
    assert ran.code == 0
    assert "eval.jsonl" in ran.err
    assert "--texts" in ran.err
    assert "NLL" not in ran.out
    assert "reloaded: logits identical" in ran.out


def test_without_calibration_data_rows_that_need_them_are_left_out(run, small):
    (small / "calib.jsonl").unlink()
    ran = run("quantize", small, "--quick", "--recipe", "rtn-w4a16", "--format", "json")
    assert ran.code == 0
    assert "GPTQ" in ran.err
    assert "--calibration" in ran.err
    assert [row["name"] for row in ran.json["evaluation"]["rows"]] == ["full precision", "RTN"]


def test_a_reload_that_differs_is_a_numerical_failure(run, checkpoint, monkeypatch):
    """One bit of one logit."""
    import refquant.apply.reload as reload

    true = reload.load

    def off_by_a_bit(*args, **kwargs):
        loaded = true(*args, **kwargs)
        logits = loaded.logits

        def wrong(ids):
            found = logits(ids).copy()
            found[0, 0, 0] = np.nextafter(found[0, 0, 0], np.inf)
            return found

        loaded.logits = wrong
        return loaded

    monkeypatch.setattr(reload, "load", off_by_a_bit)
    ran = run("quantize", checkpoint, "--quick", "--no-compare")
    assert ran.code == 4
    assert "1 of" in ran.err.splitlines()[-1]
    assert "logits differ" in ran.err


def test_evaluate_measures_what_quantize_measured(run, whole, checkpoint, tmp_path):
    found, here, _ = whole
    folder = shutil.copytree(here / found["folder"], tmp_path / "moved")
    ran = run("evaluate", folder, "--reference", checkpoint, "--quick", "--format", "json")
    assert ran.code == 0, ran.err
    expected = {row["name"]: row for row in found["evaluation"]["rows"]}
    reference, own = ran.json["evaluation"]["rows"]
    assert reference == expected["full precision"]
    assert own | {"name": ""} == expected["dllmquant-w4a4"] | {"name": ""}
    assert ran.json["sizes"]["moved"] == found["rows"]["dllmquant-w4a4"]["size"]


def test_evaluate_says_when_the_reference_is_another_model(run, whole, checkpoint, quantized):
    from tests.apply.tiny import write_folder

    other = write_folder(quantized.parent / "other", seed=5)
    ran = run("evaluate", quantized, "--reference", other, "--texts", checkpoint / "eval.jsonl", "--quick")
    assert ran.code == 0
    assert "not made of" in ran.err
    assert "folder" in ran.out


def test_a_checkpoint_can_be_evaluated_too(run, checkpoint):
    ran = run("evaluate", checkpoint, "--reference", checkpoint, "--quick", "--format", "json")
    assert ran.code == 0
    assert ran.json["evaluation"]["rows"][1]["likelihood"]["difference"]["mean"] == 0
