"""A million inputs, one hash: counter-based streams that ten lines of C can reproduce.

Word ``i`` of the stream with seed ``s`` is splitmix64 of a counter, all arithmetic modulo 2^64:

    z = s + (i + 1) * 0x9E3779B97F4A7C15
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB
    word = z ^ (z >> 31)

How words become inputs is said by each stream (`words`: a function of indices alone, so that any block can be made by itself). The outputs
of a block are written little-endian, in C order, one output part after the other in the order in which the operation declares them, into
one SHA-256 that runs over all blocks; its digest after each block is published, so that the first block where a backend departs is found
by looking, and the first element by comparing that block.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refquant.conformance.case import little_endian
from refquant.errors import UsageError
from refquant.numerics.arrays import Array

GOLDEN_GAMMA = 0x9E3779B97F4A7C15
Make = Callable[[int, int], dict[str, Array]]
"""``make(start, stop)`` gives the inputs of elements (or rows) ``start .. stop-1``."""


def words(seed: int, start: int, stop: int) -> NDArray[np.uint64]:
    """Words ``start .. stop-1`` of the stream `seed`.

    Examples
    --------
    The first three words of splitmix64 with seed 0, as published with it:

    >>> [hex(w) for w in words(0, 0, 3)]
    ['0xe220a8397b1dcdaf', '0x6e789e6aa1b965f4', '0x6c45d188009454f']
    """
    counter = np.arange(start + 1, stop + 1, dtype=np.uint64)
    z = np.uint64(seed) + counter * np.uint64(GOLDEN_GAMMA)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(z ^ (z >> np.uint64(31)))


def dyadics(drawn: NDArray[np.uint64], shifts: int = 32) -> NDArray[np.float32]:
    """Numbers ``n * 2^-k`` of float32 out of words: many ties, all magnitudes, both signs, nothing rounded.

    ``n`` is the word's upper 24 bits minus 2^23, ``k`` its lowest bits modulo `shifts`.

    Examples
    --------
    >>> dyadics(np.array([(2**23 + 5) << 40 | 1], dtype=np.uint64))
    array([2.5], dtype=float32)
    """
    n = (drawn >> np.uint64(40)).astype(np.int64) - (1 << 23)
    k = (drawn % np.uint64(shifts)).astype(np.int32)
    return np.asarray(np.ldexp(n.astype(np.float32), -k))


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """Very many inputs to one operation.

    Parameters
    ----------
    slug : str
        The rest of the id ``operation/slug``, as of a case.
    what : str
        How words become inputs, in words and exactly.
    parameters : mapping
        Of the operation.
    make : callable
        ``make(start, stop)``: the inputs of rows ``start .. stop-1``.
    rows, block : int
        How many rows there are, and how many make a block; `rows` is a multiple of `block`.
    """

    slug: str
    what: str
    parameters: Mapping[str, Any]
    make: Make
    rows: int
    block: int = field(default=1 << 14)

    def __post_init__(self) -> None:
        if self.block < 1 or self.rows < 1 or self.rows % self.block:
            raise UsageError(f"stream {self.slug}: {self.rows} rows are no multiple of blocks of {self.block}")

    def blocks(self) -> Iterator[tuple[int, int]]:
        """Start and stop of every block."""
        for start in range(0, self.rows, self.block):
            yield start, start + self.block


def running_digests(
    stream: Stream, run: Callable[[Mapping[str, Array], Mapping[str, Any]], Mapping[str, Array]], parts: Sequence[str]
) -> Iterator[str]:
    """The digest after each block of what `run` gives, `parts` being the outputs in their declared order."""
    sha = hashlib.sha256()
    for start, stop in stream.blocks():
        found = run(stream.make(start, stop), stream.parameters)
        for part in parts:
            sha.update(little_endian(found[part]))
        yield sha.hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Departure:
    """The first place where a backend's outputs are not the published ones."""

    block: int
    row: int | None
    part: str | None
    index: tuple[int, ...] | None
    expected: Any
    found: Any


def bisect(
    stream: Stream,
    published: Sequence[str],
    run: Callable[[Mapping[str, Array], Mapping[str, Any]], Mapping[str, Array]],
    reference: Callable[[Mapping[str, Array], Mapping[str, Any]], Mapping[str, Array]],
    parts: Sequence[str],
) -> Departure | None:
    """Find the first element where `run` departs from the published digests; None if it does not.

    The departing block is compared with `reference`, element by element; if that departs in the same way, the row is not known and the
    fault is ours.
    """
    for number, ((start, stop), digest) in enumerate(zip(stream.blocks(), running_digests(stream, run, parts), strict=True)):
        if digest == published[number]:
            continue
        inputs = stream.make(start, stop)
        expected, found = reference(inputs, stream.parameters), run(inputs, stream.parameters)
        places = [place for part in parts if (place := _first_difference(part, expected[part], np.asarray(found[part]))) is not None]
        if not places:
            return Departure(block=number, row=None, part=None, index=None, expected=None, found=None)
        part, index = min(places, key=lambda place: place[1])
        row = start + (index[0] if index else 0)
        shown = [np.asarray(values[part])[index].item() for values in (expected, found)]
        return Departure(block=number, row=row, part=part, index=index, expected=shown[0], found=shown[1])
    return None


def _first_difference(part: str, expected: Array, found: Array) -> tuple[str, tuple[int, ...]] | None:
    if expected.shape != found.shape or expected.dtype != found.dtype:
        raise UsageError(f"output {part!r} is {found.dtype} of shape {found.shape}; {expected.dtype} of shape {expected.shape} is needed")
    width = expected.dtype.itemsize
    raw = [np.frombuffer(little_endian(array), dtype=np.uint8).reshape(*array.shape, width) for array in (expected, found)]
    differs = np.argwhere((raw[0] != raw[1]).any(axis=-1))
    return None if not len(differs) else (part, tuple(int(i) for i in differs[0]))
