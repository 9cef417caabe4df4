"""TQ1_0: 256 ternary codes, five a byte, on a float16 scale, 54 bytes.

    bytes 0-31   byte l: elements l, l + 32, ..., l + 128
    bytes 32-47  byte l: elements 160 + l, 160 + l + 16, ..., 160 + l + 64
    bytes 48-51  byte l: elements 240 + l, 240 + l + 4, ..., 240 + l + 12; a fifth trit of 0
    bytes 52-53  d, float16                                   x = d * (trit - 1)

A byte is ``ceil(t * 256 / 243)``, with ``t`` the number whose base-3 digits are the trits, the first element's highest: a fraction of 243
as a fraction of 256, so that multiplying by 3 pushes digit after digit over the byte's upper end. Trit ``k`` is
``((byte * 3^k mod 256) * 3) div 256``. Bytes that are no such fraction read as the next one; packing what was read makes them canonical.

Quantizing is TQ2_0's.
"""

from __future__ import annotations

import numpy as np

from refquant.layout.gguf.fields import BlockType, Fields, scaled_values
from refquant.layout.gguf.planes import put_half, take_half
from refquant.layout.gguf.tq2_0 import quantize
from refquant.numerics.arrays import Array

# First byte, bytes, trits a byte.
RUNS = ((0, 32, 5), (32, 16, 5), (48, 4, 4))


def unpack(blocks: Array) -> Fields:
    """Read blocks ``[n, 54]``; codes are -1..1."""
    codes = np.empty((len(blocks), 256), np.int8)
    reached = 0
    for start, run, trits in RUNS:
        rest = blocks[:, start : start + run].astype(np.uint16)
        for _ in range(trits):
            rest *= 3
            codes[:, reached : reached + run] = rest >> 8
            rest &= 255
            reached += run
    codes -= 1
    return Fields(codes=codes, d=take_half(blocks, 52))


def pack(fields: Fields) -> Array:
    """Write blocks ``[n, 54]``."""
    trits_of = (fields.codes + np.int8(1)).astype(np.uint16)
    parts, reached = [], 0
    for _, run, trits in RUNS:
        total = np.zeros((len(trits_of), run), np.uint16)
        for k in range(5):
            total *= 3
            if k < trits:
                total += trits_of[:, reached : reached + run]
                reached += run
        parts.append(((total * 256 + np.uint16(242)) // 243).astype(np.uint8))
    return np.concatenate([*parts, put_half(np.asarray(fields.d))], axis=1)


TQ1_0 = BlockType(name="TQ1_0", number=34, size=256, nbytes=54, unpack=unpack, pack=pack, values=scaled_values, quantize=quantize)
