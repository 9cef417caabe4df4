"""How far from optimal: RTN, GPTQ, OBQ and the optimum on the same tiny layers, cut out of a real model.

A layer is cut down to its first few output rows and a run of input columns; its Hessian is that of those inputs on calibration sequences.
All methods work on the same fixed grid and the same damped Hessian, which the losses are measured with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from model import DenseLinear, Keep, Transformer, embedded, embedded_directory
from refquant.apply.recipe import Calibration
from refquant.apply.run import open_workbench
from refquant.apply.states import CalibrationState, batches
from refquant.core import QTensor, QuantSpec, Stats, spec
from refquant.core.fitting import fit_grid
from refquant.errors import InputError, UsageError
from refquant.methods.compensate.gptq import gptq
from refquant.methods.compensate.obq import obq
from refquant.methods.compensate.optimum import optimum
from refquant.methods.compensate.quadratic import Quadratic
from refquant.methods.grid.rtn import rtn
from refquant.numerics.arrays import Array

METHODS = ("RTN", "GPTQ", "GPTQ, act order", "Babai", "OBQ", "optimum")


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """Losses of all methods on one cut-down layer.

    Parameters
    ----------
    name : str
    rows, columns : int
    tokens : int
        Calibration tokens behind the Hessian.
    losses : dict of str to float
        By the names of :data:`METHODS`, summed over rows.
    optimal_rows : dict of str to int
        Rows on which a method finds the optimum (to a relative 1e-9).
    """

    name: str
    rows: int
    columns: int
    tokens: int
    losses: dict[str, float]
    optimal_rows: dict[str, int]

    def ratio(self, method: str) -> float:
        """Loss over the optimum's; 1 where both are 0."""
        best = self.losses["optimum"]
        return 1.0 if self.losses[method] == best else self.losses[method] / best if best else np.inf


def embedded_gaps(
    bits: Sequence[int] = (2, 3, 4), rows: int = 8, columns: int = 12, samples: int = 16, seed: int = 0
) -> dict[int, list[Gap]]:
    """Measure gaps on the embedded model, on `samples` of its calibration texts with independently drawn masks."""
    source = embedded_directory()
    bench = open_workbench(source, embedded(), source / "calib.jsonl", seed)
    states = bench.states(Calibration(states="iid", samples=samples, prompts=samples)).states
    return {width: measure_gaps(bench.model, states, spec(f"int{width}"), rows=rows, columns=columns) for width in bits}


def measure_gaps(
    m: Transformer, states: Sequence[CalibrationState], chosen: QuantSpec, *, rows: int = 8, columns: int = 12, damping: float = 0.01
) -> list[Gap]:
    """Solve the first `rows` x `columns` of every linear of a model with every method.

    Parameters
    ----------
    m : Transformer
        In full precision.
    states : sequence of CalibrationState
    chosen : QuantSpec
        Its tiling is one scale a row.
    rows, columns : int
        Size of the cut; the optimum is exponential in the columns.
    damping : float

    Returns
    -------
    list of Gap
        One a linear, in causal order.

    Raises
    ------
    InputError
        If there are no states.
    UsageError
        If the cut is empty or too large, or the spec has groups.
    """
    if not states:
        raise InputError("measuring gaps needs calibration states; there are none")
    if rows < 1 or not 1 <= columns <= 20:
        raise UsageError(f"a cut has at least one row and 1 to 20 columns; got {rows} x {columns}")
    if chosen.tiling.extents[1] is not None:
        raise UsageError(f"a cut has one scale a row; the tiling is {chosen.tiling.extents}")
    stats = _statistics(m, states, columns)
    found = []
    for name, linear in m.linears.items():
        if not isinstance(linear, DenseLinear):
            raise InputError(f"{name} is already quantized; start from the full-precision model")
        weight = linear.weight[:rows, :columns].astype(np.float64)
        found.append(_gap(name, weight, stats[name], chosen, damping, m))
    return found


def _statistics(m: Transformer, states: Sequence[CalibrationState], columns: int) -> dict[str, Stats]:
    """Statistics of the first inputs of every linear, from one full-precision pass over the states."""
    total: dict[str, Stats] = {}
    for batch in batches(states, 4096):
        seen = Keep(lambda name: name.endswith(".input"))
        m.logits(np.stack([states[i].ids for i in batch]), observer=seen)
        for name in m.linears:
            one = Stats.of(seen.last(f"{name}.input")[..., :columns], arithmetic=m.arithmetic)
            total[name] = total[name].merge(one) if name in total else one
    return total


def _gap(name: str, weight: Array, stats: Stats, chosen: QuantSpec, damping: float, m: Transformer) -> Gap:
    problem = Quadratic.of(weight, stats.hessian, chosen, damping, m.arithmetic)
    grid = fit_grid(problem.weight, chosen, m.arithmetic)
    h = stats.hessian
    solved: dict[str, QTensor] = {
        "RTN": rtn(problem.weight, chosen, m.arithmetic),
        "GPTQ": gptq(weight, h, chosen, grid=grid, damping=damping, arithmetic=m.arithmetic),
        "GPTQ, act order": gptq(weight, h, chosen, grid=grid, act_order=True, damping=damping, arithmetic=m.arithmetic),
        "Babai": optimum(weight, h, chosen, grid=grid, first_leaf=True, damping=damping, arithmetic=m.arithmetic),
        "OBQ": obq(weight, h, chosen, grid=grid, damping=damping, arithmetic=m.arithmetic),
        "optimum": optimum(weight, h, chosen, grid=grid, damping=damping, arithmetic=m.arithmetic),
    }
    by_row = {method: problem.loss(q.dequantize(np.dtype(np.float64)), m.arithmetic) for method, q in solved.items()}
    best = by_row["optimum"]
    return Gap(
        name=name,
        rows=weight.shape[0],
        columns=weight.shape[1],
        tokens=stats.tokens,
        losses={method: float(m.arithmetic.sum(loss)) for method, loss in by_row.items()},
        optimal_rows={method: int(np.count_nonzero(loss <= best * (1 + 1e-9))) for method, loss in by_row.items()},
    )
