"""GPTQ: quantize column by column, and let the columns still to come make up for the error (arXiv 2210.17323).

Minimizes ``tr((W - Q) H (W - Q)^T)`` greedily. With ``n`` columns, in the order ``0..n-1``:

[GPTQ-1]  H = sum_t x_t x_t^T (float64; a constant factor changes nothing).
[GPTQ-2]  dead inputs, H_ii = 0: set H_ii = 1 and the column of W to 0.
[GPTQ-3]  act order: permute columns by descending H_ii (stable).
[GPTQ-4]  H += lambda I,  lambda = damping * mean(diag H), after [GPTQ-2].
[GPTQ-5]  U upper triangular with H^-1 = U^T U.
[GPTQ-6]  for i = 0..n-1:  q_i = Q(W_i),  e_i = (W_i - q_i) / U_ii,  W_j -= e_i U_ij for j > i.
[GPTQ-7]  lazy blocks: inside a block update the block only, behind it  W_rest -= E U_block,rest.
[GPTQ-8]  W - Q = E U, hence tr((W - Q)(H + lambda I)(W - Q)^T) = |E|^2: a self-check, whatever the grid.

Departures from the authors' code (IST-DASLab/gptq), each reachable through ``compat``:

* ``lazy_groups``: they fit a group on the matrix as it stood when the lazy block began, so with groups smaller than a block the block
  size changes the result. Here a group is fitted on fully compensated columns (blocks are cut at group boundaries), and the block size
  is a matter of speed only.
* ``half_range_sym``: their symmetric grid of a row without negative entries covers half the range (scheme ``sym_gptq_half_range``).
* ``grid_before_dead``: they fit whole-row grids before dead columns are set to zero.
* U comes from one factorization of the reversed Hessian instead of Cholesky, inverse, Cholesky. Arithmetic is float64, theirs float32
  (``working``). Sorting is stable, theirs is not: pass their order as `act_order` to follow it.
* In the fast arithmetic decisions come from the root of H alone, without U (:mod:`refquant.methods.compensate.nearest_plane`).

Readings: dynamic groups under act order are runs of the permuted order (as in the code), static groups of the original order.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from refquant.core.coding import codes_of
from refquant.core.fitting import fit_grid
from refquant.core.grid import Grid
from refquant.core.margins import decision_margins
from refquant.core.qtensor import Origin, QTensor
from refquant.core.scheme import find_scheme
from refquant.core.spec import QuantSpec
from refquant.methods.card import Card, Equation
from refquant.methods.compensate.column_grids import ColumnGrids
from refquant.methods.compensate.column_order import column_order, columns_first
from refquant.methods.compensate.damping import factor_of_damped, mean_diagonal, root_of_damped
from refquant.methods.compensate.gptq_inputs import checked_inputs, damped_hessian, quirks_of, working_dtype, working_weight
from refquant.methods.compensate.lazy_blocks import lazy_blocks
from refquant.methods.compensate.nearest_plane import nearest_planes
from refquant.numerics import FAST, Arithmetic
from refquant.numerics.arrays import Array, Float64Array, IntArray

CARD = Card(
    name="gptq",
    title="GPTQ: error compensation through the inverse Hessian",
    paper="Frantar et al., GPTQ, arXiv 2210.17323; code: IST-DASLab/gptq",
    inputs=("weight [out, in]", "hessian [in, in]", "spec"),
    equations=(
        Equation("GPTQ-1", "H = sum of x x^T over calibration tokens"),
        Equation("GPTQ-2", "dead inputs: H_ii = 1, column of W = 0"),
        Equation("GPTQ-3", "activation order: columns by descending H_ii"),
        Equation("GPTQ-4", "H += damping * mean(diag H) * I, after dead inputs were set"),
        Equation("GPTQ-5", "upper triangular U with H^-1 = U^T U"),
        Equation("GPTQ-6", "q_i = Q(W_i), e_i = (W_i - q_i) / U_ii, W_j -= e_i U_ij for j > i"),
        Equation("GPTQ-7", "lazy blocks: W_rest -= E U_block,rest"),
        Equation("GPTQ-8", "tr((W - Q)(H + lambda I)(W - Q)^T) = |E|^2"),
    ),
    departures=(
        "groups are fitted on fully compensated columns (compat='lazy_groups': as the code, on what the lazy block began with)",
        "symmetric rows without negatives use their whole range (compat='half_range_sym': half of it, as the code)",
        "whole-row grids are fitted after dead columns were zeroed (compat='grid_before_dead': before, as the code)",
        "one Cholesky factorization of the reversed Hessian; float64 unless working='float32'; stable sort for activation order",
        "the fast arithmetic takes decisions from the root of H instead of U (Babai's nearest plane): the same up to rounding",
        "the code's ternary mode (trits) is not offered",
    ),
    guarantees=(
        "with H = I the codes are those of RTN on float64 weights",
        "H and c H give the same codes where no input is dead (a dead one counts as 1, whatever c)",
        "the block size changes no code whose decision margin exceeds rounding error",
        "the loss identity GPTQ-8 holds for every grid, order and block size",
    ),
    lane="ordered in ORDERED, bounded in FAST",
    cost="n^3 / 3 for the root, n^3 / 3 for its inverse except in FAST, out n^2 for the updates",
    oracle="refquant.oracle.gptq (LDL^T in Fractions); IST-DASLab/gptq and llm-compressor run in float64 and float32",
    laws=tuple(
        (
            "finite codes_in_range decoding identity_hessian hessian_scaling dead_inputs sign_symmetry scaling zero_kept "
            "row_permutation batch_independence hessian_checked determinism inputs_untouched layout_independence nan_policy "
            "infinity_policy"
        ).split()
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class GptqTrace:
    """Everything that happened; matrices are in quantization order, column ``j`` being original column ``order[j]``.

    Parameters
    ----------
    quantized : QTensor
    order : int ndarray ``[n]``
    dead : bool ndarray ``[n]``, original order
    damping : float
        The number lambda that was added to the diagonal.
    hessian : float64 ndarray ``[n, n]``
        Permuted and damped.
    factor : float64 ndarray ``[n, n]``
        U of [GPTQ-5].
    decided : float64 ndarray ``[out, n]``
        The compensated value of each weight at the moment when its code was chosen.
    errors : float64 ndarray ``[out, n]``
        E of [GPTQ-8].
    margins : float64 ndarray ``[out, n]``
        Distance of each decision to the nearest value that would have given another code, in steps of its grid.
    """

    quantized: QTensor
    order: IntArray
    dead: Array
    damping: float
    hessian: Float64Array
    factor: Float64Array
    decided: Float64Array
    errors: Float64Array
    margins: Float64Array

    def loss(self, arithmetic: Arithmetic = FAST) -> float:
        """Half of ``|E|^2``, the number that the authors' code reports as its error."""
        return 0.5 * float(arithmetic.sum(self.errors * self.errors))


