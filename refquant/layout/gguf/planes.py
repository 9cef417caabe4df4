"""Where codes lie in a block's bytes: planes of runs, which all block types of ggml are made of.

Bytes come in runs of `run`. The lowest `bits` bits of a run's bytes are the first `run` elements, the next bits the next `run` elements,
and so on until the byte is used up:

    element  c * run * (8 / bits) + k * run + l  =  bits [k * bits, (k + 1) * bits) of byte  c * run + l

Q4_0's nibbles are runs of 16, Q4_K's of 32, Q6_K's of 64; Q2_K's pairs of bits are runs of 32; the fifth bits of Q5_0, one after the
other, are runs of 1 and those of Q5_K of 32.
"""

from __future__ import annotations

import numpy as np

from refquant.numerics.arrays import Array


def take_planes(packed: Array, bits: int, run: int, place: int = 0) -> Array:
    """Read codes.

    Parameters
    ----------
    packed : uint8 ndarray ``[n, bytes]``
    bits : {1, 2, 4}
    run : int
        Divides the number of bytes, which is a multiple of 4.
    place : int
        Of the bit of the result where the codes begin, for those that are the upper bits of longer ones.

    Returns
    -------
    uint8 ndarray ``[n, bytes * 8 / bits]``

    Examples
    --------
    >>> take_planes(np.array([[0x21, 0x43, 0x65, 0x87]], np.uint8), 4, 2)
    array([[1, 3, 2, 4, 5, 7, 6, 8]], dtype=uint8)
    """
    if run == 1 and bits == 1:
        return np.unpackbits(records(packed).copy().view(np.uint8), bitorder="little").reshape(len(packed), -1) * np.uint8(1 << place)
    # Eight bytes at a time: what a shift carries over from the neighbouring byte, the mask takes away. Runs are then copied whole.
    words = records(packed).copy().view(np.uint64 if packed.shape[1] % 8 == 0 else np.uint32)
    word, mask = words.dtype.type, int.from_bytes(bytes([(1 << bits) - 1 << place]) * words.itemsize, "little")
    planes = np.empty((8 // bits, words.size), words.dtype)
    for k, plane in enumerate(planes):
        up = place - k * bits
        (np.left_shift if up > 0 else np.right_shift)(words, word(abs(up)), out=plane)
    planes &= word(mask)
    runs = planes.view(f"V{run}")
    codes = np.stack(list(runs), axis=1) if bits == 4 else np.ascontiguousarray(runs.T)  # the same; which is faster depends on their number
    return codes.view(np.uint8).reshape(len(packed), -1)


def put_planes(codes: Array, bits: int, run: int) -> Array:
    """Write codes ``[n, size]``, each below ``2^bits``; the inverse of :func:`take_planes`.

    Examples
    --------
    >>> put_planes(np.array([[1, 3, 2, 4]]), 4, 2)
    array([[33, 67]], dtype=uint8)
    """
    rows = np.ascontiguousarray(codes, dtype=np.uint8)
    if run == 1 and bits == 1:
        return np.packbits(rows.reshape(-1), bitorder="little").reshape(len(rows), -1)
    planes = np.array(rows.view(f"V{run}").reshape(-1, 8 // bits).T, order="C")  # runs are copied whole, and a single one is copied too
    words = planes.view(np.uint64 if planes[0].nbytes % 8 == 0 else np.uint8)
    packed = words[-1]
    for plane in words[-2::-1]:  # from the uppermost bits down; codes stay inside their bytes
        packed <<= words.dtype.type(bits)
        packed |= plane
    return np.asarray(packed.view(np.uint8).reshape(len(rows), -1))


def records(rows: Array) -> Array:
    """A view of bytes ``[n, bytes]``, perhaps a part of wider rows, as ``[n]``: NumPy then copies rows whole and not byte by byte."""
    return rows.view(f"V{rows.shape[1]}")[:, 0]


def side_by_side(*parts: Array) -> Array:
    """Put bytes ``[n, ...]`` next to each other in each row, as :func:`numpy.concatenate` does, but copying rows whole.

    Examples
    --------
    >>> side_by_side(np.array([[1], [2]], np.uint8), np.array([[3, 4], [5, 6]], np.uint8))
    array([[1, 3, 4],
           [2, 5, 6]], dtype=uint8)
    """
    rows = np.empty((len(parts[0]), sum(part.shape[1] for part in parts)), np.uint8)
    start = 0
    for part in parts:
        records(rows[:, start : start + part.shape[1]])[:] = records(part)
        start += part.shape[1]
    return rows


def take_half(blocks: Array, start: int) -> Array:
    """The float16 numbers ``[n]`` at byte `start` of each block."""
    return blocks[:, start : start + 2].view("<f2")[:, 0]


def put_half(numbers: Array) -> Array:
    """float16 numbers ``[n]`` as two bytes each, ``[n, 2]``."""
    return np.ascontiguousarray(numbers, dtype="<f2").reshape(-1, 1).view(np.uint8)
