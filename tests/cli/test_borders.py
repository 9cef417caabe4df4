"""Whatever a user gets wrong: one line on stderr that says what, where and what is allowed; the right exit code; nothing written."""

from __future__ import annotations

import json
import os
import shutil

import numpy as np
import pytest

from refquant.storage import read_tensors, write_tensors
from tests.cli.conftest import contents, lines_of, write_lines

WEIGHTS = "model.safetensors"
Q_PROJ = "model.transformer.blocks.0.q_proj.weight"


def refused(run, folder, code, says, typed):
    """Run a command that must fail, and look at everything that must hold then."""
    before = contents(folder)
    ran = run(*typed)
    assert ran.code == code, ran.err
    assert ran.out == ""
    assert ran.err.count("\n") == 1, ran.err
    assert ran.err.startswith("refquant: ")
    assert "Traceback" not in ran.err
    for part in says:
        assert part in ran.err, ran.err
    assert contents(folder) == before


def edit_header(path, change):
    """Rewrite the JSON header of a safetensors file, as text."""
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = change(raw[8 : 8 + length].decode()).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + raw[8 + length :])


def edit_tensors(folder, change):
    tensors = read_tensors(folder / WEIGHTS)
    change(tensors)
    write_tensors(folder / WEIGHTS, tensors)


def edit_config(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


def edit_index(folder, shard):
    names = list(read_tensors(folder / WEIGHTS))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": dict.fromkeys(names, shard)}))
    (folder / WEIGHTS).unlink()


def duplicated(folder):
    def twice(text):
        first = json.dumps(list(json.loads(text).items())[-1][0])
        entry = json.dumps(list(json.loads(text).items())[-1][1])
        return text.rstrip()[:-1] + f",{first}:{entry}}}"

    edit_header(folder / WEIGHTS, twice)


def with_nan(tensors):
    tensors[Q_PROJ][3, 5] = np.nan


DAMAGE = {
    "truncated": (lambda f: (f / WEIGHTS).write_bytes((f / WEIGHTS).read_bytes()[:-10]), [WEIGHTS]),
    "empty file": (lambda f: (f / WEIGHTS).write_bytes(b""), [WEIGHTS]),
    "noise": (lambda f: (f / WEIGHTS).write_bytes(b"\xff" * 100), [WEIGHTS]),
    "duplicated tensor": (duplicated, [WEIGHTS, "twice"]),
    "mismatched length": (lambda f: (f / WEIGHTS).write_bytes((f / WEIGHTS).read_bytes() + b"12345"), [WEIGHTS]),
    "index outside": (lambda f: edit_index(f, "../other.safetensors"), ["index.json", "plain file name"]),
    "index to nothing": (lambda f: edit_index(f, "shard.safetensors"), ["shard.safetensors", "missing"]),
    "missing tensor": (lambda f: edit_tensors(f, lambda t: t.pop(Q_PROJ)), [Q_PROJ]),
    "extra tensor": (lambda f: edit_tensors(f, lambda t: t.update(other=np.zeros(2, np.float32))), ["other"]),
    "wrong shape": (lambda f: edit_tensors(f, lambda t: t.update({Q_PROJ: t[Q_PROJ][:3]})), [Q_PROJ, "(3, 16)", "(16, 16)"]),
    "NaN": (lambda f: edit_tensors(f, with_nan), [Q_PROJ, "[3, 5]", "nan", "finite"]),
    "unsupported config": (lambda f: edit_config(f, activation_type="tanh"), ["config.json", "activation_type", "tanh", "silu"]),
    "config is no JSON": (lambda f: (f / "config.json").write_text("{"), ["config.json", "JSON"]),
    "no config": (lambda f: (f / "config.json").unlink(), ["config.json"]),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), ["tokenizer.json"]),
    "tokenizer is none": (lambda f: (f / "tokenizer.json").write_text("{}"), ["tokenizer.json", "not a tokenizer"]),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_checkpoint(run, small, tmp_path, name):
    damage, says = DAMAGE[name]
    damage(small)
    refused(run, tmp_path, 3, says=[str(small) if name != "tokenizer" else "", *says], typed=["quantize", small])


@pytest.mark.parametrize("command", ["quantize", "evaluate", "generate"])
def test_a_path_that_leads_nowhere(run, tmp_path, command):
    more = ["--prompt", "x"] if command == "generate" else []
    refused(run, tmp_path, 3, says=["nowhere", "no such folder"], typed=[command, "nowhere", *more])
    (tmp_path / "file").write_text("x")
    refused(run, tmp_path, 3, says=["file", "is not a folder"], typed=[command, tmp_path / "file", *more])
    (tmp_path / "hollow").mkdir()
    refused(run, tmp_path, 3, says=["hollow", "no checkpoint here", WEIGHTS], typed=[command, tmp_path / "hollow", *more])


