"""The quadratic problem that GPTQ solves greedily: its preparation, its factorization, its loss, and its true optimum.

For each row of a layer: codes on given grids that minimize ``(w - q) H (w - q)^T``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import product

from refquant.errors import InputError, NotPositiveDefiniteError, UsageError
from refquant.oracle.rational import Matrix, Row
from refquant.oracle.uniform import UniformGrid


@dataclass(frozen=True, slots=True)
class Preparation:
    """`H` and `W` after dead columns, order and damping; columns in the order in which they are quantized."""

    weights: Matrix
    hessian: Matrix
    order: list[int]
    damping: Fraction


def prepare(weights: Matrix, hessian: Matrix, percdamp: Fraction, act_order: bool = False) -> Preparation:
    """Handle dead columns, sort, and damp.

    A column with ``H_ii = 0`` gets ``H_ii = 1`` and weights 0. Then, if asked for, columns are sorted by falling
    ``H_ii``, equal ones in their order. Then ``lambda = percdamp * mean(H_ii)`` is added to the diagonal.

    Parameters
    ----------
    weights : list of rows, ``[out, in]``
        Not changed.
    hessian : list of rows, ``[in, in]``
        Symmetric; not changed.
    percdamp : Fraction
        Not negative.
    act_order : bool
        Whether to sort.

    Returns
    -------
    Preparation

    Raises
    ------
    InputError
        If the shapes do not agree or the Hessian is not symmetric.

    Examples
    --------
    >>> one, zero = Fraction(1), Fraction(0)
    >>> prepared = prepare([[one, one]], [[zero, zero], [zero, 3 * one]], Fraction(1, 2), act_order=True)
    >>> prepared.order, [int(x) for x in prepared.weights[0]], [int(prepared.hessian[i][i]) for i in (0, 1)]
    ([1, 0], [1, 0], [4, 2])
    """
    size = len(hessian)
    if any(len(line) != size for line in (*hessian, *weights)):
        raise InputError(f"a Hessian of {size} rows needs {size} columns, and {size} weights in every row")
    if any(hessian[i][j] != hessian[j][i] for i in range(size) for j in range(i)):
        raise InputError("the Hessian is not symmetric")
    dead = [hessian[i][i] == 0 for i in range(size)]
    diagonal = [Fraction(1) if dead[i] else hessian[i][i] for i in range(size)]
    damping = percdamp * sum(diagonal, Fraction(0)) / size
    # sorted() is stable: equal diagonals stay in their order.
    order = sorted(range(size), key=lambda i: -diagonal[i]) if act_order else list(range(size))
    damped = [[diagonal[i] + damping if i == j else hessian[i][j] for j in order] for i in order]
    return Preparation([[Fraction(0) if dead[j] else line[j] for j in order] for line in weights], damped, order, damping)


def unit_factor_of_inverse(hessian: Matrix) -> tuple[Matrix, Row]:
    """Return ``V`` unit upper triangular and ``D`` with ``H^-1 = V^T D^-1 V``; then ``V_ij = U_ij / U_ii`` and ``D_i = 1 / U_ii^2``.

    Parameters
    ----------
    hessian : list of rows, ``[n, n]``
        Symmetric and positive definite.

    Returns
    -------
    tuple of (list of rows, list)

    Raises
    ------
    NotPositiveDefiniteError
        If a pivot is not positive; elimination runs from the last column, and the pivot's index is that of the column.

    Examples
    --------
    >>> factor, pivots = unit_factor_of_inverse([[Fraction(2), Fraction(1)], [Fraction(1), Fraction(2)]])
    >>> [str(x) for x in factor[0]], [str(x) for x in pivots]
    (['1', '-1/2'], ['3/2', '2'])
    """
    size = len(hessian)
    left = [list(line) for line in hessian]  # what is left of H: H = R D R^T
    unit = [[Fraction(int(i == j)) for j in range(size)] for i in range(size)]  # R
    pivots = [Fraction(0)] * size
    for k in range(size - 1, -1, -1):
        pivots[k] = left[k][k]
        if pivots[k] <= 0:
            raise NotPositiveDefiniteError(f"the Hessian is not positive definite: pivot {k} is {float(pivots[k]):g}", k)
        for i in range(k):
            unit[i][k] = left[i][k] / pivots[k]
        for i in range(k):
            for j in range(k):
                left[i][j] -= unit[i][k] * left[k][j]
    # V = R^-1 by back substitution: row i of V R = I.
    inverse = [[Fraction(int(i == j)) for j in range(size)] for i in range(size)]
    for i in range(size):
        for j in range(i + 1, size):
            inverse[i][j] = -sum((inverse[i][k] * unit[k][j] for k in range(i, j)), Fraction(0))
    return inverse, pivots


def quadratic_loss(difference: Row, hessian: Matrix) -> Fraction:
    """Return ``d H d^T`` of one row.

    Parameters
    ----------
    difference : list of Fraction
        ``w - q``.
    hessian : list of rows
        Of that many rows and columns.

    Returns
    -------
    Fraction

    Examples
    --------
    >>> one = Fraction(1)
    >>> quadratic_loss([one, 2 * one], [[one, one], [one, 3 * one]])
    Fraction(17, 1)
    """
    total = Fraction(0)
    for i in range(len(difference)):
        for j in range(len(difference)):
            total += difference[i] * hessian[i][j] * difference[j]
    return total


def best_assignment(weights: Row, hessian: Matrix, grids: Sequence[UniformGrid]) -> tuple[list[int], Fraction]:
    """Try all codes of one row and return the best; the first in counting order, if several are.

    Parameters
    ----------
    weights : list of Fraction
        One row.
    hessian : list of rows
        Damped or not: what the loss is measured with.
    grids : sequence of UniformGrid
        One for each column. The number of trials is the product of their numbers of codes.

    Returns
    -------
    tuple of (list of int, Fraction)
        Codes and their loss.

    Raises
    ------
    UsageError
        If there are more than a million trials to make.

    Examples
    --------
    >>> grid = UniformGrid(Fraction(1), 0, -1, 1)
    >>> h = [[Fraction(2), Fraction(1)], [Fraction(1), Fraction(2)]]
    >>> codes, loss = best_assignment([Fraction(2, 5), Fraction(2, 5)], h, [grid, grid])
    >>> codes, str(loss)
    ([0, 1], '14/25')
    """
    trials = math.prod(grid.hi - grid.lo + 1 for grid in grids)
    if trials > 1_000_000:
        raise UsageError(f"{trials} assignments of codes, at most 1000000 are tried")
    best: tuple[list[int], Fraction] | None = None
    for codes in product(*(range(grid.lo, grid.hi + 1) for grid in grids)):
        values = [grid.scale * (code - grid.zero) for code, grid in zip(codes, grids, strict=True)]
        loss = quadratic_loss([w - q for w, q in zip(weights, values, strict=True)], hessian)
        if best is None or loss < best[1]:
            best = list(codes), loss
    if best is None:
        raise UsageError("a grid without codes")
    return best
