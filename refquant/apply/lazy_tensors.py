"""Tensors that are read when they are asked for and not kept, and a place on disk for those that were made of them.

Exports and imports go through a folder a linear at a time: what is written waits in files of its own until the shards are planned, so that
neither side has to fit into memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from refquant.numerics.arrays import Array
from refquant.storage import Checkpoint, TensorSource, plan_shards, write_index, write_streamed, write_tensors
from refquant.storage.checkpoint import open_file
from refquant.storage.streaming import SHARD_BYTES

T = TypeVar("T")


class ReadAtUse(Mapping[str, T], Generic[T]):
    """A mapping whose values are read every time.

    Parameters
    ----------
    names : iterable of str
    read : callable
        From a name to its value.

    Examples
    --------
    >>> found = ReadAtUse(["a", "b"], str.upper)
    >>> found["a"], found.get("c"), sorted(found), "b" in found
    ('A', None, ['a', 'b'], True)
    """

    __slots__ = ("_names", "_read")

    def __init__(self, names: Iterator[str] | list[str] | tuple[str, ...], read: Callable[[str], T]) -> None:
        self._names, self._read = dict.fromkeys(names), read

    def __getitem__(self, name: str) -> T:
        if name not in self._names:
            raise KeyError(name)
        return self._read(name)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def stored_tensors(stored: Checkpoint, names: list[str]) -> ReadAtUse[Array]:
    """Some tensors of a checkpoint."""
    return ReadAtUse(names, stored.read)


def source_at_use(dtype: np.dtype[Any], shape: tuple[int, ...], read: Callable[[], Array]) -> TensorSource:
    """A tensor to be written that is read when its bytes are asked for, and not kept."""
    return TensorSource(dtype=dtype, shape=shape, pieces=lambda: TensorSource.of(read()).pieces())


class Spool:
    """Tensors that wait on disk until they are written to where they belong.

    Parameters
    ----------
    folder : Path
        Exists; whoever made it removes it.
    """

    __slots__ = ("_count", "folder")

    def __init__(self, folder: Path) -> None:
        self.folder, self._count = folder, 0

    def put(self, prefix: str, parts: Mapping[str, Array]) -> dict[str, TensorSource]:
        """Put the parts of a linear aside; returns them by their full names."""
        path = self.folder / f"{self._count:06d}.safetensors"
        self._count += 1
        write_tensors(path, parts)
        stored = open_file(path)
        return {f"{prefix}.{part}": TensorSource.stored(stored, part) for part in parts}


def write_shards(folder: Path, groups: Mapping[str, Mapping[str, TensorSource]], shard_bytes: int = SHARD_BYTES) -> None:
    """Write groups of tensors to one safetensors file or several with an index; a group stays in one file.

    Parameters
    ----------
    folder : Path
    groups : mapping of str to mapping of str to TensorSource
        Written in the order of their names.
    shard_bytes : int
        Most bytes of tensors in one file.
    """
    names, homes = sorted(groups), dict[str, str]()
    sizes = [sum(one.nbytes for one in groups[name].values()) for name in names]
    shards = plan_shards(sizes, shard_bytes)
    for shard in shards:
        tensors = {name: one for group in shard.groups for name, one in groups[names[group]].items()}
        homes |= dict.fromkeys(tensors, shard.file)
        write_streamed(folder / shard.file, tensors, {"format": "pt"})
    if len(shards) > 1:
        write_index(folder, homes, sum(sizes))
