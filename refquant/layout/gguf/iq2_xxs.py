"""IQ2_XXS: points of 8 magnitudes with signs, a 4-bit scale for each 32, one float16 number; 256 elements in 66 bytes.

    bytes 0-1    d, float16
    bytes 2-65   for each 32 elements: four bytes, the places of points, and a uint32, four times seven sign bits and the scale

The signs of eight elements have an even number of minuses. ``x = d * (2 scale + 1) / 8 * sign * point``; scales here are ``2 scale + 1``,
codes are points with their signs.
"""

from __future__ import annotations

import numpy as np

from refquant.layout.gguf.codebooks import SEVENS, codebook, in_parts, signs_of, with_parity, with_signs
from refquant.layout.gguf.fields import BlockType, Fields
from refquant.layout.gguf.grid_fits import GridSearch, quantize_to_grid
from refquant.layout.gguf.importance import Importance, block_weights
from refquant.layout.gguf.planes import put_half, side_by_side, take_half
from refquant.numerics.arrays import Array

BOOK = "IQ2_XXS"
SEARCH = GridSearch(book=BOOK, distances=2, size=32, even=True, reach=6, step=0.1, again="all", smallest=1e-15, fitted=True)


def unpack(blocks: Array) -> Fields:
    """Read blocks ``[n, 66]``."""
    words = np.ascontiguousarray(blocks[:, 2:]).view("<u4").reshape(-1, 8, 2)
    places = np.ascontiguousarray(words[:, :, 0]).view(np.uint8)
    signs = with_parity(words[:, :, 1, None] >> SEVENS & 127).reshape(-1, 32)
    scales = (words[:, :, 1] >> 28 << 1 | 1).astype(np.uint8)
    return Fields(codes=with_signs(codebook(BOOK).take(places), signs), d=take_half(blocks, 0), scales=scales)


def pack(fields: Fields) -> Array:
    """Write blocks ``[n, 66]``."""
    places = codebook(BOOK).find(np.abs(fields.codes)).astype(np.uint8).view("<u4")
    signs = (signs_of(fields.codes) & 127).reshape(-1, 8, 4).astype(np.uint32) << SEVENS
    tails = np.bitwise_or.reduce(signs, axis=2) | np.asarray(fields.scales).astype(np.uint32) >> 1 << 28
    words = np.stack([places, tails], axis=2).astype("<u4").reshape(-1, 16)
    return side_by_side(put_half(np.asarray(fields.d)), words.view(np.uint8))


def weigh_iq2_xxs(x: Array, importance: Importance) -> Fields:
    """Quantize ``[n, 256]`` with an importance; NumericalError if a scale overflows float16, or a sum of squares float32."""
    return quantize_to_grid(x, block_weights(x, importance, 256), SEARCH)


IQ2_XXS = BlockType(name="IQ2_XXS", number=16, size=256, nbytes=66, unpack=unpack, pack=pack, values=in_parts(8))
