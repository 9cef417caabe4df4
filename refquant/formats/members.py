"""A format as an ordered set: its finite members, their codes, and the exact numbers at which rounding changes from one to the next."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refquant.errors import UsageError
from refquant.formats.codebook import Codebook
from refquant.formats.floating import FloatFormat
from refquant.formats.integer import IntFormat
from refquant.formats.rounding import MemberRounding

Format = IntFormat | FloatFormat | Codebook
Float64s = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Members:
    """Finite members of a format in increasing order; -0 counts as 0.

    Parameters
    ----------
    values : float64 ndarray ``[members]``
    codes : integer ndarray ``[members]``
        The code that is written for each.
    even : bool ndarray ``[members]``
        Whether the last bit of the code is 0.
    zero : int
        Index of the member 0, or -1 without one.
    """

    values: Float64s
    codes: NDArray[np.integer]
    even: NDArray[np.bool_]
    zero: int


@lru_cache(maxsize=256)
def members_of(fmt: Format) -> Members:
    """List the members of a format.

    Examples
    --------
    >>> members_of(FloatFormat(name="e2m1", exponent_bits=2, mantissa_bits=1, bias=1)).values[7:]
    array([0. , 0.5, 1. , 1.5, 2. , 3. , 4. , 6. ])
    """
    table, codes = table_of(fmt), np.arange(1 << fmt.bits)
    if isinstance(fmt, IntFormat):
        codes = np.arange(fmt.lo, fmt.hi + 1)
    finite = np.isfinite(table)
    # np.unique takes the first, hence the lowest code of equal values: +0 of a float, since its sign bit is the highest.
    values, first = np.unique(table[finite], return_index=True)
    kept = codes[: len(table)][finite][first]
    values = values + 0.0  # -0 becomes +0
    zero = np.flatnonzero(values == 0)
    return Members(
        values=_frozen(values), codes=_frozen(kept.astype(fmt.dtype)), even=_frozen(kept % 2 == 0), zero=int(zero[0]) if zero.size else -1
    )


def table_of(fmt: Format) -> Float64s:
    """Value of every code in the order of the codes: from the lowest code of an integer format, else from code 0."""
    if isinstance(fmt, IntFormat):
        return np.arange(fmt.lo, fmt.hi + 1, dtype=np.float64)
    return fmt.table if isinstance(fmt, FloatFormat) else fmt.values


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Where rounding changes, in the dtype of what is rounded.

    Parameters
    ----------
    inner : ndarray ``[members - 1]``
        A number of at least ``inner[i]`` rounds to member ``i + 1`` or a later one.
    above, below : float
        Numbers of at least `above`, and numbers below `below`, lie outside the format.
    """

    inner: NDArray[np.floating]
    above: float
    below: float


@lru_cache(maxsize=512)
def thresholds_of(fmt: Format, rounding: MemberRounding, dtype: np.dtype[np.floating]) -> Thresholds:
    """Exact decision boundaries: every comparison with one of them decides as the definition does, ties included.

    Parameters
    ----------
    fmt : Format
    rounding : MemberRounding
    dtype : float32 or float64

    Raises
    ------
    UsageError
        If the rule has no meaning for the format: ``half_even`` where neighbours have codes of the same parity, ``trunc`` without a zero
        between members of both signs.
    """
    found = members_of(fmt)
    inner = _between(fmt, found.values[:-1], found.values[1:], found.even[:-1], found.even[1:], rounding)
    ends = np.array(_ends(fmt, found, rounding))
    if dtype == np.float32:
        return Thresholds(inner=_frozen(_at_least(inner)), above=float(_at_least(ends)[0]), below=float(_at_least(ends)[1]))
    return Thresholds(inner=_frozen(inner), above=float(ends[0]), below=float(ends[1]))


@lru_cache(maxsize=256)
def float32_buckets(fmt: Format, rounding: MemberRounding) -> tuple[NDArray[np.integer], NDArray[np.float32]] | None:
    """A short cut for float32: the upper 16 bits of a number leave one comparison at most.

    Returns
    -------
    first : integer ndarray ``[65536]``
        The member that the lowest number with these upper bits rounds to.
    next_boundary : float32 ndarray ``[members]``
        From where a later member is taken; NaN, which nothing reaches, behind the last.
    or None
        If two boundaries share their upper bits.
    """
    inner = thresholds_of(fmt, rounding, np.dtype(np.float32)).inner.astype(np.float32)
    upper = np.arange(1 << 16, dtype=np.uint32) << 16
    positive = upper < 1 << 31
    ends = (
        np.stack([np.where(positive, upper, upper | 0xFFFF), np.where(positive, upper | 0xFFFF, upper)]).astype(np.uint32).view(np.float32)
    )
    special = (upper >> 23) % 256 == 255  # infinities are alone among NaN, whose place does not matter
    lowest, highest = (np.where(special, upper.view(np.float32), row) for row in ends)
    first, last = (np.searchsorted(inner, row, side="right") for row in (lowest, highest))
    ordinary = ~np.isnan(lowest)
    if (last - first)[ordinary].max() > 1:
        return None
    first = np.where(ordinary, first, 0).astype(np.uint8 if len(inner) < 1 << 8 else np.uint16)
    return _frozen(first), _frozen(np.append(inner, np.float32(np.nan)).astype(np.float32))


