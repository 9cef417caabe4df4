"""The optimum: branch and bound over all code assignments of a tiny layer.

With ``H = R^T R``, R upper triangular, a row's loss is a sum over columns from last to first,

[OPT-1]  (w - q) H (w - q)^T = sum_i (R_ii (c_i - q_i))^2,  c_i = w_i + sum_{j>i} R_ij (w_j - q_j) / R_ii:

the closest-vector problem in a box. [OPT-2] Depth first, the codes of a column by distance from its centre c_i (Schnorr and Euchner): a
branch is cut as soon as its sum reaches the best one found. [OPT-3] The first leaf takes the nearest code everywhere: that is Babai's
nearest plane, and it is GPTQ with its columns in reverse order. So GPTQ is the first guess of an exact search.
"""

from __future__ import annotations

import numpy as np

from refquant.core.fitting import fit_grid
from refquant.core.grid import Grid
from refquant.core.qtensor import Origin, QTensor
from refquant.core.spec import QuantSpec
from refquant.errors import NumericalError
from refquant.methods.card import Card, Equation
from refquant.methods.compensate.quadratic import Quadratic
from refquant.numerics import FAST, Arithmetic
from refquant.numerics.arrays import Array

CARD = Card(
    name="optimum",
    title="The optimum, by branch and bound",
    paper="Schnorr and Euchner 1994 for the search; Babai 1986 for its first leaf; the link to GPTQ: arXiv 2507.18553",
    inputs=("weight [out, in], tiny", "hessian [in, in]", "spec"),
    equations=(
        Equation("OPT-1", "loss = sum_i (R_ii (c_i - q_i))^2 with H = R^T R, last column first"),
        Equation("OPT-2", "codes of a column by distance from its centre; cut when the sum reaches the best"),
        Equation("OPT-3", "the first leaf is Babai's nearest plane, GPTQ in reverse column order"),
    ),
    departures=("not a method for use: a yardstick",),
    guarantees=("no assignment of codes on the same grid has a smaller loss, up to float64 rounding of the sums",),
    lane="ordered in ORDERED, bounded in FAST",
    cost="exponential in the number of columns; a limit on visited nodes raises instead of returning less than the optimum",
    oracle="refquant.oracle.quadratic.best_assignment (all assignments, in Fractions)",
    laws=tuple(
        (
            "finite codes_in_range decoding identity_hessian hessian_scaling dead_inputs sign_symmetry scaling zero_kept "
            "row_permutation batch_independence hessian_checked determinism inputs_untouched layout_independence nan_policy "
            "infinity_policy"
        ).split()
    ),
)


def optimum(
    weight: Array,
    hessian: Array,
    spec: QuantSpec,
    *,
    damping: float = 0.01,
    grid: Grid | None = None,
    first_leaf: bool = False,
    max_nodes: int = 2_000_000,
    arithmetic: Arithmetic = FAST,
) -> QTensor:
    """Find the codes with the least loss on a fixed grid.

    Parameters
    ----------
    weight : ndarray ``[out, in]``
        Up to about 16 columns.
    hessian : ndarray ``[in, in]``
    spec : QuantSpec
    damping : float
        As in :func:`refquant.gptq`.
    grid : Grid, optional
        Fixed grid; fitted to the weight by `spec` otherwise.
    first_leaf : bool
        Stop at Babai's point [OPT-3].
    max_nodes : int
        Nodes that may be visited a row.
    arithmetic : Arithmetic

    Returns
    -------
    QTensor

    Raises
    ------
    NumericalError
        If a row needs more than `max_nodes`.
    InputError, UsageError, NotPositiveDefiniteError
        As in :func:`refquant.gptq`.

    Examples
    --------
    >>> from refquant.core import spec
    >>> h = np.ones((3, 3)) + 0.01 * np.eye(3)
    >>> optimum(np.array([[0.4, 0.45, 3.0]]), h, spec("int2")).codes.tolist()
    [[0, 1, 3]]
    """
    problem = Quadratic.of(weight, hessian, spec, damping, arithmetic)
    grid = fit_grid(problem.weight, spec, arithmetic) if grid is None else grid
    shape = problem.weight.shape
    scale, zero = grid.expanded(shape, spec.tiling, np.dtype(np.float64))
    offset = 0.0 if zero is None else zero
    rows = zip(problem.weight, np.broadcast_to(scale, shape), np.broadcast_to(offset, shape), strict=True)
    limit = 0 if first_leaf else max_nodes
    found = [_Search(problem.root, w, s, z, spec).run(limit) for w, s, z in rows]
    codes = np.array(found).reshape(shape).astype(spec.format.dtype)
    return QTensor(
        codes=codes, scale=grid.scale, zero=grid.zero, spec=spec, origin=Origin(method="optimum", parameters={"damping": damping})
    )


class _Search:
    """One row's search, in plain Python numbers: the tree is walked node by node."""

    def __init__(self, root: Array, w: Array, scale: Array, zero: Array, spec: QuantSpec) -> None:
        self.root: list[list[float]] = root.tolist()
        self.w, self.scale, self.zero = w.tolist(), scale.tolist(), zero.tolist()
        self.codes = range(spec.integers.lo, spec.integers.hi + 1)
        self.best_loss = np.inf
        self.best: list[int] = []
        self.nodes = 0

    def run(self, max_nodes: int) -> list[int]:
        """Codes of the optimum, or of the first leaf if no node may be visited beyond it."""
        n = len(self.w)
        self.max_nodes = max_nodes
        self._descend(n - 1, 0.0, [0.0] * n, [0] * n)
        return self.best

    def _descend(self, i: int, loss: float, delta: list[float], codes: list[int]) -> None:
        if i < 0:
            self.best_loss, self.best = loss, codes.copy()
            return
        row = self.root[i]
        shift = 0.0
        for j in range(i + 1, len(row)):
            shift += row[j] * delta[j]
        centre = self.w[i] + shift / row[i]  # [OPT-1]
        by_distance = sorted(self.codes, key=lambda code: abs(centre - self.scale[i] * (code - self.zero[i])))  # [OPT-2]
        for code in by_distance:
            value = self.scale[i] * (code - self.zero[i])
            term = row[i] * (centre - value)
            total = loss + term * term
            if total >= self.best_loss:
                return
            self.nodes += 1
            if self.max_nodes and self.nodes > self.max_nodes:
                raise NumericalError(
                    f"a row of {len(self.w)} columns needs more than {self.max_nodes} nodes; take fewer columns or raise max_nodes"
                )
            delta[i], codes[i] = self.w[i] - value, code
            self._descend(i - 1, total, delta, codes)
            if not self.max_nodes:
                return  # [OPT-3]
