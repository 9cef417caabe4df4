"""Cholesky factor, triangular solution and triangular inverse on top of a product of matrices.

Each halves the matrix until a block of 32 rows is left, which plain elementwise loops do; everything larger is a product. IEEE 754 fixes
``- * / sqrt``, so with a product that is the same everywhere the results are too.

    cholesky   [A . ; B C]:  L11 = chol(A),  L21^T = L11^-1 B^T,  L22 = chol(C - L21 L21^T)
    solve      [P 0 ; Q R] X = Y:  X1 = P^-1 Y1,  X2 = R^-1 (Y2 - Q X1)
    inverse    [P 0 ; Q R]:  X11 = P^-1,  X22 = R^-1,  X21 = -R^-1 (Q X11), by solving

The inverse solves with R and does not multiply by its inverse: only so is ``|L X - I| <= c n u |L| |X|`` kept (Higham, Accuracy and
Stability of Numerical Algorithms, 14.2).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from refquant.errors import InputError, NotPositiveDefiniteError
from refquant.numerics.arrays import Array, Float64Array

Product = Callable[[Array, Array], Array]
LEAF = 32


def cholesky(h: Array, product: Product) -> Float64Array:
    """Lower factor ``L`` with ``h = L L^T``; only the lower triangle of `h` is read.

    Raises
    ------
    NotPositiveDefiniteError
        At the first pivot that is not positive.

    Examples
    --------
    >>> cholesky(np.array([[4.0, 2.0], [2.0, 5.0]]), np.matmul)
    array([[2., 0.],
           [1., 2.]])
    """
    lower = np.tril(_square(h))
    _factor(lower, 0, product)
    return np.tril(lower)


def solve_lower(lower: Array, y: Array, product: Product) -> Float64Array:
    """Solution ``X`` of ``lower X = y`` for a lower triangular matrix with a non-zero diagonal and ``y`` ``[n, m]``.

    Examples
    --------
    >>> solve_lower(np.array([[2.0, 0.0], [1.0, 4.0]]), np.array([[2.0], [5.0]]), np.matmul).ravel()
    array([1., 1.])
    """
    x = np.array(y, dtype=np.float64)
    _solve(np.asarray(lower, dtype=np.float64), x, product)
    return x


def inverse_lower(lower: Array, product: Product) -> Float64Array:
    """Inverse of a lower triangular matrix.

    Raises
    ------
    NotPositiveDefiniteError
        If an entry of the diagonal is 0.

    Examples
    --------
    >>> inverse_lower(np.array([[2.0, 0.0], [1.0, 4.0]]), np.matmul)
    array([[ 0.5  ,  0.   ],
           [-0.125,  0.25 ]])
    """
    lower = _square(lower)
    zeros = np.flatnonzero(np.diagonal(lower) == 0)
    if len(zeros):
        raise NotPositiveDefiniteError(f"the triangular matrix is singular: entry {zeros[0]} of its diagonal is 0", int(zeros[0]))
    inverse = np.zeros_like(lower)
    _invert(lower, inverse, product)
    return inverse


def _square(x: Array) -> Float64Array:
    matrix = np.asarray(x, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise InputError(f"a square matrix is needed; found shape {matrix.shape}")
    return matrix


def _half(n: int) -> int:
    """Where to cut: about half, at a multiple of the smallest block."""
    return -(-n // (2 * LEAF)) * LEAF


def _factor(a: Float64Array, offset: int, product: Product) -> None:
    """Replace the lower triangle of `a` by its factor; `offset` is where `a` stands in the whole matrix."""
    n = len(a)
    if n <= LEAF:
        for j in range(n):
            if not a[j, j] > 0:
                raise NotPositiveDefiniteError(f"the matrix is not positive definite: pivot {offset + j} is not positive", offset + j)
            a[j, j] = np.sqrt(a[j, j])
            column = a[j + 1 :, j]
            column /= a[j, j]
            a[j + 1 :, j + 1 :] -= column[:, None] * column
        return
    half = _half(n)
    _factor(a[:half, :half], offset, product)
    below = solve_lower(a[:half, :half], a[half:, :half].T, product)  # [half, rest]
    a[half:, :half] = below.T
    a[half:, half:] -= product(below.T, below)
    _factor(a[half:, half:], offset + half, product)


def _solve(lower: Float64Array, x: Float64Array, product: Product) -> None:
    """Replace `x` by the solution."""
    n = len(lower)
    if n <= LEAF:
        for i in range(n):
            x[i] /= lower[i, i]
            x[i + 1 :] -= lower[i + 1 :, i, None] * x[i]
        return
    half = _half(n)
    _solve(lower[:half, :half], x[:half], product)
    x[half:] -= product(lower[half:, :half], x[:half])
    _solve(lower[half:, half:], x[half:], product)


def _invert(lower: Float64Array, inverse: Float64Array, product: Product) -> None:
    """Write the inverse into `inverse`, which is 0 above the diagonal."""
    n = len(lower)
    if n <= LEAF:
        unit = np.eye(n)
        _solve(lower, unit, product)
        inverse[...] = unit
        return
    half = _half(n)
    _invert(lower[:half, :half], inverse[:half, :half], product)
    _invert(lower[half:, half:], inverse[half:, half:], product)
    inverse[half:, :half] = -solve_lower(lower[half:, half:], product(lower[half:, :half], inverse[:half, :half]), product)
