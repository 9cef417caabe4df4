"""Q6_K: 256 codes of 6 bits, a signed byte as scale for each 16, one float16 number; 210 bytes.

bytes 0-127    the four lower bits: planes of 4 bits, runs of 64
bytes 128-191  the two upper bits: planes of 2 bits, runs of 32
bytes 192-207  scales, two's complement
bytes 208-209  d, float16                                 x = (d * scale) * (code - 32)
"""

from __future__ import annotations

import numpy as np

from refquant.layout.gguf.fields import BlockType, Fields, scaled_values
from refquant.layout.gguf.planes import put_half, put_planes, side_by_side, take_half, take_planes
from refquant.layout.gguf.super_blocks import quantize_q6_k
from refquant.numerics.arrays import Array


def unpack(blocks: Array) -> Fields:
    """Read blocks ``[n, 210]``; codes are -32..31."""
    codes = take_planes(blocks[:, :128], 4, 64)
    codes |= take_planes(blocks[:, 128:192], 2, 32, place=4)
    return Fields(codes=codes.view(np.int8) - np.int8(32), d=take_half(blocks, 208), scales=blocks[:, 192:208].view(np.int8))


def pack(fields: Fields) -> Array:
    """Write blocks ``[n, 210]``."""
    codes = (fields.codes + np.int8(32)).view(np.uint8)
    scales = np.asarray(fields.scales).astype(np.int8).view(np.uint8)
    return side_by_side(put_planes(codes & 15, 4, 64), put_planes(codes >> 4, 2, 32), scales, put_half(np.asarray(fields.d)))


Q6_K = BlockType(name="Q6_K", number=14, size=256, nbytes=210, unpack=unpack, pack=pack, values=scaled_values, quantize=quantize_q6_k)