def gptq(
    weight: Array,
    hessian: Array,
    spec: QuantSpec,
    *,
    damping: float = 0.01,
    block_size: int = 128,
    act_order: bool | Array = False,
    static_groups: bool = False,
    compat: str | Iterable[str] | None = None,
    grid: Grid | None = None,
    working: str = "float64",
    arithmetic: Arithmetic = FAST,
) -> QTensor:
    """Quantize a weight with error compensation.

    Parameters
    ----------
    weight : ndarray ``[out, in]`` of float16, bfloat16, float32 or float64
    hessian : ndarray ``[in, in]``
        Symmetric; see :func:`refquant.hessian`.
    spec : QuantSpec
        Tiles may have any extent along the rows; along the columns, groups or whole rows.
    damping : float
        Multiple of the mean diagonal that is added to the diagonal.
    block_size : int
        Columns a lazy block, where there are any: in the ordered arithmetic a matter of speed, under ``compat="lazy_groups"`` not.
    act_order : bool or int ndarray ``[in]``
        Quantize columns by descending diagonal, or in the order given.
    static_groups : bool
        Fit all groups beforehand, on the original columns in the original order.
    compat : str or iterable of str, optional
        Faults of the authors' code to reproduce: ``"lazy_groups"``, ``"half_range_sym"``, ``"grid_before_dead"``, or the presets
        ``"istdaslab"`` (all three) and ``"lazy"`` (the first).
    grid : Grid, optional
        Scales and zero points fixed beforehand (tiles of the original order), as llm-compressor does.
    working : {"float64", "float32"}
        What is computed in. float32, as the authors have it, is for speed: the same codes where margins exceed its rounding errors.
    arithmetic : Arithmetic
        `FAST` takes the sums of [GPTQ-6] and [GPTQ-7] in another form, see `nearest_plane`.

    Returns
    -------
    QTensor
        Codes in the original column order. Under act order with dynamic groups it carries the permutation.

    Raises
    ------
    InputError
        Shapes that do not fit, or numbers that are not finite.
    UsageError
        Options that contradict each other or are out of range.
    NotPositiveDefiniteError
        If the damped Hessian cannot be factored; the message names a damping that works.
    NumericalError
        If the mean of the Hessian's diagonal overflows, or a weight does not fit `working`.

    Examples
    --------
    >>> import numpy as np
    >>> from refquant.core import spec
    >>> w = np.array([[0.9, 0.4, -1.0, 2.0]])
    >>> h = np.ones((4, 4)) + np.eye(4)
    >>> gptq(w, h, spec("int2")).codes.tolist(), gptq(w, np.eye(4), spec("int2")).codes.tolist()
    ([[2, 1, 0, 3]], [[2, 1, 0, 3]])
    """
    options = _Options(spec, damping, block_size, act_order, static_groups, compat, grid, working, arithmetic)
    return _solve(weight, hessian, options, keep=False).quantized()


