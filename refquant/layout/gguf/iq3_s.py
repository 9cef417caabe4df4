"""IQ3_S: points of 4 magnitudes with signs, a 4-bit scale for each 32, one float16 number; 256 elements in 110 bytes.

    bytes 0-1      d, float16
    bytes 2-65     the eight lower bits of the points' places
    bytes 66-73    their ninth bits, lowest first
    bytes 74-105   sign bits, lowest first
    bytes 106-109  low and high half of byte j: scales 2 j and 2 j + 1

``x = d * (2 scale + 1) * sign * point``; scales here are ``2 scale + 1``, codes are points with their signs.

Quantizing has a fault of ggml's, which is repeated because its bytes are what is promised: behind a group of zeros the bytes of the
following groups' places and signs are written one group too early, while their ninth bits and their scales lie where they belong. Such a
block, unless its zeros are at the end, does not read as what was put in.
"""

from __future__ import annotations

import numpy as np

from refquant.layout.gguf.codebooks import codebook, signs_of, with_signs
from refquant.layout.gguf.fields import BlockType, Fields, scaled_values
from refquant.layout.gguf.grid_fits import GridSearch, quantize_to_grid
from refquant.layout.gguf.importance import Importance, block_weights, checked_weights
from refquant.layout.gguf.planes import put_half, put_planes, side_by_side, take_half, take_planes
from refquant.numerics.arrays import Array

BOOK = "IQ3_S"
SEARCH = GridSearch(book=BOOK, distances=3, size=32, even=False, reach=9, step=0.2, again="groups", smallest=1e-45, factor=1.033)


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


def quantize(x: Array) -> Fields:
    """Quantize ``[n, 256]``; NumericalError if a scale overflows float16, or a sum of squares float32."""
    with np.errstate(over="ignore", under="ignore"):
        w = checked_weights(x, x * x)
    return _closed_up(quantize_to_grid(x, w, SEARCH), x)


def weigh_iq3_s(x: Array, importance: Importance) -> Fields:
    """Quantize ``[n, 256]`` with an importance; NumericalError if a scale overflows float16, or a sum of squares float32."""
    return _closed_up(quantize_to_grid(x, block_weights(x, importance, 128), SEARCH), x)


def _closed_up(fields: Fields, x: Array) -> Fields:
    """Move lower bits of places, and signs, of groups that are not zeros to the front."""
    zeros = (x.reshape(-1, 8, 32) == 0).all(axis=2)
    some = np.flatnonzero(zeros.any(axis=1))
    if not some.size:
        return fields
    order = np.argsort(zeros[some], axis=1, kind="stable")[:, :, None]
    places = codebook(BOOK).find(np.abs(fields.codes[some])).reshape(-1, 8, 8)
    signs = signs_of(fields.codes[some]).reshape(-1, 8, 4)
    read = np.take_along_axis(places & 255, order, 1) | places & 256
    codes = fields.codes.copy()
    codes[some] = with_signs(codebook(BOOK).take(read.reshape(len(some), 64)), np.take_along_axis(signs, order, 1).reshape(len(some), 32))
    return Fields(codes=codes, d=fields.d, scales=fields.scales)


IQ3_S = BlockType(name="IQ3_S", number=21, size=256, nbytes=110, unpack=unpack, pack=pack, values=scaled_values, quantize=quantize)
