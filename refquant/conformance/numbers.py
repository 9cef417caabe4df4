"""Numbers for cases that anybody can make again: counted words, cut to a few bits."""

from __future__ import annotations

import math

import numpy as np

from refquant.conformance.streams import words
from refquant.numerics.arrays import Float64Array


def counted(seed: int, shape: tuple[int, ...], bits: int, scale: float = 1.0) -> Float64Array:
    """Integers of `bits` bits, both signs, out of the stream `seed`, times `scale`.

    Word ``w`` gives ``floor(w / 2^(64 - bits)) - 2^(bits - 1)``; in C order. Choose a power of two as `scale`, and nothing is rounded.

    Examples
    --------
    >>> counted(0, (3,), 4)
    array([ 6., -2., -8.])
    """
    drawn = words(seed, 0, math.prod(shape)) >> np.uint64(64 - bits)
    return np.asarray((drawn.astype(np.int64) - (1 << (bits - 1))).astype(np.float64) * scale).reshape(shape)
