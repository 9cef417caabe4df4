"""GPTQ in exact arithmetic: every decision is the one that infinite precision takes.

With ``U`` upper triangular and ``H^-1 = U^T U``, column `i` is rounded, ``e_i = (w_i - q_i) / U_ii``, and the columns
after it are compensated by ``w_j -= e_i U_ij``. Square roots are not needed: only ``U_ij / U_ii`` and ``1 / U_ii^2``
enter. Write ``H = R D R^T`` with `R` unit upper triangular and `D` diagonal (Gaussian elimination from the last
column to the first). Then ``U = D^(-1/2) R^-1``, so

    ``w_j -= (w_i - q_i) (R^-1)_ij``      and      ``e_i^2 = (w_i - q_i)^2 D_i``.

All of it is rational if `W`, `H`, scales and zeros are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

from refquant.errors import UsageError
from refquant.oracle.coding import margin
from refquant.oracle.ieee import exact
from refquant.oracle.nearest import round_to_integer
from refquant.oracle.quadratic import prepare, quadratic_loss, unit_factor_of_inverse
from refquant.oracle.rational import Matrix, Row
from refquant.oracle.uniform import UniformGrid

Fit = Callable[[Row], UniformGrid]


@dataclass(frozen=True, slots=True)
class Decision:
    """One weight: its code, the number that stands for, the error ``w - q`` with all compensation in `w`, the distance of the
    decision to its rounding boundary in steps, and the grid."""

    code: int
    value: Fraction
    error: Fraction
    margin: Fraction
    grid: UniformGrid


@dataclass(frozen=True, slots=True)
class GptqResult:
    """What exact GPTQ decides.

    `decisions[r][c]` are in the original order of columns, `order` is the order in which they were taken, `pivots[i]`
    is ``1 / U_ii^2`` in that order, and `loss` is ``tr((W - Q)(H + damping I)(W - Q)^T)``, computed directly, `W`
    with dead columns at zero.
    """

    decisions: list[list[Decision]]
    order: list[int]
    pivots: Row
    damping: Fraction
    loss: Fraction

    @property
    def codes(self) -> list[list[int]]:
        """All codes, ``[out][in]``."""
        return [[decision.code for decision in line] for line in self.decisions]

    @property
    def values(self) -> Matrix:
        """All decoded weights, ``[out][in]``."""
        return [[decision.value for decision in line] for line in self.decisions]

    @property
    def margins(self) -> Matrix:
        """All distances to the rounding boundary, in steps, ``[out][in]``."""
        return [[decision.margin for decision in line] for line in self.decisions]


def gptq(
    weights: Matrix,
    hessian: Matrix,
    grids: Sequence[Sequence[UniformGrid]] | Fit,
    *,
    group: int | None = None,
    percdamp: Fraction = Fraction(1, 100),
    act_order: bool = False,
    lazy_block: int | None = None,
    stored: Callable[[Fraction], Fraction] = exact,
) -> GptqResult:
    """Quantize a layer by GPTQ, exactly.

    Parameters
    ----------
    weights : list of rows, ``[out, in]``
        Not changed.
    hessian : list of rows, ``[in, in]``
        ``X^T X`` or any multiple of it.
    grids : ``[out][groups]`` of UniformGrid, or a callable
        Fixed grids: column `c` of the original order uses ``grids[r][c // group]`` (static groups, or whole rows). A
        callable is given the current values of the next `group` columns, in order of quantization, and returns their
        grid (dynamic groups).
    group : int, optional
        Columns that share a grid; all by default.
    percdamp : Fraction
        Damping relative to the mean diagonal.
    act_order : bool
        Quantize columns with a large diagonal first.
    lazy_block : int, optional
        Dynamic grids are fitted to the weights as they were when the current block of this many columns began, as the
        authors' code does; by default all compensation so far is in them.
    stored : callable
        Rounds the current weights before they are handed to the callable, as an implementation that keeps them in
        that format would.

    Returns
    -------
    GptqResult

    Raises
    ------
    UsageError
        If `group` or `lazy_block` is less than 1.
    InputError
        If shapes do not agree.
    NotPositiveDefiniteError
        If the damped Hessian is not positive definite.

    Examples
    --------
    >>> grid = UniformGrid(Fraction(1), 0, -8, 7)
    >>> h = [[Fraction(2), Fraction(1)], [Fraction(1), Fraction(2)]]
    >>> result = gptq([[Fraction(2, 5), Fraction(2, 5)]], h, [[grid]], percdamp=Fraction(0))
    >>> result.codes, str(result.loss)
    ([[0, 1]], '14/25')
    """
    if (group is not None and group < 1) or (lazy_block is not None and lazy_block < 1):
        raise UsageError(f"group {group}, lazy_block {lazy_block}: at least 1 is needed")
    prepared = prepare(weights, hessian, percdamp, act_order)
    factor, pivots = unit_factor_of_inverse(prepared.hessian)
    size, order = len(hessian), prepared.order
    rows = []
    loss = Fraction(0)
    for index, line in enumerate(prepared.weights):
        if callable(grids):
            choose: Choose = _DynamicGrids(grids, group or size, lazy_block or 1, stored)
        else:
            choose = _FixedGrids(grids[index], group or size, order)
        taken = quantize_row(line, factor, choose)
        loss += quadratic_loss([w - decision.value for w, decision in zip(line, taken, strict=True)], prepared.hessian)
        rows.append([taken[order.index(column)] for column in range(size)])
    return GptqResult(rows, order, pivots, prepared.damping, loss)


Choose = Callable[[int, Row], UniformGrid]


@dataclass(slots=True)
class _FixedGrids:
    """The grid of a column by its place in the original order."""

    grids: Sequence[UniformGrid]
    group: int
    order: list[int]

    def __call__(self, i: int, current: Row) -> UniformGrid:
        return self.grids[self.order[i] // self.group]


@dataclass(slots=True)
class _DynamicGrids:
    """A new grid at the first column of every group, fitted to the weights as they were when the lazy block began."""

    fit: Fit
    group: int
    block: int
    stored: Callable[[Fraction], Fraction]
    seen: Row = field(default_factory=list)
    grid: UniformGrid | None = None

    def __call__(self, i: int, current: Row) -> UniformGrid:
        if i % self.block == 0:
            self.seen = list(current)
        if i % self.group == 0 or self.grid is None:
            self.grid = self.fit([self.stored(value) for value in self.seen[i : i + self.group]])
        return self.grid


def quantize_row(weights: Row, factor: Matrix, grid_of: Choose) -> list[Decision]:
    """Run the recursion over one row: decide, then move the error onto the columns to come.

    Parameters
    ----------
    weights : list of Fraction
        In order of quantization; not changed.
    factor : list of rows
        ``V`` of :func:`unit_factor_of_inverse`.
    grid_of : callable
        ``grid_of(i, current)`` returns the grid of column `i`, given the current weights.

    Returns
    -------
    list of Decision
    """
    current = list(weights)
    taken = []
    for i in range(len(current)):
        grid = grid_of(i, current)
        code = min(max(round_to_integer(current[i] / grid.scale) + grid.zero, grid.lo), grid.hi)
        value = grid.scale * (code - grid.zero)
        error = current[i] - value
        taken.append(Decision(code, value, error, margin(current[i], code, grid), grid))
        for j in range(i, len(current)):
            current[j] -= error * factor[i][j]
    return taken
