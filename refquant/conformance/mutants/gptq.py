"""GPTQ in plain loops, with one fault to choose."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np

from refquant.conformance.mutants.mutant import Mutant
from refquant.conformance.mutants.uniform_quantize import quantize
from refquant.conformance.operation import Arrays, Parameters
from refquant.numerics.arrays import Array

FAULTS: dict[str, tuple[str, str]] = {
    "no_compensation": ("compensation", "columns are rounded one by one, errors go nowhere"),
    "error_not_divided": ("compensation", "errors are moved on without dividing by U_ii"),
    "factor_of_hessian": ("compensation", "the Cholesky factor of the Hessian stands in the place of that of its inverse"),
    "lower_factor": ("compensation", "the inverse's other factor, L with H^-1 = U U^T, is used"),
    "opposite_sign": ("compensation", "errors are added to the columns to come, not subtracted"),
    "missing_damping": ("rank-deficient", "nothing is added to the diagonal; pivots that are not positive become tiny"),
    "largest_damping": ("ordinary", "damping is relative to the largest entry of the diagonal, not to their mean"),
    "damped_before_dead": ("dead-column", "the mean of the diagonal is taken before dead inputs are set to 1"),
    "dead_weight_kept": ("dead-column", "the weights of dead inputs are not set to 0"),
    "unstable_sort": ("equal-diagonal", "equal entries of the diagonal change places"),
    "ascending": ("act-order", "columns are sorted by ascending diagonal"),
    "order_not_undone": ("act-order", "codes are left in the order of quantization"),
    "stale_groups": ("group-statistics", "dynamic groups are fitted before anything is compensated"),
    "grids_in_original_order": ("act-order", "a dynamic group's grid is fitted on the columns that stand there in the original order"),
}
"""``name: (flag that must catch it, what is wrong)``."""


def gptq(inputs: Arrays, parameters: Parameters, *, fault: str = "") -> Mapping[str, Array]:
    """Quantize a layer; wrong in one way if a fault is named."""
    weight, hessian = np.array(inputs["weight"], dtype=np.float64), np.array(inputs["hessian"], dtype=np.float64)
    size = len(hessian)
    mean_before = float(sum(np.diagonal(hessian).tolist())) / size
    dead = np.diagonal(hessian) == 0
    hessian[dead, dead] = 1
    if fault != "dead_weight_kept":
        weight[:, dead] = 0
    order = _order(np.diagonal(hessian), bool(parameters["act_order"]), fault)
    damped = hessian[np.ix_(order, order)]
    diagonal = np.diagonal(damped).tolist()
    level = {"largest_damping": max(diagonal), "missing_damping": 0.0, "damped_before_dead": mean_before}.get(fault, sum(diagonal) / size)
    damped[np.diag_indices(size)] += float(parameters["damping"]) * level
    factor = _factor(damped, fault)
    codes, scale, zero, errors = _sweep(weight, order, factor, parameters, fault)
    place = np.argsort(order, kind="stable")
    return {
        "codes": codes if fault == "order_not_undone" else codes[:, place],
        "scale": scale,
        "zero": zero,
        "order": order,
        "damped": damped,
        "factor": factor,
        "errors": errors,
    }


def _order(diagonal: Array, act_order: bool, fault: str) -> Array:
    columns = np.arange(len(diagonal))
    if not act_order:
        return columns
    if fault == "unstable_sort":
        return np.asarray(np.argsort(diagonal, kind="stable")[::-1])
    return np.asarray(np.argsort(diagonal if fault == "ascending" else -diagonal, kind="stable"))


def _factor(damped: Array, fault: str) -> Array:
    """``U`` upper triangular with ``H^-1 = U^T U``: Gaussian elimination from the last column, then back substitution."""
    size = len(damped)
    if fault == "factor_of_hessian":
        return _lower(damped).T
    if fault == "lower_factor":
        lower = _inverse_of_lower(_lower(damped))  # H^-1 = lower^T lower
        return np.asarray(lower.T)
    # Reversed, the factor of H is lower triangular; its inverse reversed again is U.
    return _inverse_of_lower(_lower(damped[::-1, ::-1]))[::-1, ::-1] if size else damped


def _lower(matrix: Array) -> Array:
    """Cholesky's factor, column by column."""
    left, lower = matrix.copy(), np.zeros_like(matrix)
    for k in range(len(matrix)):
        left[k, k] = max(left[k, k], 1e-9)  # reached without damping only
        lower[k:, k] = left[k:, k] / np.sqrt(left[k, k])
        left[k:, k:] -= lower[k:, k, None] * lower[None, k:, k]
    return lower


def _inverse_of_lower(lower: Array) -> Array:
    inverse = np.eye(len(lower))
    for k in range(len(lower)):
        inverse[k] = inverse[k] / lower[k, k]
        inverse[k + 1 :] -= lower[k + 1 :, k, None] * inverse[None, k]
    return inverse


def _sweep(weight: Array, order: Array, factor: Array, parameters: Parameters, fault: str) -> tuple[Array, Array, Array, Array]:
    """Codes and errors in the order of quantization, scales and zeros a group."""
    how = {"scheme": parameters["scheme"], "bits": parameters["bits"], "granularity": "row", "scale_format": None, "rounding": "half_even"}
    columns = weight.shape[1]
    width = int(parameters["group"] or columns)
    static = parameters["group"] is None or parameters["static_groups"] or fault == "stale_groups"
    original = quantize({"x": weight}, {**how, "group": width})
    grids: dict[int, tuple[Array, Array]] = {}
    running = weight[:, order].copy()
    stale = quantize({"x": running}, {**how, "group": width}) if fault == "stale_groups" and not parameters["static_groups"] else original
    codes, errors = np.zeros(weight.shape), np.zeros(weight.shape)
    signed = original["codes"].dtype.kind == "i"
    half = 1 << (int(parameters["bits"]) - 1)
    lo, hi = (-half, half - 1) if signed else (0, 2 * half - 1)
    for i in range(columns):
        group = i // width
        if static:
            source = stale if fault == "stale_groups" else original
            group = group if source is not original or parameters["group"] is None else int(order[i]) // width
            grids[group] = source["scale"][:, group], source["zero"][:, group]
        elif group not in grids:
            values = running[:, i : i + width]
            if fault == "grids_in_original_order":
                values = weight[:, i : i + width]
            fitted = quantize({"x": values}, {**how, "group": None})
            grids[group] = fitted["scale"][:, 0], fitted["zero"][:, 0]
        scale, zero = grids[group]
        codes[:, i] = np.clip(np.rint(running[:, i] / scale) + zero, lo, hi)
        errors[:, i] = running[:, i] - scale * (codes[:, i] - zero)
        if fault != "error_not_divided":
            errors[:, i] = errors[:, i] / factor[i, i]
        moved = errors[:, i, None] * factor[None, i, i + 1 :]
        if fault != "no_compensation":
            running[:, i + 1 :] += moved if fault == "opposite_sign" else -moved
    names = sorted(grids)
    if static and fault != "stale_groups":
        return codes.astype(original["codes"].dtype), original["scale"], original["zero"], errors
    scales, zeros = (np.stack([grids[name][part] for name in names], axis=1) for part in (0, 1))
    return codes.astype(original["codes"].dtype), scales, zeros.astype(np.int32), errors


MUTANTS = tuple(
    Mutant(name=f"gptq-{fault}", operation="gptq.codes", flag=flag, what=what, run=partial(gptq, fault=fault))
    for fault, (flag, what) in FAULTS.items()
)
RIGHT = {"gptq.codes": gptq}