def _between(
    fmt: Format, lower: Float64s, upper: Float64s, lower_even: NDArray[np.bool_], upper_even: NDArray[np.bool_], rounding: MemberRounding
) -> Float64s:
    """The smallest float64 number that rounds to `upper` rather than to `lower`."""
    after = np.nextafter(lower, np.inf)
    positive, straddles = lower >= 0, (lower < 0) & (upper > 0)
    match rounding:
        case MemberRounding.FLOOR:
            return upper
        case MemberRounding.CEIL:
            return after
        case MemberRounding.TRUNC:
            if straddles.any():
                raise UsageError(
                    f"rounding 'trunc' has no meaning for {fmt.name}, which has no zero between its negative and positive members"
                )
            return np.where(positive, upper, after)
        case MemberRounding.AWAY:
            return np.where(straddles, 0.0, np.where(positive, after, upper))
    middle = (lower + upper) / 2
    if isinstance(fmt, Codebook) and fmt.midpoints == "float32":
        middle = middle.astype(np.float32).astype(np.float64)
    size = np.abs(upper) - np.abs(lower)
    match rounding:
        case MemberRounding.HALF_AWAY:
            up = size >= 0
        case MemberRounding.HALF_ZERO:
            up = size <= 0
        case MemberRounding.HALF_UP:
            up = np.ones(len(middle), dtype=bool)
        case MemberRounding.HALF_DOWN:
            up = np.zeros(len(middle), dtype=bool)
        case _ if isinstance(fmt, FloatFormat) and fmt.mantissa_bits == 0:
            up = (size >= 0) & (lower != 0) | (upper == 0)  # between 2^k and 2 * 2^k the even multiple of 2^k is the second
        case _:
            same = lower_even == upper_even
            if same.any() and not isinstance(fmt, FloatFormat):
                at = int(np.argmax(same))
                raise UsageError(
                    f"rounding 'half_even' has no meaning for {fmt.name}: the codes of {lower[at]:g} and {upper[at]:g} are both "
                    f"{'even' if lower_even[at] else 'odd'}; name another rule, such as 'half_down'"
                )
            # Floats have neighbours of the same parity only at the gap that flushed subnormals leave around 0: go to 0.
            up = np.where(same, size <= 0, upper_even)
    return np.where(up, middle, np.nextafter(middle, np.inf))


def _ends(fmt: Format, found: Members, rounding: MemberRounding) -> tuple[float, float]:
    """Where a number lies outside: where it would round to a further member if the grid went on. A codebook does not go on."""
    top, bottom = found.values[-1:], found.values[:1]
    above, below = float(np.nextafter(top, np.inf)[0]), float(bottom[0])
    if isinstance(fmt, Codebook):
        above = np.inf if rounding in (MemberRounding.FLOOR, MemberRounding.TRUNC) and top[0] >= 0 else above
        below = -np.inf if rounding is MemberRounding.CEIL or (rounding is MemberRounding.TRUNC and bottom[0] <= 0) else below
        return above, below
    step = 1.0 if isinstance(fmt, IntFormat) else fmt.spacing_at_top
    above = float(_between(fmt, top, top + step, found.even[-1:], ~found.even[-1:], rounding)[0])
    if isinstance(fmt, FloatFormat):
        above = np.inf if above == top[0] + step else above  # directed rounding stays finite below any number but infinity
        if not fmt.signed:
            return above, 0.0 if found.zero >= 0 else float(np.nextafter(0.0, 1.0))
    below = float(_between(fmt, bottom - step, bottom, ~found.even[:1], found.even[:1], rounding)[0])
    if isinstance(fmt, FloatFormat) and below == np.nextafter(bottom[0] - step, np.inf):
        below = -np.inf
    return above, below


def _at_least(numbers: Float64s) -> NDArray[np.floating]:
    """The smallest float32 numbers that are not below these: to float32 numbers they are the same boundary."""
    with np.errstate(over="ignore", under="ignore"):
        rounded = numbers.astype(np.float32)
        return np.where(rounded.astype(np.float64) < numbers, np.nextafter(rounded, np.float32(np.inf)), rounded)


def _frozen(array: Any) -> Any:
    array.flags.writeable = False
    return array
