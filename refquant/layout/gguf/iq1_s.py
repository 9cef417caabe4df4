"""IQ1_S: points of 8 ternary coordinates, moved by an eighth; a 3-bit scale for each 32, one float16 number; 256 elements in 50 bytes.

    bytes 0-1    d, float16
    bytes 2-33   the eight lower bits of the points' places
    bytes 34-49  for each 32 elements a uint16: four times the three upper bits of places, the scale, and the direction

``x = d * (2 scale + 1) * (point + 1/8)``, minus an eighth where the direction's bit is set. Scales here are ``2 scale + 1``, codes eight
times what is in the second bracket: 8 point + 1 or - 1.

Quantizing needs an importance: all cuts of a group's sorted numbers into three are tried (:mod:`~refquant.layout.gguf.ternary_fits`),
scales rounded to ``2 k + 1``, `k` of 3 bits, and the float16 number taken times 1.125.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from refquant.layout.gguf.codebooks import codebook, in_parts
from refquant.layout.gguf.fields import BlockType, Fields
from refquant.layout.gguf.grid_fits import rounded_scales
from refquant.layout.gguf.group_fits import in_groups, in_rows
from refquant.layout.gguf.importance import Importance, block_weights
from refquant.layout.gguf.planes import put_half, side_by_side, take_half
from refquant.layout.gguf.ternary_fits import BOOK, EIGHTH, fit_ternary, running
from refquant.numerics.arrays import Array

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


def weigh_iq1_s(x: Array, importance: Importance) -> Fields:
    """Quantize ``[n, 256]`` with an importance; NumericalError if a scale overflows float16, or a sum of squares float32."""
    w = in_groups(block_weights(x, importance, 128), 32)
    fit = fit_ternary(in_groups(x, 32), w, 1e-12, _sums, np.array([[False] * 4, [True] * 4]))
    scales = fit.scale.reshape(-1, 8)
    d, odd = rounded_scales(scales, 7, 1.125)
    up = ~fit.down | np.repeat(scales.max(axis=1) == 0, 8)  # the direction's bit is written with the scale's
    codes = 8 * (fit.levels - 1) + np.repeat(np.where(up, 1, -1), 8, axis=0)
    return Fields(codes=in_rows(codes, 256).astype(np.int8), d=d, scales=odd)


def _sums(wx: Array, w: Array, order: Array) -> Iterator[tuple[int, int, int, Array, Array]]:
    x_until, w_until = running(wx), running(w)
    size = len(order)
    values = [[np.float32(level) + shift for level in (-1, 0, 1)] for shift in (EIGHTH, -EIGHTH)]
    for first in range(size + 1):
        for second in range(first, size + 1):
            xs = x_until[first], x_until[second] - x_until[first], x_until[size] - x_until[second]
            ws = w_until[first], w_until[second] - w_until[first], w_until[size] - w_until[second]
            for number, (low, middle, high) in enumerate(values):
                qx = xs[0] * low + xs[1] * middle + xs[2] * high
                qq = ws[0] * low * low + ws[1] * middle * middle + ws[2] * high * high
                yield first, second, number, qx, qq


IQ1_S = BlockType(name="IQ1_S", number=19, size=256, nbytes=50, unpack=unpack, pack=pack, values=in_parts(8))
