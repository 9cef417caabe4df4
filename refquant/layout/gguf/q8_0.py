"""Q8_0: 32 signed bytes on a float16 scale, 34 bytes.

    bytes 0-1    d, float16
    bytes 2-33   codes, two's complement                 x = d * code

Quantizing (gguf, ggml): ``d = max|x| / 127`` in float32, ``code = round(x * (1/d))``, ties away from zero, with ``1/d`` of the unrounded
``d``; what is stored is ``d`` rounded to float16. The rounding of ``d`` is not undone: codes belong to the unrounded scale.
"""

from __future__ import annotations

import numpy as np

from refquant.layout.gguf.fields import BlockType, Fields, half_away_codes, largest_magnitude, reciprocal, scaled_values, stored_half, times
from refquant.layout.gguf.planes import put_half, side_by_side, take_half
from refquant.numerics.arrays import Array


def unpack(blocks: Array) -> Fields:
    """Read blocks ``[n, 34]``."""
    return Fields(codes=blocks[:, 2:].view(np.int8), d=take_half(blocks, 0))


def pack(fields: Fields) -> Array:
    """Write blocks ``[n, 34]``."""
    return side_by_side(put_half(np.asarray(fields.d)), np.ascontiguousarray(fields.codes, dtype=np.int8).view(np.uint8))


def quantize(x: Array) -> Fields:
    """Quantize ``[n, 32]``; NumericalError if a scale overflows float16."""
    d = largest_magnitude(x) / np.float32(127)
    return Fields(codes=half_away_codes(times(x, reciprocal(d))), d=stored_half(d, "scale"))


Q8_0 = BlockType(name="Q8_0", number=8, size=32, nbytes=34, unpack=unpack, pack=pack, values=scaled_values, quantize=quantize)
