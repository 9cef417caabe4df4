"""Random draws that never change: every number is derived from a bit generator's raw words by the integer arithmetic below.

NumPy promises that the raw words of a bit generator stay what they are, but not that ``Generator.integers`` or ``permutation`` do
(NEP 19). Whatever enters a digest or a golden vector is therefore drawn here. Each function consumes words strictly one after the
other, so the results do not depend on how many are fetched at a time.
"""

from __future__ import annotations

import math
import operator
from typing import Any

import numpy as np
from numpy.random import MT19937, PCG64, PCG64DXSM, SFC64, Generator, Philox
from numpy.typing import NDArray

from refquant.errors import UsageError
from refquant.numerics.arrays import Float64Array

_WORDS_OF_64_BITS = (PCG64, PCG64DXSM, Philox, SFC64)
_LARGEST_BOUND = 1 << 63  # so that every draw is an int64


def words(rng: Generator, count: int) -> NDArray[np.uint64]:
    """Draw `count` raw 64-bit words.

    The words are ``rng.bit_generator.random_raw``; for MT19937, whose raw words have 32 bits, two make one, the first being the
    upper half (as NumPy itself joins them).

    Raises
    ------
    UsageError
        If `rng` is not a Generator, or its bit generator is not one of NumPy's, so that the width of its words is unknown.

    Examples
    --------
    >>> hex(words(np.random.default_rng(5), 1)[0])
    '0xce14abeeabb8e5a8'
    """
    if not isinstance(rng, Generator):
        raise UsageError(f"random draws need a numpy.random.Generator, not {type(rng).__name__}")
    count = _natural(count, "a number of draws")
    source = rng.bit_generator
    if isinstance(source, _WORDS_OF_64_BITS):
        return np.asarray(source.random_raw(count), dtype=np.uint64)
    if isinstance(source, MT19937):
        halves = np.asarray(source.random_raw(2 * count), dtype=np.uint64)
        return (halves[0::2] << np.uint64(32)) | halves[1::2]
    known = ", ".join(kind.__name__ for kind in (*_WORDS_OF_64_BITS, MT19937))
    raise UsageError(f"the width of the raw words of {type(source).__name__} is not known; use one of {known}")


def integers_below(rng: Generator, n: int, count: int) -> NDArray[np.int64]:
    """Draw `count` independent integers, uniform in ``0 .. n-1``.

    A word ``w`` gives ``w mod n`` unless it lies above the largest multiple of `n` that 64 bits hold; then it is thrown away and the
    next one taken, so no remainder is favoured.

    Parameters
    ----------
    rng : numpy.random.Generator
    n : int
        1 to 2**63.
    count : int

    Returns
    -------
    int64 ndarray, ``[count]``

    Raises
    ------
    UsageError
        If `n` or `count` is out of range, or for reasons of :func:`words`.

    Examples
    --------
    >>> integers_below(np.random.default_rng(5), 10, 4).tolist()
    [2, 1, 2, 0]
    """
    n = _bound(n)
    count = _natural(count, "a number of draws")
    last = np.uint64((1 << 64) - 1 - (1 << 64) % n)
    parts: list[NDArray[np.uint64]] = []
    missing = count
    while missing:
        fresh = words(rng, missing)
        fresh = fresh[fresh <= last]
        parts.append(fresh)
        missing -= len(fresh)
    drawn = np.concatenate([np.empty(0, dtype=np.uint64), *parts])
    return (drawn % np.uint64(n)).astype(np.int64)


