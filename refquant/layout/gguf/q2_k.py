"""Q2_K: 256 codes of 2 bits, a 4-bit scale and minimum for each 16, two float16 numbers; 84 bytes.

bytes 0-15   group g: scale in the low half of byte g, minimum in the high half
bytes 16-79  planes of 2 bits, runs of 32
bytes 80-81  d, float16
bytes 82-83  dmin, float16                                x = (d * scale) * code - dmin * min
"""

from __future__ import annotations

import numpy as np

from refquant.layout.gguf.fields import BlockType, Fields, scaled_values
from refquant.layout.gguf.planes import put_half, put_planes, side_by_side, take_half, take_planes
from refquant.layout.gguf.super_blocks import quantize_q2_k
from refquant.numerics.arrays import Array


def unpack(blocks: Array) -> Fields:
    """Read blocks ``[n, 84]``."""
    return Fields(
        codes=take_planes(blocks[:, 16:80], 2, 32),
        d=take_half(blocks, 80),
        m=take_half(blocks, 82),
        scales=blocks[:, :16] & 15,
        mins=blocks[:, :16] >> 4,
    )


def pack(fields: Fields) -> Array:
    """Write blocks ``[n, 84]``."""
    groups = np.asarray(fields.scales) | np.asarray(fields.mins) << 4
    halves = [put_half(np.asarray(fields.d)), put_half(np.asarray(fields.m))]
    return side_by_side(groups, put_planes(fields.codes, 2, 32), *halves)


Q2_K = BlockType(name="Q2_K", number=10, size=256, nbytes=84, unpack=unpack, pack=pack, values=scaled_values, quantize=quantize_q2_k)
