"""A run that outlives its process: every finished linear is put aside, and the folder is made of them in the end.

Beside the output ``OUT`` stands ``OUT.partial`` while the run goes on:

========================  ===========================================================================================================
``lock``                  held by the one process that may write here
``journal.jsonl``         what the run is; each finished linear, with digests of its input, the recipe and the output; finished shards
``weights/NAME.st``       the parts of a finished linear, a safetensors file
``folder/``               the quantized folder while it is filled; renamed to ``OUT`` when everything is in it and synced
========================  ===========================================================================================================

Order is what makes it safe: bytes are synced, then renamed, then the journal says so; a linear's file is removed only after the journal
says that a shard holds it. A process may be killed between any two of these steps, and the next one finds out where it was.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec

from model import DenseLinear
from refquant.apply.description import WeightEntry, tensor_digest
from refquant.apply.linear_task import LinearResult
from refquant.apply.quantized import LinearRecord, QuantizedModel
from refquant.apply.saving import FilledShard, Provenance, ShardLog, WeightOnDisk, fill_folder, gather_groups, weight_entry
from refquant.apply.stored_parts import read_weight
from refquant.errors import InputError, UsageError
from refquant.storage import Journal, TensorSource, canonical_json, locked, open_file, write_streamed
from refquant.storage.atomic import finish_directory
from refquant.storage.border import telling
from refquant.storage.header import DTYPES
from refquant.storage.streaming import SHARD_BYTES

_DTYPES = {dtype.name: dtype for dtype in DTYPES.values()}
_OURS = JOURNAL, LOCK, WEIGHTS, FOLDER = "journal.jsonl", "lock", "weights", "folder"


def partial_of(out: Path) -> Path:
    """Where the work on an output folder lies until it is finished."""
    return out.absolute().with_name(out.absolute().name + ".partial")


def unfinished(out: Path) -> int | None:
    """How many linears an unfinished run has put aside for an output folder; None if there is no such run."""
    path = partial_of(out) / JOURNAL
    if not path.is_file():
        return None
    with Journal(path) as journal:
        return sum(1 for record in journal.records if record["kind"] == "weight")


class WorkFolder:
    """The work on one output folder; a context manager that holds its lock.

    Parameters
    ----------
    out : Path
        The folder that is to be made.
    header : mapping
        What decides the result, as plain JSON values: compared with that of an earlier run.
    resume : bool
        Whether to go on with what an earlier run left.
    recipe_digest : str
        Written beside every linear.
    stop : callable
        Whether the run is to end, with KeyboardInterrupt; asked after every linear that was put aside.

    Raises
    ------
    InputError
        If another process holds the lock, something in the folder is damaged, or the operating system refuses.
    UsageError
        If there is an earlier run's work and `resume` is not set, or it is that of another run: the message names what differs.
    """

    def __init__(
        self, out: Path, header: Mapping[str, Any], *, resume: bool, recipe_digest: str, stop: Callable[[], bool] = lambda: False
    ) -> None:
        self.out, self.path, self.header = out, partial_of(out), json.loads(canonical_json(dict(header)))
        self._resume, self._recipe, self._stop = resume, recipe_digest, stop
        self._open = ExitStack()

    def __enter__(self) -> WorkFolder:
        with telling(self.path, "create"):
            self.path.mkdir(exist_ok=True)
        with ExitStack() as opened:
            opened.enter_context(locked(self.path / LOCK))
            self._journal = opened.enter_context(self._journal_of_this_run())
            with telling(self.path, "create"):
                for name in (WEIGHTS, FOLDER):
                    (self.path / name).mkdir(exist_ok=True)
                for place in (self.path, self.path / WEIGHTS, self.path / FOLDER):
                    for torn in place.glob(".tmp-*"):
                        torn.unlink()
            records = self._journal.records
            self._weights = {record["name"]: record for record in records if record["kind"] == "weight"}
            self._shards = {record["file"]: record for record in records if record["kind"] == "shard"}
            self._open = opened.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is not None and not self._weights:
            self._remove()  # nothing was finished: nothing is worth keeping
        self._open.close()

    @property
    def finished(self) -> int:
        """How many linears are put aside."""
        return len(self._weights)

    def _journal_of_this_run(self) -> Journal:
        path = self.path / JOURNAL
        if not path.is_file():
            refuse_strangers(self.path)
            return Journal.create(path, self.header)
        journal = Journal(path)
        if not any(record["kind"] == "weight" for record in journal.records):
            journal.close()
            return Journal.create(path, self.header)
        try:
            self._check_same_run(journal)
        except UsageError:
            journal.close()
            raise
        return journal

    def _check_same_run(self, journal: Journal) -> None:
        count = sum(record["kind"] == "weight" for record in journal.records)
        if not self._resume:
            raise UsageError(f"{self.path} holds {count} linears of an unfinished run; go on with --resume, or remove it to begin anew")
        found = list(differences(journal.header, self.header))
        if found:
            more = f", and {len(found) - 3} more" if len(found) > 3 else ""
            raise UsageError(f"{self.path} is of another run and cannot be resumed: {'; '.join(found[:3])}{more}")

    def find(self, name: str, linear: DenseLinear) -> LinearResult | None:
        """What an earlier run made of the weight of a linear in full precision, checked against its digests, or None.

        Raises
        ------
        InputError
            If the weight is another one than it was, or the file was changed.
        """
        record = self._weights.get(name)
        if record is None:
            return None
        where = self.path / JOURNAL
        made_of = tensor_digest(linear.weight)
        if record["input"] != made_of:
            raise InputError(f"{where}: {name} was quantized from another weight: {record['input'][:12]}... then, now {made_of[:12]}...")
        entry = msgspec.convert(record["entry"], WeightEntry)
        quantized = read_weight(open_file(self._place(name)), name, entry, where)
        return LinearResult(weight=quantized, record=LinearRecord(**record["record"]), made_of=made_of)

    def put(self, result: LinearResult) -> None:
        """Put a finished linear aside.

        Raises
        ------
        InputError
            If the operating system refuses (a full disk): what was finished before is safe.
        """
        name, entry = result.record.name, weight_entry(result.weight)
        parts = {f"{name}.{part}": TensorSource.of(array) for part, array in result.weight.parts().items()}
        write_streamed(self._file(name), parts)
        record = {
            "kind": "weight",
            "name": name,
            "input": result.made_of,
            "recipe": self._recipe,
            "output": entry.digest,
            "entry": msgspec.to_builtins(entry),
            "record": msgspec.to_builtins(result.record),
            "bits": result.weight.total_bits,
            "parts": {part: [one.dtype.name, list(one.shape)] for part, one in parts.items()},
        }
        self._journal.append(record)
        self._weights[name] = record

    def stopping(self) -> bool:
        """Whether the run is to end: what :class:`WorkFolder` was told to ask."""
        return self._stop()

    def _file(self, name: str) -> Path:
        return self.path / WEIGHTS / f"{name}.st"

    def _place(self, name: str) -> Path:
        """The file that a finished linear lies in: its own, or a shard that is complete."""
        for file, record in self._shards.items():
            if name in record["weights"]:
                return Path(self.path, FOLDER, file)
        return self._file(name)

    def finish(self, source: Path, quantized: QuantizedModel, provenance: Provenance, shard_bytes: int = SHARD_BYTES) -> None:
        """Make the quantized folder of everything that was put aside, and remove the work.

        Parameters
        ----------
        source : Path
            Folder of the full-precision checkpoint.
        quantized : QuantizedModel
            Everything else of the result; its weights are not looked at.
        provenance : Provenance
        shard_bytes : int

        Raises
        ------
        InputError
            If the output exists, or the operating system refuses: the work stays, and the run can be resumed.
        """
        weights = {name: self._on_disk(record) for name, record in sorted(self._weights.items())}
        groups = gather_groups(source, weights, quantized)
        log = ShardLog(complete={file: record["untouched"] for file, record in self._shards.items()}, tell=self._shard_is_complete)
        fill_folder(self.path / FOLDER, source, groups, weights, quantized, provenance, log=log, shard_bytes=shard_bytes)
        finish_directory(self.path / FOLDER, self.out)
        self._remove()

    def _on_disk(self, record: Mapping[str, Any]) -> WeightOnDisk:
        """A finished linear, by what the journal says of it: its file may be gone, if its shard is complete."""
        path = self._file(record["name"])

        def source(name: str, dtype: str, shape: list[int]) -> TensorSource:
            return TensorSource(dtype=_DTYPES[dtype], shape=tuple(shape), pieces=lambda: open_file(path).pieces(name))

        parts = {name: source(name, dtype, shape) for name, (dtype, shape) in record["parts"].items()}
        return WeightOnDisk(entry=msgspec.convert(record["entry"], WeightEntry), parts=parts)

    def _shard_is_complete(self, shard: FilledShard) -> None:
        record = {"kind": "shard", "file": shard.file, "untouched": dict(shard.untouched), "weights": list(shard.weights)}
        self._journal.append(record)
        self._shards[shard.file] = record
        with telling(self.path, "write"):
            for name in shard.weights:
                self._file(name).unlink(missing_ok=True)

    def _remove(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)


def sweep(out: Path) -> None:
    """Remove the work on a folder that is complete: a process was killed after it was done and before it had cleaned up."""
    path = partial_of(out)
    if path.is_dir():
        refuse_strangers(path)
        with locked(path / LOCK):
            shutil.rmtree(path, ignore_errors=True)


def refuse_strangers(path: Path) -> None:
    """Raise InputError if a folder called as if it were ours holds anything that is not."""
    odd = sorted(place.name for place in path.iterdir() if place.name not in _OURS and not place.name.startswith(".tmp-"))
    if odd:
        raise InputError(f"{path} holds {odd[0]}: not the work of an earlier run; remove it or choose another --out")


def differences(then: Any, now: Any, where: str = "") -> list[str]:
    """What differs between two trees of plain JSON values, a line each.

    Examples
    --------
    >>> differences({"seed": 0, "recipe": {"bits": 4}}, {"seed": 0, "recipe": {"bits": 3}})
    ['recipe.bits was 4, is 3']
    """
    if isinstance(then, dict) and isinstance(now, dict):
        keys = sorted({*then, *now})
        return [line for key in keys for line in differences(then.get(key), now.get(key), f"{where}.{key}" if where else key)]
    return [] if then == now else [f"{where} was {then!r}, is {now!r}"]
