"""The GGUF file: a header that says what is where, and tensors at aligned places behind it.

    4 bytes    "GGUF"
    uint32     version: 3, or 2, which is the same
    uint64     number of tensors
    uint64     number of metadata values
               key, kind, value of each                       (:mod:`~refquant.layout.gguf.metadata`)
               name, uint32 number of axes, uint64 extents (fastest axis first), uint32 type, uint64 offset of each tensor
               zeros up to the alignment (``general.alignment``, 32)
               data; offsets count from here and are multiples of the alignment

Everything a file says is checked before anything is reserved: counts against the bytes that are left, extents against 2^63, offsets
against alignment, overlap and the file's end. Tensors are mapped, not read, until they are asked for.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from refquant.errors import InputError, UsageError
from refquant.layout.gguf.fields import BlockType
from refquant.layout.gguf.metadata import MAX_KEY, Reader, Value, text_bytes, value_bytes
from refquant.layout.gguf.tensor import GgufTensor
from refquant.layout.gguf.types import type_of_number
from refquant.storage.atomic import replacing
from refquant.storage.border import PathLike, quoted, regular_file, telling

MAGIC = b"GGUF"
VERSIONS = (2, 3)
ALIGNMENT = 32
MAX_AXES = 4
MAX_NAME = 64
"""ggml's own limits; a reader that allows more would read what nobody else can."""

# The least that a metadata value and a tensor's description take.
_LEAST_VALUE, _LEAST_TENSOR = 8 + 4 + 1, 8 + 4 + 4 + 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """One tensor of a file: type, logical shape, first byte in the file, number of bytes."""

    kind: BlockType
    shape: tuple[int, ...]
    position: int
    nbytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufFile:
    """A checked file.

    Parameters
    ----------
    path : Path
    version : int
    metadata : mapping of Value
    tensors : mapping of Place
        In the file's order.
    """

    path: Path
    version: int
    metadata: Mapping[str, Value]
    tensors: Mapping[str, Place]

    def read(self, name: str) -> GgufTensor:
        """One tensor, its bytes copied out of the file; InputError if there is none of that name."""
        if name not in self.tensors:
            raise InputError(f"{self.path}: no tensor {quoted(name)}")
        place = self.tensors[name]
        with regular_file(self.path) as (file, size):
            if size < place.position + place.nbytes:
                raise InputError(f"{self.path}: the file became shorter while it was being read")
            file.seek(place.position)
            raw = np.frombuffer(file.read(place.nbytes), np.uint8)
        return GgufTensor(kind=place.kind, blocks=raw.reshape(-1, place.kind.nbytes), shape=place.shape)

    def value(self, key: str, kind: type, default: Any = None) -> Any:
        """A metadata value that has to be of a Python type; InputError otherwise, or if it is missing and there is no default."""
        found = self.metadata.get(key)
        if found is None and default is not None:
            return default
        if found is None or found.array or type(found.value) is not kind:
            shown = "missing" if found is None else quoted(found.value)
            raise InputError(f"{self.path}: {key} is {shown}; a value of type {kind.__name__} is needed")
        return found.value


def read_gguf(path: PathLike) -> GgufFile:
    """Read and check everything but the tensors' bytes.

    Raises
    ------
    InputError
        If the file cannot be read or breaks a rule of the format.

    Examples
    --------
    >>> import tempfile
    >>> from refquant.layout.gguf.tensor import quantize
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder, "a.gguf")
    ...     write_gguf(file, {}, {"w": quantize(np.ones((2, 32), np.float32), "q8_0")})
    ...     found = read_gguf(file)
    ...     found.tensors["w"].shape, found.read("w").dequantize()[0, :2]
    ((2, 32), array([0.99993896, 0.99993896], dtype=float32))
    """
    path = Path(path)
    with regular_file(path) as (file, size):
        if size < 24:
            raise InputError(f"{path}: {size} bytes; a GGUF file has at least 24")
        with telling(path, "read"), mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _parsed(Reader(data, str(path)), path, size)


