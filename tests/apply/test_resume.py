"""Long runs: killed at any write and resumed they give the same bytes; what must not be resumed is refused, with the difference named."""

from __future__ import annotations

import json
import os
import re

import numpy as np
import pytest

import model
from refquant.apply.linear_task import LinearTask, quantize_linear
from refquant.apply.quantize import quantize_model
from refquant.apply.rewrite_parts import Smoothing
from refquant.apply.run import open_workbench, save_run
from refquant.apply.verifying import verify_folder
from refquant.apply.work_folder import differences, partial_of, sweep, unfinished
from refquant.errors import InputError, UsageError
from refquant.numerics import ORDERED
from refquant.storage import locked
from tests.apply.killing import killed
from tests.apply.tiny import recipe, tiny, write_folder

PLAN = recipe(calibration={"states": "iid", "samples": 3, "prompts": 3, "gen_length": 8, "block_length": 4})
RTN = recipe({"method": "rtn"}, calibration={"states": "none"})


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = write_folder(tmp_path_factory.mktemp("models") / "source")
    rng = np.random.default_rng(0)
    (folder / "calib.jsonl").write_text("".join(json.dumps({"ids": rng.integers(4, 900, 24).tolist()}) + "\n" for _ in range(4)))
    return folder


def bench(source, **loading):
    return open_workbench(source, model.load(source, **loading), source / "calib.jsonl", 0)


class Stop:
    """Ends a run after so many linears."""

    def __init__(self, count):
        self.left = count

    def __call__(self):
        self.left -= 1
        return self.left <= 0


def begin(one, out, plan, count):
    """A run that is interrupted after `count` linears."""
    with pytest.raises(KeyboardInterrupt), one.work_folder(out, plan, resume=False, stop=Stop(count)) as work:
        one.quantize(plan, keeper=work)


def finish(one, out, plan, resume=True):
    with one.work_folder(out, plan, resume=resume) as work:
        before = work.finished
        work.finish(one.source, one.quantize(plan, keeper=work), one.provenance(plan))
    return before


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.timeout(3600)
@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
@pytest.mark.parametrize(
    ("workers", "every", "action"),
    [
        (1, 17, "kill"),
        pytest.param(1, 1, "kill", marks=pytest.mark.slow),
        pytest.param("threads?workers=3", 1, "kill", marks=pytest.mark.slow),
        pytest.param("processes?workers=2", 13, "kill", marks=pytest.mark.slow),
        (1, 41, "full"),
        pytest.param(1, 1, "full", marks=pytest.mark.slow),
    ],
)
def test_killed_or_out_of_space_at_a_write_and_resumed_the_bytes_are_the_same(source, tmp_path, workers, every, action):
    found, said = killed(source, tmp_path, workers, every, action)
    assert found["wrong"] == []
    assert found["operations"] > 150
    assert found["torn"] > 0.8 * (found["operations"] // every)  # most of the time there was something to go on with
    assert "model.safetensors.index.json" in found["files"]
    if action == "full":
        said = [line for line in said.splitlines() if line]
        assert said
        assert all(re.search(r"(cannot (write|create|lock): )?No space left on device$", line) for line in said), said[:3]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("plan", [PLAN, RTN], ids=["gptq", "rtn"])
def test_a_run_in_parts_gives_the_folder_of_a_run_in_one(source, tmp_path, plan, stream):
    one = bench(source)
    save_run(tmp_path / "whole", one, one.quantize(plan))
    begin(bench(source, stream=stream), tmp_path / "out", plan, 5)
    assert unfinished(tmp_path / "out") == 5
    begin_again = bench(source, stream=stream)
    assert finish(begin_again, tmp_path / "out", plan) == 5
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "whole"]
    assert verify_folder(tmp_path / "out").run_digest == one.run_digest(plan)


def test_what_is_finished_is_not_computed_again(source, tmp_path, monkeypatch):
    begin(bench(source), tmp_path / "out", PLAN, 9)
    seen = []

    def counted(task: LinearTask):
        seen.append(task.name)
        return quantize_linear(task)

    monkeypatch.setattr("refquant.apply.quantize.quantize_linear", counted)
    finish(bench(source), tmp_path / "out", PLAN)
    assert len(seen) == len(model.load(source).linears) - 9


