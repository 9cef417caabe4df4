"""Ctrl-C, --resume and --stream as a user meets them."""

from __future__ import annotations

import signal

import pytest

from refquant.apply.work_folder import WorkFolder

WORDS = ("--recipe", "gptq-w4a4", "--quick", "--no-compare", "--out", "out")


@pytest.fixture
def interrupted(run, checkpoint, monkeypatch):
    """A run that somebody interrupts while the third linear is being put aside."""
    real, count = WorkFolder.put, []

    def put(self, result):
        count.append(result)
        if len(count) == 3:
            signal.raise_signal(signal.SIGINT)
        real(self, result)

    with monkeypatch.context() as patch:
        patch.setattr(WorkFolder, "put", put)
        return run("quantize", checkpoint, *WORDS)


def test_an_interrupted_run_says_how_to_go_on_and_goes_on(run, checkpoint, interrupted):
    assert (interrupted.code, interrupted.out) == (130, "")
    assert "the linear in hand is finished first" in interrupted.err
    assert "interrupted: 3 linears are safe in" in interrupted.err
    assert "out.partial; go on with --resume" in interrupted.err
    refused = run("quantize", checkpoint, *WORDS)
    assert refused.code == 2
    assert "holds 3 linears of an unfinished run; go on with --resume" in refused.err
    resumed = run("quantize", checkpoint, *WORDS, "--resume", "--format", "json")
    assert resumed.code == 0, resumed.err
    assert "3 linears were finished before" in resumed.err
    whole = run("quantize", checkpoint, *WORDS[:-1], "whole", "--format", "json")
    assert resumed.json["folder_digest"] == whole.json["folder_digest"]


def test_a_streamed_run_gives_the_same_folder(run, checkpoint):
    streamed = run("quantize", checkpoint, *WORDS, "--stream", "--format", "json")
    assert streamed.code == 0, streamed.err
    whole = run("quantize", checkpoint, *WORDS[:-1], "whole", "--format", "json")
    assert streamed.json["folder_digest"] == whole.json["folder_digest"]
    again = run("quantize", checkpoint, *WORDS, "--stream", "--resume")
    assert again.code == 0
    assert "holds this very run" in again.err


def test_the_plan_tells_the_memory(run, checkpoint):
    assert "estimated peak of memory while quantizing" in run("quantize", checkpoint, *WORDS, "--dry-run").out
    assert run("quantize", checkpoint, *WORDS, "--dry-run", "--format", "json").json["peak_memory_bytes"] > 10_000_000


def test_the_plan_counts_the_workers(run, checkpoint):
    alone, three = (run("quantize", checkpoint, *WORDS, "--dry-run", "--format", "json", "--workers", n).json for n in ("1", "3"))
    assert three["peak_memory_bytes"] > 2.5 * alone["peak_memory_bytes"]
    assert "all processes on this machine together" in run("quantize", checkpoint, *WORDS, "--dry-run", "--workers", "3").out
