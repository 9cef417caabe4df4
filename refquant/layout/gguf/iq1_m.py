"""IQ1_M: IQ1_S's points, each moved by an eighth; a 3-bit scale for each 16, one float16 number; 256 elements in 56 bytes.

    bytes 0-31   the eight lower bits of the points' places
    bytes 32-47  low and high half of byte j, for points 2 j and 2 j + 1: the three upper bits of the place, and the direction
    bytes 48-55  four uint16: word i has scales 4 i to 4 i + 3, three bits each, and bits 4 i to 4 i + 3 of the float16 number d

``x = d * (2 scale + 1) * (point + 1/8)``, minus an eighth where the direction's bit is set. Scales and codes here are IQ1_S's.

Quantizing is IQ1_S's with groups of 16, whose halves are moved each on its own; sums over a half are taken from what is above both cuts,
since steps are 1. The float16 number is in the end fitted to all codes and scales of the block, and taken times 1.1125. Without an
importance weights are ``x^2``.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import numpy as np

from refquant.layout.gguf.codebooks import codebook, in_parts
from refquant.layout.gguf.fields import BlockType, Fields, stored_half
from refquant.layout.gguf.grid_fits import rounded_scales
from refquant.layout.gguf.group_fits import in_groups, in_rows
from refquant.layout.gguf.importance import Importance, block_weights, checked_weights
from refquant.layout.gguf.iq1_s import THREES
from refquant.layout.gguf.planes import put_planes, side_by_side, take_planes
from refquant.layout.gguf.ternary_fits import BOOK, EIGHTH, fit_ternary, running
from refquant.numerics.arrays import Array

SHIFTS = np.array([[False, False], [False, True], [True, False], [True, True]])
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


def quantize(x: Array) -> Fields:
    """Quantize ``[n, 256]``; NumericalError if a scale overflows float16, or a sum of squares float32."""
    with np.errstate(over="ignore", under="ignore"):
        w = checked_weights(x, x * x)
    return _quantized(x, w)


def weigh_iq1_m(x: Array, importance: Importance) -> Fields:
    """Quantize ``[n, 256]`` with an importance; NumericalError if a scale overflows float16, or a sum of squares float32."""
    return _quantized(x, block_weights(x, importance, 128))


def _quantized(x: Array, w: Array) -> Fields:
    fit = fit_ternary(in_groups(x, 16), in_groups(w, 16), 1e-7, _sums, SHIFTS)
    scales = fit.scale.reshape(-1, 16)
    _, odd = rounded_scales(scales, 7, 1)
    empty = scales.max(axis=1) == 0
    down = fit.down & ~np.repeat(empty, 16)
    codes = in_rows(8 * (fit.levels - 1) + np.repeat(np.where(down, -1, 1), 8, axis=0), 256).astype(np.int8)
    with np.errstate(all="ignore"):
        q = codes.astype(np.float32) / np.float32(8) * np.repeat(odd.astype(np.float32), 16, axis=1)
        qx, qq = np.cumsum(w * q * x, axis=1)[:, -1], np.cumsum(w * q * q, axis=1)[:, -1]
        d = np.where(qq > 0, qx / qq, scales.max(axis=1) / np.float32(15)) * np.float32(1.1125)
    return Fields(codes=codes, d=stored_half(np.where(empty, np.float32(0), d), "scale"), scales=odd)


def _sums(wx: Array, w: Array, order: Array) -> Iterator[tuple[int, int, int, Array, Array]]:
    of_half = [(order < 8) == first for first in (True, False)]
    x_until = [running(np.where(mine, wx, np.float32(0))) for mine in of_half]
    w_until = [running(np.where(mine, w, np.float32(0))) for mine in of_half]
    values = [[np.float32(level) + shift for level in (-1, 0, 1)] for shift in (EIGHTH, -EIGHTH)]
    for first in range(17):
        for second in range(first, 17):
            qx, qq = [], []
            for xs, ws in zip(x_until, w_until, strict=True):
                below = xs[first] + xs[second]
                qx.append([xs[16] * high - below for _, _, high in values])
                qq.append([_square(ws, first, second, *steps) for steps in values])
            for number, (one, other) in enumerate(product((0, 1), (0, 1))):
                yield first, second, number, qx[0][one] + qx[1][other], qq[0][one] + qq[1][other]


def _square(w: Array, first: int, second: int, low: np.float32, middle: np.float32, high: np.float32) -> Array:
    squares = w[16] * high * high
    return np.asarray(squares + w[first] * (low * low - middle * middle) + w[second] * (middle * middle - high * high))


IQ1_M = BlockType(name="IQ1_M", number=29, size=256, nbytes=56, unpack=unpack, pack=pack, values=in_parts(8), quantize=quantize)
