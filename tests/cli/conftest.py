"""A small checkpoint with calibration lines and held-out data, and the command line run in this process."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import refquant.cli
from tests.apply.tiny import write_folder


@dataclass
class Ran:
    code: int
    out: str
    err: str

    @property
    def json(self):
        return json.loads(self.out)


def lines_of(count, length, seed):
    rng = np.random.default_rng(seed)
    return [rng.integers(4, 1000, length).tolist() for _ in range(count)]


def write_lines(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """Two blocks of width 16, and data beside it."""
    folder = write_folder(tmp_path_factory.mktemp("models") / "small")
    write_lines(folder / "calib.jsonl", [{"ids": lines_of(1, length, length)[0]} for length in (40, 61, 46, 75, 52, 67)])
    texts = [{"task": "text", "domain": "noise", "ids": ids} for ids in lines_of(3, 24, 2)]
    item = {"task": "reverse", "prompt": "Q: reverse abc", "answer": "cba", "gen_length": 4}
    write_lines(folder / "eval.jsonl", [*texts, item])
    return folder


@pytest.fixture
def small(checkpoint, tmp_path):
    """A copy of it that a test may damage."""
    return Path(shutil.copytree(checkpoint, tmp_path / "small"))


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Type a command in an empty folder, in this process."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)

    def typed(*words):
        monkeypatch.setattr(sys, "argv", ["refquant", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as finished:
            refquant.cli.main()
        out, err = capsys.readouterr()
        return Ran(finished.value.code, out, err)

    return typed


def contents(folder):
    """Everything below a folder, with bytes: equal before and after means that nothing was written."""
    found = {}
    for place, folders, files in os.walk(folder):
        for name in [*folders, *files]:
            path = Path(place, name)
            found[path.relative_to(folder).as_posix()] = path.read_bytes() if path.is_file() and not path.is_symlink() else None
    return found


@pytest.fixture(scope="session")
def quantized(checkpoint, tmp_path_factory):
    """The small checkpoint, quantized once by the command in another process."""
    folder = tmp_path_factory.mktemp("quantized") / "folder"
    words = [sys.executable, "-m", "refquant", "quantize", checkpoint, "--quick", "--no-compare", "--out", folder]
    subprocess.run(list(map(str, words)), check=True, capture_output=True)
    return folder


@pytest.fixture
def quantized_copy(quantized, tmp_path):
    return Path(shutil.copytree(quantized, tmp_path / "quantized"))
