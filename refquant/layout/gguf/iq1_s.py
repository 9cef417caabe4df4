"""IQ1_S: points of 8 ternary coordinates, moved by an eighth; a 3-bit scale for each 32, one float16 number; 256 elements in 50 bytes.

    bytes 0-1    d, float16
    bytes 2-33   the eight lower bits of the points' places
    bytes 34-49  for each 32 elements a uint16: four times the three upper bits of places, the scale, and the direction

``x = d * (2 scale + 1) * (point + 1/8)``, minus an eighth where the direction's bit is set. Scales here are ``2 scale + 1``, codes eight
times what is in the second bracket: 8 point + 1 or - 1. Read only.
"""

from __future__ import annotations

import numpy as np

from refquant.layout.gguf.codebooks import codebook, in_parts
from refquant.layout.gguf.fields import BlockType, Fields
from refquant.layout.gguf.planes import put_half, side_by_side, take_half
from refquant.numerics.arrays import Array

BOOK = "IQ1_S"
THREES = np.arange(0, 12, 3, dtype=np.uint16)


def unpack(blocks: Array) -> Fields:
    """Read blocks ``[n, 50]``."""
    words = np.ascontiguousarray(blocks[:, 34:]).view("<u2")
    places = blocks[:, 2:34].astype(np.uint16) | (words[:, :, None] >> THREES & 7).reshape(-1, 32) << 8
    moved = np.int8(1) - (words >> 15 << 1).astype(np.int8)
    codes = codebook(BOOK).take(places) * np.int8(8) + np.repeat(moved, 32, axis=1)
    return Fields(codes=codes, d=take_half(blocks, 0), scales=((words >> 12 & 7) << 1 | 1).astype(np.uint8))


def pack(fields: Fields) -> Array:
    """Write blocks ``[n, 50]``."""
    points = fields.codes + np.int8(1) >> 3  # 8 p - 1 and 8 p + 1 give p
    places = codebook(BOOK).find(points)
    upper = np.bitwise_or.reduce((places >> 8).reshape(-1, 8, 4) << THREES, axis=2)
    minus = (fields.codes < 8 * points)[:, ::32]
    words = upper | np.asarray(fields.scales).astype(np.int64) >> 1 << 12 | minus.astype(np.int64) << 15
    return side_by_side(put_half(np.asarray(fields.d)), (places & 255).astype(np.uint8), words.astype("<u2").view(np.uint8))


IQ1_S = BlockType(name="IQ1_S", number=19, size=256, nbytes=50, unpack=unpack, pack=pack, values=in_parts(8))
