"""The search of the types whose points are magnitudes with signs, IQ2 and IQ3: scales are tried, and points taken that lie near.

Arrays are ``[elements, groups]``, float32, added up in ggml's order (:mod:`~refquant.layout.gguf.group_fits`). With levels ``l`` below `L`
an element stands for ``q = 2 l + 1``:

1. signs are taken off. Where a byte has room for seven of eight, and minus signs are odd in number, the element that costs least, by
   ``w x^2``, gets the wrong sign, and its magnitude is then negative;
2. of ``2 R + 1`` scales around ``largest / (2 L - 1)`` each gives levels ``round((x / scale - 1) / 2)``, which go to the nearest point, and
   the points deserve the scale ``sum w q x / sum w q^2``; the best is kept;
3. on that scale levels are made once more, for the points of `again`, and the scale is fitted to them;
4. the block's scales become ``2 k + 1``, ``k`` of 4 bits, on a float16 number, which a factor near 1 corrects.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from refquant.layout.gguf.fields import Fields, stored_half
from refquant.layout.gguf.group_fits import fit_from_zero, in_groups, in_order, in_rows, nearest
from refquant.layout.gguf.search_grid import SearchGrid, search_grid
from refquant.numerics.arrays import Array


@dataclass(frozen=True, slots=True, kw_only=True)
class GridSearch:
    """How a type searches.

    Parameters
    ----------
    book : str
    distances : int
        Of neighbours, see :func:`~refquant.layout.gguf.search_grid.search_grid`.
    size : int
        Elements of a group.
    even : bool
        Minus signs of eight elements are even in number.
    reach, step : int, float
        Scales that are tried have ``2 L - 1 + i * step`` steps in the largest number, ``i = -reach .. reach``.
    again : {"strays", "groups", "all"}
        Which points are chosen again on the best scale: those that came from between the points, those of groups in which one did, or all.
    smallest : float
        A group whose largest number is below this counts as zeros.
    fitted : bool
        The largest number is that of a fit to ``0 .. L + 1``, times ``L``, in the place of the group's.
    factor : float
        Of the block's scale.
    """

    book: str
    distances: int
    size: int
    even: bool
    reach: int
    step: float
    again: Literal["strays", "groups", "all"]
    smallest: float
    fitted: bool = False
    factor: float = 1.0


def quantize_to_grid(x: Array, w: Array, search: GridSearch) -> Fields:
    """Quantize blocks.

    Parameters
    ----------
    x, w : float32 ndarray ``[n, 256]``
        Numbers and weights.
    search : GridSearch

    Returns
    -------
    Fields
        With codes and scales as :mod:`~refquant.layout.gguf.iq2_xs` has them.

    Raises
    ------
    NumericalError
        If a scale overflows float16.
    """
    grid = search_grid(search.book, search.distances)
    groups, weights = in_groups(x, search.size), in_groups(w, search.size)
    magnitude, minus = np.abs(groups), groups < 0
    if search.even:
        _make_even(magnitude, minus, groups, weights)
    largest = magnitude.max(axis=0)
    base = len(grid.members)
    live = largest >= np.float32(search.smallest)
    if search.fitted:
        start = fit_from_zero(magnitude, weights, base + 1)[1]
        largest = start * np.float32(base)
        live &= largest > 0
    else:
        start = largest / np.float32(2 * base - 1)
    levels, scale = np.zeros(groups.shape, np.int64), np.zeros_like(largest)
    found = fit_to_grid(magnitude[:, live], weights[:, live], largest[live], start[live], grid, search)
    levels[:, live], scale[live] = found
    minus[:, ~live] = False
    minus ^= scale < 0
    scales = np.abs(scale).reshape(len(x), -1)
    d, odd = rounded_scales(scales, 15, search.factor)
    codes = grid.members[levels] * np.where(minus, np.int8(-1), np.int8(1))
    return Fields(codes=in_rows(codes, 256), d=d, scales=odd)


def _make_even(magnitude: Array, minus: Array, x: Array, w: Array) -> None:
    """Let the number of minus signs of each eight elements be even, in place."""
    shape = (-1, 8, x.shape[1])
    with np.errstate(over="ignore", under="ignore"):
        cheapest = np.argmin((w * x * x).reshape(shape), axis=1)[:, None]
    signs, numbers = minus.reshape(shape), magnitude.reshape(shape)
    odd = np.bitwise_xor.reduce(signs, axis=1, keepdims=True)
    np.put_along_axis(signs, cheapest, np.take_along_axis(signs, cheapest, 1) ^ odd, 1)
    flipped = np.take_along_axis(numbers, cheapest, 1)
    np.put_along_axis(numbers, cheapest, np.where(odd, -flipped, flipped), 1)


def fit_to_grid(x: Array, w: Array, largest: Array, scale: Array, grid: SearchGrid, search: GridSearch) -> tuple[Array, Array]:
    """Levels ``[elements, groups]`` and scales ``[groups]``, from what scales are divided by and what they are if none is better."""
    base = len(grid.members)
    top = np.float32(2 * base - 1)
    levels, best = np.zeros(x.shape, np.int64), np.zeros_like(scale)
    strays = np.full((len(x) // grid.width, x.shape[1]), search.again == "groups")
    with np.errstate(all="ignore"):
        root, wx = np.sqrt(w), w * x
        for i in range(-search.reach, search.reach + 1):
            inverse = (top + np.float32(i) * np.float32(search.step)) / largest
            found, held = grid.settle(_levels(x, inverse, base), x, root, np.float32(1) / inverse)
            qx, qq = _sums(found, w, wx)
            better = (qq > 0) & (qx * qx > best * qq)
            scale, best = np.where(better, qx / qq, scale), np.where(better, qx / qq * qx, best)
            levels, strays = np.where(better, found, levels), np.where(better, ~held, strays)
        again = np.ones_like(strays) if search.again == "all" else strays
        if search.again == "groups":
            again = np.broadcast_to(strays.any(axis=0), strays.shape)
        again = again & (scale > 0)
        found, _ = grid.settle(_levels(x, np.float32(1) / scale, base), x, root, scale)
        levels = np.where(np.repeat(again, grid.width, axis=0), found, levels)
        qx, qq = _sums(levels, w, wx)
        scale = np.where(again.any(axis=0) & (qq > 0), qx / qq, scale)
    return levels, scale


def _levels(x: Array, inverse: Array, base: int) -> Array:
    return np.clip(nearest(np.float32(0.5) * (inverse * x - np.float32(1))), 0, base - 1)


def _sums(levels: Array, w: Array, wx: Array) -> tuple[Array, Array]:
    q = (2 * levels + 1).astype(np.float32)
    return in_order(wx * q, wx[0]), in_order(w * q * q, wx[0])


def rounded_scales(scales: Array, highest: int, factor: float) -> tuple[Array, Array]:
    """Scales ``[n, groups]``, not negative, as ``2 k + 1``, ``k`` up to `highest`, on a float16 number a block.

    Returns
    -------
    d : float16 ndarray ``[n]``
    odd : uint8 ndarray ``[n, groups]``
        All 1 in a block without a scale.

    Raises
    ------
    NumericalError
        If a scale overflows float16.
    """
    largest = scales.max(axis=1)
    with np.errstate(all="ignore"):
        d = largest / np.float32(2 * highest + 1)
        k = np.clip(nearest(np.float32(0.5) * ((np.float32(1) / d)[:, None] * scales - np.float32(1))), 0, highest)
    k[largest == 0] = 0
    return stored_half(d * np.float32(factor), "scale"), (2 * k + 1).astype(np.uint8)