def gptq_trace(
    weight: Array,
    hessian: Array,
    spec: QuantSpec,
    *,
    damping: float = 0.01,
    block_size: int = 128,
    act_order: bool | Array = False,
    static_groups: bool = False,
    compat: str | Iterable[str] | None = None,
    grid: Grid | None = None,
    working: str = "float64",
    arithmetic: Arithmetic = FAST,
) -> GptqTrace:
    """Quantize like :func:`gptq` and return the intermediates too; parameters and errors are the same.

    Examples
    --------
    The recorded errors give the loss without another product [GPTQ-8]:

    >>> from refquant.core import spec
    >>> w, h = np.array([[0.9, 0.4, -1.0, 2.0]]), np.ones((4, 4)) + np.eye(4)
    >>> trace = gptq_trace(w, h, spec("int2"))
    >>> delta = w - trace.quantized.dequantize()
    >>> bool(np.isclose(2 * trace.loss(), (delta * (trace.hessian * delta).sum(axis=1)).sum()))
    True
    """
    options = _Options(spec, damping, block_size, act_order, static_groups, compat, grid, working, arithmetic)
    found = _solve(weight, hessian, options, keep=True)
    codes, decided = np.ascontiguousarray(found.codes.T), np.ascontiguousarray(found.decided.T)
    scale, zero = found.grids.columns()
    residual = decided - scale * (codes if zero is None else codes - zero)
    return GptqTrace(
        quantized=found.quantized(),
        order=found.order,
        dead=found.dead,
        damping=found.added,
        hessian=found.hessian,
        factor=found.factor,
        decided=decided,
        errors=residual / np.diagonal(found.factor),  # E of [GPTQ-8]
        margins=decision_margins(decided, codes, scale, zero, found.options.spec),
    )


@dataclass(frozen=True, slots=True)
class _Options:
    """The parameters of :func:`gptq`."""

    spec: QuantSpec
    damping: float
    block_size: int
    act_order: bool | Array
    static_groups: bool
    compat: str | Iterable[str] | None
    grid: Grid | None
    working: str
    arithmetic: Arithmetic


