"""Q3_K: 256 codes of 3 bits, a 6-bit scale for each 16, one float16 number; 110 bytes.

bytes 0-31     the third bits: planes of 1 bit, runs of 32
bytes 32-95    the two others: planes of 2 bits, runs of 32
bytes 96-107   scales plus 32: the low halves of bytes 0-7 and then their high halves are the four lower bits of scales 0 to 15, and
               bits 2k, 2k+1 of byte 8 + j the two upper bits of scale 4 k + j
bytes 108-109  d, float16                                 x = (d * scale) * (code - 4)
"""

from __future__ import annotations

import numpy as np

from refquant.layout.gguf.fields import BlockType, Fields, scaled_values
from refquant.layout.gguf.planes import put_half, put_planes, side_by_side, take_half, take_planes
from refquant.layout.gguf.super_blocks import quantize_q3_k
from refquant.numerics.arrays import Array


def unpack(blocks: Array) -> Fields:
    """Read blocks ``[n, 110]``; codes are -4..3, scales -32..31."""
    codes = take_planes(blocks[:, 32:96], 2, 32)
    codes |= take_planes(blocks[:, :32], 1, 32, place=2)
    scales = take_planes(blocks[:, 96:104], 4, 8)
    scales |= take_planes(blocks[:, 104:108], 2, 4, place=4)
    return Fields(codes=codes.view(np.int8) - np.int8(4), d=take_half(blocks, 108), scales=scales.view(np.int8) - np.int8(32))


def pack(fields: Fields) -> Array:
    """Write blocks ``[n, 110]``."""
    codes = (fields.codes + np.int8(4)).view(np.uint8)
    scales = (np.asarray(fields.scales) + np.int8(32)).view(np.uint8)
    parts = [put_planes(codes >> 2, 1, 32), put_planes(codes & 3, 2, 32), put_planes(scales & 15, 4, 8), put_planes(scales >> 4, 2, 4)]
    return side_by_side(*parts, put_half(np.asarray(fields.d)))


Q3_K = BlockType(name="Q3_K", number=11, size=256, nbytes=110, unpack=unpack, pack=pack, values=scaled_values, quantize=quantize_q3_k)
