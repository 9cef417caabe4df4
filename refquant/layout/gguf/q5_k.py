"""Q5_K: 256 codes of 5 bits, a 6-bit scale and minimum for each 32, two float16 numbers; 176 bytes.

bytes 0-15    as Q4_K's
bytes 16-47   the fifth bits: planes of 1 bit, runs of 32
bytes 48-175  the others: planes of 4 bits, runs of 32    x = (d * scale) * code - dmin * min
"""

from __future__ import annotations

import numpy as np

from refquant.layout.gguf.fields import BlockType, Fields, scaled_values
from refquant.layout.gguf.planes import put_half, put_planes, side_by_side, take_half, take_planes
from refquant.layout.gguf.q4_k import put_six, take_six
from refquant.layout.gguf.super_blocks import quantize_q5_k
from refquant.numerics.arrays import Array


def unpack(blocks: Array) -> Fields:
    """Read blocks ``[n, 176]``."""
    scales, mins = take_six(blocks[:, 4:16])
    codes = take_planes(blocks[:, 48:], 4, 32)
    codes |= take_planes(blocks[:, 16:48], 1, 32, place=4)
    return Fields(codes=codes, d=take_half(blocks, 0), m=take_half(blocks, 2), scales=scales, mins=mins)


def pack(fields: Fields) -> Array:
    """Write blocks ``[n, 176]``."""
    halves = [put_half(np.asarray(fields.d)), put_half(np.asarray(fields.m))]
    groups = put_six(np.asarray(fields.scales), np.asarray(fields.mins))
    return side_by_side(*halves, groups, put_planes(fields.codes >> 4, 1, 32), put_planes(fields.codes & 15, 4, 32))


Q5_K = BlockType(name="Q5_K", number=13, size=256, nbytes=176, unpack=unpack, pack=pack, values=scaled_values, quantize=quantize_q5_k)
