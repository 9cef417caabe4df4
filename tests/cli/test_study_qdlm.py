"""`refquant study qdlm` from words to files, on a checkpoint of two blocks."""

from __future__ import annotations

import json
import signal

import pytest

import model
from refquant.apply.study.cell import run_cell
from refquant.apply.study.folder import read_raw


@pytest.fixture
def beside(small, monkeypatch):
    """The small checkpoint in the place of the embedded one, with the embedded one's data."""
    for name in ("calib.jsonl", "eval.jsonl"):
        (small / name).write_bytes((model.embedded_directory() / name).read_bytes())
    monkeypatch.setattr(model, "embedded_directory", lambda: small)
    return small


WORDS = ("study", "qdlm", "--quick", "--width", "W4A4", "--method", "RTN", "--out", "found")


def test_cells_page_and_lines(beside, run, tmp_path):
    found = run(*WORDS, "--workers", "2")
    assert found.code == 0, found.err
    assert found.out.split() == ["found/qdlm.html", "found/qdlm.jsonl"]
    head, records, outliers = read_raw(tmp_path / "here" / "found" / "qdlm.jsonl")
    assert {(r["kind"], r["width"], r["method"]) for r in records} == {("plain", "W4A4", "RTN"), ("outliers", "W4A4", "RTN")}
    assert [o["kind"] for o in outliers] == ["plain", "outliers"]
    assert head["root"] in (tmp_path / "here" / "found" / "qdlm.html").read_text()
    again = run(*WORDS)
    assert again.code == 0
    assert read_raw(tmp_path / "here" / "found" / "qdlm.jsonl")[0] == head
    other = run("study", "qdlm", "--width", "W4A4", "--method", "RTN", "--out", "found", "--seeds", "1")
    assert other.code == 3
    assert "belongs to another study: settings." in other.err


def test_no_time_no_cells(beside, run, tmp_path):
    found = run(*WORDS, "--minutes", "0")
    assert found.code == 0
    assert "2 of 2 cells were not run" in found.err
    head = json.loads((tmp_path / "here" / "found" / "qdlm.jsonl").read_text().splitlines()[0])
    assert head["left_out"] == ["W4A4 RTN, outliers", "W4A4 RTN, plain"]


def test_an_interrupt_keeps_the_cell_in_hand(beside, run, tmp_path, monkeypatch):
    def interrupted(lab, cell):
        signal.raise_signal(signal.SIGINT)
        return run_cell(lab, cell)

    with monkeypatch.context() as patch:
        patch.setattr("refquant.apply.study.run.run_cell", interrupted)
        found = run(*WORDS)
    assert (found.code, found.out) == (130, "")
    assert "the cells in hand are finished first" in found.err
    assert "finished cells are safe in found; run the same command again" in found.err
    assert len(list((tmp_path / "here" / "found" / "cells").iterdir())) == 1


def test_refusals(run):
    assert run("study", "qdlm", "--quick", "--large").code == 2
    assert run("study", "qdlm", "--also", "magic").code == 2
