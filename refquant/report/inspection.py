"""Tensors of a file for people and for JSON: a line each, with a histogram of block characters."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from typing import Any

from refquant.apply.inspecting import Range, Row, shown_name
from refquant.report.numbers import bits, byte_size, counted, number

BLOCKS = "▁▂▃▄▅▆▇█"


def histogram(counts: Sequence[int]) -> str:
    """Counts as one character each: a blank for none, then eighths of the largest.

    Examples
    --------
    >>> histogram([0, 1, 4, 8])
    ' ▁▄█'
    """
    most = max(counts, default=0)
    return "".join(" " if not count else BLOCKS[-(-count * len(BLOCKS) // most) - 1] for count in counts)


def range_text(found: Range) -> str:
    """Smallest to largest.

    Examples
    --------
    >>> range_text(Range(low=-1.0, high=0.5, not_finite=2))
    '-1..0.5000 and 2 not finite'
    """
    finite = "none finite" if found.low is None or found.high is None else f"{_short(found.low)}..{_short(found.high)}"
    return finite if not found.not_finite else f"{finite} and {found.not_finite} not finite"


def _short(value: float) -> str:
    return str(int(value)) if value.is_integer() and abs(value) < 1e6 else number(value)


def row_line(row: Row) -> str:
    """One tensor in one line."""
    parts = [
        shown_name(row.name),
        row.format,
        "x".join(map(str, row.shape)) or "scalar",
        f"{bits(row.bits_per_weight)} bits",
        f"values {range_text(row.values)}",
    ]
    parts += [f"scales {range_text(row.scales)}"] if row.scales is not None else []
    parts += [f"zeros {range_text(row.zeros)}"] if row.zeros is not None else []
    return "  ".join([*parts, f"|{histogram(row.counts)}|", row.digest[:12]])


def inspection_lines(kind: str, rows: Iterable[Row]) -> Iterator[str]:
    """A line for what it is, one a tensor as it is read, and a last one for all of them."""
    yield kind
    total, quantized, weights, weight_bits, count = 0, 0, 0, 0, 0
    for row in rows:
        yield row_line(row)
        count, total = count + 1, total + row.stored_bits
        if row.scales is not None:
            quantized, weights, weight_bits = quantized + 1, weights + row.elements, weight_bits + row.stored_bits
    line = f"{counted(count, 'tensor')}, {byte_size(total // 8)}"
    yield line if not weights else f"{line}; {counted(quantized, 'linear')} quantized, {bits(Fraction(weight_bits, weights))} bits a weight"


def row_json(row: Row) -> dict[str, Any]:
    """One tensor for JSON."""

    def ends(found: Range | None) -> dict[str, Any] | None:
        return None if found is None else {"low": found.low, "high": found.high, "not_finite": found.not_finite}

    return {
        "name": row.name,
        "format": row.format,
        "shape": list(row.shape),
        "stored_bits": row.stored_bits,
        "bits_per_weight": float(row.bits_per_weight),
        "values": ends(row.values),
        "scales": ends(row.scales),
        "zeros": ends(row.zeros),
        "histogram": list(row.counts),
        "sha256": row.digest,
    }
