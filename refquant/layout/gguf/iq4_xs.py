"""IQ4_XS: 256 codes of IQ4_NL's table, a 6-bit scale for each 32, one float16 number; 136 bytes.

    bytes 0-1    d, float16
    bytes 2-3    bits 2k, 2k+1 of byte c: the two upper bits of scale 4 c + k
    bytes 4-7    low and high half of byte j: the four lower bits of scales 2 j and 2 j + 1
    bytes 8-135  codes: nibbles, runs of 16                  x = (d * (scale - 32)) * TABLE[nibble]

Codes here are the table's members, scales -32..31. Quantizing: each group is fitted as IQ4_NL's are; the scale of largest magnitude over
-32 is d, the others are rounded to its multiples, and codes are made again on these. That is done before d is rounded to float16.
"""

from __future__ import annotations

import numpy as np

from refquant.layout.gguf.fields import BlockType, Fields, scaled_values, stored_half
from refquant.layout.gguf.group_fits import extreme, in_groups, in_rows, nearest
from refquant.layout.gguf.importance import Importance, block_weights, checked_weights
from refquant.layout.gguf.iq4_nl import MEMBERS, TABLE, members_on
from refquant.layout.gguf.planes import put_half, put_planes, side_by_side, take_half, take_planes
from refquant.layout.gguf.table_fits import fit_to_table
from refquant.numerics.arrays import Array

PAIRS = np.arange(0, 8, 2, dtype=np.uint8)


def unpack(blocks: Array) -> Fields:
    """Read blocks ``[n, 136]``."""
    scales = take_planes(blocks[:, 4:8], 4, 1)
    scales |= (blocks[:, 2:4, None] >> PAIRS & np.uint8(3)).reshape(-1, 8) << np.uint8(4)
    codes = np.take(TABLE, take_planes(blocks[:, 8:], 4, 16))
    return Fields(codes=codes, d=take_half(blocks, 0), scales=scales.view(np.int8) - np.int8(32))


def pack(fields: Fields) -> Array:
    """Write blocks ``[n, 136]``."""
    scales = (np.asarray(fields.scales) + np.int8(32)).view(np.uint8)
    upper = np.bitwise_or.reduce((scales >> 4).reshape(-1, 2, 4) << PAIRS, axis=2)
    codes = put_planes(np.searchsorted(TABLE, fields.codes), 4, 16)
    return side_by_side(put_half(np.asarray(fields.d)), upper, put_planes(scales & 15, 4, 1), codes)


def quantize(x: Array) -> Fields:
    """Quantize ``[n, 256]``; NumericalError if a scale overflows float16."""
    with np.errstate(over="ignore", under="ignore"):
        w = checked_weights(x, x * x)
    return _quantized(x, w)


def weigh_iq4_xs(x: Array, importance: Importance) -> Fields:
    """Quantize ``[n, 256]`` with an importance; NumericalError if a scale overflows float16."""
    return _quantized(x, block_weights(x, importance, 128))


def _quantized(x: Array, w: Array) -> Fields:
    groups = in_groups(x, 32)
    found = fit_to_table(groups, in_groups(w, 32), MEMBERS).reshape(-1, 8)
    d = extreme(found.T) / np.float32(-32)
    with np.errstate(all="ignore"):
        inverse = np.where(d != 0, np.float32(1) / d, np.float32(0))
        scales = np.clip(nearest(inverse[:, None] * found), -32, 31)
    codes = members_on(groups, (d[:, None] * scales.astype(np.float32)).reshape(-1))
    return Fields(codes=in_rows(codes, 256), d=stored_half(d, "scale"), scales=scales.astype(np.int8))


IQ4_XS = BlockType(name="IQ4_XS", number=23, size=256, nbytes=136, unpack=unpack, pack=pack, values=scaled_values, quantize=quantize)
