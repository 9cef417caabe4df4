"""Codes of 1 to 8 bits as dense bit strings, the way every packed layout begins.

In a *stream*, element ``i`` occupies bits ``[i * bits, (i + 1) * bits)`` of one long little-endian bit string: bit ``k`` of the string is
bit ``k % 8`` of byte ``k // 8``. Where codes divide a byte, every byte is by itself; otherwise eight codes fill exactly ``bits`` bytes, and
a stream is eight codes at a time shifted into one 64-bit word. Layouts that speak of int32 words mean the same bytes, four at a time,
little-endian.

Padding bits behind the last code are 0, and reading insists on it: what a reader skips without looking could not be written back.
"""

from __future__ import annotations

import numpy as np

from refquant.errors import InputError, UsageError
from refquant.numerics.arrays import Array


def stream_bytes(count: int, bits: int) -> int:
    """Bytes that a stream of `count` codes occupies."""
    return -(-count * bits // 8)


def pack_stream(codes: Array, bits: int) -> Array:
    """Pack codes along the last axis.

    Parameters
    ----------
    codes : integer ndarray ``[..., n]``
        Each in ``0 .. 2^bits - 1``.
    bits : int
        1 to 8.

    Returns
    -------
    uint8 ndarray ``[..., ceil(n * bits / 8)]``

    Raises
    ------
    UsageError
        If `bits` is another number.
    InputError
        If a code does not fit.

    Examples
    --------
    >>> pack_stream(np.array([1, 2, 3]), 4)
    array([33,  3], dtype=uint8)
    """
    codes = np.asarray(codes)
    _require_bits(bits)
    if codes.ndim == 0 or codes.dtype.kind not in "iu":
        raise InputError(f"codes to pack are integers along at least one axis, not {codes.dtype} of shape {codes.shape}")
    if codes.size and not (int(codes.min()) >= 0 and int(codes.max()) < 1 << bits):
        raise InputError(f"codes of {bits} bits lie in 0..{(1 << bits) - 1}; found {int(codes.min())}..{int(codes.max())}")
    *outer, count = codes.shape
    run, word = _word(bits)
    filled = np.zeros((*outer, -(-count // run) * run), dtype=np.uint8)
    filled[..., :count] = codes
    words = filled[..., ::run].astype(word)
    for place in range(1, run):
        words |= filled[..., place::run].astype(word) << word.type(place * bits)
    packed = words.astype(word.newbyteorder("<"))[..., None].view(np.uint8)[..., : run * bits // 8]
    return np.ascontiguousarray(packed.reshape(*outer, words.shape[-1] * run * bits // 8)[..., : stream_bytes(count, bits)])


def _word(bits: int) -> tuple[int, np.dtype[np.unsignedinteger]]:
    """How many codes fill whole bytes, and an integer that holds them."""
    return (8 // bits, np.dtype(np.uint8)) if 8 % bits == 0 else (8, np.dtype(np.uint64))


def unpack_stream(packed: Array, bits: int, count: int) -> Array:
    """Read codes back; the inverse of :func:`pack_stream`.

    Parameters
    ----------
    packed : uint8 ndarray ``[..., b]``
    bits : int
        1 to 8.
    count : int
        Codes along the last axis; ``b`` has to hold them and less than a whole code more would need.

    Returns
    -------
    uint8 ndarray ``[..., count]``

    Raises
    ------
    InputError
        If the number of bytes is another than `count` codes need, or a padding bit is set.

    Examples
    --------
    >>> unpack_stream(np.array([33, 3], dtype=np.uint8), 4, 3)
    array([1, 2, 3], dtype=uint8)
    """
    packed = np.asarray(packed)
    _require_bits(bits)
    if packed.ndim == 0 or packed.dtype != np.uint8:
        raise InputError(f"packed codes are bytes along at least one axis, not {packed.dtype} of shape {packed.shape}")
    *outer, found = packed.shape
    if found != stream_bytes(count, bits):
        raise InputError(f"{count} codes of {bits} bits need {stream_bytes(count, bits)} bytes; found {found}")
    spare = found * 8 - count * bits
    if spare and (packed[..., -1] >> np.uint8(8 - spare)).any():
        raise InputError(f"the {spare} padding bits behind {count} codes of {bits} bits are to be 0; some are 1")
    run, word = _word(bits)
    whole = -(-count // run)
    filled = np.zeros((*outer, whole, run * bits // 8), dtype=np.uint8)
    filled.reshape(*outer, whole * run * bits // 8)[..., :found] = packed
    padded = np.zeros((*outer, whole, word.itemsize), dtype=np.uint8)
    padded[..., : run * bits // 8] = filled
    words = padded.view(word.newbyteorder("<"))[..., 0].astype(word, copy=False)
    codes = np.empty((*outer, whole, run), dtype=np.uint8)
    for place in range(run):
        codes[..., place] = (words >> word.type(place * bits)) & word.type((1 << bits) - 1)
    return np.ascontiguousarray(codes.reshape(*outer, whole * run)[..., :count])


def pack_words(codes: Array, bits: int) -> Array:
    """Pack codes along the last axis into whole int32 words.

    Returns
    -------
    int32 ndarray ``[..., ceil(n * bits / 32)]``

    Examples
    --------
    >>> pack_words(np.array([1, 2, 3, 15]), 4).tolist()
    [62241]
    """
    packed = pack_stream(codes, bits)
    words = -(-packed.shape[-1] // 4)
    filled = np.zeros((*packed.shape[:-1], words * 4), dtype=np.uint8)
    filled[..., : packed.shape[-1]] = packed
    return bytes_to_words(filled)


def unpack_words(words: Array, bits: int, count: int) -> Array:
    """Read codes back; the inverse of :func:`pack_words`, with its errors and those of :func:`unpack_stream`.

    Returns
    -------
    uint8 ndarray ``[..., count]``
    """
    packed = words_to_bytes(words)
    needed = stream_bytes(count, bits)
    if words.shape[-1] != -(-needed // 4):
        raise InputError(f"{count} codes of {bits} bits need {-(-needed // 4)} words; found {words.shape[-1]}")
    if packed[..., needed:].any():
        raise InputError(f"the padding behind {count} codes of {bits} bits is to be 0; some of it is not")
    return unpack_stream(packed[..., :needed], bits, count)


def bytes_to_words(packed: Array) -> Array:
    """``[..., 4 n]`` bytes as ``[..., n]`` int32 words, little-endian."""
    return np.ascontiguousarray(packed).view("<i4").astype(np.int32)


def words_to_bytes(words: Array) -> Array:
    """``[..., n]`` int32 words as ``[..., 4 n]`` bytes, little-endian; InputError if they are not int32."""
    words = np.asarray(words)
    if words.ndim == 0 or words.dtype != np.int32:
        raise InputError(f"packed words are int32 along at least one axis, not {words.dtype} of shape {words.shape}")
    return np.ascontiguousarray(words.astype("<i4")).view(np.uint8)


def pack_nibbles(codes: Array, first: str) -> Array:
    """Two 4-bit codes a byte along the last axis, which has an even number of them.

    Parameters
    ----------
    codes : integer ndarray ``[..., 2 n]``
    first : {"low", "high"}
        The half of the byte that the even element lies in.

    Returns
    -------
    uint8 ndarray ``[..., n]``

    Examples
    --------
    >>> pack_nibbles(np.array([1, 2]), "low"), pack_nibbles(np.array([1, 2]), "high")
    (array([33], dtype=uint8), array([18], dtype=uint8))
    """
    codes = np.asarray(codes)
    if codes.ndim == 0 or codes.shape[-1] % 2:
        raise InputError(f"two codes share a byte: an even number of them is needed, found shape {codes.shape}")
    return pack_stream(codes if _low_first(first) else _swapped(codes), 4)


def unpack_nibbles(packed: Array, first: str) -> Array:
    """Read two codes a byte; the inverse of :func:`pack_nibbles`."""
    packed = np.asarray(packed)
    codes = unpack_stream(packed, 4, 2 * packed.shape[-1])
    return codes if _low_first(first) else _swapped(codes)


def _swapped(codes: Array) -> Array:
    return codes.reshape(*codes.shape[:-1], codes.shape[-1] // 2, 2)[..., ::-1].reshape(codes.shape)


def _low_first(first: str) -> bool:
    if first not in ("low", "high"):
        raise UsageError(f"the even element lies in the 'low' or the 'high' half of a byte, not {first!r}")
    return first == "low"


def _require_bits(bits: int) -> None:
    if isinstance(bits, bool) or not isinstance(bits, int) or not 1 <= bits <= 8:
        raise UsageError(f"packed codes have 1 to 8 bits, not {bits!r}")
