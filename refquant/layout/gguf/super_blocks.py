"""Quantizing to the K types, bit for bit as ggml's reference functions in C: nobody else's Python does.

A super-block of 256 is first fitted group by group (:mod:`~refquant.layout.gguf.group_fits`). The groups' scales, and their minima, are
then themselves rounded to a few bits on a float16 number, and the codes made again on the scales as they will be read. A group whose
scale became 0 keeps the codes of the first fit; they are multiplied by 0.
"""

from __future__ import annotations

import numpy as np

from refquant.layout.gguf.fields import Fields, stored_half
from refquant.layout.gguf.group_fits import TINY, extreme, fit_by_moves, fit_by_scales, fit_with_minimum, in_order, nearest
from refquant.numerics.arrays import Array


def quantize_q2_k(x: Array) -> Fields:
    """Q2_K of float32 ``[n, 256]``: weights are magnitudes, errors absolute; NumericalError if a scale overflows float16."""
    groups = _groups(x, 16)
    return _with_minima(groups, fit_with_minimum(groups, np.abs(groups), 3, -0.5, 15, True), 3, 15)


def quantize_q4_k(x: Array) -> Fields:
    """Q4_K of float32 ``[n, 256]``; NumericalError if a scale overflows float16."""
    groups = _groups(x, 32)
    return _with_minima(groups, fit_with_minimum(groups, _above_average(groups), 15, -1.0, 20, False), 15, 63)


def quantize_q5_k(x: Array) -> Fields:
    """Q5_K of float32 ``[n, 256]``; NumericalError if a scale overflows float16."""
    groups = _groups(x, 32)
    return _with_minima(groups, fit_with_minimum(groups, _above_average(groups), 31, -0.5, 15, False), 31, 63)


def quantize_q3_k(x: Array) -> Fields:
    """Q3_K of float32 ``[n, 256]``; NumericalError if a scale overflows float16."""
    groups = _groups(x, 16)
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
    groups = _groups(x, 16)
    codes, found = fit_by_scales(groups, 32)
    per_block = found.reshape(-1, 16)
    top = extreme(per_block.T)
    zeros = np.abs(top) < TINY
    with np.errstate(all="ignore"):
        step = np.where(zeros, np.float32(0), np.float32(-128) / top)
        d = stored_half(np.where(zeros, np.float32(0), np.float32(1) / step), "scale")
        scales = np.minimum(nearest(step[:, None] * per_block), 127)
    codes[:, np.repeat(zeros, 16)] = -32
    return Fields(codes=_recoded(groups, codes, d, scales, 32), d=d, scales=scales.astype(np.int8))


def _groups(x: Array, size: int) -> Array:
    """``[n, 256]`` as ``[size, groups]``, the groups of a block side by side."""
    return np.ascontiguousarray(x.reshape(-1, size).T)


def _rows(codes: Array) -> Array:
    """The inverse of :func:`_groups`."""
    return codes.T.reshape(-1, 256)


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
    (scales, mins), (d, dmin) = rounded, halves
    step = (d.astype(np.float32)[:, None] * scales.astype(np.float32)).reshape(-1)
    low = (dmin.astype(np.float32)[:, None] * mins.astype(np.float32)).reshape(-1)
    with np.errstate(all="ignore"):
        again = np.clip(nearest((x + low) / step), 0, highest)
    return Fields(codes=_rows(np.where(step != 0, again, codes)).astype(np.uint8), d=d, m=dmin, scales=scales, mins=mins)


def _recoded(x: Array, codes: Array, d: Array, scales: Array, half: int) -> Array:
    """Codes ``-half .. half - 1`` again on the scales as they are stored, ``[n, 256]``."""
    step = (d.astype(np.float32)[:, None] * scales.astype(np.float32)).reshape(-1)
    with np.errstate(all="ignore"):
        again = np.clip(nearest(x / step), -half, half - 1)
    return _rows(np.where(step != 0, again, codes)).astype(np.int8)
