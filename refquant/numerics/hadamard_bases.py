"""Hadamard matrices by construction: square arrays of ones and minus ones whose rows are orthogonal.

==================  ============================  ============================================================
construction        orders                        source
==================  ============================  ============================================================
:func:`sylvester`   powers of two                 J. Sylvester, 1867
:func:`paley_one`   q + 1, q = 3 mod 4            R. Paley, J. Math. and Phys. 12, 1933; q a prime power
:func:`paley_two`   2 (q + 1), q = 1 mod 4        the same
:func:`williamson`  52, 156, 172                  stored rows, see :mod:`refquant.numerics.williamson`
:func:`doubled`     2 k from k                    Sylvester
==================  ============================  ============================================================

The conventions (which sign, which corner) are those of N. Sloane's library as far as QuaRot uses it, so that its orders 12, 20, 28, 36, 40,
52, 60, 108, 140, 156 and 172 are the same matrices entry by entry; a test compares them. Any other Hadamard matrix serves as well: results
differ as between two random rotations.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from refquant.errors import UsageError
from refquant.numerics.galois import prime_power, quadratic_character
from refquant.numerics.williamson import FIRST_ROWS, williamson

Signs = NDArray[np.int8]


def sylvester(order: int) -> Signs:
    """Build ``H_2n = [[H_n, H_n], [H_n, -H_n]]`` from ``[[1]]``; UsageError unless `order` is a power of two.

    Examples
    --------
    >>> sylvester(4).tolist()
    [[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]]
    """
    if not is_power_of_two(order):
        raise UsageError(f"Sylvester's matrices have orders 1, 2, 4, 8, ...; not {order}")
    h = np.ones((1, 1), dtype=np.int8)
    while len(h) < order:
        h = doubled(h)
    return h


def doubled(h: Signs) -> Signs:
    """Return ``[[H, H], [H, -H]]``, twice the order."""
    return np.block([[h, h], [h, -h]])


def paley_one(q: int) -> Signs:
    """Build the matrix of order q + 1 from the squares of GF(q), q = 3 mod 4.

    With ``Q[a, b] = chi(b - a)`` it is ``I - Q`` bordered by a column of ones and a row of minus ones; the corner is 1. It is skew:
    ``H + H^T = 2 I``.

    Raises
    ------
    UsageError
        If `q` is not a prime power that leaves 3 when divided by 4.

    Examples
    --------
    >>> paley_one(3).tolist()
    [[1, -1, -1, -1], [1, 1, -1, 1], [1, 1, 1, -1], [1, -1, 1, 1]]
    """
    if q % 4 != 3 or prime_power(q) is None:
        raise UsageError(f"Paley's first construction needs a prime power that leaves 3 when divided by 4, not {q}")
    h = np.ones((q + 1, q + 1), dtype=np.int8)
    h[0, 1:] = -1
    h[1:, 1:] = np.eye(q, dtype=np.int8) - quadratic_character(q)
    return h


def paley_two(q: int) -> Signs:
    """Build the matrix of order 2 (q + 1) from the squares of GF(q), q = 1 mod 4.

    With C the symmetric conference matrix (zero diagonal, first row and column of ones, inside ``chi(b - a)``) it is
    ``[[C + I, C - I], [C - I, -C - I]]``, symmetric.

    Raises
    ------
    UsageError
        If `q` is not a prime power that leaves 1 when divided by 4.

    Examples
    --------
    >>> h = paley_two(5)
    >>> h.shape, bool((h == h.T).all())
    ((12, 12), True)
    """
    if q % 4 != 1 or prime_power(q) is None:
        raise UsageError(f"Paley's second construction needs a prime power that leaves 1 when divided by 4, not {q}")
    conference = np.ones((q + 1, q + 1), dtype=np.int8)
    conference[0, 0] = 0
    conference[1:, 1:] = quadratic_character(q)
    one = np.eye(q + 1, dtype=np.int8)
    return np.block([[conference + one, conference - one], [conference - one, -conference - one]])


@cache
def base_matrix(order: int) -> Signs:
    """Return the Hadamard matrix of an order by the first construction that has it, read-only.

    The order of preference: Sylvester, Paley I and II over primes, stored Williamson rows, Paley over prime powers, doubling.

    Raises
    ------
    UsageError
        If none has it.

    Examples
    --------
    >>> base_matrix(148).shape
    (148, 148)
    """
    h = _constructed(order)
    if h is None:
        raise UsageError(f"no Hadamard matrix of order {order} is known here; {_nearest(order)}")
    h.flags.writeable = False
    return h


def has_base(order: int) -> bool:
    """Whether :func:`base_matrix` knows the order.

    Examples
    --------
    >>> [n for n in range(1, 101) if has_base(n)][:8], has_base(92)
    ([1, 2, 4, 8, 12, 16, 20, 24], False)
    """
    return order >= 1 and (
        is_power_of_two(order)
        or any(_paley(order, primes_only=False))
        or order in FIRST_ROWS
        or (order % 4 == 0 and order > 4 and has_base(order // 2))
    )


def is_power_of_two(n: int) -> bool:
    """Whether `n` is 1, 2, 4, 8, ..."""
    return n >= 1 and n & (n - 1) == 0


def _paley(order: int, primes_only: bool) -> tuple[bool, bool]:
    """Whether the first and the second construction have an order."""
    one, two = prime_power(order - 1), prime_power(order // 2 - 1)
    first = order % 4 == 0 and one is not None and (one[1] == 1 or not primes_only)  # then order - 1 leaves 3
    second = order % 4 == 0 and (order // 2) % 2 == 0 and (order // 2 - 1) % 4 == 1 and two is not None and (two[1] == 1 or not primes_only)
    return first, second


def _constructed(order: int) -> Signs | None:
    if not has_base(order):
        return None
    if is_power_of_two(order):
        return sylvester(order)
    for primes_only in (True, False):
        first, second = _paley(order, primes_only)
        if first:
            return paley_one(order - 1)
        if second:
            return paley_two(order // 2 - 1)
        if order in FIRST_ROWS:
            return williamson(order)
    return doubled(base_matrix(order // 2))


def _nearest(order: int) -> str:
    """What would work near an order, for the message."""
    if order < 1 or (order > 2 and order % 4):
        return "Hadamard matrices have order 1, 2 or a multiple of 4"
    below = next(n for n in range(order - 1, 0, -1) if has_base(n))
    above = next(n for n in range(order + 1, 4 * order) if has_base(n))
    return f"the nearest are {below} and {above}, or give the matrix as `base`"