LINES = {
    "empty": ("", ["empty"]),
    "bad JSON": ('{"text": "a"}\n{"text": \n', ["line 2", "JSON"]),
    "no known key": ('{"words": "a"}\n', ["line 1", "words", '{"text"}']),
    "out of range": ('{"ids": [5, 1024]}\n', ["line 1", "1024", "index 1", "out of range"]),
    "negative": ('{"ids": [-1]}\n', ["line 1", "-1"]),
    "mask": ('{"ids": [5, 3]}\n', ["line 1", "mask"]),
    "not a text": ('{"text": 5}\n', ["line 1", "text"]),
    "prompt too long": ('{"ids": [5, 6], "prompt_length": 2}\n', ["line 1", "prompt_length", "0 to 1"]),
    "blank": ('{"ids": [5, 6]}\n\n', ["line 2", "blank"]),
}


@pytest.mark.parametrize("name", LINES)
def test_a_calibration_file(run, checkpoint, tmp_path, name):
    text, says = LINES[name]
    path = tmp_path / "lines.jsonl"
    path.write_text(text)
    refused(run, tmp_path, 3, says=["lines.jsonl", *says], typed=["quantize", checkpoint, "--calibration", path])


def test_calibration_data_that_are_missing(run, small, tmp_path):
    (small / "calib.jsonl").unlink()
    refused(run, tmp_path, 2, says=["calib.jsonl", "--calibration"], typed=["quantize", small])
    refused(run, tmp_path, 3, says=["none.jsonl"], typed=["quantize", small, "--calibration", "none.jsonl"])


def test_calibration_lines_too_short_to_roll_out(run, small, tmp_path):
    write_lines(small / "calib.jsonl", [{"ids": [5, 6, 7]}])
    refused_later(run, tmp_path, 3, ["line 1", "3 tokens", "needs 32"], ["quantize", small])


def refused_later(run, folder, code, says, typed):
    """A failure in the middle of the work: talk may precede it, files may not stay."""
    before = contents(folder)
    ran = run(*typed)
    assert ran.code == code, ran.err
    last = ran.err.splitlines()[-1]
    assert all(part in last for part in says), ran.err
    assert last.startswith("refquant: ")
    assert "Traceback" not in ran.err
    assert ran.out == ""
    assert contents(folder) == before


def test_samples_out_of_range(run, checkpoint, tmp_path):
    refused(run, tmp_path, 2, says=["--samples", "0", "x>=1"], typed=["quantize", checkpoint, "--samples", 0])
    refused(run, tmp_path, 2, says=["--seed", "-1", "x>=0"], typed=["quantize", checkpoint, "--seed", -1])
    refused_later(run, tmp_path, 3, ["100000", "states"], ["quantize", checkpoint, "--quick", "--samples", 100_000])


RECIPES = {
    "unknown part": ("[weight]\nbits = 4\n", ["weight", "weights"]),
    "unknown field": ("[weights]\nbitz = 4\n", ["bitz", "bits"]),
    "wrong type": ('[weights]\nbits = "four"\n', ["bits"]),
    "out of range": ("[weights]\nbits = 40\n", ["bits"]),
    "unknown choice": ('[weights]\nmethod = "magic"\n', ["method"]),
    "unknown scheme": ('[weights]\nscheme = "sym"\n', ["sym_full"]),
    "contradiction": ('[calibration]\nstates = "none"\n', ["calibration"]),
    "blocks": ("[calibration]\ngen_length = 20\n", ["gen_length", "block_length"]),
    "no TOML": ("name = \n", ["TOML"]),
}


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_file(run, checkpoint, tmp_path, name):
    text, says = RECIPES[name]
    (tmp_path / "mine.toml").write_text(text if name == "no TOML" else 'name = "mine"\n' + text)
    refused(run, tmp_path, 3, says=["mine.toml", *says], typed=["quantize", checkpoint, "--recipe", tmp_path / "mine.toml"])


def test_a_recipe_that_does_not_exist(run, checkpoint, tmp_path):
    refused(run, tmp_path, 2, says=["magic", "dllmquant-w4a4", ".toml"], typed=["quantize", checkpoint, "--recipe", "magic"])
    refused(run, tmp_path, 3, says=["none.toml"], typed=["quantize", checkpoint, "--recipe", "none.toml"])
    refused(run, tmp_path, 2, says=["magic", "gptq", "dllmquant-w4a4"], typed=["explain", "magic"])


def test_a_place_that_is_taken(run, checkpoint, quantized, tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "other").mkdir()
    shutil.copytree(quantized, tmp_path / "another")
    shutil.copytree(quantized, tmp_path / "damaged")
    (tmp_path / "link").symlink_to("nowhere")
    weights = (tmp_path / "damaged" / WEIGHTS).read_bytes()
    (tmp_path / "damaged" / WEIGHTS).write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
    typed = ["quantize", checkpoint, "--quick", "--out"]
    refused(run, tmp_path, 3, says=["file", "--out"], typed=[*typed, tmp_path / "file"])
    refused(run, tmp_path, 3, says=["other", "--out"], typed=[*typed, tmp_path / "other"])
    refused(run, tmp_path, 3, says=["link", "--out"], typed=[*typed, tmp_path / "link"])
    refused(run, tmp_path, 3, says=["damaged"], typed=[*typed, tmp_path / "damaged"])
    refused(run, tmp_path, 3, says=["another", "seed", "--out"], typed=[*typed, tmp_path / "another", "--seed", 1])
    refused(run, tmp_path, 3, says=["none", "does not exist"], typed=[*typed, tmp_path / "none" / "folder"])
    refused(run, tmp_path, 3, says=["file"], typed=[*typed, tmp_path / "file" / "folder"])


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs a folder in which nobody may write")
def test_a_folder_that_cannot_be_written_is_told_before_the_work(run, checkpoint, tmp_path):
    refused(run, tmp_path, 3, says=["/proc/quantized", "cannot"], typed=["quantize", checkpoint, "--out", "/proc/quantized"])


