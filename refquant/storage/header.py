"""The safetensors header, parsed and checked before anything else touches the file.

Layout of a file: 8 bytes little-endian header length ``n``; ``n`` bytes of JSON, an object of ``name -> {dtype,
shape, data_offsets}`` and optionally ``__metadata__``, padded with spaces; then the tensors' bytes, without gaps.
Source: the format description at https://github.com/huggingface/safetensors#format. Release 0.8.0 of that package
accepts a header in which a tensor name occurs twice and lets the last one win; here every such file is refused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from refquant.errors import InputError
from refquant.storage.border import PathLike, quoted, read_exactly, regular_file
from refquant.storage.json_text import parse_object

MAX_HEADER_BYTES = 100_000_000
"""Longest header: the limit of the safetensors package itself."""

MAX_DIMENSIONS = 32
"""Most axes of a tensor: what every NumPy can hold."""

DTYPES: Mapping[str, np.dtype[Any]] = MappingProxyType(
    {
        "U64": np.dtype(np.uint64),
        "I64": np.dtype(np.int64),
        "F64": np.dtype(np.float64),
        "F32": np.dtype(np.float32),
        "U32": np.dtype(np.uint32),
        "I32": np.dtype(np.int32),
        "BF16": np.dtype(ml_dtypes.bfloat16),
        "F16": np.dtype(np.float16),
        "U16": np.dtype(np.uint16),
        "I16": np.dtype(np.int16),
        "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
        "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
        "I8": np.dtype(np.int8),
        "U8": np.dtype(np.uint8),
        "BOOL": np.dtype(np.bool_),
    }
)
"""Known dtypes, in the order in which safetensors lays tensors out in a file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorEntry:
    """Where one tensor lies in a file: dtype, shape, absolute position of its first byte, number of bytes."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    position: int
    nbytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """A checked header: tensors by name in sorted order, and the metadata (empty if the file has none)."""

    path: Path
    tensors: Mapping[str, TensorEntry]
    metadata: Mapping[str, str]


def read_header(path: PathLike) -> Header:
    """Read and check the header of a safetensors file.

    Memory is bounded by the header's true length, never by a number found in the file.

    Parameters
    ----------
    path : path
        The file.

    Returns
    -------
    Header

    Raises
    ------
    InputError
        If the file cannot be read or breaks any rule of the format: what was found, and what is allowed.

    Examples
    --------
    >>> import tempfile
    >>> text = b'{"w": {"dtype": "U8", "shape": [3], "data_offsets": [0, 3]}}'
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder, "a.safetensors")
    ...     _ = file.write_bytes(len(text).to_bytes(8, "little") + text + b"123")
    ...     entry = read_header(file).tensors["w"]
    >>> entry.shape, entry.position, entry.nbytes
    ((3,), 68, 3)
    """
    with regular_file(path) as (file, size):
        return parse_header(file, size, Path(path))


def parse_header(file: BinaryIO, size: int, path: Path) -> Header:
    """Do what :func:`read_header` does, on a file opened at its start, `size` bytes long."""
    if size < 8:
        raise InputError(f"{path}: {size} bytes, a safetensors file begins with an 8-byte header length")
    prefix = bytearray(8)
    read_exactly(file, memoryview(prefix), path)
    length = int.from_bytes(prefix, "little")
    longest = min(size - 8, MAX_HEADER_BYTES)
    if not 2 <= length <= longest:
        raise InputError(f"{path}: header length {length}, allowed is 2 to {longest} in a file of {size} bytes")
    text = bytearray(length)
    read_exactly(file, memoryview(text), path)
    if text[:1] != b"{":
        raise InputError(f"{path}: the header begins with {quoted(bytes(text[:1]))}, a JSON object is needed")
    found = parse_object(bytes(text), f"{path}, header")
    metadata = _metadata(found.pop("__metadata__", {}), path)
    tensors = {name: _entry(name, found[name], 8 + length, path) for name in sorted(found)}
    _check_cover(tensors, 8 + length, size, path)
    return Header(path=path, tensors=MappingProxyType(tensors), metadata=MappingProxyType(metadata))


def _metadata(found: Any, path: Path) -> dict[str, str]:
    if not isinstance(found, dict):
        raise InputError(f"{path}: __metadata__ is {quoted(found)}, an object of strings is needed")
    for key, value in found.items():
        if not isinstance(value, str):
            raise InputError(f"{path}: __metadata__ maps {quoted(key)} to {quoted(value)}, a string is needed")
    return found


def _sizes(value: Any) -> bool:
    # bool is a subclass of int: `true` must not pass for 1, nor 1.0.
    return isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)


def _entry(name: str, found: Any, start: int, path: Path) -> TensorEntry:
    """Check one tensor's description by itself; offsets become absolute."""
    where = f"{path}: tensor {quoted(name)}"
    if not isinstance(found, dict) or set(found) != {"dtype", "shape", "data_offsets"}:
        raise InputError(f"{where}: described by {quoted(found)}, exactly dtype, shape and data_offsets are needed")
    dtype = DTYPES.get(found["dtype"]) if isinstance(found["dtype"], str) else None
    if dtype is None:
        raise InputError(f"{where}: dtype {quoted(found['dtype'])}, known are {', '.join(DTYPES)}")
    shape, offsets = found["shape"], found["data_offsets"]
    if not _sizes(shape) or len(shape) > MAX_DIMENSIONS:
        raise InputError(f"{where}: shape {quoted(shape)}, a list of at most {MAX_DIMENSIONS} non-negative integers is needed")
    if not _sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise InputError(f"{where}: data_offsets {quoted(offsets)}, two integers 0 <= begin <= end are needed")
    # Python integers do not overflow. An empty tensor may still have another axis that is too long for NumPy.
    if math.prod(axis for axis in shape if axis) * dtype.itemsize >= 2**63:
        raise InputError(f"{where}: shape {quoted(shape)} is beyond 2^63 bytes")
    needed, given = math.prod(shape) * dtype.itemsize, offsets[1] - offsets[0]
    if needed != given:
        raise InputError(f"{where}: {given} bytes, {found['dtype']} of shape {quoted(shape)} needs {needed}")
    return TensorEntry(dtype=dtype, shape=tuple(shape), position=start + offsets[0], nbytes=needed)


def _check_cover(tensors: Mapping[str, TensorEntry], start: int, size: int, path: Path) -> None:
    """Check that the tensors cover the data exactly: no overlap, no gap, nothing behind the last."""
    reached = start
    for name, entry in sorted(tensors.items(), key=lambda item: (item[1].position, item[1].nbytes)):
        if entry.position != reached:
            fault = "overlaps the tensor before it" if entry.position < reached else "leaves a gap before it"
            raise InputError(
                f"{path}: tensor {quoted(name)}: begins at data byte {entry.position - start} and {fault}, byte {reached - start} is needed"
            )
        reached += entry.nbytes
    if reached != size:
        raise InputError(f"{path}: {size - start} bytes of data, the tensors need exactly {reached - start}")
