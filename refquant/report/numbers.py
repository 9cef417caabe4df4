"""How a number is written, in one place: the same digits, signs and intervals in every table."""

from __future__ import annotations

import math
from fractions import Fraction

from refquant.apply.evaluation import Estimate, Proportion

NOTHING = "-"
"""What stands where a number is not defined."""


def number(value: float | None, digits: int = 4, signed: bool = False) -> str:
    """Write a number with a fixed count of decimals; in scientific notation where that would hide it or run wide.

    Examples
    --------
    >>> number(3.14159), number(0.25, 2, signed=True), number(0.0000123), number(123456.7), number(None), number(0.0)
    ('3.1416', '+0.25', '1.2e-05', '1.2e+05', '-', '0.0000')
    """
    if value is None or math.isnan(value):
        return NOTHING
    plus = "+" if signed else ""
    if value and not float(f"5e-{digits + 1}") <= abs(value) < 1e5:
        return f"{value:{plus}.1e}"
    return f"{value:{plus}.{digits}f}"


def interval(estimate: Estimate, digits: int = 4, signed: bool = False) -> str:
    """Write a mean and its 95% interval.

    Examples
    --------
    >>> interval(Estimate(mean=0.5, low=0.25, high=0.75, n=9), 2, signed=True)
    '+0.50 [+0.25, +0.75]'
    >>> interval(Estimate(mean=0.5, low=None, high=None, n=1), 2)
    '0.50'
    """
    mean = number(estimate.mean, digits, signed)
    if estimate.low is None or estimate.high is None:
        return mean
    return f"{mean} [{number(estimate.low, digits, signed)}, {number(estimate.high, digits, signed)}]"


def percent(share: float | None, digits: int = 1) -> str:
    """Write a share as a percentage.

    Examples
    --------
    >>> percent(0.125), percent(None)
    ('12.5%', '-')
    """
    return NOTHING if share is None or math.isnan(share) else f"{100 * share:.{digits}f}%"


def percent_interval(estimate: Estimate | Proportion) -> str:
    """Write a share and its 95% interval in percent.

    Examples
    --------
    >>> percent_interval(Estimate(mean=0.5, low=0.25, high=0.75, n=9))
    '50.0% [25.0, 75.0]'
    """
    share = estimate.share if isinstance(estimate, Proportion) else estimate.mean
    if estimate.low is None or estimate.high is None:
        return percent(share)
    return f"{percent(share)} [{100 * estimate.low:.1f}, {100 * estimate.high:.1f}]"


def bits(value: Fraction) -> str:
    """Write bits per weight.

    Examples
    --------
    >>> bits(Fraction(133, 32)), bits(Fraction(16))
    ('4.156', '16.000')
    """
    return f"{float(value):.3f}"


def byte_size(count: int) -> str:
    """Write a number of bytes.

    Examples
    --------
    >>> byte_size(512), byte_size(7_900_000), byte_size(16_000_000_000)
    ('512 B', '7.9 MB', '16.0 GB')
    """
    if count < 1000:
        return f"{count} B"
    size = float(count)
    for unit in ("kB", "MB", "GB"):
        size /= 1000
        if size < 999.95:
            return f"{size:.1f} {unit}"
    return f"{size / 1000:.1f} TB"


def duration(seconds: float) -> str:
    """Write a time.

    Examples
    --------
    >>> duration(7.4), duration(75), duration(3675)
    ('0:07', '1:15', '1:01:15')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def counted(count: int, noun: str, plural: str = "") -> str:
    """Write a count and its noun.

    Examples
    --------
    >>> counted(1, "text"), counted(12_345, "token"), counted(2, "copy", "copies")
    ('1 text', '12,345 tokens', '2 copies')
    """
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"
