"""Gram matrices that can be added up in any grouping and order without a bit changing.

A sum of floating-point matrices depends on how tokens are grouped, and so does cutting each group against its own largest entry. Here a
number is written in *digits at places that nobody chooses*: balanced digits of base ``2^20``,

    x = sum_w D_w 2^(20 w),   |D_w| <= 2^19,   w running over all integers,

which are a property of the number alone. Feature ``i`` keeps the digits of its four highest places, counted from the highest one that any
of its tokens has used so far; what lies lower cannot matter for anything that is kept later, since that highest place only rises. Then

    G_pq = sum_tokens D_(top_i - p, i) D_(top_j - q, j)      for p + q < 5,

matrices of integers, held as int64 and added without rounding. When two of them with different tops meet, places are shifted, and what
falls off the end is what the higher top would have left out at once. The result is a function of the set of tokens.

At least 60 bits below a feature's largest magnitude are kept, and the products left out are smaller still: with ``|x_i| < 2^e_i`` the error
is at most ``tokens 2^(e_i + e_j - 59)``, to which come the roundings of float64 that put the parts together.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from refquant.errors import InputError, NumericalError
from refquant.numerics.arrays import Array, Float64Array, IntArray, read_only
from refquant.numerics.frozen import by_constructor
from refquant.numerics.slicing import EXACT_BITS, exponents, largest

BITS, DIGITS = 20, 4
ORDERS = 5
"""Places that the digits of a product take up: one more than ``DIGITS``, because a leading digit may be as small as 1."""
LOWEST = -60
"""Place of a feature that has been 0 so far: below that of the smallest subnormal number."""
PAIRS = tuple((p, q) for p in range(DIGITS) for q in range(p, DIGITS) if p + q < ORDERS)
RUN = 2 ** (EXACT_BITS - 2 * (BITS - 1))
"""Tokens whose products of digits BLAS adds exactly."""
MOST_TOKENS = 2**22
"""Tokens for which int64 holds every sum, with all pairs of one order together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GramDigits:
    """The sum of ``x x^T`` over tokens, as integers; :meth:`merge` is associative and commutative.

    Parameters
    ----------
    tokens : int
    top : int64 ndarray ``[features]``
        Highest place of each feature.
    parts : int64 ndarray ``[8, features, features]``
        ``G_pq`` in the order of ``PAIRS``; ``G_qp`` is its transpose.

    Examples
    --------
    >>> x = np.array([[1.0, 1e10], [3.0, 0.1], [1e-9, 0.2]])
    >>> apart = GramDigits.of(x[2:]).merge(GramDigits.of(x[:2]))
    >>> bool(np.array_equal(apart.total(), GramDigits.of(x).total())), apart.total()[0, 0]
    (True, np.float64(10.0))
    """

    tokens: int
    top: IntArray
    parts: IntArray

    __reduce__ = by_constructor

    def __post_init__(self) -> None:
        if self.tokens > MOST_TOKENS:
            raise NumericalError(f"exact statistics hold up to {MOST_TOKENS} tokens; there are {self.tokens}")
        object.__setattr__(self, "top", read_only(self.top))
        object.__setattr__(self, "parts", read_only(self.parts))

    @classmethod
    def of(cls, x: Array) -> GramDigits:
        """Collect from finite numbers ``[tokens, features]``.

        Raises
        ------
        InputError
            If `x` is not a matrix of finite float32 or float64 numbers.
        NumericalError
            If there are more than 2^22 tokens.
        """
        if x.ndim != 2 or x.dtype not in (np.float32, np.float64) or not np.isfinite(x).all():
            raise InputError(f"exact statistics are made of finite floats [tokens, features]; found {x.dtype} of shape {x.shape}")
        tokens, features = x.shape
        top = np.full(features, LOWEST)
        if tokens:
            found = -(-(exponents(largest(x, 0))[0].astype(np.int64) + 1) // BITS) - 1  # |x| < 2^(20 top + 19)
            top = np.where((x != 0).any(axis=0), found, LOWEST)
        parts = np.zeros((len(PAIRS), features, features), dtype=np.int64)
        for start in range(0, tokens, RUN):
            digits = _digits(x[start : start + RUN], top)
            for part, (p, q) in zip(parts, PAIRS, strict=True):
                part += np.matmul(digits[p].T, digits[q]).astype(np.int64)  # exact
        return cls(tokens=tokens, top=top, parts=parts)

    def merge(self, other: GramDigits) -> GramDigits:
        """The sum over both sets of tokens.

        Raises
        ------
        InputError
            If the numbers of features differ.
        NumericalError
            If there are more than 2^22 tokens.
        """
        if self.top.shape != other.top.shape:
            raise InputError(f"cannot merge statistics of {len(self.top)} and {len(other.top)} features")
        top = np.maximum(self.top, other.top)
        return GramDigits(tokens=self.tokens + other.tokens, top=top, parts=self._shifted(top) + other._shifted(top))

    def _shifted(self, top: IntArray) -> IntArray:
        """The parts, with digits counted from higher places."""
        shift = np.minimum(top - self.top, DIGITS)
        if not shift.any():
            return self.parts
        members = [np.flatnonzero(shift == s) for s in range(DIGITS)]  # a feature shifted further has no digit left
        parts = np.zeros_like(self.parts)
        for part, (p, q) in zip(parts, PAIRS, strict=True):
            for down in range(p + 1):
                for right in range(q + 1):
                    where = np.ix_(members[down], members[right])
                    part[where] = self._pair(p - down, q - right)[where]
        return parts

    def _pair(self, p: int, q: int) -> IntArray:
        return np.asarray(self.parts[PAIRS.index((p, q))] if p <= q else self.parts[PAIRS.index((q, p))].T)

    def total(self) -> Float64Array:
        """The sum as float64 ``[features, features]``, exactly symmetric; infinite where it overflows."""
        found = np.zeros(self.parts.shape[1:])
        for order in reversed(range(ORDERS)):
            whole = np.zeros(self.parts.shape[1:], dtype=np.int64)
            for p in range(max(order - DIGITS + 1, 0), min(order + 1, DIGITS)):
                whole += self._pair(p, order - p)
            found = found * 0.5**BITS + whole
        return np.asarray(np.ldexp(found, BITS * (self.top[:, None] + self.top)))


def _digits(x: Array, top: IntArray) -> Float64Array:
    """The four digits ``[4, tokens, features]`` below and at the places `top`."""
    digits = np.empty((DIGITS, *x.shape))
    with np.errstate(under="ignore"):  # what underflows here is far below the last digit
        rest = np.ldexp(x.astype(np.float64, copy=False), -BITS * top)
    for digit in digits:
        np.rint(rest, out=digit)
        rest -= digit
        rest *= 2**BITS
    return digits
