"""Checkpoint folders: one ``model.safetensors``, or shards behind a ``model.safetensors.index.json``.

A folder that holds both is accepted only where they agree, that is if the index maps every tensor to
``model.safetensors``. transformers would read the single file and ignore the index without a word; a stale index (or
a stale single file) is then not noticed.

Shard names come from a file that is not trusted: they must be plain names, and what they lead to must lie inside the
folder. One exception: in the cache of the Hugging Face hub, ``snapshots/<revision>/`` holds links into the ``blobs/``
folder of the same repository.
"""

from __future__ import annotations

import difflib
import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from refquant.errors import InputError
from refquant.numerics.arrays import Array
from refquant.numerics.frozen import by_constructor
from refquant.storage.border import PathLike, quoted, regular_file, telling
from refquant.storage.header import DTYPES, Header, TensorEntry, read_header
from refquant.storage.json_text import canonical_json, read_json
from refquant.storage.tensors import read_entry

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"

_TAGS = {dtype: tag for tag, dtype in DTYPES.items()}
_CHUNK = 1 << 24  # bytes held at a time


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """The tensors of a checkpoint folder, read one at a time; see :func:`open_checkpoint`.

    Attributes
    ----------
    directory : Path
    names : tuple of str
        Every tensor, sorted.
    files : tuple of Path
        The safetensors files, sorted.
    """

    directory: Path
    names: tuple[str, ...]
    files: tuple[Path, ...]
    _entries: Mapping[str, tuple[Path, TensorEntry]]

    __reduce__ = by_constructor

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of the tensor `name`; ``InputError`` if there is none."""
        return self._entry(name)[1].shape

    def dtype(self, name: str) -> np.dtype[Any]:
        """Stored dtype of the tensor `name`; ``InputError`` if there is none."""
        return self._entry(name)[1].dtype

    def read(self, name: str) -> Array:
        """Read one tensor, in its stored dtype, with plain reads of just its bytes.

        Parameters
        ----------
        name : str
            One of `names`.

        Returns
        -------
        ndarray
            C-contiguous, writable, owned by the caller; bfloat16 as ``ml_dtypes.bfloat16``.

        Raises
        ------
        InputError
            If there is no such tensor (the message names near matches) or its file cannot be read any more.
        """
        path, entry = self._entry(name)
        with regular_file(path) as (file, _):
            return read_entry(file, name, entry, path)

    def read_rows(self, name: str, rows: Any) -> Array:
        """Read some rows of one tensor, in its stored dtype, with plain reads of just their bytes.

        Parameters
        ----------
        name : str
            One of `names`, with at least one axis.
        rows : array_like of integers [N]
            Indices along the first axis, in any order, repeated ones included. Runs of consecutive rows are read in one go, and each row
            once.

        Returns
        -------
        ndarray [N, ...]
            C-contiguous, writable, owned by the caller; what ``read(name)[rows]`` would be.

        Raises
        ------
        InputError
            As :meth:`read`; or if `rows` is not a list of integers that all exist.
        """
        path, entry = self._entry(name)
        wanted = np.asarray(rows)
        if not entry.shape or wanted.ndim != 1 or (wanted.dtype.kind not in "iu" and wanted.size):
            found = f"rows of shape {wanted.shape} and dtype {wanted.dtype} from a tensor of shape {entry.shape}"
            raise InputError(f"{self.directory}: {quoted(name)}: {found}; a list of integers and a tensor with axes are needed")
        outside = (wanted < 0) | (wanted >= entry.shape[0])
        if outside.any():
            raise InputError(f"{self.directory}: {quoted(name)}: row {wanted[outside][0]}, it has rows 0 to {entry.shape[0] - 1}")
        once, back = np.unique(wanted.astype(np.int64), return_inverse=True)
        if not once.size:
            return np.empty((0, *entry.shape[1:]), dtype=entry.dtype)
        row_bytes = entry.nbytes // entry.shape[0]
        parts = []
        with regular_file(path) as (file, _):
            for run in np.split(once, np.flatnonzero(np.diff(once) != 1) + 1):
                shape, start = (len(run), *entry.shape[1:]), entry.position + int(run[0]) * row_bytes
                part = replace(entry, shape=shape, position=start, nbytes=len(run) * row_bytes)
                parts.append(read_entry(file, name, part, path))
        if len(parts) == 1 and np.array_equal(once, wanted):
            return parts[0]
        return np.ascontiguousarray(np.concatenate(parts)[back])

    def digest(self) -> str:
        """SHA-256 over names, dtypes, shapes and bytes, as 64 hex digits.

        Tensors are taken in sorted order, each as the canonical JSON of ``[name, dtype, shape]``, a newline, and its
        stored bytes: how they are spread over files, and the files' metadata, do not matter.

        Raises
        ------
        InputError
            If a file cannot be read any more.
        """
        total = hashlib.sha256()
        for name in self.names:
            entry = self._entries[name][1]
            total.update(canonical_json([name, _TAGS[entry.dtype], entry.shape]).encode() + b"\n")
            for piece in self.pieces(name):
                total.update(piece)
        return total.hexdigest()

    def pieces(self, name: str) -> Iterator[bytes]:
        """Go through the stored bytes of a tensor in pieces of at most 16 MiB.

        Raises
        ------
        InputError
            If there is no such tensor, or its file ends early.
        """
        path, entry = self._entry(name)
        with regular_file(path) as (file, _):
            file.seek(entry.position)
            left = entry.nbytes
            while left:
                block = file.read(min(left, _CHUNK))
                if not block:
                    raise InputError(f"{path}: the file ended {left} bytes early: it changed since it was opened")
                yield block
                left -= len(block)

    def _entry(self, name: str) -> tuple[Path, TensorEntry]:
        found = self._entries.get(name)
        if found is None:
            near = ", ".join(quoted(match) for match in difflib.get_close_matches(str(name), self.names))
            hint = f"near matches: {near}" if near else f"none of its {len(self.names)} names is near"
            raise InputError(f"{self.directory}: no tensor {quoted(name)}; {hint}")
        return found


def open_checkpoint(directory: PathLike) -> Checkpoint:
    """Open a checkpoint folder; headers are read and checked, tensors are not read yet.

    Parameters
    ----------
    directory : path
        Holds ``model.safetensors``, or ``model.safetensors.index.json`` and the shards it names.

    Returns
    -------
    Checkpoint

    Raises
    ------
    InputError
        If the folder or its files are missing or damaged, or if index and shards do not agree exactly.

    Examples
    --------
    >>> import tempfile
    >>> from refquant.storage import write_tensors
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_tensors(f"{folder}/model.safetensors", {"w": np.eye(2, dtype=np.int8)})
    ...     checkpoint = open_checkpoint(folder)
    ...     print(checkpoint.names, checkpoint.shape("w"), checkpoint.read("w").tolist())
    ('w',) (2, 2) [[1, 0], [0, 1]]
    """
    folder = Path(directory)
    with telling(folder, "read"):
        if not folder.is_dir():
            what = "is not a folder" if os.path.lexists(folder) else "no such folder"
            raise InputError(f"{folder}: {what}; a checkpoint is a folder with {SINGLE} or {INDEX}")
        single, index = (os.path.lexists(folder / name) for name in (SINGLE, INDEX))
    if not single and not index:
        raise InputError(f"{folder}: no checkpoint here, looked for {SINGLE} and {INDEX}")
    if not index:
        return _collect(folder, [read_header(_inside(folder, SINGLE))])
    weight_map = _weight_map(folder / INDEX)
    shards = sorted(set(weight_map.values()))
    if single and shards != [SINGLE]:
        raise InputError(f"{folder}: {SINGLE} and an index of other files are both present, only one may be; remove the stale one")
    headers = []
    for shard in shards:
        path = _inside(folder, shard)
        if not os.path.lexists(path):
            wanted = sorted(name for name, home in weight_map.items() if home == shard)
            raise InputError(f"{path}: missing; the index places {len(wanted)} tensors there, first {quoted(wanted[0])}")
        headers.append(read_header(path))
    _check_index(weight_map, headers, folder / INDEX)
    return _collect(folder, headers)


def open_file(path: PathLike) -> Checkpoint:
    """Open a single safetensors file, whatever it is called, as a checkpoint of its own; errors as :func:`open_checkpoint`."""
    header = read_header(path)
    return _collect(header.path.parent, [header])


def _collect(folder: Path, headers: list[Header]) -> Checkpoint:
    entries = {name: (header.path, entry) for header in headers for name, entry in header.tensors.items()}
    names = tuple(sorted(entries))
    return Checkpoint(
        directory=folder,
        names=names,
        files=tuple(header.path for header in headers),
        _entries=MappingProxyType(entries),
    )


def _weight_map(path: Path) -> dict[str, str]:
    found = read_json(path).get("weight_map")
    if not isinstance(found, dict) or not found:
        raise InputError(f"{path}: weight_map is {quoted(found)}, an object of tensor names to file names is needed")
    for name, shard in found.items():
        # Both kinds of separator, wherever this runs: a folder travels between systems.
        if not isinstance(shard, str) or shard in ("", ".", "..") or any(mark in shard for mark in "/\\:\0"):
            raise InputError(f"{path}: tensor {quoted(name)} is placed in {quoted(shard)}, a plain file name in the folder is needed")
    return found


def _inside(folder: Path, name: str) -> Path:
    """Return ``folder / name`` if links, followed to their ends, do not lead out of the folder."""
    path = folder / name
    with telling(path, "read"):
        # Not Path.resolve(): before Python 3.13 that answers a loop of links with a RuntimeError.
        home, target = (Path(os.path.realpath(place)) for place in (folder, path))
    allowed = [home]
    if home.parent.name == "snapshots":
        allowed.append(home.parent.parent / "blobs")
    if not any(target.is_relative_to(place) for place in allowed):
        raise InputError(f"{path}: a link that leads out of the folder to {target}, files must lie inside")
    return path


def _check_index(weight_map: Mapping[str, str], headers: list[Header], path: Path) -> None:
    """Check that the shards hold what the index says: every tensor once, where it was placed, and nothing else."""
    home: dict[str, str] = {}
    for header in headers:
        for name in header.tensors:
            if name in home:
                raise InputError(f"{header.path}: tensor {quoted(name)} is in {quoted(home[name])} too, it may be in one file only")
            if name not in weight_map:
                raise InputError(f"{header.path}: tensor {quoted(name)} is not listed in {path.name}")
            home[name] = header.path.name
    for name, shard in weight_map.items():
        if home.get(name) != shard:
            found = f"it is in {quoted(home[name])}" if name in home else "no shard holds it"
            raise InputError(f"{path}: tensor {quoted(name)} is placed in {quoted(shard)}, but {found}")
