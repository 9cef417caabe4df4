"""Tensors in and out of single safetensors files.

Both directions move bytes by themselves, for three reasons seen in release 0.8.0 of the safetensors package: its
NumPy writer takes the memory of a transposed, strided or reversed array as if it were contiguous and stores wrong
values (for a reversed one, even bytes from beyond it); it orders metadata differently on every run; ``load`` has no
bfloat16. The package still has the last word on every file that is written: it must open the temporary file before that
takes the target's name.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
import safetensors

from refquant.errors import InputError, UsageError
from refquant.numerics.arrays import Array
from refquant.storage.atomic import replacing
from refquant.storage.border import PathLike, quoted, read_exactly, regular_file, telling
from refquant.storage.header import DTYPES, MAX_DIMENSIONS, MAX_HEADER_BYTES, TensorEntry, parse_header

_TAGS = {dtype.name: tag for tag, dtype in DTYPES.items()}
_RANK = {tag: rank for rank, tag in enumerate(DTYPES)}


def read_tensors(path: PathLike) -> dict[str, Array]:
    """Read every tensor of one safetensors file.

    Parameters
    ----------
    path : path
        The file.

    Returns
    -------
    dict of str to ndarray
        In sorted order of names, each in its stored dtype (bfloat16 as ``ml_dtypes.bfloat16``), C-contiguous,
        writable, owned.

    Raises
    ------
    InputError
        If the file cannot be read or breaks a rule of the format.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_tensors(f"{folder}/a.safetensors", {"w": np.eye(2, dtype=np.int8)})
    ...     read_tensors(f"{folder}/a.safetensors")
    {'w': array([[1, 0],
           [0, 1]], dtype=int8)}
    """
    with regular_file(path) as (file, size):
        header = parse_header(file, size, Path(path))
        return {name: read_entry(file, name, entry, header.path) for name, entry in header.tensors.items()}


def read_entry(file: BinaryIO, name: str, entry: TensorEntry, path: Path) -> Array:
    """Read the tensor that `entry` of a checked header describes from the open `file`.

    Returns
    -------
    ndarray
        Of the entry's shape and dtype, in the byte order of this machine.

    Raises
    ------
    InputError
        If the file was cut meanwhile, a BOOL tensor holds a byte other than 0 and 1, or there is not enough memory.
    """
    try:
        raw = np.empty(entry.nbytes, dtype=np.uint8)
    except MemoryError as error:
        # A sparse file costs nothing on disk and may be larger than any memory.
        raise InputError(f"{path}: tensor {quoted(name)}: {entry.nbytes} bytes do not fit into memory") from error
    file.seek(entry.position)
    read_exactly(file, raw.data, path)
    if entry.dtype == np.bool_ and raw.size and raw.max() > 1:
        # NumPy would carry the byte along as a third truth value.
        raise InputError(f"{path}: tensor {quoted(name)}: byte {int(raw.max())} in a BOOL tensor, only 0 and 1 are allowed")
    return _swapped(raw, entry.dtype.itemsize).view(entry.dtype).reshape(entry.shape)


def write_tensors(path: PathLike, tensors: Mapping[str, Array], metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors to one safetensors file: atomic, and with the same bytes for the same values on every machine.

    Tensors lie in the order of the safetensors package: by dtype (see ``DTYPES``), then by name. Metadata is sorted
    by key. Any memory layout and byte order is accepted; values are stored C-contiguous and little-endian.

    Parameters
    ----------
    path : path
        The file.
    tensors : mapping of str to ndarray
        At most one tensor at a time is copied.
    metadata : mapping of str to str, optional
        Goes under ``__metadata__``.

    Raises
    ------
    UsageError
        If a name, dtype, shape or piece of metadata has no place in the format.
    InputError
        If the operating system refuses; a previous file of that name is then unchanged.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_tensors(f"{folder}/a.safetensors", {"w": np.zeros(1, np.float32)}, {"made": "here"})
    ...     print(Path(folder, "a.safetensors").read_bytes()[8:-4].decode().rstrip())
    {"__metadata__":{"made":"here"},"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}
    """
    for name, array in tensors.items():
        if not isinstance(array, np.ndarray):
            raise UsageError(f"tensor {quoted(name)}: found a {type(array).__name__}, a NumPy array is needed")
    order, prefix = prepared(tensors, metadata)
    with replacing(path) as (file, temporary):
        file.write(prefix)
        for name in order:
            file.write(little_endian_bytes(tensors[name]).data)
        file.flush()
        second_opinion(temporary, order)


