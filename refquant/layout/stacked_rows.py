"""Packings that put far-apart rows into one word: hqq and optimum-quanto; and QuaRot's signed nibbles.

The rows of a matrix of codes are cut into ``k`` equal parts that are laid on top of each other, so that word ``[r, c]`` holds the codes
``[r, c], [r + n, c], [r + 2 n, c], ...`` with ``n`` words a column:

========== ========= ========== ====================== ==============================
who        bits      parts      first part             rows that do not divide
========== ========= ========== ====================== ==============================
hqq        1, 2, 4   8 / bits   in the highest bits    refused (hqq 0.2.8 drops them at 1 bit)
hqq        3         10, int32  at bit 27              padded with 0
quanto     2, 4      8 / bits   in the lowest bits     padded with 0
========== ========= ========== ====================== ==============================

Codes of 8 bits are bytes as they are. QuaRot writes signed 4-bit codes in two's complement, the even column in the low half of a byte.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from refquant.errors import InputError, UsageError
from refquant.formats import IntFormat, from_patterns, to_patterns
from refquant.layout.bits import pack_nibbles, unpack_nibbles
from refquant.numerics.arrays import Array

Program = Literal["hqq", "quanto"]
WIDTHS = {"hqq": (1, 2, 3, 4, 8), "quanto": (2, 4)}
INT4 = IntFormat(bits=4, signed=True)


def _plan(program: str, bits: int) -> tuple[int, list[int], np.dtype[np.signedinteger | np.unsignedinteger]]:
    """How many parts, the first bit of each, and the dtype of a word."""
    if bits not in WIDTHS.get(program, ()):
        raise UsageError(f"rows are stacked by hqq with 1, 2, 3, 4 or 8 bits and by quanto with 2 or 4, not by {program!r} with {bits!r}")
    if bits == 3:
        return 10, [27 - 3 * part for part in range(10)], np.dtype(np.int32)
    parts = 8 // bits
    shifts = [bits * part for part in range(parts)]
    return parts, shifts if program == "quanto" else shifts[::-1], np.dtype(np.uint8)


def pack_rows(codes: Array, bits: int, program: Program) -> Array:
    """Pack a matrix of codes.

    Parameters
    ----------
    codes : integer ndarray ``[rows, columns]``
        In ``0 .. 2^bits - 1``.
    bits : int
    program : {"hqq", "quanto"}

    Returns
    -------
    uint8 ndarray ``[ceil(rows / parts), columns]``, int32 for 3 bits

    Raises
    ------
    UsageError
        If the program does not pack that width.
    InputError
        If codes do not fit, or rows do not divide where the program does not pad them.

    Examples
    --------
    >>> pack_rows(np.array([[1], [2]]), 4, "hqq"), pack_rows(np.array([[1], [2]]), 4, "quanto")
    (array([[18]], dtype=uint8), array([[33]], dtype=uint8))
    """
    parts, shifts, dtype = _plan(program, bits)
    codes = np.asarray(codes)
    if codes.ndim != 2 or codes.dtype.kind not in "iu":
        raise InputError(f"codes to pack are a matrix of integers, not {codes.dtype} of shape {codes.shape}")
    if codes.size and not (int(codes.min()) >= 0 and int(codes.max()) < 1 << bits):
        raise InputError(f"codes of {bits} bits lie in 0..{(1 << bits) - 1}; found {int(codes.min())}..{int(codes.max())}")
    if program == "hqq" and bits != 3 and codes.shape[0] % parts:
        raise InputError(f"hqq packs multiples of {parts} rows at {bits} bits; found {codes.shape[0]}")
    rows = -(-codes.shape[0] // parts)
    filled = np.zeros((parts * rows, codes.shape[1]), dtype=np.int64)
    filled[: codes.shape[0]] = codes
    words = np.zeros((rows, codes.shape[1]), dtype=np.int64)
    for part, shift in enumerate(shifts):
        words |= filled[part * rows : (part + 1) * rows] << shift
    return words.astype(dtype)


def unpack_rows(words: Array, bits: int, program: Program, rows: int) -> Array:
    """Read `rows` rows of codes back; the inverse of :func:`pack_rows`.

    Returns
    -------
    uint8 ndarray ``[rows, columns]``

    Raises
    ------
    UsageError
        If the program does not pack that width.
    InputError
        If the words are of another dtype or number, or padding is not 0.
    """
    parts, shifts, dtype = _plan(program, bits)
    words = np.asarray(words)
    if words.ndim != 2 or words.dtype != dtype or words.shape[0] != -(-rows // parts):
        raise InputError(f"{rows} rows of {bits} bits are {-(-rows // parts)} rows of {dtype} words; found {words.dtype} {words.shape}")
    wide, top = words.astype(np.int64), bits * parts
    stacked = np.concatenate([(wide >> shift) & ((1 << bits) - 1) for shift in shifts])
    if stacked[rows:].any() or (wide >> top).any():
        raise InputError(f"the padding behind {rows} rows of {bits} bits is to be 0; some of it is not")
    return stacked[:rows].astype(np.uint8)


def pack_int4(codes: Array) -> Array:
    """QuaRot's signed 4-bit codes ``[..., 2 n]`` as bytes ``[..., n]``.

    Examples
    --------
    >>> pack_int4(np.array([-1, 2], dtype=np.int8))
    array([47], dtype=uint8)
    """
    return pack_nibbles(to_patterns(codes, INT4), "low")


def unpack_int4(packed: Array) -> Array:
    """Read signed codes back; the inverse of :func:`pack_int4`."""
    return from_patterns(unpack_nibbles(packed, "low"), INT4)