def _parsed(reader: Reader, path: Path, size: int) -> GgufFile:
    magic = reader.take(4, "the magic number")
    if magic != MAGIC:
        raise InputError(f"{path}: begins with {quoted(magic)}; a GGUF file begins with {MAGIC!r}")
    version = int(reader.number(4, "the version"))
    if version not in VERSIONS:
        turned = version & 0xFFFF == 0 and version != 0
        raise InputError(f"{path}: version {version}{', a big-endian file' if turned else ''}; {' and '.join(map(str, VERSIONS))} are read")
    tensors, values = reader.count("the number of tensors"), reader.count("the number of values")
    for what, count, least in (("tensors", tensors, _LEAST_TENSOR), ("metadata values", values, _LEAST_VALUE)):
        if count * least > size - reader.position:
            raise InputError(f"{path}: {count} {what}; the file has {size - reader.position} bytes left for them")
    metadata: dict[str, Value] = {}
    for i in range(values):
        key = reader.text(f"key {i}", MAX_KEY)
        if key in metadata:
            raise InputError(f"{path}: the key {quoted(key)} occurs twice")
        metadata[key] = reader.value(key)
    described: dict[str, tuple[BlockType, tuple[int, ...], int]] = {}
    for i in range(tensors):
        name = reader.text(f"name of tensor {i}", MAX_NAME - 1)
        if name in described:
            raise InputError(f"{path}: the tensor {quoted(name)} occurs twice")
        described[name] = _described(reader, name)
    alignment = _alignment(metadata, path)
    start = -(-reader.position // alignment) * alignment
    places = {name: _place(name, *found, start, alignment, size, path) for name, found in described.items()}
    _refuse_overlap(places, path)
    return GgufFile(path=path, version=version, metadata=MappingProxyType(metadata), tensors=MappingProxyType(places))


def _described(reader: Reader, name: str) -> tuple[BlockType, tuple[int, ...], int]:
    where = f"{reader.where}: tensor {quoted(name)}"
    axes = int(reader.number(4, f"number of axes of {quoted(name)}"))
    if not 1 <= axes <= MAX_AXES:
        raise InputError(f"{where}: {axes} axes; 1 to {MAX_AXES} are allowed")
    extents = tuple(reader.count(f"extent of {quoted(name)}") for _ in range(axes))
    if 0 in extents or math.prod(extents) >= 1 << 63:
        raise InputError(f"{where}: extents {quoted(extents)}; positive ones whose product is below 2^63 are allowed")
    try:
        kind = type_of_number(int(reader.number(4, f"type of {quoted(name)}")))
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    if extents[0] % kind.size:
        raise InputError(f"{where}: rows of {extents[0]}; {kind.name} has blocks of {kind.size}")
    return kind, extents[::-1], reader.count(f"offset of {quoted(name)}")


def _alignment(metadata: Mapping[str, Value], path: Path) -> int:
    found = metadata.get("general.alignment", Value(kind="uint32", value=ALIGNMENT))
    value = found.value
    if found.kind != "uint32" or found.array or value < 8 or value & (value - 1) or value > 1 << 20:
        raise InputError(f"{path}: general.alignment is {quoted(value)}; a power of two from 8 to 2^20 as uint32 is needed")
    return int(value)


def _place(name: str, kind: BlockType, shape: tuple[int, ...], offset: int, start: int, alignment: int, size: int, path: Path) -> Place:
    where, nbytes = f"{path}: tensor {quoted(name)}", math.prod(shape) // kind.size * kind.nbytes
    if offset % alignment:
        raise InputError(f"{where}: offset {offset}; a multiple of {alignment} is needed")
    if start + offset + nbytes > size:
        raise InputError(f"{where}: {nbytes} bytes from byte {start + offset}; the file has {size}")
    return Place(kind=kind, shape=shape, position=start + offset, nbytes=nbytes)


def _refuse_overlap(places: Mapping[str, Place], path: Path) -> None:
    reached, before = 0, ""
    for name, place in sorted(places.items(), key=lambda item: (item[1].position, item[1].nbytes)):
        if place.position < reached:
            raise InputError(f"{path}: tensor {quoted(name)} at byte {place.position} overlaps {quoted(before)}, which ends at {reached}")
        reached, before = place.position + place.nbytes, name


def write_gguf(path: PathLike, metadata: Mapping[str, Value], tensors: Mapping[str, GgufTensor]) -> None:
    """Write a file of version 3, whole or not at all.

    Parameters
    ----------
    path : path
    metadata : mapping of Value
        ``general.alignment`` is obeyed if it is there.
    tensors : mapping of GgufTensor

    Raises
    ------
    UsageError
        If a name, key or shape is not one that :func:`read_gguf` would take.
    """
    alignment = _alignment(metadata, Path(path))
    head = [MAGIC, struct.pack("<IQQ", 3, len(tensors), len(metadata))]
    head += [value_bytes(key, value) for key, value in metadata.items()]
    offset = 0
    for name, tensor in tensors.items():
        if not 0 < len(name.encode()) < MAX_NAME or not 1 <= len(tensor.shape) <= MAX_AXES or 0 in tensor.shape:
            raise UsageError(f"GGUF cannot hold a tensor {quoted(name)} of shape {tensor.shape}")
        extents = tensor.shape[::-1]
        described = struct.pack(f"<I{len(extents)}QIQ", len(extents), *extents, tensor.kind.number, offset)
        head.append(text_bytes(name) + described)
        offset += -(-tensor.blocks.nbytes // alignment) * alignment
    joined = b"".join(head)
    with replacing(path) as (file, _):
        file.write(joined + bytes(-len(joined) % alignment))
        for tensor in tensors.values():
            raw = tensor.blocks.tobytes()
            file.write(raw + bytes(-len(raw) % alignment))