@dataclass(frozen=True, slots=True, kw_only=True)
class _Solved:
    """What the sweep leaves; codes and decided values are transposed, a column of the weight in a row.

    Where nothing was to be kept, Hessian, factor and decided values are whatever lies in their memory.
    """

    options: _Options
    quirks: frozenset[str]
    order: IntArray
    dead: Array
    added: float
    hessian: Array
    factor: Array
    grids: ColumnGrids
    codes: Array
    decided: Array

    def quantized(self) -> QTensor:
        grid, spec = self.grids.grid, self.options.spec
        codes = codes_of(self.codes, spec)[np.argsort(self.order, kind="stable")]
        given: dict[str, Any] = {"damping": self.options.damping, "static_groups": self.options.static_groups}
        given |= {} if self.options.working == "float64" else {"working": self.options.working}
        return QTensor(
            codes=np.ascontiguousarray(codes.T),
            scale=grid.scale,
            zero=grid.zero,
            coded=grid.coded,
            spec=spec,
            permutation=self.order if self.grids.follow_order else None,
            origin=Origin(method="gptq", parameters={**given, "compat": ",".join(sorted(self.quirks))}),
        )


def _solve(weight: Array, hessian: Array, options: _Options, *, keep: bool) -> _Solved:
    """Everything up to the codes; unless intermediates are kept, everything happens in the memory of our copies."""
    spec, grid, arithmetic = options.spec, options.grid, options.arithmetic
    w, h = checked_inputs(weight, hessian, spec, options.damping, options.block_size)
    quirks = quirks_of(options.compat)
    dtype = working_dtype(options.working, quirks, arithmetic)
    if "half_range_sym" in quirks and spec.scheme.name == "sym_gptq":
        spec = replace(spec, scheme=find_scheme("sym_gptq_half_range"))
    whole_rows = spec.tiling.extents[1] is None
    if grid is None and whole_rows and "grid_before_dead" in quirks:
        grid = fit_grid(working_weight(w, np.zeros(len(h), dtype=bool), dtype), spec, arithmetic)

    dead = np.diagonal(h) == 0  # [GPTQ-2]
    diagonal = np.where(dead, 1.0, np.diagonal(h))
    w = working_weight(w, dead, dtype)
    if grid is None and (whole_rows or options.static_groups):
        grid = fit_grid(w, spec, arithmetic)

    order = column_order(diagonal, options.act_order)  # [GPTQ-3]
    diagonal = diagonal[order]
    mean = mean_diagonal(diagonal, arithmetic)
    added = options.damping * mean  # [GPTQ-4]
    h = damped_hessian(h, order, diagonal + added, mean, dtype)

    grids = ColumnGrids(spec, w.shape, order, grid, arithmetic, dtype)
    running = columns_first(w, order)
    del w
    options = replace(options, spec=spec)
    codes, decided, factor = _swept(running, h, grids, options, "lazy_groups" in quirks, keep)
    return _Solved(
        options=options,
        quirks=quirks,
        order=order,
        dead=dead,
        added=added,
        hessian=h,
        factor=factor,
        grids=grids,
        codes=codes,
        decided=decided,
    )


def _swept(running: Array, h: Array, grids: ColumnGrids, options: _Options, lazy: bool, keep: bool) -> tuple[Array, Array, Array]:
    """Codes, decided values and U; by the form of the paper, or by the fast one where neither last bits nor faults are asked for."""
    spec, arithmetic = options.spec, options.arithmetic
    if lazy or not arithmetic.regroups:
        factor = factor_of_damped(h, options.damping, arithmetic, in_place=not keep)  # [GPTQ-5]
        return lazy_blocks(running, factor, spec, grids, options.block_size, lazy, arithmetic), running, factor
    root = root_of_damped(h.copy() if keep else h, options.damping, arithmetic)
    decided = np.empty_like(running) if keep else None
    codes = nearest_planes(running, root, spec, grids, arithmetic, decided)
    factor = np.ascontiguousarray(arithmetic.inverse_lower(root).T) if keep and root.size else root  # [GPTQ-5]
    return codes, running if decided is None else decided, factor
