"""GGUF's metadata: typed values by key, read with every number in the file checked before it is believed.

Twelve kinds of value; an array says the kind of its elements and their number. Numbers are little-endian, texts are 8 bytes of length and
UTF-8. Written by hand, a file can claim 2^63 elements or texts inside texts; what is reserved is never more than what the file has left.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from refquant.errors import InputError, UsageError
from refquant.storage.border import quoted

# Number of a kind in the file: name, dtype. The three without a dtype are read by themselves.
NUMBERS: Mapping[int, tuple[str, np.dtype[Any]]] = {
    0: ("uint8", np.dtype("u1")),
    1: ("int8", np.dtype("i1")),
    2: ("uint16", np.dtype("<u2")),
    3: ("int16", np.dtype("<i2")),
    4: ("uint32", np.dtype("<u4")),
    5: ("int32", np.dtype("<i4")),
    6: ("float32", np.dtype("<f4")),
    10: ("uint64", np.dtype("<u8")),
    11: ("int64", np.dtype("<i8")),
    12: ("float64", np.dtype("<f8")),
}
BOOL, TEXT, ARRAY = 7, 8, 9
BY_NAME = {name: number for number, (name, _) in NUMBERS.items()} | {"bool": BOOL, "text": TEXT}
MAX_TEXT = 1 << 30
MAX_KEY = 65535


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """One value.

    Parameters
    ----------
    kind : str
        ``uint32``, ``float32``, ``bool``, ``text`` and so on; of an array the kind of its elements.
    value : int, float, bool, str, or list of these
    array : bool

    Examples
    --------
    >>> Value(kind="uint32", value=7).value
    7
    """

    kind: str
    value: Any
    array: bool = False


class Reader:
    """A position in a file's first bytes; every step is checked against what is left.

    Parameters
    ----------
    data : buffer
        A memory map or bytes.
    where : str
        The file, for messages.
    limit : int, optional
        Most bytes that are read.
    """

    def __init__(self, data: Any, where: str, limit: int | None = None) -> None:
        self.data, self.where, self.position, self.size = data, where, 0, len(data)
        self.limit = limit

    def take(self, count: int, what: str) -> bytes:
        """The next bytes; InputError if there are not so many."""
        if count > self.size - self.position:
            raise InputError(
                f"{self.where}: {what} needs {count} bytes at byte {self.position}; the file has {self.size - self.position} left"
            )
        if self.limit is not None and count > self.limit - self.position:
            raise InputError(f"{self.where}: {what} ends behind byte {self.limit}; keys and descriptions of tensors are read up to there")
        found = bytes(self.data[self.position : self.position + count])
        self.position += count
        return found

    def number(self, kind: int, what: str) -> int | float:
        """One number of a kind."""
        dtype = NUMBERS[kind][1]
        return np.frombuffer(self.take(dtype.itemsize, what), dtype)[0].item()  # type: ignore[no-any-return]

    def count(self, what: str) -> int:
        """A uint64."""
        return int.from_bytes(self.take(8, what), "little")

    def text(self, what: str, longest: int = MAX_TEXT) -> str:
        """Length and UTF-8; InputError if it is longer than allowed or no UTF-8."""
        length = self.count(f"the length of {what}")
        if length > min(longest, self.size - self.position):
            raise InputError(f"{self.where}: {what} is {length} bytes long; {min(longest, self.size - self.position)} are possible")
        raw = self.take(length, what)
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise InputError(f"{self.where}: {what} is no UTF-8: {error.reason} at its byte {error.start}") from error

    def flag(self, what: str) -> bool:
        """One byte, 0 or 1."""
        byte = self.take(1, what)[0]
        if byte > 1:
            raise InputError(f"{self.where}: {what} is the byte {byte}; a bool is 0 or 1")
        return bool(byte)

    def value(self, key: str) -> Value:
        """A kind and what follows it."""
        what = f"value of {quoted(key)}"
        kind = int(self.number(4, f"kind of {what}"))
        if kind == ARRAY:
            inner, count = int(self.number(4, f"kind of {what}")), self.count(f"count of {what}")
            return Value(kind=self._name(inner, what), value=self._elements(inner, count, what), array=True)
        name = self._name(kind, what)
        if kind == TEXT:
            return Value(kind=name, value=self.text(what))
        return Value(kind=name, value=self.flag(what) if kind == BOOL else self.number(kind, what))

    def _name(self, kind: int, what: str) -> str:
        names = {number: name for name, number in BY_NAME.items()}
        if kind not in names:
            allowed = "arrays inside arrays are not read" if kind == ARRAY else "0 to 12 are known"
            raise InputError(f"{self.where}: {what} is of kind {kind}; {allowed}")
        return names[kind]

    def _elements(self, kind: int, count: int, what: str) -> list[Any]:
        least = 8 if kind == TEXT else 1 if kind == BOOL else NUMBERS[kind][1].itemsize
        if count * least > self.size - self.position:
            raise InputError(f"{self.where}: {what} has {count} elements; the file has {self.size - self.position} bytes left")
        if kind == TEXT:
            return [self.text(f"element {i} of {what}") for i in range(count)]
        if kind == BOOL:
            return [self.flag(f"element {i} of {what}") for i in range(count)]
        return list(np.frombuffer(self.take(count * least, what), NUMBERS[kind][1]).tolist())


def value_bytes(key: str, value: Value) -> bytes:
    """Key and value as a file has them; the inverse of :meth:`Reader.value`.

    Raises
    ------
    UsageError
        If the kind is unknown, or a number does not fit it.
    """
    if value.kind not in BY_NAME:
        raise UsageError(f"{key}: {value.kind!r} is no kind of GGUF value; there are {', '.join(BY_NAME)}")
    kind = BY_NAME[value.kind]
    head = text_bytes(key)
    if not value.array:
        return head + struct.pack("<I", kind) + _packed(key, kind, [value.value])
    return head + struct.pack("<IIQ", ARRAY, kind, len(value.value)) + _packed(key, kind, value.value)


def text_bytes(text: str) -> bytes:
    """Length and UTF-8."""
    raw = text.encode("utf-8")
    return struct.pack("<Q", len(raw)) + raw


def _packed(key: str, kind: int, values: Sequence[Any]) -> bytes:
    if kind == TEXT:
        return b"".join(text_bytes(text) for text in values)
    if kind == BOOL:
        return bytes(bool(flag) for flag in values)
    name, dtype = NUMBERS[kind]
    if dtype.kind in "iu" and any(not np.iinfo(dtype).min <= number <= np.iinfo(dtype).max for number in values):
        raise UsageError(f"{key}: a {name} lies in {np.iinfo(dtype).min}..{np.iinfo(dtype).max}")
    return np.array(values, dtype).tobytes()
