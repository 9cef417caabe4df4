"""Codebooks: formats that are a table, one number a code."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from refquant.errors import UsageError
from refquant.formats.rounding import MemberRounding


@dataclass(frozen=True, kw_only=True)
class Codebook:
    """A finite set of float32 numbers in any order.

    Parameters
    ----------
    name : str
    bits : int
        Width of a code, 1 to 16.
    table : tuple of float
        The value of code 0, 1, ...; at most ``2^bits``. A value that occurs twice is written with its lowest code.
    ties : MemberRounding
        How encoding rounds where no rule is named.
    midpoints : {"exact", "float32"}
        Where the nearest member changes: halfway, or, as programs that compute ``(a + b) / 2`` in float32 have it, at that number rounded.
    zero_from_above : int, optional
        A second code of 0, taken by positive numbers that round to 0 (bitsandbytes' FP4 sorts its two zeros so).

    Raises
    ------
    UsageError
        If the table is empty or too long, or holds what is not a float32 number, or numbers whose midpoint float64 does not hold.

    Examples
    --------
    >>> Codebook(name="ternary", bits=2, table=(0.0, 1.0, -1.0)).hi
    1.0
    """

    name: str
    bits: int
    table: tuple[float, ...]
    ties: MemberRounding = MemberRounding.HALF_EVEN
    midpoints: Literal["exact", "float32"] = "exact"
    zero_from_above: int | None = None

    def __post_init__(self) -> None:
        if isinstance(self.bits, bool) or not isinstance(self.bits, int) or not 1 <= self.bits <= 16:
            raise UsageError(f"codebook {self.name}: codes have 1 to 16 bits, not {self.bits!r}")
        object.__setattr__(self, "table", tuple(float(value) for value in self.table))
        if not 1 <= len(self.table) <= 1 << self.bits:
            raise UsageError(f"codebook {self.name}: {self.bits} bits hold 1 to {1 << self.bits} numbers, not {len(self.table)}")
        values = np.array(self.table)
        with np.errstate(over="ignore"):
            wrong = ~np.isfinite(values) | (values.astype(np.float32) != values)
        if wrong.any():
            code = int(np.argmax(wrong))
            raise UsageError(f"codebook {self.name}: the number {self.table[code]!r} of code {code} is not a finite float32 number")
        if self.ties not in list(MemberRounding):
            raise UsageError(f"codebook {self.name}: unknown rounding {self.ties!r}; known are {', '.join(MemberRounding)}")
        object.__setattr__(self, "ties", MemberRounding(self.ties))
        if self.midpoints not in ("exact", "float32"):
            raise UsageError(f"codebook {self.name}: midpoints are 'exact' or 'float32', not {self.midpoints!r}")
        second = self.zero_from_above
        if second is not None and not (second in range(len(self.table)) and self.table[second] == 0 and 0 in self.table[:second]):
            raise UsageError(f"codebook {self.name}: code {second!r} is not a second code of 0")
        ordered = np.unique(values)
        total = ordered[1:] + ordered[:-1]
        if ((total - ordered[1:]) != ordered[:-1]).any() or ((total - ordered[:-1]) != ordered[1:]).any():
            raise UsageError(f"codebook {self.name}: the midpoint of two neighbours is not a float64 number, so ties could not be told")

    @property
    def dtype(self) -> np.dtype[np.integer]:
        """Smallest unsigned NumPy integer dtype that holds every code."""
        return np.dtype(np.uint8 if self.bits <= 8 else np.uint16)

    @cached_property
    def values(self) -> NDArray[np.float64]:
        """The table as a read-only array."""
        values = np.array(self.table)
        values.flags.writeable = False
        return values

    @property
    def lo(self) -> float:
        """Smallest member."""
        return min(self.table)

    @property
    def hi(self) -> float:
        """Largest member."""
        return max(self.table)

    @property
    def signed(self) -> bool:
        """Whether there are negative members."""
        return self.lo < 0
