"""GPTQ in plain loops, with one fault to choose."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from refquant.conformance.mutants.clip_search import search
from refquant.conformance.mutants.mutant import Mutant
from refquant.conformance.mutants.uniform_quantize import SIGNED, STORED, quantize
from refquant.conformance.operation import Arrays, Parameters
from refquant.numerics import FAST
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
    "block_not_propagated": ("compensation", "errors stay within blocks of four columns: the update behind a lazy block is left out"),
    "twice_divided": ("compensation", "errors are divided by the square of U_ii"),
    "boundary_late": ("group-statistics", "dynamic groups begin one column late"),
    "first_group_kept": ("group-statistics", "the grid of the first dynamic group is used for all"),
    "absolute_damping": ("ordinary", "damping is added as it is, not relative to the diagonal"),
    "error_before_clip": ("compensation", "the error is the distance to the code before it is clipped"),
    "grids_in_original_order": ("act-order", "a dynamic group's grid is fitted on the columns that stand there in the original order"),
}
"""``name: (flag that must catch it, what is wrong)``."""


def gptq(inputs: Arrays, parameters: Parameters, *, fault: str = "", working: Any = np.float64) -> Mapping[str, Array]:
    """Quantize a layer, computing in a format of choice; wrong in one way if a fault is named."""
    weight: Array = np.array(inputs["weight"], dtype=working)
    hessian: Array = np.array(inputs["hessian"], dtype=working)
    size = len(hessian)
    mean_before = float(sum(np.diagonal(hessian).tolist())) / size
    dead = np.diagonal(hessian) == 0
    hessian[dead, dead] = 1
    if fault != "dead_weight_kept":
        weight[:, dead] = 0
    order = _order(np.diagonal(hessian), bool(parameters["act_order"]), fault)
    damped = hessian[np.ix_(order, order)]
    diagonal = np.diagonal(damped).tolist()
    mean = sum(diagonal) / size
    levels = {"largest_damping": max(diagonal), "missing_damping": 0.0, "damped_before_dead": mean_before, "absolute_damping": 1.0}
    damped[np.diag_indices(size)] += float(parameters["damping"]) * levels.get(fault, mean)
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
    inverse = np.eye(len(lower), dtype=lower.dtype)
    for k in range(len(lower)):
        inverse[k] = inverse[k] / lower[k, k]
        inverse[k + 1 :] -= lower[k + 1 :, k, None] * inverse[None, k]
    return inverse


def _sweep(weight: Array, order: Array, factor: Array, parameters: Parameters, fault: str) -> tuple[Array, Array, Array, Array]:
    """Codes and errors in the order of quantization, scales and zeros a group."""
    columns = weight.shape[1]
    width = int(parameters["group"] or columns)
    static = parameters["group"] is None or parameters["static_groups"] or fault == "stale_groups"
    original = _fitted(weight, parameters, width, fault)
    grids: dict[int, tuple[Array, Array]] = {}
    running = weight[:, order].copy()
    stale = _fitted(running, parameters, width, fault) if fault == "stale_groups" and not parameters["static_groups"] else original
    codes, errors = np.zeros(weight.shape), np.zeros_like(weight)
    signed = parameters["scheme"] in SIGNED
    half = 1 << (int(parameters["bits"]) - 1)
    lo, hi = (-half, half - 1) if signed else (0, 2 * half - 1)
    for i in range(columns):
        group = max(i - (fault == "boundary_late"), 0) // width
        if static:
            source = stale if fault == "stale_groups" else original
            group = group if source is not original or parameters["group"] is None else int(order[i]) // width
            grids[group] = source["scale"][:, group], source["zero"][:, group]
        elif group not in grids:
            values = running[:, i : i + width]
            if fault == "grids_in_original_order":
                values = weight[:, i : i + width]
            fitted = _fitted(values, parameters, values.shape[1], fault)
            grids[group] = fitted["scale"][:, 0], fitted["zero"][:, 0]
            if fault == "first_group_kept":
                grids[group] = grids[0]
        scale, zero = grids[group]
        wide = scale.astype(weight.dtype)
        nearest = np.rint(running[:, i] / wide) + zero
        codes[:, i] = np.clip(nearest, lo, hi)
        errors[:, i] = running[:, i] - wide * ((nearest if fault == "error_before_clip" else codes[:, i]) - zero)
        if fault != "error_not_divided":
            errors[:, i] = errors[:, i] / factor[i, i] / (factor[i, i] if fault == "twice_divided" else 1)
        moved = errors[:, i, None] * factor[None, i, i + 1 :]
        if fault == "block_not_propagated":
            moved[:, 3 - i % 4 :] = 0
        if fault != "no_compensation":
            running[:, i + 1 :] += moved if fault == "opposite_sign" else -moved
    names = sorted(grids)
    small = np.dtype(f"{'i' if signed else 'u'}{1 if half <= 128 else 2}")
    if static and fault != "stale_groups":
        return codes.astype(small), original["scale"], original["zero"], errors
    scales, zeros = (np.stack([grids[name][part] for name in names], axis=1) for part in (0, 1))
    return codes.astype(small), scales, zeros.astype(np.int32), errors


def _fitted(values: Array, parameters: Parameters, width: int, fault: str) -> Mapping[str, Array]:
    """Scales and zero points of groups of columns."""
    how = {"scheme": parameters["scheme"], "bits": parameters["bits"], "group": width}
    if parameters.get("clip_search") and fault != "no_clip_search":
        return search({"x": values}, {**how, "steps": 80, "divisions": 100, "power": 2.4})
    stored = None if fault == "scale_not_stored" else parameters.get("scale_format")
    return quantize({"x": values}, {**how, "granularity": "row", "scale_format": stored, "rounding": "half_even"})


def layer(inputs: Arrays, parameters: Parameters, *, fault: str = "", working: Any = np.float64) -> Mapping[str, Array]:
    """From calibration inputs to codes and losses; wrong in one way if a fault is named."""
    x: Array = np.asarray(inputs["x"], dtype=working)
    used = x - FAST.mean(x, axis=0) if fault == "covariance" else x
    hessian = FAST.matmul(used.T, used)
    if fault == "mean_hessian":
        hessian = hessian / len(x)
    found = gptq({"weight": inputs["weight"], "hessian": hessian}, parameters, fault=fault, working=working)
    scale, errors = found["scale"], found["errors"]
    if fault == "undamped_loss":
        values = np.asarray(inputs["weight"], dtype=np.float64) - _decoded(found, parameters)
        moved = FAST.matmul(values, np.asarray(x.T, dtype=np.float64))
        losses = FAST.sum(moved * moved, axis=1)
    else:
        losses = FAST.sum(errors * errors, axis=1)
    stored = parameters["scale_format"]
    if stored is not None:
        scale = scale.astype(STORED[stored])
    kept = {name: found[name] for name in ("codes", "zero", "order")}
    return {**kept, "scale": scale if stored is not None else scale.astype(np.float64), "losses": losses.astype(np.float64)}


def _decoded(found: Mapping[str, Array], parameters: Parameters) -> Array:
    codes = found["codes"].astype(np.float64)
    groups = np.arange(codes.shape[1]) // int(parameters["group"] or codes.shape[1])
    if not parameters["static_groups"]:
        groups = groups[np.argsort(found["order"], kind="stable")]
    return np.asarray(found["scale"].astype(np.float64)[:, groups] * (codes - found["zero"][:, groups]))


LAYER_FAULTS: dict[str, tuple[str, str]] = {
    "mean_hessian": ("ordinary", "losses are those of a Hessian divided by the number of tokens"),
    "covariance": ("compensation", "the mean of the inputs is subtracted first"),
    "undamped_loss": ("ordinary", "losses are measured on the inputs, without what damping adds"),
    "scale_not_stored": ("stored-scale", "codes and errors come from the scale before it is rounded"),
    "no_clip_search": ("clip-search", "ranges are not searched"),
    "stale_groups": ("group-statistics", "dynamic groups are fitted before anything is compensated"),
    "no_compensation": ("compensation", "columns are rounded one by one, errors go nowhere"),
    "order_not_undone": ("act-order", "codes are left in the order of quantization"),
    "missing_damping": ("ordinary", "nothing is added to the diagonal"),
    "dead_weight_kept": ("dead-column", "the weights of dead inputs are not set to 0"),
}

MUTANTS = tuple(
    Mutant(name=f"{name}-{fault}", operation=operation, flag=flag, what=what, run=partial(run, fault=fault))
    for name, operation, run, faults in (("gptq", "gptq.codes", gptq, FAULTS), ("gptq_layer", "gptq.layer", layer, LAYER_FAULTS))
    for fault, (flag, what) in faults.items()
)
RIGHT = {"gptq.codes": gptq, "gptq.layer": layer}
