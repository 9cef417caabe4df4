"""IQ3_S: points of 4 magnitudes with signs, a 4-bit scale for each 32, one float16 number; 256 elements in 110 bytes.

    bytes 0-1      d, float16
    bytes 2-65     the eight lower bits of the points' places
    bytes 66-73    their ninth bits, lowest first
    bytes 74-105   sign bits, lowest first
    bytes 106-109  low and high half of byte j: scales 2 j and 2 j + 1

``x = d * (2 scale + 1) * sign * point``; scales here are ``2 scale + 1``, codes are points with their signs. Read only.
"""

from __future__ import annotations

import numpy as np

from refquant.layout.gguf.codebooks import codebook, signs_of, with_signs
from refquant.layout.gguf.fields import BlockType, Fields, scaled_values
from refquant.layout.gguf.planes import put_half, put_planes, side_by_side, take_half, take_planes
from refquant.numerics.arrays import Array

BOOK = "IQ3_S"


def unpack(blocks: Array) -> Fields:
    """Read blocks ``[n, 110]``."""
    places = blocks[:, 2:66].astype(np.uint16) | take_planes(blocks[:, 66:74], 1, 1).astype(np.uint16) << 8
    codes = with_signs(codebook(BOOK).take(places), blocks[:, 74:106])
    return Fields(codes=codes, d=take_half(blocks, 0), scales=take_planes(blocks[:, 106:], 4, 1) << np.uint8(1) | np.uint8(1))


def pack(fields: Fields) -> Array:
    """Write blocks ``[n, 110]``."""
    places = codebook(BOOK).find(np.abs(fields.codes))
    lower, upper = (places & 255).astype(np.uint8), put_planes(places >> 8, 1, 1)
    scales = put_planes(np.asarray(fields.scales) >> 1, 4, 1)
    return side_by_side(put_half(np.asarray(fields.d)), lower, upper, signs_of(fields.codes), scales)


IQ3_S = BlockType(name="IQ3_S", number=21, size=256, nbytes=110, unpack=unpack, pack=pack, values=scaled_values)
