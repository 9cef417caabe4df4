"""Q5_1: 32 codes of 5 bits on a float16 scale and minimum, 24 bytes.

    bytes 0-1    d, float16
    bytes 2-3    m, float16
    bytes 4-7    the fifth bits, that of element j in bit j
    bytes 8-23   low half of byte j: element j; high half: element j + 16          x = d * code + m

Quantizing is :mod:`~refquant.layout.gguf.q4_1`'s with 31 in the place of 15.
"""

from __future__ import annotations

import numpy as np

from refquant.layout.gguf.fields import BlockType, Fields, scaled_values
from refquant.layout.gguf.planes import put_half, side_by_side, take_half
from refquant.layout.gguf.q4_1 import from_minimum
from refquant.layout.gguf.q5_0 import put_fifth, take_fifth
from refquant.numerics.arrays import Array


def unpack(blocks: Array) -> Fields:
    """Read blocks ``[n, 24]``."""
    return Fields(codes=take_fifth(blocks, 4), d=take_half(blocks, 0), m=take_half(blocks, 2))


def pack(fields: Fields) -> Array:
    """Write blocks ``[n, 24]``."""
    return side_by_side(put_half(np.asarray(fields.d)), put_half(np.asarray(fields.m)), put_fifth(fields.codes))


def quantize(x: Array) -> Fields:
    """Quantize ``[n, 32]``; NumericalError if a scale or minimum overflows float16."""
    return from_minimum(x, 31)


Q5_1 = BlockType(name="Q5_1", number=7, size=32, nbytes=24, unpack=unpack, pack=pack, values=scaled_values, quantize=quantize)
