"""Quantizing to the K types, bit for bit as ggml's reference functions in C: nobody else's Python does.

A super-block of 256 is first fitted group by group (:mod:`~refquant.layout.gguf.group_fits`). The groups' scales, and their minima, are
then themselves rounded to a few bits on a float16 number, and the codes made again on the scales as they will be read. A group whose
scale became 0 keeps the codes of the first fit; they are multiplied by 0.

With an importance (`weigh_...`) elements have the weights of :mod:`~refquant.layout.gguf.importance`, and the groups' scales and minima are
fitted to their few bits as numbers are, the weight of a group being the sum of its elements'.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from refquant.layout.gguf.fields import Fields, stored_half
from refquant.layout.gguf.group_fits import (
    TINY,
    extreme,
    fit_by_moves,
    fit_by_scales,
    fit_from_zero,
    fit_with_minimum,
    in_groups,
    in_order,
    in_rows,
    nearest,
)
from refquant.layout.gguf.importance import Importance, block_weights, checked_weights
from refquant.numerics.arrays import Array


def quantize_q2_k(x: Array) -> Fields:
    """Q2_K of float32 ``[n, 256]``: weights are magnitudes, errors absolute; NumericalError if a scale overflows float16."""
    groups = in_groups(x, 16)
    return _with_minima(groups, fit_with_minimum(groups, np.abs(groups), 3, -0.5, 15, True), 3, 15)


def quantize_q4_k(x: Array) -> Fields:
    """Q4_K of float32 ``[n, 256]``; NumericalError if a scale overflows float16."""
    groups = in_groups(x, 32)
    return _with_minima(groups, fit_with_minimum(groups, _above_average(groups), 15, -1.0, 20, False), 15, 63)


def quantize_q5_k(x: Array) -> Fields:
    """Q5_K of float32 ``[n, 256]``; NumericalError if a scale overflows float16."""
    groups = in_groups(x, 32)
    return _with_minima(groups, fit_with_minimum(groups, _above_average(groups), 31, -0.5, 15, False), 31, 63)


def quantize_q3_k(x: Array) -> Fields:
    """Q3_K of float32 ``[n, 256]``; NumericalError if a scale overflows float16."""
    groups = in_groups(x, 16)
    codes, found = fit_by_moves(groups, 4)
    per_block = found.reshape(-1, 16)
    top = extreme(per_block.T)
    with np.errstate(all="ignore"):
        step = np.where(top != 0, np.float32(-32) / top, np.float32(0))
        d = stored_half(np.where(top != 0, np.float32(1) / step, np.float32(0)), "scale")
        scales = np.clip(nearest(step[:, None] * per_block), -32, 31)
    scales[top == 0] = -32
    return Fields(codes=_recoded(groups, codes, d, scales, 4), d=d, scales=scales.astype(np.int8))


def quantize_q6_k(x: Array) -> Fields:
    """Q6_K of float32 ``[n, 256]``; NumericalError if a scale overflows float16."""
    groups = in_groups(x, 16)
    return _q6_k(groups, groups * groups)


def _q6_k(groups: Array, w: Array) -> Fields:
    codes, found = fit_by_scales(groups, w, 32)
    per_block = found.reshape(-1, 16)
    top = extreme(per_block.T)
    zeros = np.abs(top) < TINY
    with np.errstate(all="ignore"):
        step = np.where(zeros, np.float32(0), np.float32(-128) / top)
        d = stored_half(np.where(zeros, np.float32(0), np.float32(1) / step), "scale")
        scales = np.minimum(nearest(step[:, None] * per_block), 127)
    codes[:, np.repeat(zeros, 16)] = -32
    return Fields(codes=_recoded(groups, codes, d, scales, 32), d=d, scales=scales.astype(np.int8))


def weigh_q2_k(x: Array, importance: Importance) -> Fields:
    """Q2_K of float32 ``[n, 256]`` with an importance; NumericalError if a scale overflows float16."""
    return _with_fitted_minima(in_groups(x, 16), in_groups(block_weights(x, importance, 256), 16), 3, 15, _four_bits)


def weigh_q4_k(x: Array, importance: Importance) -> Fields:
    """Q4_K of float32 ``[n, 256]`` with an importance; NumericalError if a scale overflows float16."""
    return _with_fitted_minima(in_groups(x, 32), in_groups(block_weights(x, importance, 128), 32), 15, 63, _six_bits)


def weigh_q5_k(x: Array, importance: Importance) -> Fields:
    """Q5_K of float32 ``[n, 256]`` with an importance; NumericalError if a scale overflows float16."""
    return _with_fitted_minima(in_groups(x, 32), in_groups(block_weights(x, importance, 128), 32), 31, 63, _at_most_six_bits)


def weigh_q3_k(x: Array, importance: Importance) -> Fields:
    """Q3_K of float32 ``[n, 256]`` with an importance: scales are fitted as numbers are; NumericalError if one overflows float16."""
    groups, w = in_groups(x, 16), in_groups(block_weights(x, importance, 128), 16)
    codes, found = fit_by_scales(groups, w, 4)
    scales, d = fit_by_scales(found.reshape(-1, 16).T, in_order(w, w[0]).reshape(-1, 16).T, 32)
    half = stored_half(d, "scale")
    return Fields(codes=_recoded(groups, codes, half, scales.T, 4), d=half, scales=scales.T.astype(np.int8))


def weigh_q6_k(x: Array, importance: Importance) -> Fields:
    """Q6_K of float32 ``[n, 256]``, weights the importance alone; NumericalError if a scale overflows float16."""
    return _q6_k(in_groups(x, 16), in_groups(checked_weights(x, importance.elements), 16))


def _above_average(x: Array) -> Array:
    """Weights: root mean square of the group plus the magnitude."""
    mean = np.sqrt(in_order(x * x, x[0]) / np.float32(32))
    return mean + np.abs(x)


def _with_minima(x: Array, fit: tuple[Array, Array, Array], highest: int, top: int) -> Fields:
    """Round scales and minima to ``0 .. top`` on a float16 number each, and make the codes again."""
    codes, found, minima = fit
    blocks = x.shape[1] * x.shape[0] // 256
    rounded, halves = [], []
    for numbers in (found.reshape(blocks, -1), minima.reshape(blocks, -1)):
        largest = np.maximum(numbers.max(axis=1), np.float32(0))
        with np.errstate(all="ignore"):
            per_step = np.where(largest > 0, np.float32(top) / largest, np.float32(0))
            levels = nearest(per_step[:, None] * numbers) & 255  # ggml keeps them in a byte before it takes the minimum
        rounded.append(np.minimum(levels, top).astype(np.uint8))
        halves.append(stored_half(largest / np.float32(top), "scale"))
    return _recoded_with_minima(x, codes, highest, *halves, *rounded)


def _with_fitted_minima(x: Array, w: Array, highest: int, top: int, stored: Callable[[Array, Array], tuple[Array, Array]]) -> Fields:
    """Fit groups, and then their scales and minima as they were: with weights, to ``0 .. top`` on a float16 number each."""
    codes, found, minima = fit_with_minimum(x, w, highest, -0.9, 36, step=0.05)
    blocks = x.size // 256
    group_weights = in_order(w, w[0]).reshape(blocks, -1).T
    scales, d = fit_from_zero(found.reshape(blocks, -1).T, group_weights, top)
    mins, dmin = fit_from_zero(minima.reshape(blocks, -1).T, group_weights, top)
    halves = stored_half(d, "scale"), stored_half(dmin, "scale")
    return _recoded_with_minima(x, codes, highest, *halves, *stored(scales.T, mins.T))


# A scale that comes out negative, by rounding errors of a fit in which hardly any element has a weight, becomes a byte above the highest
# code. ggml writes such bytes into their bits without a mask, and what does not fit there is added to the bits beside.


def _four_bits(scales: Array, mins: Array) -> tuple[Array, Array]:
    return scales & 15, (scales >> 4 | mins) & 15


def _six_bits(scales: Array, mins: Array) -> tuple[Array, Array]:
    found = []
    for numbers in (scales, mins):
        kept = numbers & 63
        kept[:, 4:] |= numbers[:, :4] >> 6 << 4
        found.append(kept)
    return found[0], found[1]


def _at_most_six_bits(scales: Array, mins: Array) -> tuple[Array, Array]:
    return np.minimum(scales, np.uint8(63)), np.minimum(mins, np.uint8(63))


def _recoded_with_minima(x: Array, codes: Array, highest: int, d: Array, dmin: Array, scales: Array, mins: Array) -> Fields:
    """Fields with codes made again on the scales and minima as they are stored."""
    step = (d.astype(np.float32)[:, None] * scales.astype(np.float32)).reshape(-1)
    low = (dmin.astype(np.float32)[:, None] * mins.astype(np.float32)).reshape(-1)
    with np.errstate(all="ignore"):
        again = np.clip(nearest((x + low) / step), 0, highest)
    return Fields(codes=in_rows(np.where(step != 0, again, codes), 256).astype(np.uint8), d=d, m=dmin, scales=scales, mins=mins)


def _recoded(x: Array, codes: Array, d: Array, scales: Array, half: int) -> Array:
    """Codes ``-half .. half - 1`` again on the scales as they are stored, ``[n, 256]``."""
    step = (d.astype(np.float32)[:, None] * scales.astype(np.float32)).reshape(-1)
    with np.errstate(all="ignore"):
        again = np.clip(nearest(x / step), -half, half - 1)
    return in_rows(np.where(step != 0, again, codes), 256).astype(np.int8)
