"""The search of the types whose points are ternary, IQ1: which numbers become -1, 0 and 1, all cuts tried.

A group's numbers, sorted, are cut in two places; what lies below gets level 0, between 1, above 2, and level `l` stands for
``l - 1 + shift``, the shift an eighth up or down, in IQ1_M for each half of the group on its own. Of all cuts and shifts the one wins
whose least-squares scale ``sum w q x / sum w q^2`` leaves least. Levels then go to near points of the codebook, if they are none, and the
scale is fitted again. Arrays are ``[elements, groups]``, float32, added up in ggml's order (:mod:`~refquant.layout.gguf.group_fits`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from refquant.layout.gguf.group_fits import in_order
from refquant.layout.gguf.search_grid import search_grid
from refquant.numerics.arrays import Array

BOOK, DISTANCES = "IQ1_S", 3
EIGHTH = np.float32(0.125)


@dataclass(frozen=True, slots=True, kw_only=True)
class TernaryFit:
    """Groups fitted to points.

    Parameters
    ----------
    levels : integer ndarray ``[elements, groups]``
        0, 1, 2; a point's in each eight.
    down : bool ndarray ``[points of a group, groups]``
        Whether the point is moved down an eighth, and not up.
    scale : float32 ndarray ``[groups]``
        Not negative.
    """

    levels: Array
    down: Array
    scale: Array


Sums = Callable[[Array, Array, Array], Iterator[tuple[int, int, int, Array, Array]]]
"""From sorted ``w x`` and ``w``, and the elements' order: cuts, a number for the shifts, and the two sums of each try, in ggml's order."""


def fit_ternary(x: Array, w: Array, smallest: float, sums: Sums, shifts: Array) -> TernaryFit:
    """Fit groups.

    Parameters
    ----------
    x, w : float32 ndarray ``[elements, groups]``
    smallest : float
        A group whose largest magnitude is below this counts as zeros: levels 0, shifts up, scale 0.
    sums : callable
    shifts : bool ndarray ``[numbers for the shifts, points of a group]``
        Whether a point is moved down; the last number is the first one's opposite, and so on.
    """
    levels, down = np.zeros(x.shape, np.int64), np.zeros((len(x) // 8, x.shape[1]), bool)
    scale = np.zeros(x.shape[1], np.float32)
    live = np.flatnonzero(np.abs(x).max(axis=0) >= np.float32(smallest))
    order = np.argsort(x[:, live], axis=0, kind="stable")
    cut, choice, found = _best_cut(x[:, live], w[:, live], order, sums)
    have = choice >= 0
    live, order, cut, choice, found = live[have], order[:, have], cut[:, have], choice[have], found[have]
    rank = np.arange(len(x))[:, None]
    split = np.zeros(order.shape, np.int64)
    np.put_along_axis(split, order, (rank >= cut[0]).astype(np.int64) + (rank >= cut[1]), axis=0)
    backwards = found < 0
    split = np.where(backwards, 2 - split, split)
    down[:, live] = shifts[np.where(backwards, len(shifts) - 1 - choice, choice)].T
    levels[:, live], scale[live] = _on_points(x[:, live], w[:, live], split, down[:, live], np.abs(found))
    return TernaryFit(levels=levels, down=down, scale=scale)


def _best_cut(x: Array, w: Array, order: Array, sums: Sums) -> tuple[Array, Array, Array]:
    """Cuts ``[2, groups]``, the number for the shifts or -1 if there is no weight, and the scale."""
    with np.errstate(all="ignore"):
        ordered = np.take_along_axis(w, order, 0)
        weighted = ordered * np.take_along_axis(x, order, 0)
        best = np.full(x.shape[1], -np.finfo(np.float32).max, np.float32)
        scale, cut, choice = np.zeros_like(best), np.zeros((2, len(best)), np.int64), np.full(len(best), -1)
        for first, second, number, qx, qq in sums(weighted, ordered, order):
            better = np.flatnonzero((qq > 0) & (qx * qx > best * qq))
            if better.size:
                scale[better] = qx[better] / qq[better]
                best[better] = scale[better] * qx[better]
                cut[0, better], cut[1, better], choice[better] = first, second, number
    return cut, choice, scale


def _on_points(x: Array, w: Array, levels: Array, down: Array, scale: Array) -> tuple[Array, Array]:
    """Levels on points, and scales fitted again in groups where one was between points."""
    moved = np.where(down, -EIGHTH, EIGHTH)
    settled, held = search_grid(BOOK, DISTANCES).settle(levels, x, w, scale, moved)
    q = ternary_values(settled, moved)
    with np.errstate(all="ignore"):
        qx, qq = in_order(w * q * x, scale), in_order(w * q * q, scale)
        fitted = ~held.all(axis=0) & (qx > 0) & (qq > 0)
        return settled, np.where(fitted, qx / qq, scale)


def ternary_values(levels: Array, moved: Array) -> Array:
    """What levels stand for: ``level - 1`` and what its point is moved by; float32."""
    return np.asarray((levels - 1).astype(np.float32) + np.repeat(moved, 8, axis=0))


def running(terms: Array) -> Array:
    """Sums of the first 0, 1, ... terms along the first axis, added up one after the other."""
    return np.concatenate([np.zeros_like(terms[:1]), np.cumsum(terms, axis=0)])
