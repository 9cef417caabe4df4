"""Quant-dLLM: weights as few signs a weight with row and column scales, fitted where errors hurt (arXiv 2510.03274).

A block of columns becomes ``sum_k a_k c_k^T * B_k`` with signs ``B_k``, row scales ``a_k`` and column scales ``c_k``. Blocks are taken from
left to right; what is still to come makes up for their errors as in GPTQ, and how many signs a block gets is decided beforehand
(:mod:`refquant.methods.allocate.abmp`). ``S`` is the second moment of the inputs, of text that is masked as the model will meet it: the
recipes' calibration states ``ratio_grid``, the paper's MCS.

[DAQ-1]  saliency  Z = (W / d)^2,  d = diag((S + damping mean(diag S) I)^-1).
[DAQ-2]  L = 1 + (emphasis - 1) [Z > mean(Z) + deviations std(Z)];  what is minimized is  |L * (W - W')|^2.
[DAQ-3]  start:  a_i = mean_j |R_ij|,  c_j = mean_i |R_ij / a_i|,  B = sign R,  for one term after the other on what is left, R.
[DAQ-4]  rows:  a_i = sum_j L^2 R B c / sum_j L^2 c^2,  R what the other terms leave.
[DAQ-5]  columns:  c_j = sum_i L^2 R B a / sum_i L^2 a^2.
[DAQ-6]  signs: of the 2^b sums that an entry can be, the nearest.
[DAQ-7]  behind a block:  E = (W - W')_block U_block,block^-1,  W_rest -= E U_block,rest,  with U of [GPTQ-5].

Each of [DAQ-4], [DAQ-5] and [DAQ-6] is the least point of the weighted loss over what it changes, so none can raise it.

The authors' code is not public. Departures and readings:

* Denominators have no epsilon: with one, [DAQ-4] and [DAQ-5] are not least points any more. Where a denominator is 0, the scale stays.
* `saliency`: d is the diagonal of the inverse as the paper has it (``"inverse"``), or that of its Cholesky factor U (``"factor"``) as in
  BiLLM's code, which the method builds on. Mean and deviation are over the whole weight as it came, as is Z.
* Row scales belong to a block of columns (as in ARB-LLM), which costs 16 bits a row, block and term; the nominal 2 bits leave them out.
* [DAQ-7] is the exact block form of GPTQ's update; BiLLM's code divides by the diagonal of U alone.
* `emphasis` 2 and `damping` 0.01 are from an independent reproduction, `deviations` 3 from the paper; `steps` is a reading.
* Scales are rounded to `scale_format` at the end, and [DAQ-6] is done once more on what is stored.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np

from refquant.core.binary_tensor import MOST_ORDERS, BinarySpec, BinaryTensor, binary_sum
from refquant.core.qtensor import Origin
from refquant.errors import InputError, NumericalError, UsageError
from refquant.methods.allocate.abmp import allocate_orders, block_scores
from refquant.methods.card import Card, Equation
from refquant.methods.compensate.damping import factor_of_damped, mean_diagonal
from refquant.numerics import FAST, Arithmetic
from refquant.numerics.arrays import Array, Float64Array
from refquant.numerics.casting import as_float64, as_working, float_dtype

Saliency = Literal["inverse", "factor"]

CARD = Card(
    name="quant_dllm",
    title="Quant-dLLM: data-aware sums of scaled signs, a mean of two a weight",
    paper="arXiv 2510.03274; no public code. Builds on ARB-LLM (2410.03129) and BiLLM (2402.04291)",
    inputs=("weight [out, in]", "hessian [in, in]"),
    equations=(
        Equation("DAQ-1", "saliency Z = (W / d)^2, d = diagonal of the damped inverse"),
        Equation("DAQ-2", "L = 1 + (emphasis - 1) [Z > mean + deviations std]; loss |L * (W - W')|^2"),
        Equation("DAQ-3", "start: mean magnitudes of rows, then of columns, then signs, term by term on the residual"),
        Equation("DAQ-4", "row scales: weighted least squares, the rest fixed"),
        Equation("DAQ-5", "column scales: weighted least squares, the rest fixed"),
        Equation("DAQ-6", "signs: the nearest of the 2^b sums"),
        Equation("DAQ-7", "E = (W - W')_block U_block,block^-1, W_rest -= E U_block,rest"),
    ),
    departures=(
        "no epsilon in denominators; a scale whose denominator is 0 stays as it is",
        "saliency='inverse' as the paper, 'factor' as BiLLM's code; statistics of Z over the whole weight as it came",
        "row scales a block of columns and term, all scales counted in bits_per_weight",
        "the exact block form of GPTQ's compensation instead of BiLLM's diagonal one",
        "emphasis 2 and damping 0.01 from an independent reproduction; 15 steps are a reading",
    ),
    guarantees=(
        "no step of DAQ-4, DAQ-5, DAQ-6 raises the weighted loss",
        "tr((W - W')(S + lambda I)(W - W')^T) = |E|^2 over all blocks",
    ),
    lane="ordered in ORDERED, bounded in FAST",
    cost="2 n^3 / 3 for the factor; per step and entry 2^b comparisons and about 10 b multiplications",
    oracle="least squares in Fractions; brute force over all signs and the loss identity",
    laws=tuple(
        (
            "finite hessian_scaling dead_inputs scaling zero_kept hessian_checked determinism inputs_untouched nan_policy infinity_policy"
        ).split()
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class BinaryFit:
    """One block of columns as a sum of scaled signs.

    Parameters
    ----------
    codes : uint8 ndarray ``[out, width]``
    rows : float64 ndarray ``[terms, out]``
    columns : float64 ndarray ``[terms, width]``
    losses : tuple of float
        The weighted loss after the start and after every partial step.
    """

    codes: Array
    rows: Float64Array
    columns: Float64Array
    losses: tuple[float, ...]

    @property
    def values(self) -> Float64Array:
        """What the block stands for."""
        return binary_sum(self.codes, self.rows, self.columns)


def quant_dllm(
    weight: Array,
    hessian: Array,
    *,
    ratio: float = 0.05,
    orders: int = 2,
    block: int = 128,
    emphasis: float = 2.0,
    deviations: float = 3.0,
    damping: float = 0.01,
    steps: int = 15,
    saliency: Saliency = "inverse",
    scale_format: str = "float16",
    arithmetic: Arithmetic = FAST,
) -> BinaryTensor:
    """Quantize a weight.

    Parameters
    ----------
    weight : ndarray ``[out, in]`` of float16, bfloat16, float32 or float64
    hessian : ndarray ``[in, in]``
        S up to a factor; see :func:`refquant.hessian`.
    ratio : float
        Share of the blocks that get one sign more, and as many one less.
    orders : int
        Signs a weight of all other blocks, 1 to 3.
    block : int
        Columns a block.
    emphasis, deviations
        Of [DAQ-2].
    damping : float
        Multiple of the mean diagonal that is added to the diagonal.
    steps : int
        Rounds of [DAQ-4] to [DAQ-6].
    saliency : {"inverse", "factor"}
    scale_format : str
    arithmetic : Arithmetic

    Returns
    -------
    BinaryTensor

    Raises
    ------
    InputError, UsageError
        Shapes that do not fit, numbers that are not finite, options out of range.
    NotPositiveDefiniteError
        If the damped Hessian cannot be factored.
    NumericalError
        If a scale overflows its format.

    Examples
    --------
    >>> w = np.array([[1.0, -3.0], [2.0, -6.0]])
    >>> quant_dllm(w, np.eye(2), orders=1, ratio=0).dequantize()
    array([[ 1., -3.],
           [ 2., -6.]], dtype=float32)
    """
    w, h = _checked(weight, hessian)
    if not (np.isfinite(emphasis) and emphasis > 0 and np.isfinite(damping) and damping >= 0 and np.isfinite(deviations)):
        raise UsageError(
            f"emphasis is above 0, damping at least 0, both finite, and so are deviations; got {emphasis}, {damping}, {deviations}"
        )
    if steps < 0 or not 1 <= orders <= MOST_ORDERS:
        raise UsageError(f"steps are at least 0 and orders 1 to {MOST_ORDERS}; got {steps} and {orders}")
    spec = BinarySpec(block=block, scale_format=scale_format)
    dead = np.diagonal(h) == 0  # [GPTQ-2]
    w[:, dead], h[dead, dead] = 0, 1
    h[np.diag_indices_from(h)] += damping * mean_diagonal(np.diagonal(h), arithmetic)
    factor = factor_of_damped(h, damping, arithmetic)
    z = saliency_of(w, factor, saliency, arithmetic)
    importance = importance_of(z, emphasis, deviations, arithmetic)
    edges = spec.edges(w.shape[1])
    counts = allocate_orders(block_scores(z, edges, arithmetic), ratio, orders)
    fits: list[BinaryFit] = []
    for (start, stop), count in zip(pairwise(edges), counts.tolist(), strict=True):
        part = slice(start, stop)
        fit = stored(fit_binary(w[:, part], importance[:, part], count, steps, arithmetic), w[:, part], scale_format)
        fits.append(fit)
        inverse = arithmetic.inverse_lower(np.ascontiguousarray(factor[part, part].T)).T
        errors = arithmetic.matmul(w[:, part] - fit.values, np.ascontiguousarray(inverse))
        w[:, stop:] -= arithmetic.matmul(errors, factor[part, stop:])  # [DAQ-7]
    dtype = float_dtype(scale_format)
    options = {"ratio": ratio, "damping": damping, "emphasis": emphasis, "deviations": deviations, "steps": steps, "saliency": saliency}
    return BinaryTensor(
        codes=np.concatenate([np.empty((len(w), 0), np.uint8), *(fit.codes for fit in fits)], axis=1),
        orders=counts,
        row_scales=np.concatenate([np.empty((0, len(w))), *(fit.rows for fit in fits)]).astype(dtype),
        column_scales=np.concatenate([np.empty(0), *(fit.columns.ravel() for fit in fits)]).astype(dtype),
        spec=spec,
        origin=Origin(method="quant_dllm", parameters=options),
    )


def saliency_of(w: Float64Array, factor: Float64Array, saliency: Saliency, arithmetic: Arithmetic = FAST) -> Float64Array:
    """Z of [DAQ-1], ``[out, in]``, from the factor U of the damped inverse ``U^T U``."""
    if saliency not in ("inverse", "factor"):
        raise UsageError(f"saliency is 'inverse' or 'factor', not {saliency!r}")
    d = np.diagonal(factor) if saliency == "factor" else arithmetic.sum(factor * factor, axis=0)
    ratio = w / d
    return np.asarray(ratio * ratio)  # [DAQ-1]


def importance_of(z: Float64Array, emphasis: float, deviations: float, arithmetic: Arithmetic = FAST) -> Float64Array:
    """L of [DAQ-2]: `emphasis` for what is salient, 1 for the rest."""
    if not z.size:
        return np.ones_like(z)
    mean = arithmetic.mean(z)
    distance = z - mean
    limit = mean + deviations * np.sqrt(arithmetic.mean(distance * distance))
    return np.where(z > limit, float(emphasis), 1.0)  # [DAQ-2]


def fit_binary(w: Float64Array, importance: Float64Array, orders: int, steps: int, arithmetic: Arithmetic = FAST) -> BinaryFit:
    """Alternate [DAQ-4], [DAQ-5], [DAQ-6] from the start [DAQ-3].

    Parameters
    ----------
    w, importance : float64 ndarray ``[out, width]``
        A block of columns, and L.
    orders : int
        Terms.
    steps : int
    arithmetic : Arithmetic

    Examples
    --------
    >>> fit = fit_binary(np.array([[1.0, -2.0], [0.5, 3.0]]), np.ones((2, 2)), orders=2, steps=20)
    >>> fit.losses[0] >= fit.losses[-1] >= 0
    True
    """
    squared = importance * importance
    codes, rows, columns = _start(w, orders, arithmetic)
    losses: list[float] = []

    def note() -> None:
        error = importance * (w - binary_sum(codes, rows, columns))
        losses.append(float(arithmetic.sum(error * error)))

    note()
    for _ in range(steps):
        for k in range(orders):
            rows[k] = _scales(w, squared, codes, rows, columns, k, arithmetic)  # [DAQ-4]
            note()
            columns[k] = _scales(w.T, squared.T, codes.T, columns, rows, k, arithmetic)  # [DAQ-5]
            note()
        codes = nearest_signs(w, rows, columns)
        note()
    return BinaryFit(codes=codes, rows=rows, columns=columns, losses=tuple(losses))


def nearest_signs(w: Float64Array, rows: Float64Array, columns: Float64Array) -> Array:
    """The signs of [DAQ-6], as codes; of equally near sums the lowest code."""
    best = np.full(w.shape, np.inf)
    codes = np.zeros(w.shape, dtype=np.uint8)
    for code in range(1 << len(rows)):
        distance = np.abs(w - binary_sum(np.full(w.shape, code, dtype=np.uint8), rows, columns))
        codes[distance < best] = code  # [DAQ-6]
        best = np.minimum(best, distance)
    return codes


def stored(fit: BinaryFit, w: Float64Array, scale_format: str) -> BinaryFit:
    """The fit with scales as they are stored, and signs chosen for those; NumericalError if one overflows."""
    dtype = float_dtype(scale_format)
    with np.errstate(over="ignore", under="ignore"):
        rows, columns = (as_float64(scales.astype(dtype)) for scales in (fit.rows, fit.columns))
    if not (np.isfinite(rows).all() and np.isfinite(columns).all()):
        raise NumericalError(f"a scale overflows {scale_format}: {max(np.abs(fit.rows).max(), np.abs(fit.columns).max()):g}")
    return BinaryFit(codes=nearest_signs(w, rows, columns), rows=rows, columns=columns, losses=fit.losses)


def _start(w: Float64Array, orders: int, arithmetic: Arithmetic) -> tuple[Array, Float64Array, Float64Array]:
    codes = np.zeros(w.shape, dtype=np.uint8)
    rows, columns = np.zeros((orders, w.shape[0])), np.zeros((orders, w.shape[1]))
    if not w.size:
        return codes, rows, columns
    for k in range(orders):
        left = w - binary_sum(codes, rows[:k], columns[:k])
        rows[k] = arithmetic.mean(np.abs(left), axis=1)
        over = np.abs(left) / np.where(rows[k] > 0, rows[k], 1.0)[:, None]
        columns[k] = arithmetic.mean(over, axis=0)  # [DAQ-3]
        codes |= ((left >= 0).astype(np.uint8) << k).astype(np.uint8)
    return codes, rows, columns


def _scales(
    w: Float64Array, squared: Float64Array, codes: Array, own: Float64Array, across: Float64Array, k: int, arithmetic: Arithmetic
) -> Float64Array:
    """Weighted least squares for one term's scales along the first axis; where nothing depends on one, it stays."""
    others = [term for term in range(len(own)) if term != k]
    moved = np.zeros_like(codes)
    for place, term in enumerate(others):
        moved |= (codes >> term & 1) << place
    left = w - binary_sum(moved, own[others], across[others])
    signed = np.where(codes >> k & 1, across[k], -across[k])
    above = arithmetic.sum(np.ascontiguousarray(squared * left * signed), axis=1)
    below = arithmetic.sum(np.ascontiguousarray(squared * (across[k] * across[k])), axis=1)
    return np.where(below > 0, above / np.where(below > 0, below, 1.0), own[k])


def _checked(weight: Array, hessian: Array) -> tuple[Float64Array, Float64Array]:
    w = as_working(weight, "the weight").astype(np.float64)
    h = np.array(hessian, dtype=np.float64)
    if w.ndim != 2 or h.shape != (w.shape[1], w.shape[1]):
        raise InputError(f"a weight [out, in] and a Hessian [in, in] are needed; found shapes {w.shape} and {h.shape}")
    if not (np.isfinite(w).all() and np.isfinite(h).all()):
        raise InputError("weight and Hessian hold finite numbers; found NaN or infinities")
    if not np.array_equal(h, h.T) or (np.diagonal(h) < 0).any():
        raise InputError("the Hessian is not symmetric with a diagonal of at least 0")
    return w, h
