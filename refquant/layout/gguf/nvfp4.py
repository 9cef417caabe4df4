"""NVFP4: 64 codes of e2m1, a scale in a byte for each 16; 36 bytes.

    bytes 0-3    scales: e4m3 without its sign
    bytes 4-35   codes: nibbles, runs of 8                    x = SCALES[byte] * TABLE[code]

Table and scales are MXFP4's, in that the one is doubled and the others half of what they say. Code 8 is +0. The scale 0x7f, e4m3's NaN,
is 0, and 0x80 to 0xff are read without their highest bit, but 0xff, which is 240 and not 0. A scale of the whole
tensor, which some programs have, is not in a block. Read only.
"""

from __future__ import annotations

import numpy as np

from refquant.layout.gguf.fields import BlockType, Fields
from refquant.layout.gguf.mxfp4 import TABLE
from refquant.layout.gguf.planes import put_planes, side_by_side, take_planes
from refquant.numerics.arrays import Array

NAN = 0x7F


def _scales() -> Array:
    """What each of the 256 bytes stands for."""
    byte = np.arange(256)
    exponent, mantissa = byte >> 3 & 15, byte & 7
    normal = np.ldexp(8.0 + mantissa, exponent - 10)  # bias 7 and three bits of mantissa
    found = np.where(exponent > 0, normal, np.ldexp(mantissa.astype(np.float64), -9))
    return np.where(byte == NAN, 0, found / 2).astype(np.float32)


SCALES = _scales()


def unpack(blocks: Array) -> Fields:
    """Read blocks ``[n, 36]``; codes are e2m1's own bits, scales the bytes."""
    return Fields(codes=take_planes(blocks[:, 4:], 4, 8), scales=blocks[:, :4])


def pack(fields: Fields) -> Array:
    """Write blocks ``[n, 36]``."""
    return side_by_side(np.ascontiguousarray(fields.scales), put_planes(fields.codes, 4, 8))


def values(fields: Fields, out: Array) -> None:
    """Write the numbers to `out`; all are exact."""
    np.take(TABLE, fields.codes, out=out, mode="clip")
    groups = out.reshape(-1, 16)
    groups *= np.repeat(np.take(SCALES, np.asarray(fields.scales)), 16).reshape(groups.shape)


NVFP4 = BlockType(name="NVFP4", number=40, size=64, nbytes=36, unpack=unpack, pack=pack, values=values)
