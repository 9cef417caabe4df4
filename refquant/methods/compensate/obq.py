"""OBQ: the Optimal Brain Quantizer, GPTQ's slower ancestor (Frantar and Alistarh, arXiv 2208.11580).

Each row picks its own order: always the weight whose rounding costs least next.

[OBQ-1]  p = argmin over columns left of (Q(w_p) - w_p)^2 / [H^-1]_pp, ties to the lowest column.
[OBQ-2]  the columns left make up for it: w -= (w_p - Q(w_p)) / [H^-1]_pp * [H^-1]_p.
[OBQ-3]  column p leaves: H^-1 -= [H^-1]_:p [H^-1]_p: / [H^-1]_pp.
[OBQ-4]  the loss is the sum of the costs of [OBQ-1].

GPTQ is OBQ with one fixed order for all rows. Departures: the paper's heuristic that rounds weights far outside the grid at once is the
option ``outliers_first``, off by default. Grids are fixed beforehand, as in the paper.
"""

from __future__ import annotations

import numpy as np

from refquant.core.coding import real_codes
from refquant.core.fitting import fit_grid
from refquant.core.grid import Grid
from refquant.core.qtensor import Origin, QTensor
from refquant.core.spec import QuantSpec
from refquant.errors import InputError
from refquant.methods.card import Card, Equation
from refquant.methods.compensate.quadratic import Quadratic
from refquant.numerics import FAST, Arithmetic
from refquant.numerics.arrays import Array

CARD = Card(
    name="obq",
    title="OBQ: greedy order, a row at a time",
    paper="Frantar and Alistarh, Optimal Brain Compression, arXiv 2208.11580",
    inputs=("weight [out, in]", "hessian [in, in]", "spec"),
    equations=(
        Equation("OBQ-1", "quantize next the column with the least (Q(w_p) - w_p)^2 / [H^-1]_pp"),
        Equation("OBQ-2", "w -= (w_p - Q(w_p)) / [H^-1]_pp * [H^-1]_p over the columns left"),
        Equation("OBQ-3", "H^-1 -= [H^-1]_:p [H^-1]_p: / [H^-1]_pp"),
        Equation("OBQ-4", "loss = sum of the costs"),
    ),
    departures=("the heuristic that rounds far outliers at once is an option, outliers_first=True; off by default",),
    guarantees=("with a diagonal Hessian the codes are those of RTN", "never below the optimum of refquant.methods.compensate.optimum"),
    lane="ordered in ORDERED, bounded in FAST",
    cost="out n^3: for tiny layers",
    oracle="brute force; an exact run in Fractions in the tests",
    laws=tuple(
        (
            "finite codes_in_range decoding identity_hessian hessian_scaling dead_inputs sign_symmetry scaling zero_kept "
            "row_permutation batch_independence hessian_checked determinism inputs_untouched layout_independence nan_policy "
            "infinity_policy"
        ).split()
    ),
)


def obq(
    weight: Array,
    hessian: Array,
    spec: QuantSpec,
    *,
    damping: float = 0.01,
    grid: Grid | None = None,
    outliers_first: bool = False,
    arithmetic: Arithmetic = FAST,
) -> QTensor:
    """Quantize a small weight in each row's greedy order.

    Parameters
    ----------
    weight : ndarray ``[out, in]``
    hessian : ndarray ``[in, in]``
    spec : QuantSpec
    damping : float
        As in :func:`refquant.gptq`.
    grid : Grid, optional
        Fixed grid; fitted to the weight by `spec` otherwise.
    outliers_first : bool
        Quantize a weight more than half a step outside its grid before all others.
    arithmetic : Arithmetic

    Returns
    -------
    QTensor

    Raises
    ------
    InputError, UsageError, NotPositiveDefiniteError
        As in :func:`refquant.gptq`.

    Examples
    --------
    >>> from refquant.core import spec
    >>> w = np.array([[0.4, 0.45, 3.0]])
    >>> obq(w, np.eye(3), spec("int2")).codes.tolist(), obq(w, np.ones((3, 3)), spec("int2")).codes.tolist()
    ([[0, 0, 3]], [[0, 1, 3]])
    """
    problem = Quadratic.of(weight, hessian, spec, damping, arithmetic)
    grid = fit_grid(problem.weight, spec, arithmetic) if grid is None else grid
    scale, zero = grid.expanded(problem.weight.shape, spec.tiling, np.dtype(np.float64))
    rows = [
        _row(w, problem.inverse, s, None if zero is None else z, spec, outliers_first)
        for w, s, z in zip(
            problem.weight,
            np.broadcast_to(scale, problem.weight.shape),
            np.broadcast_to(0.0 if zero is None else zero, problem.weight.shape),
            strict=True,
        )
    ]
    codes = np.array(rows).reshape(problem.weight.shape).astype(spec.integers.dtype)
    return QTensor(codes=codes, scale=grid.scale, zero=grid.zero, spec=spec, origin=Origin(method="obq", parameters={"damping": damping}))


def _row(w: Array, inverse: Array, scale: Array, zero: Array | None, spec: QuantSpec, outliers_first: bool) -> Array:
    """Codes of one row, as floats."""
    w, inverse = w.copy(), inverse.copy()
    left = np.ones(len(w), dtype=bool)
    chosen = np.zeros_like(w)
    for _ in range(len(w)):
        codes = real_codes(w, scale, zero, spec)
        error = w - scale * (codes if zero is None else codes - zero)
        diagonal = np.where(left, np.diagonal(inverse), 1.0)
        if not (diagonal > 0).all():
            raise InputError("the Hessian's inverse lost its positive diagonal; use more damping")
        cost = np.where(left, error * error / diagonal, np.inf)  # [OBQ-1] [OBQ-4]
        if outliers_first and (far := left & (np.abs(error) > scale / 2)).any():
            cost = np.where(far, -np.abs(error), np.inf)
        p = int(np.argmin(cost))
        chosen[p] = codes[p]
        w -= np.where(left, error[p] / inverse[p, p] * inverse[p], 0.0)  # [OBQ-2]
        inverse -= inverse[:, p, None] * inverse[p] / inverse[p, p]  # [OBQ-3]
        left[p] = False
    return chosen
