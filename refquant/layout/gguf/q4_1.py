"""Q4_1: 32 codes of 4 bits on a float16 scale and minimum, 20 bytes.

    bytes 0-1    d, float16
    bytes 2-3    m, float16
    bytes 4-19   low half of byte j: element j; high half: element j + 16          x = d * code + m

Quantizing: ``d = (max - min) / 15``, ``m = min``, ``code = min(15, trunc((x - min) * (1/d) + 0.5))``, every operation rounded to float32.
"""

from __future__ import annotations

import numpy as np

from refquant.layout.gguf.fields import BlockType, Fields, reciprocal, scaled_values, spread, stored_half
from refquant.layout.gguf.planes import put_half, put_planes, side_by_side, take_half, take_planes
from refquant.numerics.arrays import Array
from refquant.numerics.extremes import row_extremes


def unpack(blocks: Array) -> Fields:
    """Read blocks ``[n, 20]``."""
    return Fields(codes=take_planes(blocks[:, 4:], 4, 16), d=take_half(blocks, 0), m=take_half(blocks, 2))


def pack(fields: Fields) -> Array:
    """Write blocks ``[n, 20]``."""
    return side_by_side(put_half(np.asarray(fields.d)), put_half(np.asarray(fields.m)), put_planes(fields.codes, 4, 16))


def quantize(x: Array) -> Fields:
    """Quantize ``[n, 32]``; NumericalError if a scale or minimum overflows float16."""
    return from_minimum(x, 15)


def from_minimum(x: Array, highest: int) -> Fields:
    """Codes ``0 .. highest`` that count steps from the smallest number."""
    low, high = row_extremes(x)
    zeros = np.flatnonzero(low == 0)  # the sign of a minimum that is zero is stored: that which NumPy finds in the row
    low[zeros], high[zeros] = x[zeros].min(axis=1), x[zeros].max(axis=1)
    with np.errstate(over="ignore"):
        d = (high - low) / np.float32(highest)
    scale = stored_half(d, "scale")
    moved = x - spread(low, x)
    moved *= spread(reciprocal(d), x)
    moved += np.float32(0.5)
    codes = moved.astype(np.uint8)  # truncates
    np.minimum(codes, np.full_like(codes, highest), out=codes)  # of a scalar, NumPy's minimum of bytes takes ten times as long
    return Fields(codes=codes, d=scale, m=stored_half(low, "minimum"))


Q4_1 = BlockType(name="Q4_1", number=3, size=32, nbytes=20, unpack=unpack, pack=pack, values=scaled_values, quantize=quantize)
