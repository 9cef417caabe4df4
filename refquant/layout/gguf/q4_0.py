"""Q4_0: 32 codes of 4 bits on a float16 scale of either sign, 18 bytes.

    bytes 0-1    d, float16
    bytes 2-17   low half of byte j: element j; high half: element j + 16          x = d * (code - 8)

Quantizing: with ``v`` the number of largest magnitude, the first if there are several, ``d = v / -8``, so that ``v`` itself has code 0;
``code = min(15, trunc(x * (1/d) + 8.5))``, every operation rounded to float32.
"""

from __future__ import annotations

import numpy as np

from refquant.layout.gguf.fields import BlockType, Fields, reciprocal, scaled_values, stored_half, times
from refquant.layout.gguf.planes import put_half, put_planes, side_by_side, take_half, take_planes
from refquant.numerics.arrays import Array
from refquant.numerics.extremes import row_extremes


def unpack(blocks: Array) -> Fields:
    """Read blocks ``[n, 18]``; codes are -8..7."""
    return Fields(codes=take_planes(blocks[:, 2:], 4, 16).view(np.int8) - np.int8(8), d=take_half(blocks, 0))


def pack(fields: Fields) -> Array:
    """Write blocks ``[n, 18]``."""
    return side_by_side(put_half(np.asarray(fields.d)), put_planes(fields.codes + np.int8(8), 4, 16))


def quantize(x: Array) -> Fields:
    """Quantize ``[n, 32]``; NumericalError if a scale overflows float16."""
    codes, d = signed_extreme(x, 8)
    return Fields(codes=codes, d=stored_half(d, "scale"))


def signed_extreme(x: Array, half: int) -> tuple[Array, Array]:
    """Codes ``-half .. half - 1`` and scales that give the number of largest magnitude the code ``-half``."""
    lo, hi = row_extremes(x)
    with np.errstate(over="ignore"):
        top = np.copysign(np.maximum(-lo, hi), lo + hi)  # the sign of a sum is always right
    tied = np.flatnonzero(-lo == hi)  # as large on both sides of 0, or all zeros, whose sign counts: there the first has to be found
    if tied.size:
        rows = x[tied]
        top[tied] = rows[np.arange(tied.size), np.argmax(np.abs(rows), axis=1)]
    d = top / np.float32(-half)
    moved = times(x, reciprocal(d))
    moved += np.float32(half + 0.5)
    codes = moved.astype(np.int8)  # truncates; up to 2 * half
    np.minimum(codes, np.full_like(codes, 2 * half - 1), out=codes)  # of a scalar, NumPy's minimum of bytes takes ten times as long
    codes -= np.int8(half)
    return codes, d


Q4_0 = BlockType(name="Q4_0", number=2, size=32, nbytes=18, unpack=unpack, pack=pack, values=scaled_values, quantize=quantize)
