"""Take a backend's own codes as its past, and ask of every code whether it was the nearest one then.

For GPTQ and whatever else moves the error of a column onto the columns to come: the sweep is run once more on the vector's inputs with the
backend's codes forced. What a column held when it was decided follows from the codes before it alone, and so does the grid of a group that
is fitted on the way.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from refquant.core import Grid, QuantSpec
from refquant.errors import InputError
from refquant.methods.compensate.column_grids import ColumnGrids
from refquant.numerics import FAST, Arithmetic
from refquant.numerics.arrays import Array, Float64Array


@dataclass(frozen=True, slots=True, kw_only=True)
class Reanchored:
    """What a backend's own past demands of it.

    Parameters
    ----------
    beyond : mapping of str to ndarray
        By part of codes: by how many steps each code misses the nearest one; 0 where it is the nearest.
    expected : mapping of str to ndarray
        By other part with one entry a row: what it should be, given the codes. Parts that are not named here are compared with the vector
        in rows without an honest tie only.
    """

    beyond: Mapping[str, Array]
    expected: Mapping[str, Array]


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """A sweep with forced codes.

    `decided` and `beyond` (values decided on, and misses in steps) are in the original order of columns, `errors` in that of quantization.
    """

    decided: Float64Array
    beyond: Float64Array
    errors: Float64Array
    grid: Grid


def replay(
    weight: Array,
    factor: Array,
    order: Array,
    codes: Array,
    spec: QuantSpec,
    fixed: Grid | None = None,
    arithmetic: Arithmetic = FAST,
) -> Replay:
    """Run GPTQ's sweep with the codes of somebody else.

    Parameters
    ----------
    weight : float64 ndarray ``[out, in]``
        Dead columns set to zero.
    factor : float64 ndarray ``[in, in]``
        Upper triangular ``U`` with ``H^-1 = U^T U`` of the damped Hessian, in the order of quantization.
    order : int ndarray ``[in]``
        Column ``order[i]`` is decided at step ``i``.
    codes : integer ndarray ``[out, in]``
        The backend's.
    spec : QuantSpec
    fixed : Grid, optional
        Grids fixed beforehand; by default each group is fitted when the sweep reaches it.
    arithmetic : Arithmetic

    Returns
    -------
    Replay

    Raises
    ------
    InputError
        If shapes do not agree.

    Examples
    --------
    >>> from refquant.core import fit_grid, spec
    >>> from refquant.methods.compensate.gptq import gptq_trace
    >>> w, h, s = np.array([[0.9, 0.4, -1.0, 2.0]]), np.ones((4, 4)) + np.eye(4), spec("int2")
    >>> trace = gptq_trace(w, h, s)
    >>> codes = trace.quantized.codes.copy()
    >>> float(replay(w, trace.factor, trace.order, codes, s, fit_grid(w, s)).beyond.max())
    0.0

    With another first code, its own miss shows, and the second code, right before, is not the nearest any more:

    >>> codes[0, 0] -= 1
    >>> replay(w, trace.factor, trace.order, codes, s, fit_grid(w, s)).beyond.round(2).tolist()
    [[0.4, 0.12, 0.0, 0.0]]
    """
    codes = np.asarray(codes)
    if codes.shape != np.shape(weight) or np.shape(factor) != (codes.shape[1],) * 2:
        raise InputError(f"codes {codes.shape}, weight {np.shape(weight)} and factor {np.shape(factor)} do not belong together")
    grids = ColumnGrids(spec, codes.shape, np.asarray(order), fixed, arithmetic)
    running = np.ascontiguousarray(np.asarray(weight, dtype=np.float64)[:, order].T)
    decided, beyond, errors = np.zeros(codes.shape), np.zeros(codes.shape), np.zeros(codes.shape)
    for i, column in enumerate(np.asarray(order).tolist()):
        if grids.begins_group(i):
            grids.fit(running[i : grids.next_group_start(i)])
        scale, zero = grids.of(i)
        chosen = codes[:, column].astype(np.float64)
        offset = 0.0 if zero is None else zero
        place = running[i] / scale + offset
        miss = np.abs(place - chosen) - 0.5
        saturated = ((chosen == spec.format.lo) & (place < chosen)) | ((chosen == spec.format.hi) & (place > chosen))
        decided[:, column], beyond[:, column] = running[i], np.where(saturated, 0.0, np.maximum(miss, 0.0))
        errors[:, i] = (running[i] - scale * (chosen - offset)) / factor[i, i]
        running[i + 1 :] -= factor[i, i + 1 :, None] * errors[:, i]
    return Replay(decided=decided, beyond=beyond, errors=errors, grid=grids.grid)
