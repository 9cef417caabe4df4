"""Tiles as the laws see them: which elements belong together, and how wrong rounding alone may make a number."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from refquant.conformance.laws.answer import Answer
from refquant.core import Tiling
from refquant.numerics.arrays import Array, BoolArray, Float64Array
from refquant.numerics.casting import as_float64


def tile_members(tiling: Tiling, shape: tuple[int, ...]) -> Iterator[BoolArray]:
    """Yield a mask of `shape` for every tile.

    Examples
    --------
    >>> [mask.tolist() for mask in tile_members(Tiling.group(2), (1, 3))]
    [[[True, True, False]], [[False, False, True]]]
    """
    counts = tiling.grid_shape(shape)
    tiles = int(np.prod(counts))
    labels = np.broadcast_to(tiling.expand(np.arange(tiles).reshape(counts), shape), shape)
    for tile in range(tiles):
        yield np.asarray(labels == tile)


def slack(x: Array, found: Answer) -> Float64Array:
    """Bound on what the quotient and the product of rounding to nearest may add to its error, element by element.

    It is float32's wherever input or answer is narrower than float64, and float64's otherwise. Quotient and product round once each (the
    quotient twice where a reciprocal is multiplied with), which is below four units in the last place of either number.
    """
    working = np.finfo(np.float64 if x.dtype == found.dtype == np.float64 else np.float32)
    unit = 4 * float(working.eps)
    return np.asarray(unit * np.abs(as_float64(x)) + unit * np.abs(found.values) + 4 * float(working.smallest_subnormal))
