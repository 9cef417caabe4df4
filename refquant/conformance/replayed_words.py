"""Raw words of a vector in the place of a random generator's own."""

from __future__ import annotations

from typing import Any

import numpy as np

from refquant.errors import InputError
from refquant.numerics.arrays import Array


class _Words(np.random.PCG64):
    """A bit generator whose raw words are given; nothing but :meth:`random_raw` may be asked of it."""

    def __init__(self, words: Array) -> None:
        super().__init__(0)
        self._given = [int(word) for word in words]
        self._next = 0

    def random_raw(self, size: Any = None, output: bool = True) -> Any:
        """The next words, in their order."""
        count = 1 if size is None else int(size)
        if self._next + count > len(self._given):
            raise InputError(f"the vector holds {len(self._given)} raw words; {self._next + count} are asked for")
        taken = np.array(self._given[self._next : self._next + count], dtype=np.uint64)
        self._next += count
        return taken if size is not None else int(taken[0])


def generator_of(words: Array) -> np.random.Generator:
    """A generator for :mod:`refquant.numerics.draws` that gives these 64-bit words, and an error (InputError) when they are used up.

    Examples
    --------
    >>> from refquant.numerics.draws import integers_below
    >>> integers_below(generator_of(np.array([25, 2**64 - 1, 13], np.uint64)), 10, 2).tolist()
    [5, 3]
    """
    return np.random.Generator(_Words(words))


class Uniforms:
    """Uniform numbers of raw words for a sampler: one word a number, float64 of its upper 53 bits, float32 of its upper 24.

    Examples
    --------
    >>> float(Uniforms(np.array([2**63], np.uint64)).random((1,), np.float32)[0])
    0.5
    """

    def __init__(self, words: Array) -> None:
        self._words = _Words(words)

    def random(self, size: Any, dtype: Any, /) -> Any:
        """The next numbers in the shape `size`."""
        drawn = self._words.random_raw(int(np.prod(size))).reshape(size)
        bits = np.finfo(dtype).nmant + 1
        return np.ldexp((drawn >> np.uint64(64 - bits)).astype(dtype), -bits)
