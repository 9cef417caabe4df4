"""Where cells are kept: one file with one JSON line a finished cell, written at once or not at all, so that a run can be taken up again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from refquant.apply.evaluation.record import plain
from refquant.apply.study.cell import Laboratory, Record
from refquant.errors import InputError
from refquant.storage import canonical_json, digest, read_json, read_json_lines, write_text
from refquant.storage.border import telling

SETTINGS = "settings.json"
RAW = "qdlm.jsonl"


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder of finished cells that all belong to one set of settings."""

    path: Path

    def _cell(self, key: str) -> Path:
        return self.path / "cells" / f"{key[:16]}.json"

    def find(self, key: str) -> Record | None:
        """The record of a cell, or None if it is not finished.

        Raises
        ------
        InputError
            If the file is damaged or holds another cell.
        """
        path = self._cell(key)
        if not path.exists():
            return None
        record = read_json(path)
        if record.get("key") != key:
            raise InputError(f"{path}: holds a cell with the key {record.get('key')!r}, not {key}; remove the file")
        return record

    def keep(self, key: str, record: Record) -> Record:
        """Write a finished cell."""
        whole = {"key": key, **record}
        write_text(self._cell(key), canonical_json(whole) + "\n")
        return whole


def open_folder(path: Path, lab: Laboratory) -> Folder:
    """Open a folder for these settings, or begin one.

    Parameters
    ----------
    path : Path
    lab : Laboratory

    Raises
    ------
    InputError
        If it belongs to other settings or inputs; the message names the first that differs. Or if it holds something else.
    """
    wanted: dict[str, Any] = {"settings": plain(lab.settings), "inputs": lab.inputs}
    file = path / SETTINGS
    if file.exists():
        difference = first_difference(read_json(file), wanted)
        if difference is not None:
            raise InputError(f"{path} belongs to another study: {difference}; choose another folder or remove it")
    else:
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise InputError(f"{path}: exists and holds no study ({SETTINGS} is missing); choose another folder")
        with telling(path, "create"):
            (path / "cells").mkdir(parents=True, exist_ok=True)
        write_text(file, canonical_json(wanted) + "\n")
    with telling(path, "create"):
        (path / "cells").mkdir(exist_ok=True)
    return Folder(path)


def first_difference(found: Any, wanted: Any, where: str = "") -> str | None:
    """Name the first place where two JSON values differ, in the order of sorted keys; None where they are equal.

    Examples
    --------
    >>> first_difference({"a": {"b": 1}}, {"a": {"b": 2}})
    'a.b is 1 there and 2 here'
    """
    if isinstance(found, dict) and isinstance(wanted, dict):
        for key in sorted({*found, *wanted}):
            difference = first_difference(found.get(key), wanted.get(key), f"{where}.{key}" if where else key)
            if difference is not None:
                return difference
        return None
    same = list(found) == list(wanted) if isinstance(found, list | tuple) and isinstance(wanted, list | tuple) else found == wanted
    return None if same else f"{where} is {found} there and {wanted} here"


def raw_lines(head: Record, records: list[Record], outliers: list[Record]) -> tuple[str, str]:
    """Everything as JSON lines, and the root hash over them.

    Parameters
    ----------
    head : dict
        What the study was run with.
    records, outliers : list of dict

    Returns
    -------
    text : str
        The head first, with the root hash of all lines that follow.
    root : str
    """
    lines = [canonical_json(record) for record in (*outliers, *records)]
    root = digest("\n".join(lines))
    return "\n".join([canonical_json({**head, "root": root}), *lines]) + "\n", root


def read_raw(path: Path) -> tuple[Record, list[Record], list[Record]]:
    """Read raw results back: head, cells, outliers.

    Raises
    ------
    InputError
        If the file is damaged or its root hash is not that of its lines.
    """
    lines = [record for _, record in read_json_lines(path)]
    if not lines or "root" not in lines[0]:
        raise InputError(f"{path}: holds no study; the first line names its root hash")
    head, rest = lines[0], lines[1:]
    if digest("\n".join(canonical_json(record) for record in rest)) != head["root"]:
        raise InputError(f"{path}: the lines do not have the root hash {head['root']} that the first one names")
    return head, [r for r in rest if "runs" in r], [r for r in rest if "stages" in r]
