"""`--workers` and `--executor` as a user meets them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

WORDS = ("--recipe", "gptq-w4a4", "--quick", "--no-compare", "--format", "json")


def test_workers_give_the_same_folder(run, checkpoint):
    alone = run("quantize", checkpoint, *WORDS, "--out", "alone")
    assert alone.code == 0, alone.err
    together = run("quantize", checkpoint, *WORDS, "--out", "together", "--workers", "2")
    assert together.code == 0, together.err
    streamed = run("quantize", checkpoint, *WORDS, "--out", "streamed", "--stream", "--executor", "threads?workers=2")
    assert streamed.code == 0, streamed.err
    assert alone.json["folder_digest"] == together.json["folder_digest"] == streamed.json["folder_digest"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--workers", "0"), "0"),
        (("--workers", "2", "--executor", "threads"), "--executor and --workers are both given"),
        (("--executor", "slurm"), "executor 'slurm' is none of processes?workers=N, threads?workers=N, dask://HOST:PORT"),
        (("--executor", "dask://somewhere"), "'somewhere' is not HOST:PORT"),
    ],
)
@pytest.mark.parametrize("command", [("quantize",), ("study", "qdlm")])
def test_refusals_are_one_line(run, command, words, says):
    found = run(*command, *words)
    assert (found.code, found.out) == (2, "")
    assert says in found.err
    assert found.err.count("\n") == 1


def gone(group):
    """Whether nobody of a group of processes is left, or soon will be."""
    until = time.monotonic() + 30
    while time.monotonic() < until:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


@pytest.mark.slow
@pytest.mark.parametrize("workers", [("--workers", "2"), ("--executor", "dask://local?workers=2")], ids=["processes", "dask"])
@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="sends SIGINT to a group of processes")
def test_an_interrupt_of_the_whole_group_finishes_what_was_begun(tmp_path, workers):
    """What a terminal does: Ctrl-C reaches every process that was started from it."""
    words = [sys.executable, "-m", "refquant", "quantize", "--recipe", "gptq-w4a16", "--quick", "--no-compare", "--lane", "ordered"]
    words += ["--format", "json", "--out"]
    first = subprocess.Popen(
        [*words, "out", *workers],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ,
    )
    weights, until = tmp_path / "out.partial" / "weights", time.monotonic() + 200
    while not list(weights.glob("*.st")) and time.monotonic() < until:
        time.sleep(0.01)
    os.killpg(first.pid, signal.SIGINT)
    out, err = first.communicate(timeout=200)
    assert (first.returncode, out) == (130, ""), err
    assert "the linear in hand is finished first" in err
    assert "go on with --resume" in err
    assert "Traceback" not in err
    assert 0 < len(list(weights.iterdir())) < 28
    assert gone(first.pid)
    again = subprocess.run([*words, "out", "--resume"], cwd=tmp_path, capture_output=True, text=True, check=True)
    alone = subprocess.run([*words, "alone"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert json.loads(again.stdout)["folder_digest"] == json.loads(alone.stdout)["folder_digest"]
    assert not Path(tmp_path, "out.partial").exists()
