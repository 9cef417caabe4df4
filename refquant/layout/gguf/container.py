"""The GGUF file: a header that says what is where, and tensors at aligned places behind it.

    4 bytes    "GGUF"
    uint32     version: 3, or 2, which is the same
    uint64     number of tensors
    uint64     number of metadata values
               key, kind, value of each                       (:mod:`~refquant.layout.gguf.metadata`)
               name, uint32 number of axes, uint64 extents (fastest axis first), uint32 type, uint64 offset of each tensor
               zeros up to the alignment (``general.alignment``, 32)
               data; offsets count from here and are multiples of the alignment

Everything a file says is checked before anything is reserved: counts against the bytes that are left and against limits that no real file
comes near, extents against 2^63, offsets against alignment, overlap and the file's end. What stands before the data is mapped; tensors are
read one at a time, when they are asked for, and written one at a time (:func:`writing_gguf`).
"""

from __future__ import annotations

import hashlib
import json
import math
import mmap
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO

import numpy as np

from refquant.errors import InputError, UsageError
from refquant.layout.gguf.fields import BlockType
from refquant.layout.gguf.metadata import MAX_KEY, Reader, Value, text_bytes, value_bytes
from refquant.layout.gguf.tensor import GgufTensor
from refquant.layout.gguf.types import type_of_number
from refquant.storage.atomic import replacing
from refquant.storage.border import PathLike, quoted, read_exactly, regular_file, telling

MAGIC = b"GGUF"
VERSIONS = (2, 3)
ALIGNMENT = 32
MAX_AXES = 4
MAX_NAME = 64
"""ggml's own limits; a reader that allows more would read what nobody else can."""
MAX_COUNT = 1 << 17
MAX_HEAD = 1 << 27
"""Most tensors, most metadata values, and most bytes before the data. As Python objects they take some ten times the bytes of the file, so
a file of gigabytes that holds nothing else would take all memory. Models have some thousand tensors and some 30 MB of vocabulary."""
CHUNK = 1 << 24
"""Bytes that are hashed at a time."""

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
        try:
            raw = np.empty(place.nbytes, np.uint8)
        except MemoryError as error:  # a sparse file costs nothing on disk and may be larger than any memory
            raise InputError(f"{self.path}: tensor {quoted(name)}: {place.nbytes} bytes do not fit into memory") from error
        with regular_file(self.path) as (file, _):
            file.seek(place.position)
            read_exactly(file, raw.data, self.path)
        return GgufTensor(kind=place.kind, blocks=raw.reshape(-1, place.kind.nbytes), shape=place.shape)

    def digest(self, name: str) -> str:
        """What :meth:`~refquant.layout.gguf.GgufTensor.digest` says of a tensor, piece by piece; InputError as :meth:`read`."""
        if name not in self.tensors:
            raise InputError(f"{self.path}: no tensor {quoted(name)}")
        place = self.tensors[name]
        found, piece = hashlib.sha256(json.dumps([place.kind.name, list(place.shape)]).encode()), bytearray(min(CHUNK, place.nbytes))
        with regular_file(self.path) as (file, _):
            file.seek(place.position)
            for start in range(0, place.nbytes, CHUNK):
                part = memoryview(piece)[: min(CHUNK, place.nbytes - start)]
                read_exactly(file, part, self.path)
                found.update(part)
        return found.hexdigest()

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
            return _parsed(Reader(data, str(path), MAX_HEAD), path, size)


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
        if count > MAX_COUNT:
            raise InputError(f"{path}: {count} {what}; at most {MAX_COUNT} are read")
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


