"""Factors of a Hessian that GPTQ needs."""

from __future__ import annotations

import numpy as np

from refquant.errors import NotPositiveDefiniteError
from refquant.numerics.arithmetic import FAST, Arithmetic
from refquant.numerics.arrays import Array, Float64Array


def upper_factor_of_inverse(h: Array, arithmetic: Arithmetic = FAST) -> Float64Array:
    """Upper triangular ``U`` with ``h^-1 = U^T U``, from one factorization.

    With ``J`` the exchange matrix (rows reversed), ``J h J = L L^T`` gives ``R = J L J``, upper triangular with ``h = R R^T``; then
    ``U = R^-1 = J L^-1 J``. One factorization and one triangular inverse (2n^3/3 operations) instead of factor, invert, factor again,
    and one loss of accuracy fewer.

    Parameters
    ----------
    h : float64 ndarray ``[n, n]``
        Symmetric and positive definite.
    arithmetic : Arithmetic

    Raises
    ------
    NotPositiveDefiniteError
        Its `pivot` is the column, in the order of `h`, at which the factorization stopped.

    Examples
    --------
    >>> h = np.array([[4.0, 2.0], [2.0, 3.0]])
    >>> u = upper_factor_of_inverse(h)
    >>> bool(np.allclose(np.linalg.inv(u.T @ u), h)), float(u[1, 0])
    (True, 0.0)
    """
    h = np.asarray(h, dtype=np.float64)
    try:
        lower = arithmetic.cholesky(h[::-1, ::-1])
    except NotPositiveDefiniteError as error:
        column = len(h) - 1 - error.pivot
        raise NotPositiveDefiniteError(
            f"the Hessian is not positive definite: its pivot at column {column} is not positive", column
        ) from error
    return np.ascontiguousarray(arithmetic.inverse_lower(lower)[::-1, ::-1])


STEP = 1024  # rows or columns that are moved at a time


def upper_factor_in_place(h: Float64Array, arithmetic: Arithmetic = FAST) -> Float64Array:
    """The same bytes as :func:`upper_factor_of_inverse` in the memory of `h`: for matrices of which a second does not fit.

    Parameters
    ----------
    h : float64 ndarray ``[n, n]``
        Exactly symmetric, C-contiguous, writable. Whoever calls gives it up: it holds the result, or whatever the arithmetic left there.
    arithmetic : Arithmetic

    Raises
    ------
    NotPositiveDefiniteError
        As :func:`upper_factor_of_inverse`; `h` then holds what it held.

    Examples
    --------
    >>> h = np.array([[4.0, 2.0], [2.0, 3.0]])
    >>> wanted = upper_factor_of_inverse(h)
    >>> u = upper_factor_in_place(h)
    >>> bool((u == wanted).all()), np.shares_memory(u, h)
    (True, True)
    """
    lower = _factor_of_reversed(h, arithmetic)
    inverse = arithmetic.inverse_lower_in_place(lower)
    if not np.shares_memory(inverse, h):
        return np.ascontiguousarray(inverse[::-1, ::-1])
    _reverse(h)
    _transpose(h)
    return h


def lower_root_in_place(h: Array, arithmetic: Arithmetic = FAST) -> Array:
    """Lower triangular ``G`` with ``h = G^T G``, in the memory of `h`: then :func:`upper_factor_of_inverse` is ``G^-T``.

    With ``J h J = L L^T`` as above, ``G = J L^T J``.

    Parameters
    ----------
    h : float32 or float64 ndarray ``[n, n]``
        As in :func:`upper_factor_in_place`.
    arithmetic : Arithmetic

    Raises
    ------
    NotPositiveDefiniteError
        As :func:`upper_factor_in_place`.

    Examples
    --------
    >>> g = lower_root_in_place(np.array([[8.0, 6.0], [6.0, 9.0]]))
    >>> g
    array([[2., 0.],
           [2., 3.]])
    """
    lower = _factor_of_reversed(h, arithmetic)
    if not np.shares_memory(lower, h):
        return np.ascontiguousarray(lower.T[::-1, ::-1])
    _reverse(h)
    return h


def _factor_of_reversed(h: Array, arithmetic: Arithmetic) -> Array:
    """``L`` with ``J h J = L L^T``, in Fortran order in the memory of `h` where the arithmetic leaves it there."""
    diagonal = np.diagonal(h).copy()
    _reverse(h)
    try:
        return arithmetic.cholesky_in_place(h.T)  # symmetric: its transpose is itself, in Fortran order
    except NotPositiveDefiniteError as error:
        _mirror_lower(h)
        _reverse(h)
        h[np.diag_indices_from(h)] = diagonal
        column = len(h) - 1 - error.pivot
        raise NotPositiveDefiniteError(
            f"the Hessian is not positive definite: its pivot at column {column} is not positive", column
        ) from error


def _reverse(a: Array) -> None:
    """Reverse rows and columns of a C-contiguous matrix: its numbers from back to front."""
    flat = a.reshape(-1)
    step, half = STEP * STEP, len(flat) // 2
    for start in range(0, half, step):
        stop = min(start + step, half)
        front, back = flat[start:stop], flat[len(flat) - stop : len(flat) - start]
        kept = front[::-1].copy()
        front[:] = back[::-1]
        back[:] = kept


def _transpose(a: Array) -> None:
    """Exchange a matrix with its transpose, square by square."""
    for i in range(0, len(a), STEP):
        for j in range(i, len(a), STEP):
            one, other = a[i : i + STEP, j : j + STEP], a[j : j + STEP, i : i + STEP]
            kept = one.T.copy()
            one[:] = other.T.copy()
            other[:] = kept


def _mirror_lower(a: Array) -> None:
    """Write the strict lower triangle over the strict upper one."""
    for row in range(len(a) - 1):
        a[row, row + 1 :] = a[row + 1 :, row]
