"""IQ2_XS: points of 8 magnitudes with signs, a 4-bit scale for each 16, one float16 number; 256 elements in 74 bytes.

    bytes 0-1    d, float16
    bytes 2-65   for each 8 elements a uint16: nine bits, the place of a point, and seven sign bits
    bytes 66-73  low and high half of byte j: scales 2 j and 2 j + 1

The signs of eight elements have an even number of minuses. ``x = d * (2 scale + 1) / 8 * sign * point``; scales here are ``2 scale + 1``,
codes are points with their signs.
"""

from __future__ import annotations

import numpy as np

from refquant.layout.gguf.codebooks import codebook, in_parts, signs_of, with_parity, with_signs
from refquant.layout.gguf.fields import BlockType, Fields
from refquant.layout.gguf.grid_fits import GridSearch, quantize_to_grid
from refquant.layout.gguf.importance import Importance, block_weights
from refquant.layout.gguf.planes import put_half, put_planes, side_by_side, take_half, take_planes
from refquant.numerics.arrays import Array

BOOK = "IQ2_XS"
SEARCH = GridSearch(book=BOOK, distances=2, size=16, even=True, reach=9, step=0.1, again="strays", smallest=1e-15)


def unpack(blocks: Array) -> Fields:
    """Read blocks ``[n, 74]``."""
    words = np.ascontiguousarray(blocks[:, 2:66]).view("<u2")
    codes = with_signs(codebook(BOOK).take(words & 511), with_parity(words >> 9))
    return Fields(codes=codes, d=take_half(blocks, 0), scales=take_planes(blocks[:, 66:], 4, 1) << np.uint8(1) | np.uint8(1))


def pack(fields: Fields) -> Array:
    """Write blocks ``[n, 74]``."""
    words = codebook(BOOK).find(np.abs(fields.codes)) | (signs_of(fields.codes) & 127).astype(np.int64) << 9
    scales = put_planes(np.asarray(fields.scales) >> 1, 4, 1)
    return side_by_side(put_half(np.asarray(fields.d)), words.astype("<u2").view(np.uint8), scales)


def weigh_iq2_xs(x: Array, importance: Importance) -> Fields:
    """Quantize ``[n, 256]`` with an importance; NumericalError if a scale overflows float16, or a sum of squares float32."""
    return quantize_to_grid(x, block_weights(x, importance, 256), SEARCH)


IQ2_XS = BlockType(name="IQ2_XS", number=17, size=256, nbytes=74, unpack=unpack, pack=pack, values=in_parts(8))
