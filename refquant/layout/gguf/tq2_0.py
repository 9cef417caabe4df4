"""TQ2_0: 256 ternary codes in 2 bits each on a float16 scale, 66 bytes.

    bytes 0-63   codes plus 1: planes of 2 bits, runs of 32
    bytes 64-65  d, float16                                   x = d * (code - 1)

Quantizing: ``d = max|x|``, ``code = round(x * (1/d))``, ties away from zero. A stored 3, which no quantizer writes, reads as 2.
"""

from __future__ import annotations

import numpy as np

from refquant.layout.gguf.fields import BlockType, Fields, largest_magnitude, reciprocal, scaled_values, stored_half, times
from refquant.layout.gguf.planes import put_half, put_planes, side_by_side, take_half, take_planes
from refquant.numerics.arrays import Array


def unpack(blocks: Array) -> Fields:
    """Read blocks ``[n, 66]``; codes are -1..2."""
    return Fields(codes=take_planes(blocks[:, :64], 2, 32).view(np.int8) - np.int8(1), d=take_half(blocks, 64))


def pack(fields: Fields) -> Array:
    """Write blocks ``[n, 66]``."""
    return side_by_side(put_planes(fields.codes + np.int8(1), 2, 32), put_half(np.asarray(fields.d)))


def quantize(x: Array) -> Fields:
    """Quantize ``[n, 256]``; NumericalError if a scale overflows float16."""
    d = largest_magnitude(x)
    steps = times(x, reciprocal(d))  # of magnitude 1 or an ulp more
    half = np.float32(0.5)
    return Fields(codes=(steps >= half).view(np.int8) - (steps <= -half).view(np.int8), d=stored_half(d, "scale"))


TQ2_0 = BlockType(name="TQ2_0", number=35, size=256, nbytes=66, unpack=unpack, pack=pack, values=scaled_values, quantize=quantize)