class GgufWriter:
    """A file that is being written: see :func:`writing_gguf`.

    Parameters
    ----------
    file : BinaryIO
        Where the data begin.
    metadata : mapping of Value
        Its values may be replaced by others of the same size until the file is finished.
    shapes : mapping of tuple of int
    alignment : int
    """

    __slots__ = ("_alignment", "_described", "_file", "_offset", "_shapes", "metadata")

    def __init__(self, file: BinaryIO, metadata: Mapping[str, Value], shapes: Mapping[str, tuple[int, ...]], alignment: int) -> None:
        self.metadata, self._file, self._shapes, self._alignment = dict(metadata), file, dict(shapes), alignment
        self._described: dict[str, tuple[BlockType, int]] = {}
        self._offset = 0

    def put(self, name: str, tensor: GgufTensor) -> None:
        """Write the next tensor; UsageError if it is not the next of those that were announced, or has another shape."""
        wanted = next((name for name in self._shapes if name not in self._described), None)
        if name != wanted or tensor.shape != self._shapes[name]:
            raise UsageError(f"the next tensor is {wanted} of shape {self._shapes.get(wanted or '')}, not {name} of {tensor.shape}")
        self._described[name] = (tensor.kind, self._offset)
        raw = np.ascontiguousarray(tensor.blocks).reshape(-1)
        self._file.write(raw.data)
        self._file.write(bytes(-raw.size % self._alignment))
        self._offset += -(-raw.size // self._alignment) * self._alignment

    def head(self) -> bytes:
        """Everything before the data, with type 0 at offset 0 for tensors that are not there yet."""
        head = [MAGIC, struct.pack("<IQQ", 3, len(self._shapes), len(self.metadata))]
        head += [value_bytes(key, value) for key, value in self.metadata.items()]
        for name, shape in self._shapes.items():
            kind, offset = self._described.get(name, (type_of_number(0), 0))
            head.append(text_bytes(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape[::-1], kind.number, offset))
        joined = b"".join(head)
        return joined + bytes(-len(joined) % self._alignment)

    def require_all(self) -> None:
        """Raise UsageError unless every tensor that was announced is there."""
        missing = [name for name in self._shapes if name not in self._described]
        if missing:
            raise UsageError(f"tensor {missing[0]} was announced and not written")


@contextmanager
def writing_gguf(path: PathLike, metadata: Mapping[str, Value], shapes: Mapping[str, tuple[int, ...]]) -> Iterator[GgufWriter]:
    """Write a file of version 3, a tensor at a time, whole or not at all.

    How long the head is depends on names and numbers of axes, not on types: room is left for it, tensors follow as they are put, and it is
    written last. The file takes its name when it is complete and on the disk.

    Parameters
    ----------
    path : path
    metadata : mapping of Value
        ``general.alignment`` is obeyed if it is there.
    shapes : mapping of tuple of int
        Of every tensor, in the order in which they will be put.

    Raises
    ------
    UsageError
        If a name, key or shape is not one that :func:`read_gguf` would take, or the tensors are not those that were announced.

    Examples
    --------
    >>> import tempfile
    >>> from refquant.layout.gguf.tensor import quantize
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with writing_gguf(f"{folder}/a.gguf", {}, {"w": (2, 32)}) as out:
    ...         out.put("w", quantize(np.ones((2, 32), np.float32), "q8_0"))
    ...     read_gguf(f"{folder}/a.gguf").tensors["w"].kind.name
    'Q8_0'
    """
    for name, shape in shapes.items():
        if not 0 < len(name.encode()) < MAX_NAME or not 1 <= len(shape) <= MAX_AXES or 0 in shape:
            raise UsageError(f"GGUF cannot hold a tensor {quoted(name)} of shape {shape}")
    alignment = _alignment(metadata, Path(path))
    with replacing(path) as (file, _):
        writer = GgufWriter(file, metadata, shapes, alignment)
        room = len(writer.head())
        file.write(bytes(room))
        yield writer
        writer.require_all()
        head = writer.head()
        if len(head) != room:
            raise UsageError(f"the metadata became longer or shorter while tensors were written: {len(head)} bytes instead of {room}")
        file.seek(0)
        file.write(head)


def write_gguf(path: PathLike, metadata: Mapping[str, Value], tensors: Mapping[str, GgufTensor]) -> None:
    """Write tensors that are in memory; see :func:`writing_gguf`."""
    with writing_gguf(path, metadata, {name: tensor.shape for name, tensor in tensors.items()}) as out:
        for name, tensor in tensors.items():
            out.put(name, tensor)
