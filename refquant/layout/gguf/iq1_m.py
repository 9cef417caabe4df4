"""IQ1_M: IQ1_S's points, each moved by an eighth; a 3-bit scale for each 16, one float16 number; 256 elements in 56 bytes.

    bytes 0-31   the eight lower bits of the points' places
    bytes 32-47  low and high half of byte j, for points 2 j and 2 j + 1: the three upper bits of the place, and the direction
    bytes 48-55  four uint16: word i has scales 4 i to 4 i + 3, three bits each, and bits 4 i to 4 i + 3 of the float16 number d

``x = d * (2 scale + 1) * (point + 1/8)``, minus an eighth where the direction's bit is set. Scales and codes here are IQ1_S's. Read only.
"""

from __future__ import annotations

import numpy as np

from refquant.layout.gguf.codebooks import codebook, in_parts
from refquant.layout.gguf.fields import BlockType, Fields
from refquant.layout.gguf.iq1_s import BOOK, THREES
from refquant.layout.gguf.planes import put_planes, side_by_side, take_planes
from refquant.numerics.arrays import Array

FOURS = np.arange(0, 16, 4, dtype=np.uint16)


def unpack(blocks: Array) -> Fields:
    """Read blocks ``[n, 56]``."""
    halves, words = take_planes(blocks[:, 32:48], 4, 1), np.ascontiguousarray(blocks[:, 48:]).view("<u2")
    places = blocks[:, :32].astype(np.uint16) | (halves & 7).astype(np.uint16) << 8
    moved = np.int8(1) - (halves >> 3 << 1).view(np.int8)
    codes = codebook(BOOK).take(places) * np.int8(8) + np.repeat(moved, 8, axis=1)
    scales = ((words[:, :, None] >> THREES & 7) << 1 | 1).astype(np.uint8).reshape(-1, 16)
    return Fields(codes=codes, d=np.bitwise_or.reduce(words >> 12 << FOURS, axis=1).astype("<u2").view("<f2"), scales=scales)


def pack(fields: Fields) -> Array:
    """Write blocks ``[n, 56]``."""
    points = fields.codes + np.int8(1) >> 3
    places = codebook(BOOK).find(points)
    minus = (fields.codes < 8 * points)[:, ::8]
    halves = put_planes(places >> 8 | minus.astype(np.int64) << 3, 4, 1)
    number = np.ascontiguousarray(fields.d, dtype="<f2").view("<u2").astype(np.uint16)
    scales = np.bitwise_or.reduce((np.asarray(fields.scales).astype(np.uint16) >> 1).reshape(-1, 4, 4) << THREES, axis=2)
    words = scales | (number[:, None] >> FOURS & 15) << 12
    return side_by_side((places & 255).astype(np.uint8), halves, words.astype("<u2").view(np.uint8))


IQ1_M = BlockType(name="IQ1_M", number=29, size=256, nbytes=56, unpack=unpack, pack=pack, values=in_parts(8))