@pytest.mark.parametrize(
    ("plan", "loading", "says"),
    [
        (PLAN.replace(weights={"bits": 3}), {}, "recipe.weights.bits was 4, is 3"),
        (PLAN.replace(calibration={"samples": 2}), {}, "recipe.calibration.samples was 3, is 2"),
        (PLAN, {"dtype": "float64"}, "dtype was 'float32', is 'float64'"),
        (PLAN, {"arithmetic": ORDERED}, "lane was 'fast', is 'ordered'"),
    ],
)
def test_another_run_is_not_resumed_and_the_difference_is_named(source, tmp_path, plan, loading, says):
    begin(bench(source), tmp_path / "out", PLAN, 2)
    with pytest.raises(UsageError, match=f"out.partial is of another run and cannot be resumed: .*{says}"):
        finish(bench(source, **loading), tmp_path / "out", plan)
    assert unfinished(tmp_path / "out") == 2


def test_another_checkpoint_seed_or_calibration_is_not_resumed(source, tmp_path):
    begin(bench(source), tmp_path / "out", PLAN, 2)
    other = write_folder(tmp_path / "other", seed=1)
    lines = tmp_path / "lines.jsonl"
    lines.write_text((source / "calib.jsonl").read_text().replace("4", "5"))
    for one, says in (
        (open_workbench(other, model.load(other), source / "calib.jsonl", 0), "input_digest was"),
        (open_workbench(source, model.load(source), source / "calib.jsonl", 7), "seed was 0, is 7"),
        (open_workbench(source, model.load(source), lines, 0), "calibration_lines was"),
    ):
        with pytest.raises(UsageError, match=f"cannot be resumed: {says}"):
            finish(one, tmp_path / "out", PLAN)


def test_without_being_told_to_nothing_is_resumed(source, tmp_path):
    begin(bench(source), tmp_path / "out", PLAN, 2)
    with pytest.raises(UsageError, match=r"out.partial holds 2 linears of an unfinished run; go on with --resume, or remove it"):
        finish(bench(source), tmp_path / "out", PLAN, resume=False)


def test_a_run_that_finished_nothing_leaves_nothing(source, tmp_path):
    with pytest.raises(RuntimeError), bench(source).work_folder(tmp_path / "out", PLAN, resume=False):
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_file_is_told_and_not_believed(source, tmp_path):
    begin(bench(source), tmp_path / "out", PLAN, 3)
    file = sorted((partial_of(tmp_path / "out") / "weights").iterdir())[0]
    raw = bytearray(file.read_bytes())
    raw[-1] ^= 1
    file.write_bytes(raw)
    with pytest.raises(InputError, match=r"is damaged"):
        finish(bench(source), tmp_path / "out", PLAN)


def test_two_writers(source, tmp_path):
    one = bench(source)
    with one.work_folder(tmp_path / "out", PLAN, resume=False) as work:
        with pytest.raises(InputError, match="lock: held by process"), one.work_folder(tmp_path / "out", PLAN, resume=True):
            pass
        assert partial_of(tmp_path / "out").is_dir()  # whoever was refused takes nothing away
        work.finish(source, one.quantize(PLAN, keeper=work), one.provenance(PLAN))
    assert (tmp_path / "out").is_dir()


def test_a_folder_of_somebody_elses_by_that_name(source, tmp_path):
    place = partial_of(tmp_path / "out")
    place.mkdir()
    (place / "thesis.tex").write_text("years of work")
    for act in (lambda: finish(bench(source), tmp_path / "out", PLAN), lambda: sweep(tmp_path / "out")):
        with pytest.raises(InputError, match=r"out.partial holds thesis.tex: not the work of an earlier run"):
            act()
    assert (place / "thesis.tex").read_text() == "years of work"


def test_leftovers_of_a_finished_run_are_swept_unless_somebody_holds_them(tmp_path):
    place = partial_of(tmp_path / "out")
    place.mkdir()
    with locked(place / "lock"), pytest.raises(InputError, match="held by process"):
        sweep(tmp_path / "out")
    sweep(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
    sweep(tmp_path / "out")


def test_streamed_models_need_a_place_for_the_result_and_no_rewrites(source):
    streamed = model.load(source, stream=True)
    with pytest.raises(UsageError, match="a streamed model is quantized into a folder"):
        quantize_model(streamed, RTN, [])
    with pytest.raises(UsageError, match=r"rewrites the model \(smoothquant\); a streamed model cannot be"):
        quantize_model(streamed, PLAN.replace(rewrites=(Smoothing(),)), [])


def test_differences_are_found_at_any_depth():
    assert differences({"a": {"b": [1]}, "c": 1}, {"a": {"b": [2]}, "d": None}) == ["a.b was [1], is [2]", "c was 1, is None"]
    assert differences({"x": 1}, {"x": 1}) == []


def test_a_task_knows_what_it_was_made_of():
    m = tiny()
    name = next(iter(m.linears))
    first, other = (quantize_linear(LinearTask(name=name, weight=m.linears[name].weight * factor, plan=RTN.weights)) for factor in (1, 2))
    assert first.made_of != other.made_of
    assert first.record.name == name
