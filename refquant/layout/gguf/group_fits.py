"""The scale searches behind ggml's super-blocks, for many groups at a time.

Arrays are ``[elements, groups]``: each step of ggml's loop over a group's elements is one operation on all groups, so every number is
rounded, and every sum added up, in the same order as there. All float32.

With ``w`` the weight of an element and ``l`` its code, the scale that a choice of codes deserves is a least-squares solution,

    s = sum w x l / sum w l^2                                                          without a minimum
    s = (W sum w l x - sum w x sum w l) / D,   m = (sum w l^2 sum w x - sum w l sum w l x) / D
    with W = sum w and D = W sum w l^2 - (sum w l)^2                                   with one

and the searches try codes of a few nearby scales, or move one code at a time, and keep what has least error.

Sums are ggml's also to the last bit: its compiler neither adds in another order nor fuses a product with a sum, as the bytes show.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from refquant.numerics.arrays import Array

TINY = np.float32(1e-15)
"""A group whose largest magnitude is below this counts as zeros."""

_ROUNDING = np.float32(1.5 * 2**23)


def nearest(x: Array) -> Array:
    """Round to integers, ties to even, as ggml does: adding ``1.5 * 2^23`` leaves the integer in the lower bits of the sum."""
    with np.errstate(invalid="ignore", over="ignore"):
        return ((x + _ROUNDING).view(np.int32) & 0x7FFFFF) - 0x400000


def in_order(terms: Iterable[Array], like: Array) -> Array:
    """Sum over the first axis, one after the other."""
    total = np.zeros_like(like)
    for term in terms:
        total += term
    return total


def extreme(x: Array) -> Array:
    """The number of largest magnitude of each group, the first of several, with its sign."""
    return np.asarray(np.take_along_axis(x, np.argmax(np.abs(x), axis=0)[None], axis=0)[0])


def in_groups(x: Array, size: int) -> Array:
    """Rows ``[n, elements]`` as ``[size, groups]``, the groups of a row side by side."""
    return np.ascontiguousarray(x.reshape(-1, size).T)


def in_rows(groups: Array, elements: int) -> Array:
    """The inverse of :func:`in_groups`."""
    return groups.T.reshape(-1, elements)


def fit_with_minimum(
    x: Array, w: Array, highest: int, start: float, steps: int, absolute: bool = False, step: float = 0.1
) -> tuple[Array, Array, Array]:
    """Codes ``0 .. highest`` for ``x = scale * code - minimum``, minima not negative.

    Parameters
    ----------
    x, w : float32 ndarray ``[elements, groups]``
        Numbers and weights.
    highest : int
    start : float
        Scales that are tried have ``highest + start + i * step`` steps in the range, ``i = 0 .. steps``.
    steps : int
    absolute : bool
        The error is the sum of absolute differences instead of squared ones.
    step : float

    Returns
    -------
    codes, scale, minimum : ndarray
    """
    smallest, high = np.take_along_axis(x, np.argmin(x, axis=0)[None], axis=0)[0], x.max(axis=0)
    low = np.where(smallest > 0, np.float32(0), smallest)  # of zeros the first, whose sign Q4_1 stores
    flat = high == low
    with np.errstate(all="ignore"):
        per_step = np.float32(highest) / (high - low)
        scale = np.float32(1) / per_step
        codes = np.clip(nearest(per_step * (x - low)), 0, highest)
        best = _error(x, w, scale, low, codes, absolute)
        weight, weighted = in_order(w, low), in_order(w * x, low)
        for i in range(steps + 1):
            tried = np.float32(start) + np.float32(step) * np.float32(i) + np.float32(highest)
            found = np.clip(nearest(tried / (high - low) * (x - low)), 0, highest)
            level = found.astype(np.float32)
            wl = w * level
            wl_sum, wll_sum, wlx_sum = in_order(wl, low), in_order(wl * level, low), in_order(wl * x, low)
            d = weight * wll_sum - wl_sum * wl_sum
            s, m = (weight * wlx_sum - weighted * wl_sum) / d, (wll_sum * weighted - wl_sum * wlx_sum) / d
            s, m = np.where(m > 0, wlx_sum / wll_sum, s), np.where(m > 0, np.float32(0), m)
            error = _error(x, w, s, m, found, absolute)
            better = (d > 0) & (error < best) & ~flat
            codes, best = np.where(better, found, codes), np.where(better, error, best)
            scale, low = np.where(better, s, scale), np.where(better, m, low)
    return np.where(flat, 0, codes), np.where(flat, np.float32(0), scale), -low


def _error(x: Array, w: Array, scale: Array, low: Array, codes: Array, absolute: bool) -> Array:
    off = scale * codes.astype(np.float32) + low - x
    return in_order(w * (np.abs(off) if absolute else off * off), scale)


def fit_by_scales(x: Array, w: Array, half: int) -> tuple[Array, Array]:
    """Codes ``-half .. half - 1`` for ``x = scale * code``: the best of nineteen scales.

    Parameters
    ----------
    x, w : float32 ndarray ``[elements, groups]``
    half : int

    Returns
    -------
    codes ``[elements, groups]``, scale ``[groups]``
    """
    top = extreme(x)
    codes, scale, best = np.full(x.shape, -half), np.zeros_like(top), np.zeros_like(top)
    zeros = np.abs(top) < TINY
    with np.errstate(all="ignore"):
        wx = w * x
        for i in (0, *range(-9, 0), *range(1, 10)):
            tried = -(np.float32(half) + np.float32(0.1) * np.float32(i)) / top
            found = np.clip(nearest(tried * x), -half, half - 1)
            level = found.astype(np.float32)
            lx, ll = in_order(wx * level, top), in_order(w * level * level, top)
            better = ~zeros if i == 0 else (ll > 0) & (lx * lx > best * ll) & ~zeros
            s = np.where(ll != 0, lx / ll, np.float32(0))
            codes, scale, best = np.where(better, found, codes), np.where(better, s, scale), np.where(better, s * lx, best)
    return codes, scale


def fit_by_moves(x: Array, half: int) -> tuple[Array, Array]:
    """Codes ``-half .. half - 1`` for ``x = scale * code``: one code moved at a time, five rounds, weights ``x^2`` (Q3_K).

    Returns
    -------
    codes ``[elements, groups]``, scale ``[groups]``
    """
    top = extreme(x)
    squared = x * x
    zeros = np.abs(top) < TINY
    with np.errstate(all="ignore"):
        level = np.clip(nearest(np.float32(-half) / top * x), -half, half - 1).astype(np.float32)
        level[:, zeros] = 0
        lx, ll = in_order(squared * x * level, top), in_order(squared * level * level, top)
        for _ in range(5):
            moved = False
            for element, w, old in zip(x, squared, level, strict=True):
                lx_rest, ll_rest = lx - w * element * old, ll - w * old * old
                new = np.clip(nearest(element * ll_rest / lx_rest), -half, half - 1).astype(np.float32)
                lx_new, ll_new = lx_rest + w * element * new, ll_rest + w * new * new
                better = (lx_rest > 0) & (new != old) & (ll_new > 0) & (lx_new * lx_new * ll > lx * lx * ll_new) & ~zeros
                moved = moved or bool(better.any())
                lx, ll = np.where(better, lx_new, lx), np.where(better, ll_new, ll)
                old[better] = new[better]
            if not moved:
                break
        scale = np.where((ll > 0) & ~zeros, lx / ll, np.float32(0))
    return np.where(zeros, -half, level.astype(np.int64)), scale


def fit_from_zero(x: Array, w: Array, highest: int) -> tuple[Array, Array]:
    """Codes ``0 .. highest`` for ``x = scale * code`` of numbers that are not negative: nine scales, then one code moved at a time.

    ggml keeps codes in a byte, so that one of a negative number, which some callers have, wraps round.

    Parameters
    ----------
    x, w : float32 ndarray ``[elements, groups]``
    highest : int

    Returns
    -------
    codes ``[elements, groups]``, uint8; scale ``[groups]``
    """
    top = np.maximum(x.max(axis=0), np.float32(0))
    zeros = top < TINY
    with np.errstate(all="ignore"):
        per_step = np.float32(highest) / top
        best = _squares(x, w, np.float32(1) / per_step, nearest(per_step * x) & 255)
        for i in (*range(-4, 0), *range(1, 5)):
            tried = (np.float32(0.1) * np.float32(i) + np.float32(highest)) / top
            error = _squares(x, w, np.float32(1) / tried, np.minimum(nearest(tried * x), highest))
            per_step, best = np.where(error < best, tried, per_step), np.where(error < best, error, best)
        found = np.minimum(nearest(per_step * x), highest)
        level = found.astype(np.float32)
        lx, ll = in_order(w * x * level, top), in_order(w * level * level, top)
        level = (found & 255).astype(np.float32)
        lx, ll = _moved_from_zero(x, w, level, lx, ll, highest)
        scale = np.where((ll > 0) & ~zeros, lx / ll, np.float32(0))
    return np.where(zeros, 0, level).astype(np.uint8), scale


def _moved_from_zero(x: Array, w: Array, level: Array, lx: Array, ll: Array, highest: int) -> tuple[Array, Array]:
    """Move codes, which are float32 and written in place, while that lessens the error; the two sums afterwards."""
    for _ in range(5):
        moved = False
        for element, weight, old in zip(x, w, level, strict=True):
            lx_rest, ll_rest = lx - weight * element * old, ll - weight * old * old
            new = np.minimum(nearest(element * ll_rest / lx_rest), highest)
            number = new.astype(np.float32)
            lx_new, ll_new = lx_rest + weight * element * number, ll_rest + weight * number * number
            better = (lx_rest > 0) & (ll_rest > 0) & (number != old) & (lx_new * lx_new * ll > lx * lx * ll_new)
            moved = moved or bool(better.any())
            lx, ll = np.where(better, lx_new, lx), np.where(better, ll_new, ll)
            old[better] = (new & 255)[better]
        if not moved:
            break
    return lx, ll


def _squares(x: Array, w: Array, scale: Array, codes: Array) -> Array:
    off = x - scale * codes.astype(np.float32)
    return in_order(w * off * off, scale)
