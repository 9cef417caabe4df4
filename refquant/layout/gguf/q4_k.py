"""Q4_K: 256 codes of 4 bits, a 6-bit scale and minimum for each 32, two float16 numbers; 144 bytes.

bytes 0-1     d, float16
bytes 2-3     dmin, float16
bytes 4-15    eight scales and eight minima of 6 bits: bytes 0-3 hold scales 0-3 and bytes 4-7 minima 0-3 in their six lower bits; their
              two upper bits are the two upper bits of scales and minima 4-7, whose lower four are the low and high halves of bytes 8-11
bytes 16-143  planes of 4 bits, runs of 32                x = (d * scale) * code - dmin * min
"""

from __future__ import annotations

import numpy as np

from refquant.layout.gguf.fields import BlockType, Fields, scaled_values
from refquant.layout.gguf.planes import put_half, put_planes, records, side_by_side, take_half, take_planes
from refquant.layout.gguf.super_blocks import quantize_q4_k
from refquant.numerics.arrays import Array


def unpack(blocks: Array) -> Fields:
    """Read blocks ``[n, 144]``."""
    scales, mins = take_six(blocks[:, 4:16])
    return Fields(codes=take_planes(blocks[:, 16:], 4, 32), d=take_half(blocks, 0), m=take_half(blocks, 2), scales=scales, mins=mins)


def pack(fields: Fields) -> Array:
    """Write blocks ``[n, 144]``."""
    halves = [put_half(np.asarray(fields.d)), put_half(np.asarray(fields.m))]
    return side_by_side(*halves, put_six(np.asarray(fields.scales), np.asarray(fields.mins)), put_planes(fields.codes, 4, 32))


def take_six(packed: Array) -> tuple[Array, Array]:
    """Eight scales and eight minima out of twelve bytes a block, four bytes at a time."""
    first, second, rest = records(packed).copy().view(np.uint32).reshape(-1, 3).T
    low, middle, high = (np.uint32(field * 0x01010101) for field in (0x0F, 0x30, 0x3F))
    found = np.empty((len(packed), 4), np.uint32)
    found[:, 0] = first & high
    found[:, 1] = rest & low | first >> np.uint32(2) & middle
    found[:, 2] = second & high
    found[:, 3] = rest >> np.uint32(4) & low | second >> np.uint32(2) & middle
    bytes_of = found.view(np.uint8)
    return bytes_of[:, :8], bytes_of[:, 8:]


def put_six(scales: Array, mins: Array) -> Array:
    """The inverse of :func:`take_six`."""
    low, high, low_min, high_min = scales[:, :4], scales[:, 4:], mins[:, :4], mins[:, 4:]
    return np.concatenate([low | high >> 4 << 6, low_min | high_min >> 4 << 6, high & 15 | (high_min & 15) << 4], axis=1).astype(np.uint8)


Q4_K = BlockType(name="Q4_K", number=12, size=256, nbytes=144, unpack=unpack, pack=pack, values=scaled_values, quantize=quantize_q4_k)
