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


def take_planes(packed: Array, bits: int, run: int) -> Array:
    """Read codes.

    Parameters
    ----------
    packed : uint8 ndarray ``[n, bytes]``
    bits : {1, 2, 4}
    run : int
        Divides the number of bytes, which is a multiple of 4.

    Returns
    -------
    uint8 ndarray ``[n, bytes * 8 / bits]``

    Examples
    --------
    >>> take_planes(np.array([[0x21, 0x43, 0x65, 0x87]], np.uint8), 4, 2)
    array([[1, 3, 2, 4, 5, 7, 6, 8]], dtype=uint8)
    """
    if run == 1 and bits == 1:
        return np.unpackbits(packed, axis=1, bitorder="little")
    # Eight bytes at a time: what a shift carries over from the neighbouring byte, the mask takes away. Runs are then copied whole.
    word = np.dtype(np.uint64 if packed.shape[1] % 8 == 0 else np.uint32)
    words = np.ascontiguousarray(packed).view(word)
    mask = word.type(int.from_bytes(bytes([(1 << bits) - 1]) * word.itemsize, "little"))
    codes = np.empty((packed.size // run, 8 // bits), f"V{run}")
    for k in range(8 // bits):
        codes[:, k] = ((words >> word.type(k * bits)) & mask).view(codes.dtype).reshape(-1)
    return codes.view(np.uint8).reshape(len(packed), -1)


def put_planes(codes: Array, bits: int, run: int) -> Array:
    """Write codes ``[n, size]``, each below ``2^bits``; the inverse of :func:`take_planes`.

    Examples
    --------
    >>> put_planes(np.array([[1, 3, 2, 4]]), 4, 2)
    array([[33, 67]], dtype=uint8)
    """
    if run == 1 and bits == 1:
        return np.packbits(codes.astype(np.uint8, copy=False), axis=1, bitorder="little")
    fields = 8 // bits
    planes = np.ascontiguousarray(codes.astype(np.uint8, copy=False)).view(f"V{run}").reshape(-1, fields)
    packed = np.zeros((len(planes), run), np.uint8)
    for k in range(fields):
        packed |= np.ascontiguousarray(planes[:, k]).view(np.uint8).reshape(-1, run) << np.uint8(k * bits)
    return packed.reshape(len(codes), -1)


def take_half(blocks: Array, start: int) -> Array:
    """The float16 numbers ``[n]`` at byte `start` of each block."""
    return blocks[:, start : start + 2].view("<f2")[:, 0]


def put_half(numbers: Array) -> Array:
    """float16 numbers ``[n]`` as two bytes each, ``[n, 2]``."""
    return np.ascontiguousarray(numbers, dtype="<f2").reshape(-1, 1).view(np.uint8)
