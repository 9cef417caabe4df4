"""IQ2_S: points of 8 magnitudes with signs, a 4-bit scale for each 16, one float16 number; 256 elements in 82 bytes.

    bytes 0-1    d, float16
    bytes 2-33   the eight lower bits of the points' places
    bytes 34-65  sign bits, lowest first
    bytes 66-73  bits 2k, 2k+1 of byte j: the two upper bits of place 4 j + k
    bytes 74-81  low and high half of byte j: scales 2 j and 2 j + 1

``x = d * (2 scale + 1) / 8 * sign * point``; scales here are ``2 scale + 1``, codes are points with their signs.
"""

from __future__ import annotations

import numpy as np

from refquant.layout.gguf.codebooks import codebook, in_parts, signs_of, with_signs
from refquant.layout.gguf.fields import BlockType, Fields
from refquant.layout.gguf.grid_fits import GridSearch, quantize_to_grid
from refquant.layout.gguf.importance import Importance, block_weights, checked_weights, mean_squares
from refquant.layout.gguf.planes import put_half, put_planes, side_by_side, take_half, take_planes
from refquant.numerics.arrays import Array

BOOK = "IQ2_S"
SEARCH = GridSearch(book=BOOK, distances=1, size=16, even=False, reach=9, step=0.1, again="strays", smallest=1e-8, factor=0.9875)


def unpack(blocks: Array) -> Fields:
    """Read blocks ``[n, 82]``."""
    places = blocks[:, 2:34].astype(np.uint16) | take_planes(blocks[:, 66:74], 2, 1).astype(np.uint16) << 8
    codes = with_signs(codebook(BOOK).take(places), blocks[:, 34:66])
    return Fields(codes=codes, d=take_half(blocks, 0), scales=take_planes(blocks[:, 74:], 4, 1) << np.uint8(1) | np.uint8(1))


def pack(fields: Fields) -> Array:
    """Write blocks ``[n, 82]``."""
    places = codebook(BOOK).find(np.abs(fields.codes))
    lower, upper = (places & 255).astype(np.uint8), put_planes(places >> 8, 2, 1)
    scales = put_planes(np.asarray(fields.scales) >> 1, 4, 1)
    return side_by_side(put_half(np.asarray(fields.d)), lower, signs_of(fields.codes), upper, scales)


def quantize(x: Array) -> Fields:
    """Quantize ``[n, 256]``; NumericalError if a scale overflows float16, or a sum of squares float32."""
    with np.errstate(over="ignore", under="ignore"):
        w = checked_weights(x, np.float32(0.25) * mean_squares(x, 128)[:, None] + x * x)
    return quantize_to_grid(x, w, SEARCH)


def weigh_iq2_s(x: Array, importance: Importance) -> Fields:
    """Quantize ``[n, 256]`` with an importance; NumericalError if a scale overflows float16, or a sum of squares float32."""
    return quantize_to_grid(x, block_weights(x, importance, 128), SEARCH)


IQ2_S = BlockType(name="IQ2_S", number=22, size=256, nbytes=82, unpack=unpack, pack=pack, values=in_parts(8), quantize=quantize)
