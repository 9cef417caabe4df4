"""Rows of numbers that uniform quantizers stumble over, each with its reasons."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from refquant.numerics.arrays import Array

COLUMNS = 40
GROUP = 16
"""Leaves two whole groups and a ragged one of 8."""
STEP = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Pattern:
    """A way to fill a row.

    Parameters
    ----------
    flags : tuple of str
        What it is for.
    row : callable
        ``row(scheme, bits)``: 40 numbers as Python floats.
    tilings : tuple of str
        Where its flags hold: of ``row``, ``g16``, ``tensor``.
    schemes : str
        Beginning of the names of the schemes where its flags hold.
    """

    flags: tuple[str, ...]
    row: Callable[[str, int], list[float]]
    tilings: tuple[str, ...] = ("row", "g16", "tensor")
    schemes: str = ""


def extremes(scheme: str, bits: int, step: float = STEP) -> tuple[float, float]:
    """Lower and upper end of a range whose scale is exactly `step`."""
    if scheme in ("sym_full", "sym_narrow"):
        return -((1 << (bits - 1)) - 1) * step, ((1 << (bits - 1)) - 1) * step
    levels = (1 << bits) - 1
    if scheme.startswith("sym"):
        return -levels * step / 2, levels * step / 2
    below = levels // 3
    return -below * step, (levels - below) * step


def ends(start: int = 0) -> Iterator[tuple[int, int]]:
    """First and last column of every group of 16."""
    for first in range(start, COLUMNS, GROUP):
        yield first, min(first + GROUP, COLUMNS) - 1


def _between(low: float, high: float, inner: Callable[[int], float]) -> list[float]:
    """Every group runs from `low` to `high`; ``inner(i)`` gives the rest."""
    row = [inner(i) for i in range(COLUMNS)]
    for first, last in ends():
        row[first], row[last] = low, high
    return row


def _ties(scheme: str, bits: int) -> list[float]:
    low, high = extremes(scheme, bits)
    count = round((high - low) / STEP)
    # Halves of a step, counted from zero, spread over the range; for symmetric GPTQ grids the ends lie on halves themselves.
    first = int(low / STEP)
    return _between(low, high, lambda i: (first + (i * 7 * max(1, count // 40)) % count + 0.5) * STEP)


def _near_ties(scheme: str, bits: int) -> list[float]:
    low, high = (float(np.float32(end)) for end in extremes(scheme, bits, 0.0291))
    step = float(np.float32(0.0291))
    count, first = round((high - low) / step), int(low / step)

    def beside(i: int) -> float:
        tie = np.float32((first + (i * 7 * max(1, count // 40)) % count + 0.5) * step)
        return float(np.nextafter(tie, np.float32(np.inf if i % 3 else -np.inf))) if i % 2 else float(tie)

    return _between(low, high, beside)


def _zero_ties(scheme: str, bits: int) -> list[float]:
    """The lower end lies half a step beside a multiple of the scale, whatever the group."""
    levels = (1 << bits) - 1
    low = -(levels // 6 * 2 + 0.5) * STEP  # an even number and a half: to even goes down, away from zero up
    return _between(low, low + levels * STEP, lambda i: (i % 7 - 3) * STEP / 2)


def _blocks(scheme: str, bits: int) -> list[float]:
    """Groups of very different sizes, the ragged one of one sign only."""
    sizes = (1.0, 37.0, 0.2)
    return [sizes[i // GROUP] * ((i * 5) % 17 - 8) / 8 if i < 2 * GROUP else 0.2 * (3 + i % 5) for i in range(COLUMNS)]


def _ramp(scheme: str, bits: int) -> list[float]:
    return [(i - 13) / 8 + 0.01 for i in range(COLUMNS)]


PATTERNS: dict[str, Pattern] = {
    "ramp": Pattern(flags=("ordinary", "negative"), row=_ramp),
    "ties": Pattern(flags=("tie", "negative"), row=_ties),
    "near-ties": Pattern(flags=("near-tie", "negative"), row=_near_ties),
    "zero-ties": Pattern(flags=("zero-point", "tie"), row=_zero_ties, schemes="asym"),
    "blocks": Pattern(flags=("group-boundary", "group-statistics", "ragged-group"), row=_blocks, tilings=("g16",)),
    "zeros": Pattern(flags=("zero-range",), row=lambda s, b: [0.0] * COLUMNS),
    "constant": Pattern(flags=("constant", "one-sided"), row=lambda s, b: [0.37] * COLUMNS, tilings=("row", "g16")),
    "positive": Pattern(flags=("one-sided",), row=lambda s, b: [(i + 9) / 16 for i in range(COLUMNS)]),
    "negatives": Pattern(flags=("one-sided", "negative"), row=lambda s, b: [-(i + 9) / 16 for i in range(COLUMNS)]),
    "outlier": Pattern(flags=("outlier",), row=lambda s, b: [1e4 if i == 7 else (i - 20) / 32 for i in range(COLUMNS)]),
    "tiny": Pattern(flags=("tiny",), row=lambda s, b: [math.ldexp(i - 20, -24) for i in range(COLUMNS)]),
    "subnormal": Pattern(flags=("tiny", "subnormal-scale"), row=lambda s, b: [math.ldexp(i - 21, -147) for i in range(COLUMNS)]),
    "signed-zeros": Pattern(
        flags=("negative-zero",), row=lambda s, b: [(-0.0 if i % 2 else 0.0) if i % 5 else (i - 20) / 4 for i in range(COLUMNS)]
    ),
}


def rows(pattern: Pattern, scheme: str, bits: int, tiling: str, dtype: str = "float32") -> Array:
    """Two rows: the pattern, and a companion of another size, so that rows cannot be mistaken for each other.

    Where both rows share a scale, the companion is the row reversed and halved, so that the range stays what the pattern made it.
    """
    row = pattern.row(scheme, bits)
    companion = [value / 2 for value in row[::-1]] if tiling == "tensor" else [64 * value for value in _ramp(scheme, bits)[::-1]]
    return np.array([row, companion], dtype=dtype)