class Described(Protocol):
    """What must be known of a tensor before its bytes are written."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape."""

    @property
    def nbytes(self) -> int:
        """Number of bytes."""


def prepared(tensors: Mapping[str, Described], metadata: Mapping[str, str] | None) -> tuple[list[str], bytes]:
    """Order of the tensors in a file, and all the bytes that stand before them; UsageError for what has no place in the format."""
    tags = {name: _tag(name, tensor) for name, tensor in tensors.items()}
    order = sorted(tags, key=lambda name: (_RANK[tags[name]], name))
    return order, _header_bytes(order, tags, tensors, metadata)


def _tag(name: str, tensor: Described) -> str:
    """Check one tensor before anything is written and return the dtype's name in the format."""
    if not isinstance(name, str) or name == "__metadata__":
        raise UsageError(f"tensor name {quoted(name)}: a string other than '__metadata__' is needed")
    tag = _TAGS.get(tensor.dtype.name)
    if tag is None:
        raise UsageError(f"tensor {quoted(name)}: dtype {tensor.dtype}, allowed are {', '.join(_TAGS)}")
    if len(tensor.shape) > MAX_DIMENSIONS:
        raise UsageError(f"tensor {quoted(name)}: {len(tensor.shape)} axes, at most {MAX_DIMENSIONS} are allowed")
    return tag


def _header_bytes(order: list[str], tags: Mapping[str, str], tensors: Mapping[str, Described], metadata: Mapping[str, str] | None) -> bytes:
    header: dict[str, Any] = {}
    for key, value in sorted((metadata or {}).items()):
        if not isinstance(key, str) or not isinstance(value, str):
            raise UsageError(f"metadata maps {quoted(key)} to {quoted(value)}, strings are needed")
        header.setdefault("__metadata__", {})[key] = value
    end = 0
    for name in order:
        begin, end = end, end + tensors[name].nbytes
        header[name] = {"dtype": tags[name], "shape": list(tensors[name].shape), "data_offsets": [begin, end]}
    try:
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError as error:
        raise UsageError("a tensor name or piece of metadata holds a lone surrogate, valid Unicode is needed") from error
    text += b" " * (-len(text) % 8)  # the data begin at a multiple of 8
    if len(text) > MAX_HEADER_BYTES:
        raise UsageError(f"a header of {len(text)} bytes, at most {MAX_HEADER_BYTES} are allowed")
    return len(text).to_bytes(8, "little") + text


def little_endian_bytes(array: Array) -> Array:
    """Return the values of any array as one row of bytes in C order, little-endian."""
    native = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))
    return _swapped(native.reshape(-1).view(np.uint8), native.dtype.itemsize)


def _swapped(raw: Array, itemsize: int) -> Array:
    """Exchange the machine's byte order with little-endian: by hand, as ml_dtypes have no byte order of their own."""
    if sys.byteorder == "little" or itemsize == 1:
        return raw
    return np.ascontiguousarray(raw.reshape(-1, itemsize)[:, ::-1]).reshape(-1)


def second_opinion(temporary: Path, order: list[str]) -> None:
    """Let the safetensors package open a file that was just written; InputError if it refuses or finds other tensors."""
    try:
        with telling(temporary, "read back"), safetensors.safe_open(temporary, framework="numpy") as file:
            names = sorted(file.keys())
    except safetensors.SafetensorError as error:
        raise InputError(f"{temporary}: the safetensors package refuses what was written: {error}") from error
    if names != sorted(order):
        raise InputError(f"{temporary}: the safetensors package finds {len(names)} tensors where {len(order)} were written")