def test_a_quantized_folder_is_no_model_to_quantize(run, quantized, tmp_path):
    refused(run, tmp_path, 2, says=[str(quantized), "already quantized"], typed=["quantize", quantized])
    refused(run, tmp_path, 2, says=["full-precision"], typed=["evaluate", quantized, "--reference", quantized])


def damage_description(folder, **changes):
    tree = json.loads((folder / "quantization.json").read_text())
    (folder / "quantization.json").write_text(json.dumps(tree | changes))


def damage_byte(path, position):
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def edit_codes(folder):
    def flip(tensors):
        codes = tensors["model.transformer.blocks.0.q_proj.codes"]
        codes[0, 0] ^= 1

    edit_tensors(folder, flip)


FOLDERS = {
    "no JSON": (lambda f: (f / "quantization.json").write_text("{"), ["quantization.json", "JSON"]),
    "schema version": (lambda f: damage_description(f, schema_version=2), ["schema_version", "2", "1"]),
    "another seed": (lambda f: damage_description(f, seed=7), ["quantization.json", "changed"]),
    "codes": (edit_codes, ["q_proj", "damaged"]),
    "last byte": (lambda f: damage_byte(f / WEIGHTS, -1), [WEIGHTS[:5], "damaged"]),
    "config": (lambda f: edit_config(f, rms_norm_eps=0.1), ["config.json", "damaged"]),
    "truncated": (lambda f: (f / WEIGHTS).write_bytes((f / WEIGHTS).read_bytes()[:-1]), [WEIGHTS]),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_a_damaged_quantized_folder(run, checkpoint, quantized_copy, tmp_path, name):
    damage, says = FOLDERS[name]
    damage(quantized_copy)
    typed = ["evaluate", quantized_copy, "--reference", checkpoint, "--quick"]
    refused(run, tmp_path, 3, says=[str(quantized_copy), *says], typed=typed)
    refused(run, tmp_path, 3, says=says, typed=["generate", quantized_copy, "--prompt", "a", "--gen-length", 2])


def test_a_reference_is_never_guessed(run, quantized, tmp_path):
    refused(run, tmp_path, 2, says=["not made of the embedded model", "--reference"], typed=["evaluate", quantized, "--quick"])


def test_held_out_data(run, checkpoint, quantized, tmp_path):
    path = write_lines(tmp_path / "held.jsonl", [{"task": "text", "domain": "x", "ids": [5, 3]}])
    typed = ["evaluate", quantized, "--reference", checkpoint, "--quick", "--texts", path]
    refused(run, tmp_path, 3, says=["held.jsonl", "line 1", "mask"], typed=typed)
    write_lines(path, [{"task": "chess", "prompt": "a", "answer": "b", "gen_length": 2}])
    refused(run, tmp_path, 3, says=["held.jsonl", "line 1", "chess"], typed=typed)
    write_lines(path, [])
    refused(run, tmp_path, 3, says=["held.jsonl", "empty"], typed=["quantize", checkpoint, "--texts", path])


WRONG = [
    (["quantize", "--full", "--quick"], ["--full", "--quick"]),
    (["quantize", "--format", "xml"], ["--format", "xml", "json"]),
    (["quantize", "--bits", "4"], ["--bits"]),
    (["frobnicate"], ["frobnicate"]),
    (["generate"], ["--prompt"]),
    (["generate", "--prompt", "a", "--gen-length", "0"], ["--gen-length"]),
    (["generate", "--prompt", "a", "--gen-length", "8", "--block-length", "3"], ["block_length", "3"]),
    (["generate", "--prompt", "a", "--gen-length", "8", "--block-length", "4", "--steps", "3"], ["steps", "3"]),
    (["generate", "--prompt", "a", "--chat"], ["--chat"]),
    (["generate", "--prompt", "a", "--temperature", "-1"], ["--temperature"]),
    (["explain"], ["NAME"]),
    (["evaluate"], ["DIR"]),
]


@pytest.mark.parametrize(("typed", "says"), WRONG, ids=" ".join)
def test_options_that_are_not_allowed(run, tmp_path, typed, says):
    refused(run, tmp_path, 2, says=says, typed=typed)


def test_the_snapshot_sees_a_change(tmp_path):
    before = contents(tmp_path)
    write_lines(tmp_path / "a", [{"ids": ids} for ids in lines_of(1, 2, 0)])
    assert contents(tmp_path) != before
