"""Square roots of symmetric positive definite matrices, from products alone."""

from __future__ import annotations

import numpy as np

from refquant.errors import NumericalError
from refquant.numerics.arithmetic import FAST, Arithmetic
from refquant.numerics.arrays import Float64Array

TURNS = 200


def root_and_inverse_root(a: Float64Array, arithmetic: Arithmetic = FAST) -> tuple[Float64Array, Float64Array]:
    """``A^(1/2)`` and ``A^(-1/2)`` of every matrix of a stack, both symmetric.

    The coupled Newton and Schulz iteration (N. J. Higham, Functions of Matrices, 2008, 6.7): with ``A / |A|_F`` in Y and the identity in Z,
    ``T = (3 I - Z Y) / 2``, ``Y <- Y T``, ``Z <- T Z``. Each turn lifts an eigenvalue of ``Z Y`` by 9/4 while it is small, and squares its
    distance to 1 in the end; it stops when the distance of ``Z Y`` to the identity no longer halves. The relative error of ``Y^2 - A`` is
    of the order of the machine's epsilon times the condition number.

    Parameters
    ----------
    a : float64 ndarray ``[..., n, n]``
        Symmetric, positive definite.
    arithmetic : Arithmetic

    Raises
    ------
    NumericalError
        If it does not settle: a matrix is singular to working accuracy, or not positive definite.

    Examples
    --------
    >>> root, inverse = root_and_inverse_root(np.array([[5.0, 4.0], [4.0, 5.0]]))
    >>> root.round(12).tolist(), inverse.round(12).tolist()
    ([[2.0, 1.0], [1.0, 2.0]], [[0.666666666667, -0.333333333333], [-0.333333333333, 0.666666666667]])
    """
    a = np.asarray(a, dtype=np.float64)
    identity = np.eye(a.shape[-1])
    size = np.sqrt(arithmetic.sum(a * a, axis=(-2, -1), keepdims=True))
    if not (np.isfinite(size) & (size > 0)).all():
        raise NumericalError("a matrix without a root: it is 0, or its squares are not finite")
    y, z = a / size, np.broadcast_to(identity, a.shape).copy()
    last = np.inf
    for _ in range(TURNS):
        product = arithmetic.matmul(z, y)
        distance = float(np.abs(product - identity).max(initial=0.0))
        if distance < 1e-3 and distance >= last / 2:
            root, inverse = y * np.sqrt(size), z / np.sqrt(size)
            return (root + root.swapaxes(-1, -2)) / 2, (inverse + inverse.swapaxes(-1, -2)) / 2
        if not np.isfinite(distance) or distance > 1e3:
            break
        last = distance
        turn = (3 * identity - product) / 2
        y, z = arithmetic.matmul(y, turn), arithmetic.matmul(turn, z)
    raise NumericalError(f"no root after {TURNS} turns (distance {distance:.3g}): a matrix is singular or not positive definite")
