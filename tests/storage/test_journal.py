"""Journals: what was appended is read back, a torn tail is dropped, other damage is told."""

import json
import os

import pytest

from refquant.errors import InputError
from refquant.storage import Journal

RECORDS = [{"name": "a", "error": 0.1}, {"name": "ü\n", "parts": {"codes": ["uint8", [2, 3]]}}, {}]


@pytest.fixture
def path(tmp_path):
    with Journal.create(tmp_path / "journal", {"run": 1}) as journal:
        for record in RECORDS:
            journal.append(record)
    return tmp_path / "journal"


def test_what_was_appended_is_read_back_and_appended_to(path):
    with Journal(path) as journal:
        assert (journal.header, journal.records) == ({"run": 1}, RECORDS)
        journal.append({"more": True})
        assert journal.records == [*RECORDS, {"more": True}]
    with Journal(path) as journal:
        assert journal.records == [*RECORDS, {"more": True}]


def test_cut_anywhere_it_holds_the_lines_that_are_whole(path):
    raw = path.read_bytes()
    first = raw.index(b"\n") + 1
    for length in range(first, len(raw) + 1):
        path.write_bytes(raw[:length])
        with Journal(path) as journal:
            assert journal.records == RECORDS[: raw[:length].count(b"\n") - 1]
            journal.append({"next": length})
        with Journal(path) as journal:
            assert journal.records[-1] == {"next": length}
    path.write_bytes(raw[: first - 1])
    with pytest.raises(InputError, match="not a journal: it holds no complete line"):
        Journal(path)


def test_any_other_damage_is_told(path):
    raw = path.read_bytes()
    for position in range(0, len(raw), 7):
        damaged = bytearray(raw)
        damaged[position] ^= 1
        path.write_bytes(damaged)
        if raw[position : position + 1] == b"\n" and position == len(raw) - 1:
            continue
        with pytest.raises(InputError, match=r"line \d is damaged|not a journal"):
            Journal(path)
    lines = raw.splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:2]) + b"0" * 64 + b' {"x":1}\n' + lines[2])
    with pytest.raises(InputError, match="line 3 is damaged"):
        Journal(path)


def test_a_full_disk_while_appending(path, monkeypatch):
    with Journal(path) as journal:

        def full(descriptor):
            raise OSError(28, os.strerror(28))

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            with pytest.raises(InputError, match="journal: cannot write: No space left on device"):
                journal.append({"lost": 1})
        assert journal.records == RECORDS


def test_lines_are_json_behind_their_digest(path):
    for line in path.read_text().splitlines():
        assert len(line.split(" ")[0]) == 64
        json.loads(line.split(" ", 1)[1])
