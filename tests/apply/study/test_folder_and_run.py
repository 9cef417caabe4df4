"""Cells are kept one by one, taken up again, and never mixed with those of other settings."""

from __future__ import annotations

import json
import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

import model
from refquant.apply.executors import ExecutorPlan, open_workforce
from refquant.apply.outliers import Injection
from refquant.apply.study.cell import cell_key, draw_states, open_laboratory, outlier_record, run_cell
from refquant.apply.study.folder import open_folder, raw_lines, read_raw
from refquant.apply.study.grid import cells
from refquant.apply.study.run import run_cells
from refquant.apply.study.settings import Settings
from refquant.apply.workforce import HERE, Workforce
from refquant.errors import InputError, UsageError
from refquant.storage import canonical_json
from tests.apply.tiny import write_folder

TINY = Settings(
    seeds=2,
    samples=4,
    prompts=2,
    texts=3,
    masks=2,
    items=1,
    trajectory_texts=2,
    prefix=8,
    continuation=4,
    tasks=("reverse",),
    injection=Injection(channels=1, features=1),
)
WANTED = cells(["W4A4", "W4A16"], ["RTN", "GPTQ"])


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Two blocks of width 16, and data beside it."""
    folder = write_folder(tmp_path_factory.mktemp("models") / "small")
    whole = (model.embedded_directory() / "eval.jsonl").read_text(encoding="utf-8").splitlines()
    kinds = {}
    for line in whole:
        kinds.setdefault(json.loads(line)["task"], []).append(line)
    (folder / "eval.jsonl").write_text("\n".join([*kinds["text"][:4], *kinds["reverse"][:2]]) + "\n", encoding="utf-8")
    shutil.copyfile(model.embedded_directory() / "calib.jsonl", folder / "calib.jsonl")
    return folder


@pytest.fixture(scope="module")
def lab(source):
    return open_laboratory(source, TINY)


@pytest.fixture(scope="module")
def finished(lab, tmp_path_factory):
    folder = open_folder(tmp_path_factory.mktemp("study") / "cells", lab)
    return folder, run_cells(lab, folder, WANTED, Workforce(ThreadPoolExecutor(2), 2, same_memory=True))


def test_every_cell_is_there_in_the_order_of_the_grid(finished, lab):
    folder, outcome = finished
    assert outcome.left_out == ()
    assert [(r["width"], r["method"], r["kind"]) for r in outcome.records] == [(c.width, c.method, c.kind) for c in WANTED]
    for cell, record in zip(WANTED, outcome.records, strict=True):
        assert len(record["runs"]) == (1 if (cell.width, cell.method) == ("W4A16", "RTN") else 2)
        assert record["calibration"]["tokens"] == ([0] if len(record["runs"]) == 1 else list(lab.tokens))
        assert all(set(run["right"]) == {"reverse"} for run in record["runs"])
        assert len(list((folder.path / "cells").iterdir())) == len(WANTED)


def test_workers_change_no_number(finished, lab):
    outcome = finished[1]
    draw_states(lab, WANTED)
    alone = run_cell(lab, WANTED[2])
    assert canonical_json(alone) == canonical_json({k: v for k, v in outcome.records[2].items() if k != "key"})


def test_a_laboratory_travels_as_the_name_of_its_folder(finished, lab, source):
    draw_states(lab, WANTED)
    sent = pickle.dumps(lab)
    assert len(sent) < 100_000
    found = pickle.loads(sent)
    assert found.models is not lab.models
    assert pickle.loads(sent).models is found.models  # loaded once
    assert canonical_json(run_cell(found, WANTED[2])) == canonical_json(run_cell(lab, WANTED[2]))
    assert cell_key(found, WANTED[0]) == cell_key(lab, WANTED[0])
    assert found.injected == lab.injected


def test_a_laboratory_with_other_files_at_its_end_is_refused(lab, source, tmp_path):
    other = shutil.copytree(source, tmp_path / "other")
    (other / "calib.jsonl").write_text((source / "calib.jsonl").read_text() + "\n")
    sent = pickle.dumps(replace(lab, source=other))
    with pytest.raises(InputError, match=r"the calib.jsonl of this worker is not that of the study"):
        pickle.loads(sent)


def test_cells_in_processes(finished, lab, tmp_path):
    with open_workforce(ExecutorPlan.read("processes?workers=2")) as force:
        outcome = run_cells(lab, open_folder(tmp_path / "new", lab), WANTED[:3], force)
    assert [canonical_json(one) for one in outcome.records] == [canonical_json(one) for one in finished[1].records[:3]]


def test_a_run_is_taken_up_where_it_was_left(finished, lab, tmp_path, monkeypatch):
    copy = shutil.copytree(finished[0].path, tmp_path / "copy")
    missing = cell_key(lab, WANTED[1])
    (copy / "cells" / f"{missing[:16]}.json").unlink()
    computed, told = [], []
    monkeypatch.setattr("refquant.apply.study.run.run_cell", lambda lab, cell: computed.append(cell) or run_cell(lab, cell))
    outcome = run_cells(lab, open_folder(copy, lab), WANTED, HERE, lambda *news: told.append(news))
    assert computed == [WANTED[1]]
    assert told == [(WANTED[1].label, len(WANTED), len(WANTED))]
    assert outcome == finished[1]


def test_no_cell_begins_after_the_time(lab, tmp_path):
    times = iter([True, False])
    outcome = run_cells(lab, open_folder(tmp_path / "new", lab), WANTED, HERE, None, lambda: next(times))
    assert len(outcome.records) == 1
    assert outcome.left_out == tuple(WANTED[1:])


def test_a_failing_cell_leaves_the_others_behind(lab, tmp_path, monkeypatch):
    def broken(lab, cell):
        if cell == WANTED[1]:
            raise InputError("broken on purpose")
        return run_cell(lab, cell)

    monkeypatch.setattr("refquant.apply.study.run.run_cell", broken)
    folder = open_folder(tmp_path / "new", lab)
    with pytest.raises(InputError, match="broken on purpose"):
        run_cells(lab, folder, WANTED)
    assert folder.find(cell_key(lab, WANTED[0])) is not None
    assert folder.find(cell_key(lab, WANTED[1])) is None


def test_another_study_is_refused_with_the_difference(finished, source):
    other = open_laboratory(source, TINY.replace(injection=Injection(channels=1, features=1, channel_scale=32.0)))
    with pytest.raises(InputError, match=r"settings\.injection\.channel_scale is 64\.0 there and 32\.0 here"):
        open_folder(finished[0].path, other)
    keys = {cell_key(other, cell) for cell in WANTED}
    assert not keys & {record["key"] for record in finished[1].records}


def test_folders_of_something_else_and_damaged_cells_are_refused(finished, lab, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").write_text("x")
    with pytest.raises(InputError, match="holds no study"):
        open_folder(tmp_path / "other", lab)
    copy = shutil.copytree(finished[0].path, tmp_path / "copy")
    first, second = (copy / "cells" / f"{cell_key(lab, cell)[:16]}.json" for cell in WANTED[:2])
    shutil.copyfile(second, first)
    with pytest.raises(InputError, match="remove the file"):
        open_folder(copy, lab).find(cell_key(lab, WANTED[0]))
    first.write_text("{")
    with pytest.raises(InputError, match=first.name):
        open_folder(copy, lab).find(cell_key(lab, WANTED[0]))


def test_raw_results_come_back_and_a_changed_number_shows(finished, lab, tmp_path):
    outliers = [outlier_record(lab, "plain")]
    text, root = raw_lines({"command": "x"}, list(finished[1].records), outliers)
    file = tmp_path / "qdlm.jsonl"
    file.write_text(text)
    head, records, found = read_raw(file)
    assert head == {"command": "x", "root": root}
    assert [r["key"] for r in records] == [r["key"] for r in finished[1].records]
    assert len(found[0]["stages"]) == 4
    file.write_text(text.replace('"seed":1', '"seed":7', 1))
    with pytest.raises(InputError, match="do not have the root hash"):
        read_raw(file)


def test_the_two_models_are_one_function(lab):
    ids = lab.probes()
    assert lab.models["outliers"].logits(ids).tobytes() == lab.models["plain"].logits(ids).tobytes()
    assert lab.benches["outliers", 1].model is lab.models["outliers"]


def test_an_unknown_task_is_refused(source):
    with pytest.raises(UsageError, match="there is no task 'sort'"):
        open_laboratory(source, TINY.replace(tasks=("sort",)))
