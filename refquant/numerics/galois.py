"""Finite fields, as far as the Paley constructions need them: which differences of two elements are squares.

An element of GF(p^m) is written as the integer ``a_0 + a_1 p + ... + a_(m-1) p^(m-1)``, a polynomial over GF(p) modulo an irreducible one.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
from numpy.typing import NDArray

from refquant.errors import UsageError


def prime_power(q: int) -> tuple[int, int] | None:
    """Return ``(p, m)`` with ``q = p^m`` and p prime, or None.

    Examples
    --------
    >>> prime_power(25), prime_power(13), prime_power(12)
    ((5, 2), (13, 1), None)
    """
    if q < 2:
        return None
    p = next((d for d in range(2, math.isqrt(q) + 1) if q % d == 0), q)
    m, rest = 0, q
    while rest % p == 0:
        m, rest = m + 1, rest // p
    return (p, m) if rest == 1 else None


def quadratic_character(q: int) -> NDArray[np.int8]:
    """Table ``chi(b - a)``: 1 where the difference is a non-zero square of GF(q), -1 where it is none, 0 on the diagonal.

    Parameters
    ----------
    q : int
        A power of an odd prime.

    Returns
    -------
    int8 ndarray ``[q, q]``
        Row a, column b.

    Raises
    ------
    UsageError
        If `q` is not a power of an odd prime.

    Examples
    --------
    >>> quadratic_character(5)[0]
    array([ 0,  1, -1, -1,  1], dtype=int8)
    """
    found = prime_power(q)
    if found is None or found[0] == 2:
        raise UsageError(f"the quadratic character needs a power of an odd prime, not {q}")
    p, m = found
    digits = np.array(list(itertools.product(range(p), repeat=m)), dtype=np.int64)[:, ::-1]  # [q, m], lowest power first
    weights = p ** np.arange(m, dtype=np.int64)
    character = np.full(q, -1, dtype=np.int8)
    character[_encode(_squares(digits, p, m), weights)] = 1
    character[0] = 0
    differences = (digits[None, :, :] - digits[:, None, :]) % p  # [q, q, m]
    return character[_encode(differences, weights)]


def _encode(digits: NDArray[np.int64], weights: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.asarray(np.sum(digits * weights, axis=-1))


def _squares(digits: NDArray[np.int64], p: int, m: int) -> NDArray[np.int64]:
    """Squares of all elements: multiply the polynomials, then replace the leading powers."""
    product = np.zeros((len(digits), 2 * m - 1), dtype=np.int64)
    for i in range(m):
        for j in range(m):
            product[:, i + j] += digits[:, i] * digits[:, j]
    lower = _irreducible(p, m)
    for top in range(2 * m - 2, m - 1, -1):  # x^m = -(lower part of the modulus)
        for k in range(m):
            product[:, top - m + k] -= product[:, top] * lower[k]
        product %= p
    return product[:, :m] % p


def _irreducible(p: int, m: int) -> tuple[int, ...]:
    """Lower coefficients of the first monic polynomial of degree m that no monic one of degree 1 to m/2 divides."""
    for lower in itertools.product(range(p), repeat=m):
        factors = (f for degree in range(1, m // 2 + 1) for f in itertools.product(range(p), repeat=degree))
        if not any(_divides(factor, lower, p) for factor in factors):
            return lower
    raise AssertionError(f"there is an irreducible polynomial of every degree; none of {m} was found over GF({p})")


def _divides(factor: tuple[int, ...], lower: tuple[int, ...], p: int) -> bool:
    """Whether ``x^d + factor`` divides ``x^m + lower`` over GF(p); coefficients lowest power first."""
    rest = [*lower, 1]
    degree = len(factor)
    for top in range(len(rest) - 1, degree - 1, -1):
        lead = rest[top]
        for k, coefficient in enumerate((*factor, 1)):
            rest[top - degree + k] = (rest[top - degree + k] - lead * coefficient) % p
    return not any(rest[:degree])
