"""Tables of codebooks that follow from a rule. What has none, or whose rule is not exact to the bit, stands in the catalogue as numbers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def fixed_point(bits: int, fraction_bits: int) -> tuple[float, ...]:
    """Two's complement integers over ``2^fraction_bits``, by bit pattern.

    Examples
    --------
    >>> fixed_point(3, 1)
    (0.0, 0.5, 1.0, 1.5, -2.0, -1.5, -1.0, -0.5)
    """
    unit, half = 1 << fraction_bits, 1 << (bits - 1)
    return tuple((code - 2 * half if code >= half else code) / unit for code in range(2 * half))


def powers_of_two(bits: int) -> tuple[float, ...]:
    """A sign bit, and magnitudes 0 and ``2^-k`` for ``k = 0 .. 2^(bits-1) - 2`` (Li et al., arXiv 1909.13144, eq. 1); 1 has the last code.

    Examples
    --------
    >>> powers_of_two(3)
    (0.0, 0.25, 0.5, 1.0, -0.0, -0.25, -0.5, -1.0)
    """
    last = (1 << (bits - 1)) - 2
    positive = [0.0, *(1 / (1 << (last - k)) for k in range(last + 1))]
    return (*positive, *(-value for value in positive))


def additive_powers_of_two(magnitude_bits: int, *, signed: bool) -> tuple[float, ...]:
    """Sums of powers of two, two bits a term (Li et al., arXiv 1909.13144, eq. 3, with k = 2 and gamma left to the scale).

    With ``n`` terms, term ``i`` is one of ``0, 2^-i, 2^-(i+n), 2^-(i+2n)``; digit ``i`` of the code, the lowest first, says which. A sign
    bit lies above them.

    Parameters
    ----------
    magnitude_bits : int
        An even number: two bits for each of the ``n`` terms.
    signed : bool

    Examples
    --------
    >>> additive_powers_of_two(2, signed=False)
    (0.0, 1.0, 0.5, 0.25)
    """
    terms = magnitude_bits // 2
    levels = [[0.0] + [1 / (1 << (i + k * terms)) for k in range(3)] for i in range(terms)]
    positive = [sum(levels[i][code >> (2 * i) & 3] for i in range(terms)) for code in range(1 << magnitude_bits)]
    return (*positive, *(-value for value in positive)) if signed else tuple(positive)


def dynamic_map(*, signed: bool) -> tuple[float, ...]:
    """The 8-bit dynamic data type (Dettmers, arXiv 1511.04561), bit for bit as bitsandbytes makes it.

    The interval 0.1 .. 1 is cut into ``2^i`` equal parts (``2^(i+1)`` without sign); their middles times ``10^(i-6)``, ``i = 0..6``, are
    the members, with their negatives, 0 and 1. The ends of the parts are computed as a fused multiply-add does, rounded once to float32:
    from 0.1 upwards in the lower half, from 1 downwards in the upper one. Everything else is plain float32.

    Examples
    --------
    >>> dynamic_map(signed=True)[-2:]
    (0.992968738079071, 1.0)
    """
    single, double = np.float32, np.float64
    members: list[NDArray[np.float32]] = [np.array([0, 1], dtype=single)]
    for i in range(7):
        parts = (1 << i) if signed else (2 << i)
        step = (single(1) - single(0.1)) / single(parts)
        place = np.arange(parts + 1)
        up = (double(single(0.1)) + double(step) * place).astype(single)
        down = (1.0 - double(step) * (parts - place)).astype(single)
        ends = np.where(place < (parts + 1) // 2, up, down)
        middles = np.asarray(single(float(f"1e{i - 6}")) * ((ends[:-1] + ends[1:]) / single(2)), dtype=single)
        members += [middles, -middles] if signed else [middles]
    return tuple(float(value) for value in np.sort(np.concatenate(members)))
