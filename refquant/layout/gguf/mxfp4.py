"""MXFP4: 32 codes of e2m1 on a power of two, 17 bytes.

    byte 0       e
    bytes 1-16   low half of byte j: element j; high half: element j + 16          x = TABLE[code] * 2^(e - 128)

The table is e2m1's doubled, so the scale is half of OCP's ``2^(e - 127)``. Two things are not OCP's: code 8 is +0, and 255 is 2^127.

Quantizing: ``e = floor(log2(max|x|)) + 125``, at least 0, and the nearest member, ties towards zero; what becomes zero has code 0.
The logarithm is taken in float32 and so rounded: a maximum so little below a power of two that float32 cannot tell their logarithms
apart counts as that power, and the block is twice as coarse as OCP's. :data:`ROUNDED_UP` says how little that is.
"""

from __future__ import annotations

import numpy as np

from refquant.layout.gguf.fields import BlockType, Fields, largest_magnitude
from refquant.layout.gguf.planes import put_planes, side_by_side, take_planes
from refquant.numerics.arrays import Array

TABLE = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], np.float32)
TIES = np.array([0.5, 1.5, 2.5, 3.5, 5, 7, 10], np.float32)
LN2 = 0.6931471805599453
LOWEST, HIGHEST = -148, 128


def _rounded_up(power: int) -> int:
    """Float32 numbers below ``2^power`` whose logarithm, rounded to float32, is `power`.

    Below `power` lies the next float32 number at a distance `spacing`; logarithms nearer than half of it round up. The logarithm of
    ``2^power * (1 - j 2^-24)`` is ``log2(1 - j 2^-24)`` below, which is ``j 2^-24 / ln 2`` and a little more.
    """
    if power == 0:
        return 0
    magnitude = np.float32(abs(power))
    other = np.nextafter(magnitude, np.float32(0 if power > 0 else np.inf))
    half = abs(float(other) - float(magnitude)) / 2
    share = half * LN2
    return int((share - share * share / 2) * 2**24)


ROUNDED_UP = np.array([_rounded_up(power) for power in range(LOWEST, HIGHEST + 1)])


def floor_log2(x: Array) -> Array:
    """``floor(log2(x))`` of positive float32 numbers, the logarithm rounded to float32.

    Examples
    --------
    >>> floor_log2(np.array([8, 7.9999995, 7.999999], np.float32))
    array([3, 3, 2])
    """
    fraction, power = np.frexp(x)  # 1/2 <= fraction < 1, and below 2^power by (1 - fraction) 2^24 steps of 2^-24
    below = ((np.float32(1) - fraction) * np.float32(2**24)).astype(np.int64)
    return np.asarray(power.astype(np.int64) - 1 + (below <= ROUNDED_UP[power - LOWEST]))


def unpack(blocks: Array) -> Fields:
    """Read blocks ``[n, 17]``; codes are e2m1's own bits, `d` is the exponent's byte."""
    return Fields(codes=take_planes(blocks[:, 1:], 4, 16), d=blocks[:, 0])


def pack(fields: Fields) -> Array:
    """Write blocks ``[n, 17]``."""
    return side_by_side(np.asarray(fields.d)[:, None], put_planes(fields.codes, 4, 16))


def scale_of(exponent: Array) -> Array:
    """``2^(e - 128)`` as float32."""
    return np.ldexp(np.float32(1), exponent.astype(np.int32) - 128)


def values(fields: Fields, out: Array) -> None:
    """Write the numbers to `out`."""
    np.take(TABLE, fields.codes, out=out, mode="clip")  # codes are below 16; "clip" is the mode that writes in place
    with np.errstate(over="ignore"):  # the largest scales in a file
        out *= scale_of(np.asarray(fields.d))[:, None]


def quantize(x: Array) -> Fields:
    """Quantize ``[n, 32]``."""
    largest = largest_magnitude(x)
    exponent = np.where(largest > 0, np.maximum(floor_log2(np.where(largest > 0, largest, np.float32(1))) + 125, 0), 0).astype(np.uint8)
    # Powers of two and ties are exact, so comparing |x| with scaled ties is comparing distances to neighbours.
    step, magnitude = scale_of(exponent)[:, None], np.abs(x)
    codes = np.zeros(x.shape, np.uint8)
    with np.errstate(over="ignore"):
        for tie in TIES:
            codes += magnitude > step * tie
    codes += np.uint8(8) * ((x < 0) & (codes > 0))
    return Fields(codes=codes, d=exponent)


MXFP4 = BlockType(name="MXFP4", number=39, size=32, nbytes=17, unpack=unpack, pack=pack, values=values, quantize=quantize)
