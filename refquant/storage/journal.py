"""A journal: what a long run has finished, line by line, so that whoever comes after a crash knows what to believe.

One record a line: the SHA-256 of its text, a space, and the text, canonical JSON. A line is written with one call and synced before
:meth:`Journal.append` returns, and it is written after the work that it records was synced; so what the journal says is there, is there.
A crash can leave one line torn, the last: it is dropped when the journal is opened again. Any other damage is an error.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from refquant.errors import InputError
from refquant.storage.atomic import write_text
from refquant.storage.border import PathLike, regular_file, telling
from refquant.storage.json_text import canonical_json, digest

Record = Mapping[str, Any]


def _line(record: Record) -> str:
    text = canonical_json(dict(record))
    return f"{digest(text)} {text}\n"


class Journal:
    """An open journal; its first record says what the run is.

    Parameters
    ----------
    path : path
        A journal that exists; :meth:`create` makes one.

    Attributes
    ----------
    path : Path
    header : dict
        The first record.
    records : list of dict
        The others, in order.

    Raises
    ------
    InputError
        If the file cannot be read or written, or a line other than a torn last one is not what was written.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with Journal.create(f"{folder}/j", {"run": 1}) as journal:
    ...         journal.append({"done": "a"})
    ...     with open(f"{folder}/j", "a") as file:
    ...         _ = file.write("torn")
    ...     with Journal(f"{folder}/j") as again:
    ...         again.header, again.records
    ({'run': 1}, [{'done': 'a'}])
    """

    def __init__(self, path: PathLike) -> None:
        self.path = Path(path)
        with regular_file(self.path) as (file, _):
            raw = file.read()
        whole = raw[: raw.rfind(b"\n") + 1]
        found = [self._read(number, line) for number, line in enumerate(whole.split(b"\n")[:-1], start=1)]
        if not found:
            raise InputError(f"{self.path}: not a journal: it holds no complete line")
        self.header, self.records = found[0], found[1:]
        with telling(self.path, "write"):
            self._file = open(self.path, "r+b", buffering=0)  # noqa: SIM115 - held for the life of the journal
            if len(whole) < len(raw):
                self._file.truncate(len(whole))
                os.fsync(self._file.fileno())
            self._file.seek(len(whole))

    @classmethod
    def create(cls, path: PathLike, header: Record) -> Journal:
        """Begin a journal with its first record."""
        write_text(path, _line(header))
        return cls(path)

    def append(self, record: Record) -> None:
        """Add a record; it is on the disk when this returns.

        Raises
        ------
        InputError
            If the operating system refuses (a full disk): a torn line may be left, which the next opening drops.
        """
        line = _line(record).encode()
        with telling(self.path, "write"):
            if self._file.write(line) != len(line):
                raise OSError(28, "No space left on device")  # a short write to a regular file has no other reason
            os.fsync(self._file.fileno())
        self.records.append(json.loads(line.partition(b" ")[2]))

    def close(self) -> None:
        """Give the file back; a second time does nothing."""
        self._file.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _read(self, number: int, line: bytes) -> dict[str, Any]:
        recorded, _, text = line.partition(b" ")
        if recorded != digest(text).encode():
            raise InputError(f"{self.path}: line {number} is damaged: it does not have the SHA-256 that stands before it")
        found = json.loads(text)
        if not isinstance(found, dict):
            raise InputError(f"{self.path}: line {number} is no JSON object")
        return found
