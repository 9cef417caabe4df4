"""A model that does not fit into memory: tensors are read when they are needed and dropped after.

Reads are plain reads of just the bytes wanted, never memory maps, so that what is held is what is counted. The embedding is gathered by
rows, and the head is applied in chunks of rows. All numbers are those of the same model in memory, to the byte, provided that a
product's last bits do not depend on how its rows are cut where :func:`chunks` cuts them; with OpenBLAS they do not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import numpy as np

from model.layers import DenseLinear
from refquant.errors import InputError
from refquant.numerics import Arithmetic
from refquant.numerics.arrays import Array, read_only

HEAD_CHUNK = 1 << 23  # bytes of the head's weight held at a time
HEAD_STEP = 4096  # rows; see chunks


class Source(Protocol):
    """Where tensors come from; :class:`~refquant.storage.Checkpoint` is one."""

    @property
    def names(self) -> tuple[str, ...]:
        """Every tensor."""

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of one."""

    def dtype(self, name: str) -> np.dtype[Any]:
        """Stored dtype of one."""

    def read(self, name: str) -> Array:
        """Read one, in its stored dtype."""


class RowSource(Source, Protocol):
    """A source that reads rows, too."""

    def read_rows(self, name: str, rows: Any) -> Array:
        """Read some rows of one tensor."""


def converted(array: Array, dtype: np.dtype[Any], what: str, rows: Array | None = None) -> Array:
    """Carry stored numbers over exactly and check that they are finite; ``InputError`` names the first that is not."""
    array = array.astype(dtype, copy=False)
    if not np.isfinite(array).all():
        at = [int(i) for i in np.argwhere(~np.isfinite(array))[0]]
        value = array[tuple(at)]
        if rows is not None:
            at[0] = int(rows[at[0]])
        raise InputError(f"{what}{at} is {value}; allowed: finite numbers")
    return read_only(array)


class StreamedTensors(Mapping[str, Array]):
    """The tensors of a checkpoint by name; every look-up reads the file again, and keeps nothing.

    Parameters
    ----------
    source : RowSource
    names : sequence of str
        The ones that the model has.
    dtype : dtype
        float32 or float64, of what look-ups return.
    where : str
        What error messages call the source.
    """

    def __init__(self, source: RowSource, names: tuple[str, ...], dtype: np.dtype[Any], where: str) -> None:
        self._source, self._names, self._dtype, self._where = source, dict.fromkeys(names), dtype, where

    def __getitem__(self, name: str) -> Array:
        """Read one tensor; KeyError if the model has none of this name."""
        if name not in self._names:
            raise KeyError(name)
        return converted(self._source.read(name), self._dtype, f"{self._where}: {name}")

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor, without reading it."""
        return self._source.shape(name)

    def rows(self, name: str, rows: Array) -> Array:
        """Read some rows [N] of a tensor: [N, ...]."""
        return converted(self._source.read_rows(name, rows), self._dtype, f"{self._where}: {name}", rows)


def gather(tensors: Mapping[str, Array], name: str, ids: Array) -> Array:
    """Rows of a tensor [rows, d] at `ids` [B, T], whether it is in memory or not: [B, T, d], fresh."""
    if not isinstance(tensors, StreamedTensors):
        return tensors[name][ids]
    once, back = np.unique(ids, return_inverse=True)
    return tensors.rows(name, once)[back.reshape(ids.shape)]


def count(tensors: Mapping[str, Array]) -> int:
    """How many numbers there are in all tensors together."""
    if isinstance(tensors, StreamedTensors):
        return sum(int(np.prod(tensors.shape(name))) for name in tensors)
    return sum(array.size for array in tensors.values())


def chunks(rows: int, row_bytes: int) -> list[tuple[int, int]]:
    """Cut the head's rows into chunks of about `HEAD_CHUNK` bytes.

    Chunks begin at multiples of `HEAD_STEP`, and a rest below that joins the chunk before it: OpenBLAS works through a matrix in blocks
    that divide `HEAD_STEP`, and gives thin matrices and the rest beyond whole blocks other last bits.

    Examples
    --------
    >>> chunks(20000, HEAD_CHUNK // 4096)
    [(0, 4096), (4096, 8192), (8192, 12288), (12288, 20000)]
    """
    size = max(HEAD_STEP, HEAD_CHUNK // row_bytes // HEAD_STEP * HEAD_STEP)
    starts = range(0, max(rows - HEAD_STEP, 0) + 1, size)
    return list(zip(starts, [*starts[1:], rows], strict=True))


class StreamedLinear(DenseLinear):
    """A linear whose weight is read at every call.

    Parameters
    ----------
    tensors : StreamedTensors
    name : str
        Without ``.weight``.
    arithmetic : Arithmetic
    """

    __slots__ = ("_name", "_tensors")

    def __init__(self, tensors: StreamedTensors, name: str, arithmetic: Arithmetic) -> None:
        self._tensors, self._name, self.arithmetic = tensors, name, arithmetic

    @property
    def weight(self) -> Array:
        """The weight [out, in], read now."""
        return self._tensors[self._name + ".weight"]

    @property
    def bias(self) -> Array | None:
        """The bias [out] or None, read now."""
        return self._tensors.get(self._name + ".bias")

    def __call__(self, x: Array) -> Array:
        """Apply the layer to ``[..., in]``."""
        return DenseLinear(self.weight, self.bias, self.arithmetic)(x)


class StreamedHead(StreamedLinear):
    """The output head: chunk after chunk of its rows is read and applied."""

    __slots__ = ()

    def __call__(self, x: Array) -> Array:
        """Apply the head to ``[..., d]``."""
        name, bias = self._name + ".weight", self.bias
        rows, width = self._tensors.shape(name)
        y = np.empty((*x.shape[:-1], rows), dtype=x.dtype)
        for start, stop in chunks(rows, width * x.itemsize):
            weight = self._tensors.rows(name, np.arange(start, stop))
            y[..., start:stop] = DenseLinear(weight, None if bias is None else bias[start:stop], self.arithmetic)(x)
        return y
