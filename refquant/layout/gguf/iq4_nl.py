"""IQ4_NL: 32 codes of 4 bits that stand for the members of a table, on a float16 scale, 18 bytes.

    bytes 0-1   d, float16
    bytes 2-17  low half of byte j: element j; high half: element j + 16          x = d * TABLE[nibble]

Codes here are the table's members. Read only: what ggml quantizes with is a search that weighs errors.
"""

from __future__ import annotations

import numpy as np

from refquant.layout.gguf.fields import BlockType, Fields, scaled_values
from refquant.layout.gguf.planes import put_half, put_planes, side_by_side, take_half, take_planes
from refquant.numerics.arrays import Array

TABLE = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.int8)
"""In rising order, as the nibbles are."""


def unpack(blocks: Array) -> Fields:
    """Read blocks ``[n, 18]``."""
    return Fields(codes=np.take(TABLE, take_planes(blocks[:, 2:], 4, 16)), d=take_half(blocks, 0))


def pack(fields: Fields) -> Array:
    """Write blocks ``[n, 18]``."""
    return side_by_side(put_half(np.asarray(fields.d)), put_planes(np.searchsorted(TABLE, fields.codes), 4, 16))


IQ4_NL = BlockType(name="IQ4_NL", number=20, size=32, nbytes=18, unpack=unpack, pack=pack, values=scaled_values)
