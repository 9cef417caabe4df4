"""IQ3_XXS: points of 4 magnitudes with signs, a 4-bit scale for each 32, one float16 number; 256 elements in 98 bytes.

    bytes 0-1    d, float16
    bytes 2-65   places of points
    bytes 66-97  for each 32 elements a uint32: four times seven sign bits and the scale

The signs of eight elements have an even number of minuses. ``x = d * (2 scale + 1) / 4 * sign * point``; scales here are ``2 scale + 1``,
codes are points with their signs.
"""

from __future__ import annotations

import numpy as np

from refquant.layout.gguf.codebooks import SEVENS, codebook, in_parts, signs_of, with_parity, with_signs
from refquant.layout.gguf.fields import BlockType, Fields
from refquant.layout.gguf.grid_fits import GridSearch, quantize_to_grid
from refquant.layout.gguf.importance import Importance, block_weights, checked_weights
from refquant.layout.gguf.planes import put_half, side_by_side, take_half
from refquant.numerics.arrays import Array

BOOK = "IQ3_XXS"
SEARCH = GridSearch(book=BOOK, distances=2, size=32, even=True, reach=15, step=0.2, again="strays", smallest=1e-8, factor=1.0125)


def unpack(blocks: Array) -> Fields:
    """Read blocks ``[n, 98]``."""
    tails = np.ascontiguousarray(blocks[:, 66:]).view("<u4")
    signs = with_parity(tails[:, :, None] >> SEVENS & 127).reshape(-1, 32)
    codes = with_signs(codebook(BOOK).take(blocks[:, 2:66]), signs)
    return Fields(codes=codes, d=take_half(blocks, 0), scales=(tails >> 28 << 1 | 1).astype(np.uint8))


def pack(fields: Fields) -> Array:
    """Write blocks ``[n, 98]``."""
    places = codebook(BOOK).find(np.abs(fields.codes)).astype(np.uint8)
    signs = (signs_of(fields.codes) & 127).reshape(-1, 8, 4).astype(np.uint32) << SEVENS
    tails = np.bitwise_or.reduce(signs, axis=2) | np.asarray(fields.scales).astype(np.uint32) >> 1 << 28
    return side_by_side(put_half(np.asarray(fields.d)), places, tails.astype("<u4").view(np.uint8))


def quantize(x: Array) -> Fields:
    """Quantize ``[n, 256]``; NumericalError if a scale overflows float16, or a sum of squares float32."""
    with np.errstate(over="ignore", under="ignore"):
        w = checked_weights(x, x * x)
    return quantize_to_grid(x, w, SEARCH)


def weigh_iq3_xxs(x: Array, importance: Importance) -> Fields:
    """Quantize ``[n, 256]`` with an importance; NumericalError if a scale overflows float16, or a sum of squares float32."""
    return quantize_to_grid(x, block_weights(x, importance, 128), SEARCH)


IQ3_XXS = BlockType(name="IQ3_XXS", number=18, size=256, nbytes=98, unpack=unpack, pack=pack, values=in_parts(4), quantize=quantize)
