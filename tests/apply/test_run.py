"""One run from folder to folder: what its digest sees, what is drawn once, and what may stand in the output's place."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

import model
from refquant.apply import run
from refquant.apply.checkpoint import input_digest, load, read_provenance
from refquant.apply.recipe import find_recipe
from refquant.apply.run import check_output, default_folder, open_workbench, save_run
from refquant.errors import InputError, UsageError
from refquant.numerics import FAST, ORDERED
from refquant.storage import canonical_json, digest
from tests.apply.tiny import recipe, write_folder

PLAN = recipe(calibration={"samples": 4, "prompts": 3, "gen_length": 8, "block_length": 4, "min_distinct": 0.0})
TMAS = PLAN.replace(name="tmas", calibration={"states": "tmas"})
RTN = recipe({"method": "rtn"}, calibration={"states": "none"})


def write_lines(path, count=6, seed=0):
    rng = np.random.default_rng(seed)
    path.write_text("".join(json.dumps({"ids": rng.integers(4, 900, 24).tolist()}) + "\n" for _ in range(count)))
    return path


@pytest.fixture
def source(tmp_path):
    return write_folder(tmp_path / "source")


@pytest.fixture
def calibration(tmp_path):
    return write_lines(tmp_path / "calib.jsonl")


def bench(source, calibration=None, seed=0, dtype="float64", lane=FAST):
    return open_workbench(source, model.load(source, dtype, lane), calibration, seed)


def codes(quantized):
    return {name: q.digest() for name, q in quantized.weights.items()}


def test_the_digest_of_a_run_is_the_same_for_the_same_run(source, calibration, tmp_path):
    first = bench(source, calibration)
    digest_before = first.run_digest(PLAN)
    first.quantize(PLAN)
    moved = shutil.copytree(source, tmp_path / "moved")
    lines = shutil.copyfile(calibration, tmp_path / "other-name.jsonl")
    assert first.run_digest(PLAN) == digest_before == bench(moved, lines).run_digest(PLAN)
    assert first.run_digest(PLAN.replace(name="b", description="c")) == digest_before


def test_the_digest_of_a_run_sees_what_decides_it(source, calibration, tmp_path):
    base = bench(source, calibration)
    others = [
        base.run_digest(PLAN.replace(weights={"damping": 0.02})),
        base.run_digest(PLAN.replace(calibration={"samples": 5})),
        base.run_digest(PLAN, 100),
        base.run_digest(PLAN, 101),
        bench(source, calibration, seed=1).run_digest(PLAN),
        bench(source, calibration, dtype="float32").run_digest(PLAN),
        bench(source, calibration, lane=ORDERED).run_digest(PLAN),
        bench(source, write_lines(tmp_path / "more.jsonl", 7)).run_digest(PLAN),
        bench(source, write_lines(tmp_path / "others.jsonl", 6, 1)).run_digest(PLAN),
        bench(write_folder(tmp_path / "weights", seed=1), calibration).run_digest(PLAN),
        bench(write_folder(tmp_path / "config", rope_theta=500.0), calibration).run_digest(PLAN),
        base.run_digest(PLAN),
    ]
    assert len(set(others)) == len(others)


def test_how_a_line_is_cut_is_seen(source, tmp_path):
    ids = list(range(10, 34))
    found = set()
    for number, record in enumerate(({"ids": ids}, {"ids": ids, "prompt_length": 0}, {"ids": ids, "prompt_length": 4})):
        path = tmp_path / f"{number}.jsonl"
        path.write_text(json.dumps(record) + "\n")
        found.add(bench(source, path).run_digest(PLAN))
    assert len(found) == 3


def test_a_run_without_calibration_does_not_see_the_file(source, calibration):
    assert bench(source, calibration).run_digest(RTN) == bench(source).run_digest(RTN)
    assert bench(source).provenance(RTN).calibration_digest == ""
    assert codes(bench(source, calibration).quantize(RTN)) == codes(bench(source).quantize(RTN))


def test_calibration_that_is_needed_and_not_there(source):
    assert bench(source).lines == []
    with pytest.raises(UsageError, match="needs calibration data; name a file with --calibration"):
        bench(source).quantize(PLAN)


def test_a_negative_seed_and_damaged_files(source, calibration, tmp_path):
    with pytest.raises(UsageError, match="a seed is not negative; got -1"):
        bench(source, calibration, seed=-1)
    with pytest.raises(InputError, match=r"none.jsonl"):
        bench(source, tmp_path / "none.jsonl")
    m = model.load(source)
    (source / "tokenizer.json").write_text("{}")
    with pytest.raises(InputError, match=r"tokenizer.json: not a tokenizer"):
        open_workbench(source, m, calibration, 0)


def test_states_are_drawn_once_and_do_not_depend_on_what_was_drawn_before(source, calibration, monkeypatch):
    calls = []
    real = run.calibration_states
    monkeypatch.setattr(run, "calibration_states", lambda *a, **k: calls.append(a) or real(*a, **k))
    one = bench(source, calibration)
    tmas = one.states(TMAS.calibration)
    iid = one.states(PLAN.calibration, tmas.tokens)
    assert one.states(TMAS.calibration) is tmas
    assert one.states(PLAN.calibration, tmas.tokens) is iid
    assert one.states(PLAN.calibration) is not iid
    assert len(calls) == 3
    assert iid.tokens == tmas.tokens
    alone = bench(source, calibration).states(PLAN.calibration, tmas.tokens)
    assert [s.ids.tolist() for s in alone.states] == [s.ids.tolist() for s in iid.states]
    assert {s.line for s in iid.states} == {s.line for s in tmas.states}


def test_the_same_run_gives_the_same_tensors_and_another_seed_others(source, calibration):
    first, again, other = (bench(source, calibration, seed=s).quantize(PLAN) for s in (0, 0, 1))
    assert codes(first) == codes(again)
    assert codes(first) != codes(other)


def test_provenance_is_that_of_the_states_that_were_used(source, calibration):
    one = bench(source, calibration, seed=3)
    for tokens in (None, 61):
        states = one.states(PLAN.calibration, tokens).states
        found = one.provenance(PLAN, tokens)
        assert found.calibration_digest == digest(canonical_json([[s.ids.tolist(), s.final_ids.tolist()] for s in states]))
        assert (found.input_digest, found.seed, found.run_digest) == (input_digest(source), 3, one.run_digest(PLAN, tokens))
    assert one.provenance(PLAN, 61) != one.provenance(PLAN)


@pytest.mark.parametrize("tokens", [None, 61])
def test_there_and_back(source, calibration, tmp_path, tokens):
    one = bench(source, calibration)
    out = tmp_path / default_folder(PLAN, one.run_digest(PLAN, tokens))
    assert out.name == f"quantized-tiny-{one.run_digest(PLAN, tokens)[:12]}"
    assert check_output(out, one.run_digest(PLAN, tokens)) is None
    quantized = one.quantize(PLAN, tokens)
    save_run(out, one, quantized, tokens)
    assert read_provenance(out) == one.provenance(PLAN, tokens)
    found = check_output(out, bench(source, calibration).run_digest(PLAN, tokens))
    assert found is not None
    assert codes(found) == codes(quantized)
    ids = [[10, 3, 3, 11]]
    assert load(out, "float64").logits(ids).tobytes() == quantized.attach(one.model).logits(ids).tobytes()


def test_what_else_may_stand_in_the_output_s_place(source, calibration, tmp_path):
    one = bench(source, calibration)
    wanted = one.run_digest(PLAN)
    out = tmp_path / "out"
    save_run(out, one, one.quantize(PLAN))
    with pytest.raises(InputError, match=r"out holds the result of another run \(recipe, input, calibration, seed or lane differ\)"):
        check_output(out, one.run_digest(TMAS))
    with pytest.raises(InputError, match=r"missing/out: the folder .*missing does not exist"):
        check_output(tmp_path / "missing" / "out", wanted)
    for kind in ("empty folder", "file", "dangling link", "checkpoint"):
        path = tmp_path / kind
        if kind == "empty folder":
            path.mkdir()
        elif kind == "file":
            path.touch()
        elif kind == "dangling link":
            path.symlink_to(tmp_path / "nowhere")
        else:
            shutil.copytree(source, path)
        with pytest.raises(InputError, match="exists and is not a quantized folder; choose another --out or remove it"):
            check_output(path, wanted)


def test_a_damaged_output_is_not_taken_for_the_result(source, calibration, tmp_path):
    one = bench(source, calibration)
    out = tmp_path / "out"
    save_run(out, one, one.quantize(PLAN))
    for name in ("model.safetensors", "config.json", "quantization.json"):
        data = (out / name).read_bytes()
        (out / name).write_bytes(data[:-20] + bytes([data[-20] ^ 1]) + data[-19:])
        with pytest.raises(InputError):
            check_output(out, one.run_digest(PLAN))
        (out / name).write_bytes(data)
    assert check_output(out, one.run_digest(PLAN)) is not None


def test_the_embedded_model_and_its_calibration_file_fit():
    folder = model.embedded_directory()
    one = open_workbench(folder, model.embedded(), folder / "calib.jsonl", 0)
    assert len(one.lines) == 256
    assert {line.cut for line in one.lines} == {True, False}
    found = one.states(find_recipe("gptq-w4a4").calibration)
    assert len(found.states) == 128
    assert len({s.line for s in found.states}) == 32
