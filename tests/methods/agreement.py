"""When do two GPTQ runs agree although not every code is equal?

Two correct implementations differ in the last bits of the compensated weights. Where a weight then lies on the boundary between two
codes, they may decide differently, and from there on the whole rest of the row differs, rightly so. So codes are compared row by row
in the order of quantization:

* the first difference of a row must be a decision whose margin is below a stated bound;
* behind it the comparison is re-anchored: with the other run's own codes as its past, every further decision of the other run must be the
  nearest code, again up to the bound. One triangular solve gives all compensated values at once: ``W - Q = E U`` [GPTQ-8], so
  ``E = (W - Q) U^-1``, and column ``i`` was decided at ``Q_i + U_ii E_i``.

Nothing of the re-anchored check comes from the code under test: the factor is NumPy's Cholesky factor of the inverse, and the nearest
code is found by distance.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from refquant.methods.compensate.gptq import GptqTrace

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Run:
    """Codes of some implementation in the original column order, with scale and zero of every element (broadcastable)."""

    codes: NDArray[np.integer]
    scale: Array
    zero: Array
    lo: int
    hi: int

    @property
    def values(self) -> Array:
        return np.asarray(self.scale * (self.codes.astype(np.float64) - self.zero))


def inverse_factor(hessian: Array) -> Array:
    """U with ``hessian^-1 = U^T U``, the long way round: invert, then factor."""
    inverse = np.linalg.inv(hessian)
    return np.linalg.cholesky((inverse + inverse.T) / 2).T


def replayed(run: Run, weight: Array, hessian: Array, order: NDArray[np.integer]) -> tuple[Array, Array, Array]:
    """Decided values, errors E and margins in units of steps of every decision of `run`, columns in quantization order.

    `weight` has its dead columns at zero and the original order; `hessian` is damped and in quantization order. A margin is the
    distance by which the decided value lies beyond the boundary of the code that was chosen: 0 where the nearest code was chosen.
    """
    upper = inverse_factor(hessian)
    residual = (weight - run.values)[:, order]
    errors = np.linalg.solve(upper.T, residual.T).T
    decided = run.values[:, order] + errors * np.diag(upper)
    scale = np.broadcast_to(run.scale, weight.shape)[:, order]
    zero = np.broadcast_to(run.zero, weight.shape)[:, order]
    codes = run.codes[:, order]
    place = decided / scale + zero
    beyond = np.abs(place - codes) - 0.5
    beyond[(codes == run.lo) & (place < codes)] = 0  # saturated
    beyond[(codes == run.hi) & (place > codes)] = 0
    return decided, errors, np.maximum(beyond, 0)


def assert_same_decisions(trace: GptqTrace, weight: Array, other: Run, bound: float, same_grid: bool = True) -> None:
    """Fail unless `other` takes the decisions of `trace`, up to margins of `bound` steps.

    With ``same_grid=False`` the two runs have grids of their own and codes are not compared with each other: only the re-anchored check
    is made, on the grid of `other`.
    """
    order = np.asarray(trace.order)
    if same_grid:
        differs = (trace.quantized.codes != other.codes)[:, order]
        for row in np.flatnonzero(differs.any(axis=1)):
            first = int(np.argmax(differs[row]))
            margin = float(trace.margins[row, first])
            assert margin <= bound, f"row {row}: the first difference, at step {first} (column {order[first]}), has margin {margin:g}"
    alive = np.where(trace.dead, 0.0, weight)
    _, _, beyond = replayed(other, alive, trace.hessian, order)
    worst = np.unravel_index(np.argmax(beyond), beyond.shape) if beyond.size else None
    assert worst is None or beyond[worst] <= bound, f"re-anchored at {worst}: the nearest code was missed by {beyond[worst]:g} steps"
