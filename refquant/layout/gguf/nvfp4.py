"""NVFP4: 64 codes of e2m1, a scale in a byte for each 16; 36 bytes.

    bytes 0-3    scales: e4m3 without its sign
    bytes 4-35   codes: nibbles, runs of 8                    x = SCALES[byte] * TABLE[code]

Table and scales are MXFP4's, in that the one is doubled and the others half of what they say. Code 8 is +0. The scale 0x7f, e4m3's NaN,
is 0, and 0x80 to 0xff are read without their highest bit, but 0xff, which is 240 and not 0. A scale of the whole
tensor, which some programs have, is not in a block.

Quantizing: a group's scale is its largest magnitude over 6 in e4m3, ties up, and the codes are the members nearest to the numbers, the
distances in float32 and the first of equals in the table's order. Two things of the scales are not e4m3's rounding to nearest: from 256 on
all are 448, and 7.5 to 8 of the smallest steps are 7. Numbers beyond 6 * 448 become 2688: ggml says nothing of them, and the bytes are its.
"""

from __future__ import annotations

import numpy as np

from refquant.layout.gguf.fields import BlockType, Fields, largest_magnitude
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


def quantize(x: Array) -> Fields:
    """Quantize ``[n, 64]``."""
    groups = x.reshape(-1, 16)
    scales = _stored_scale(largest_magnitude(groups) / np.float32(6))
    step = np.take(SCALES, scales)[:, None]
    codes, best = np.zeros(groups.shape, np.uint8), np.abs(groups)
    for code, member in enumerate(TABLE):
        off = np.abs(member * step - groups)
        codes[off < best] = code
        np.minimum(best, off, out=best)
    return Fields(codes=codes.reshape(x.shape), scales=scales.reshape(-1, 4))


def _stored_scale(x: Array) -> Array:
    """The bytes of numbers from 0 up."""
    limited = np.minimum(x, np.float32(448))
    bits = limited.view(np.int32)
    exponent = (bits >> 23) - 120  # from bias 127 to bias 7
    normal = np.minimum((exponent << 3) + (bits >> 20 & 7) + (bits >> 19 & 1), 15 << 3)  # a carry goes to the exponent
    small = np.minimum((limited * np.float32(512) + np.float32(0.5)).astype(np.int32), 7)
    return np.where(exponent <= 0, small, np.where(normal >> 3 >= 15, 0x7E, normal)).astype(np.uint8)


NVFP4 = BlockType(name="NVFP4", number=40, size=64, nbytes=36, unpack=unpack, pack=pack, values=values, quantize=quantize)
