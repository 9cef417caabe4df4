"""Integer formats: two's complement and unsigned integers of 1 to 16 bits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from refquant.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class IntFormat:
    """The integers ``lo..hi`` that `bits` bits can hold.

    Parameters
    ----------
    bits : int
        Width, 1 to 16.
    signed : bool
        Two's complement if true (``-2^(b-1) .. 2^(b-1)-1``), else ``0 .. 2^b-1``.
    narrow : bool
        Leave out a code: of signed ones the lowest, so that the range is symmetric, ``-(2^(b-1)-1) .. 2^(b-1)-1``; of unsigned ones the
        highest, ``0 .. 2^b-2``, which is the same number of steps.

    Raises
    ------
    UsageError
        If `bits` is out of range, or `narrow` is asked of a 1-bit format.

    Examples
    --------
    >>> IntFormat(bits=4, signed=True, narrow=True).name
    'int4_narrow'
    >>> IntFormat(bits=4, signed=False).hi, IntFormat(bits=4, signed=False, narrow=True).hi
    (15, 14)
    """

    bits: int
    signed: bool
    narrow: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.bits, bool) or not isinstance(self.bits, int) or not 1 <= self.bits <= 16:
            raise UsageError(f"an integer format has 1 to 16 bits, not {self.bits!r}")
        if not (isinstance(self.signed, bool) and isinstance(self.narrow, bool)):
            raise UsageError(f"signed and narrow are True or False, not {self.signed!r} and {self.narrow!r}")
        if self.narrow and self.bits == 1:
            raise UsageError("a narrow 1-bit format would hold only the number 0; use at least 2 bits")

    @property
    def lo(self) -> int:
        """Smallest member."""
        if not self.signed:
            return 0
        return -(1 << (self.bits - 1)) + int(self.narrow)

    @property
    def hi(self) -> int:
        """Largest member."""
        return (1 << (self.bits - 1)) - 1 if self.signed else (1 << self.bits) - 1 - int(self.narrow)

    @property
    def dtype(self) -> np.dtype[np.integer]:
        """Smallest NumPy integer dtype that holds every member."""
        kind = "i" if self.signed else "u"
        return np.dtype(f"{kind}{1 if self.bits <= 8 else 2}")

    @property
    def name(self) -> str:
        """Catalogue name, such as ``uint4`` or ``int8_narrow``."""
        return f"{'int' if self.signed else 'uint'}{self.bits}{'_narrow' if self.narrow else ''}"

    @property
    def members(self) -> range:
        """All members in increasing order."""
        return range(self.lo, self.hi + 1)
