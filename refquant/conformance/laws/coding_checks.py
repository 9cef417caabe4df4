"""Checks of what a quantizer's numbers, codes and scales have to do with each other and with what went in."""

from __future__ import annotations

import numpy as np

from refquant.conformance.laws.answer import Answer
from refquant.conformance.laws.calls import answer_for, main_array
from refquant.conformance.laws.law import Example, NotApplicableError, Subject, broken, first_index, number, require_same, require_within
from refquant.conformance.laws.tiles import slack, tile_members
from refquant.core import Tiling
from refquant.numerics.arrays import Array
from refquant.numerics.casting import as_float64


def total(subject: Subject, example: Example) -> None:
    """Finite numbers give finite numbers in the same places."""
    x = main_array(subject, example)
    found = answer_for(subject, example)
    if found.values.shape != x.shape:
        broken(f"an array of shape {x.shape} gave numbers of shape {found.values.shape}")
    if not np.isfinite(found.values).all():
        at = first_index(~np.isfinite(found.values))
        broken(f"{number(x[at])} at index {at} became {number(found.values[at])}")


def codes_in_range(subject: Subject, example: Example) -> None:
    """Codes are members of the format, scales positive and finite."""
    found = _with_codes(answer_for(subject, example))
    lo, hi = subject.traits.ends or (0, 0)
    outside = (found.codes < lo) | (found.codes > hi)
    if outside.any():
        at = first_index(outside)
        broken(f"code {int(found.codes[at])} at index {at} lies outside {lo}..{hi}")
    wrong = ~(np.isfinite(found.scale) & (found.scale > 0))
    if wrong.any():
        at = first_index(wrong)
        broken(f"the scale at index {at} is {number(found.scale[at])}; scales are positive and finite")


class _Coded:
    """An answer whose codes and scales are there."""

    def __init__(self, answer: Answer, codes: Array, scale: Array) -> None:
        self.answer, self.values, self.zero = answer, answer.values, answer.zero
        self.codes, self.scale = codes, scale


def _with_codes(found: Answer) -> _Coded:
    if found.codes is None or found.scale is None:
        raise NotApplicableError("the function returns numbers alone; return (codes, scale) or (codes, scale, zero)")
    return _Coded(found, found.codes, np.broadcast_to(found.scale, found.codes.shape))


def decoding(subject: Subject, example: Example) -> None:
    """The numbers that are returned are those that codes and scales stand for."""
    found = _with_codes(answer_for(subject, example))
    decoded = found.scale * (found.codes if found.zero is None else found.codes - found.zero)
    require_within(found.values, decoded, slack(main_array(subject, example), found.answer), "numbers against scale * (code - zero)")


def half_step(subject: Subject, example: Example) -> None:
    """Between the end codes the error is at most half a step."""
    x = main_array(subject, example)
    found = _with_codes(answer_for(subject, example))
    lo, hi = subject.traits.ends or (0, 0)
    inside = (found.codes > lo) & (found.codes < hi)
    real = as_float64(x)
    bound = np.where(inside, found.scale / 2 + slack(x, found.answer), np.inf)
    require_within(found.values, real, bound, "a number between the end codes")


def nearest_level(subject: Subject, example: Example) -> None:
    """No level that the tile uses is nearer than the one that was taken."""
    x, tiling = main_array(subject, example), subject.traits.tiling or Tiling.tensor()
    found = answer_for(subject, example)
    real, room = as_float64(x), slack(x, found)
    for members in tile_members(tiling, x.shape):
        levels = np.unique(found.values[members])
        own = np.abs(found.values - real)
        best = np.abs(levels - real[..., None]).min(axis=-1)
        worse = members & (own > best + room)
        if worse.any():
            at = first_index(worse)
            nearer = levels[np.argmin(np.abs(levels - real[at]))]
            broken(f"{number(x[at])} at index {at} became {number(found.values[at])}, although its tile has the level {number(nearer)}")


def monotone(subject: Subject, example: Example) -> None:
    """Of two numbers of a tile the larger has no smaller result."""
    x, tiling = main_array(subject, example), subject.traits.tiling or Tiling.tensor()
    found = answer_for(subject, example)
    real = as_float64(x)
    for members in tile_members(tiling, x.shape):
        order = np.argsort(real[members], kind="stable")
        numbers, results = real[members][order], found.values[members][order]
        falls = np.flatnonzero(results[1:] < results[:-1])
        if falls.size:
            i = int(falls[0])
            broken(f"{number(numbers[i])} became {number(results[i])}, and {number(numbers[i + 1])} became {number(results[i + 1])}")


def idempotent(subject: Subject, example: Example) -> None:
    """What was quantized is quantized to itself."""
    x = main_array(subject, example)
    once = answer_for(subject, example)
    working = np.dtype(np.float64 if x.dtype == np.float64 else np.float32)
    again = answer_for(subject, example, once.values.astype(working)).values
    require_within(again, once.values, 2 * slack(x, once), "f(f(x)) against f(x)")


def same_grid(subject: Subject, example: Example) -> None:
    """On the same grid, the codes of what codes stand for are these codes."""
    x = main_array(subject, example)
    found = _with_codes(answer_for(subject, example))
    if subject.also is None:
        raise NotApplicableError("no function encodes on a given grid; give encode=")
    working = np.dtype(np.float64 if x.dtype == np.float64 else np.float32)
    again = np.asarray(subject.also(found.values.astype(working), found.scale, found.zero))
    require_same(again.astype(np.int64), found.codes, "codes of f(x) on the grid of x against the codes of x")
