"""Safetensors files that are never in memory: written from sources that hand over their bytes piece by piece, one file or many shards.

A :class:`TensorSource` says what a tensor is and knows how to go through its bytes; where they lie, in an array, in another file or
nowhere yet, is its own business. What is known of all tensors beforehand, their dtypes and shapes, makes the header and the plan of the
shards; then bytes pass through in pieces of 16 MiB. Files are those of :func:`refquant.storage.write_tensors`, to the byte.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from refquant.errors import InputError
from refquant.numerics.arrays import Array
from refquant.storage.atomic import replacing, write_text
from refquant.storage.border import PathLike, quoted
from refquant.storage.checkpoint import INDEX, SINGLE, Checkpoint
from refquant.storage.json_text import canonical_json
from refquant.storage.tensors import little_endian_bytes, prepared, second_opinion

CHUNK = 1 << 24  # bytes that are held at a time
SHARD_BYTES = 5_000_000_000
"""Most bytes of tensors in one shard, unless a single group of tensors has more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSource:
    """A tensor that can be gone through.

    Parameters
    ----------
    dtype : numpy dtype
    shape : tuple of int
    pieces : callable
        Returns an iterator over the stored bytes: C order, little-endian, in pieces of any size. It may be asked more than once.

    Examples
    --------
    >>> source = TensorSource.of(np.array([1, 2], np.int16))
    >>> source.nbytes, b"".join(bytes(piece) for piece in source.pieces())
    (4, b'\\x01\\x00\\x02\\x00')
    """

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    pieces: Callable[[], Iterator[bytes | memoryview]]

    @property
    def nbytes(self) -> int:
        """Number of bytes."""
        return math.prod(self.shape) * self.dtype.itemsize

    @classmethod
    def of(cls, array: Array) -> TensorSource:
        """The tensor that an array in memory holds."""

        def pieces() -> Iterator[bytes | memoryview]:
            raw = little_endian_bytes(array)
            for start in range(0, raw.size, CHUNK):
                yield raw[start : start + CHUNK].data

        return cls(dtype=array.dtype, shape=array.shape, pieces=pieces)

    @classmethod
    def stored(cls, checkpoint: Checkpoint, name: str) -> TensorSource:
        """A tensor of a checkpoint, read piece by piece; InputError if there is no such tensor."""
        return cls(dtype=checkpoint.dtype(name), shape=checkpoint.shape(name), pieces=lambda: checkpoint.pieces(name))


def write_streamed(path: PathLike, sources: Mapping[str, TensorSource], metadata: Mapping[str, str] | None = None) -> None:
    """Write one safetensors file, atomically, in the order and with the bytes of :func:`refquant.storage.write_tensors`.

    Parameters
    ----------
    path : path
    sources : mapping of str to TensorSource
    metadata : mapping of str to str, optional

    Raises
    ------
    UsageError
        If a name, dtype, shape or piece of metadata has no place in the format.
    InputError
        If the operating system refuses, or a source hands over more or fewer bytes than its shape and dtype say; a previous file of
        that name is then unchanged.

    Examples
    --------
    >>> import tempfile
    >>> from refquant.storage import read_tensors
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_streamed(f"{folder}/a.safetensors", {"w": TensorSource.of(np.eye(2, dtype=np.int8))})
    ...     read_tensors(f"{folder}/a.safetensors")["w"].tolist()
    [[1, 0], [0, 1]]
    """
    order, prefix = prepared(sources, metadata)
    with replacing(path) as (file, temporary):
        file.write(prefix)
        for name in order:
            left = sources[name].nbytes
            for piece in sources[name].pieces():
                left -= len(piece)
                if left < 0:
                    break
                file.write(piece)
            if left:
                found = "fewer" if left > 0 else "more"
                raise InputError(f"{path}: tensor {quoted(name)} has {sources[name].nbytes} bytes; its source handed over {found}")
        file.flush()
        second_opinion(temporary, order)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """One file of a checkpoint: its name and the groups of tensors in it, by number."""

    file: str
    groups: tuple[int, ...]


def plan_shards(sizes: Sequence[int], limit: int = SHARD_BYTES) -> list[Shard]:
    """Spread groups of tensors over files, in order; a group stays in one piece.

    Parameters
    ----------
    sizes : sequence of int
        Bytes of each group.
    limit : int
        Most bytes in a file; a larger group gets a file of its own.

    Returns
    -------
    list of Shard
        A single one is called ``model.safetensors``, several ``model-00001-of-00003.safetensors`` and so on.

    Examples
    --------
    >>> [(shard.file, shard.groups) for shard in plan_shards([4, 3, 9, 1, 1], limit=8)]
    [('model-00001-of-00003.safetensors', (0, 1)), ('model-00002-of-00003.safetensors', (2,)), ('model-00003-of-00003.safetensors', (3, 4))]
    >>> plan_shards([4, 3])
    [Shard(file='model.safetensors', groups=(0, 1))]
    """
    runs: list[list[int]] = [[]]
    room = limit
    for group, size in enumerate(sizes):
        if runs[-1] and size > room:
            runs.append([])
            room = limit
        runs[-1].append(group)
        room -= size
    if len(runs) == 1:
        return [Shard(file=SINGLE, groups=tuple(runs[0]))]
    return [Shard(file=f"model-{n:05d}-of-{len(runs):05d}.safetensors", groups=tuple(run)) for n, run in enumerate(runs, start=1)]


def write_index(path: PathLike, homes: Mapping[str, str], total_bytes: int) -> None:
    """Write ``model.safetensors.index.json`` into a folder: which file each tensor lies in. The last of a checkpoint's files.

    Parameters
    ----------
    path : path
        The folder.
    homes : mapping of str to str
        File names by tensor name.
    total_bytes : int
        Of all tensors together.
    """
    write_text(f"{path}/{INDEX}", canonical_json({"metadata": {"total_size": total_bytes}, "weight_map": dict(homes)}) + "\n")
