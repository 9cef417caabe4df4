"""Fits of a scale to a table of unequal steps, for many groups at a time: what IQ4_NL and IQ4_XS share.

For each of sixteen scales an element takes the nearest member of the table, and the codes deserve the least-squares scale
``sum w q x / sum w q^2``. What has least error wins. Arrays are ``[elements, groups]``, float32, added up in ggml's order
(:mod:`~refquant.layout.gguf.group_fits`).
"""

from __future__ import annotations

import numpy as np

from refquant.layout.gguf.group_fits import TINY, extreme, in_order
from refquant.numerics.arrays import Array

REACH = 7


def nearest_members(x: Array, table: Array) -> Array:
    """The nearest of the rising numbers of `table`, float32; half way, and for NaN, the upper one.

    Examples
    --------
    >>> nearest_members(np.array([-9.0, 1.5, 2.0, 99.0], np.float32), np.array([0.0, 3.0, 4.0], np.float32))
    array([0., 3., 3., 4.], dtype=float32)
    """
    above = np.clip(np.searchsorted(table, x, side="right"), 1, len(table) - 1)
    high, low = np.take(table, above), np.take(table, above - 1)
    with np.errstate(invalid="ignore"):
        return np.where(x - low < high - x, low, high)


def fit_to_table(x: Array, w: Array, table: Array) -> Array:
    """Scales ``[groups]`` for ``x = scale * member``; 0 for a group whose largest magnitude is below 1e-15.

    Parameters
    ----------
    x, w : float32 ndarray ``[elements, groups]``
    table : float32 ndarray
        Rising, a negative number of largest magnitude first.
    """
    top = extreme(x)
    scale, best = np.zeros_like(top), np.zeros_like(top)
    with np.errstate(all="ignore"):
        tries = [np.float32(1) / (-top / table[0]), *((table[0] + np.float32(i)) / top for i in range(-REACH, REACH + 1))]
        for first, tried in zip((True, *[False] * len(tries)), tries, strict=False):
            member = nearest_members(tried * x, table)
            weighted = w * member
            qx, qq = in_order(weighted * x, top), in_order(weighted * member, top)
            better = (qq > 0) & (first | (qx * qx > best * qq))
            scale, best = np.where(better, qx / qq, scale), np.where(better, qx / qq * qx, best)
    return np.where(np.abs(top) < TINY, np.float32(0), scale)
