"""Q5_0: 32 codes of 5 bits on a float16 scale of either sign, 22 bytes.

    bytes 0-1    d, float16
    bytes 2-5    the fifth bits, that of element j in bit j
    bytes 6-21   low half of byte j: element j; high half: element j + 16          x = d * (code - 16)

Quantizing is :mod:`~refquant.layout.gguf.q4_0`'s with 16 in the place of 8.
"""

from __future__ import annotations

import numpy as np

from refquant.layout.gguf.fields import BlockType, Fields, scaled_values, stored_half
from refquant.layout.gguf.planes import put_half, put_planes, side_by_side, take_half, take_planes
from refquant.layout.gguf.q4_0 import signed_extreme
from refquant.numerics.arrays import Array


def unpack(blocks: Array) -> Fields:
    """Read blocks ``[n, 22]``; codes are -16..15."""
    return Fields(codes=take_fifth(blocks, 2).view(np.int8) - np.int8(16), d=take_half(blocks, 0))


def pack(fields: Fields) -> Array:
    """Write blocks ``[n, 22]``."""
    return side_by_side(put_half(np.asarray(fields.d)), put_fifth((fields.codes + np.int8(16)).view(np.uint8)))


def quantize(x: Array) -> Fields:
    """Quantize ``[n, 32]``; NumericalError if a scale overflows float16."""
    codes, d = signed_extreme(x, 16)
    return Fields(codes=codes, d=stored_half(d, "scale"))


def take_fifth(blocks: Array, start: int) -> Array:
    """Codes 0..31 whose fifth bits are the four bytes at `start` and whose halves are the sixteen behind them."""
    codes = take_planes(blocks[:, start + 4 : start + 20], 4, 16)
    codes |= take_planes(blocks[:, start : start + 4], 1, 1, place=4)
    return codes


def put_fifth(codes: Array) -> Array:
    """The inverse of :func:`take_fifth`: twenty bytes a block."""
    return side_by_side(put_planes(codes >> 4, 1, 1), put_planes(codes & 15, 4, 16))


Q5_0 = BlockType(name="Q5_0", number=6, size=32, nbytes=22, unpack=unpack, pack=pack, values=scaled_values, quantize=quantize)