def integers_below_each(rng: Generator, bounds: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
    """Draw one integer below each bound: the i-th is uniform in ``0 .. bounds[i]-1``.

    With equal bounds the result is that of :func:`integers_below`.

    Parameters
    ----------
    rng : numpy.random.Generator
    bounds : integer ndarray, one axis, entries 1 to 2**63

    Returns
    -------
    int64 ndarray, the shape of `bounds`

    Raises
    ------
    UsageError
        If a bound is out of range or `bounds` is not a vector of integers.

    Examples
    --------
    >>> integers_below_each(np.random.default_rng(5), np.array([10, 10, 1000])).tolist()
    [2, 1, 192]
    """
    bounds = np.asarray(bounds)
    if bounds.ndim != 1 or bounds.dtype.kind not in "iu":
        raise UsageError(f"bounds are a vector of integers, not {bounds.dtype} of shape {bounds.shape}")
    if bounds.size and (bounds.min() < 1 or bounds.max() > _LARGEST_BOUND):
        raise UsageError(f"a bound is 1 to 2**63; found {bounds.min()} to {bounds.max()}")
    n = bounds.astype(np.uint64)
    last = ~((np.uint64(0) - n) % n)  # 2**64 - 1 - (2**64 mod n), in arithmetic modulo 2**64
    drawn = np.empty(n.shape, dtype=np.uint64)
    done, waiting = 0, np.empty(0, dtype=np.uint64)
    while done < n.size:
        waiting = np.concatenate([waiting, words(rng, n.size - done - waiting.size)])
        rejected = np.flatnonzero(waiting > last[done:])
        good = int(rejected[0]) if rejected.size else waiting.size
        drawn[done : done + good] = waiting[:good] % n[done : done + good]
        waiting = waiting[good + 1 :]  # the words behind a rejected one move up by one place
        done += good
    return drawn.astype(np.int64)


def permutation(rng: Generator, n: int) -> NDArray[np.int64]:
    """Return the numbers ``0 .. n-1`` in random order, every order equally likely (Fisher and Yates, from the front).

    Place ``i`` is exchanged with place ``i + integer below n - i``, for ``i = 0, 1, ..., n-1``.

    Raises
    ------
    UsageError
        If `n` is not a natural number.

    Examples
    --------
    >>> permutation(np.random.default_rng(5), 6).tolist()
    [4, 2, 1, 5, 3, 0]
    """
    return sample_without_replacement(rng, n, n)


def sample_without_replacement(rng: Generator, n: int, k: int) -> NDArray[np.int64]:
    """Draw `k` different numbers of ``0 .. n-1`` in random order, every ordered choice equally likely.

    These are the first `k` entries that :func:`permutation` would make of the same words; time and memory grow with `k`, not `n`.

    Parameters
    ----------
    rng : numpy.random.Generator
    n : int
        0 to 2**63 - 1.
    k : int
        At most `n`.

    Returns
    -------
    int64 ndarray, ``[k]``

    Raises
    ------
    UsageError
        If `n` or `k` is not a natural number, or `k` exceeds `n`.

    Examples
    --------
    >>> sample_without_replacement(np.random.default_rng(5), 6, 2).tolist()
    [4, 2]
    """
    n, k = _natural(n, "the size of the population"), _natural(k, "the size of a sample")
    if k > n:
        raise UsageError(f"cannot draw {k} different numbers of {n}")
    if n >= _LARGEST_BOUND:
        raise UsageError(f"the population has at most 2**63 - 1 members, not {n}")
    places = np.arange(k, dtype=np.int64)
    partners = places + integers_below_each(rng, n - places)
    drawn = np.empty(k, dtype=np.int64)
    moved: dict[int, int] = {}  # what stands at a place, where that is not its own number
    for i, j in enumerate(partners.tolist()):
        here = moved.pop(i, i)
        drawn[i] = moved.get(j, j) if j != i else here
        moved[j] = here
    return drawn


def uniforms(rng: Generator, shape: int | tuple[int, ...]) -> Float64Array:
    """Draw float64 numbers uniform in [0, 1): the upper 53 bits of a word over 2**53.

    Parameters
    ----------
    rng : numpy.random.Generator
    shape : int or tuple of int
        Filled in C order, one word a number.

    Returns
    -------
    float64 ndarray of `shape`

    Raises
    ------
    UsageError
        If `shape` is not made of natural numbers.

    Examples
    --------
    >>> uniforms(np.random.default_rng(5), 2)
    array([0.80500292, 0.80794079])
    """
    lengths = shape if isinstance(shape, tuple) else (shape,)
    lengths = tuple(_natural(length, "a length of a shape") for length in lengths)
    upper = words(rng, math.prod(lengths)) >> np.uint64(11)
    return np.asarray(upper.astype(np.float64) * 2.0**-53).reshape(lengths)


def _bound(n: int) -> int:
    if not 1 <= _natural(n, "a bound") <= _LARGEST_BOUND:
        raise UsageError(f"a bound is 1 to 2**63, not {n}")
    return operator.index(n)


def _natural(n: int, what: str) -> int:
    """Return `n` as a Python int; NumPy integers are welcome, bools and floats are not."""
    if isinstance(n, (bool, np.bool_)) or not isinstance(n, (int, np.integer)) or n < 0:
        raise UsageError(f"{what} is an integer of at least 0, not {n!r}")
    return operator.index(n)
