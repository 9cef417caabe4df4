"""Which step of a computation went wrong first: its intermediates, compared in the order in which they are computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from refquant.conformance.case import Case
from refquant.conformance.compare import Mismatch, decision_order, differences
from refquant.conformance.operation import Operation
from refquant.numerics.arrays import Array, BoolArray

STAGES: dict[str, tuple[str, ...]] = {
    "uniform.quantize": ("scale", "zero", "codes"),
    "grid.clip_search": ("scale", "zero"),
    "gptq.codes": ("order", "damped", "factor"),
}
"""Where outputs are not declared in the order of computation. GPTQ's grids, codes and errors come column by column after these."""
SWEEPS = {"gptq.codes": ("scale", "zero", "codes", "errors")}


def in_order(operation: Operation, mismatches: Sequence[Mismatch]) -> list[Mismatch]:
    """Mismatches in the order of computation of their parts; what is not an output of the operation comes first."""
    stages = (*STAGES.get(operation.name, tuple(part.name for part in operation.outputs)), *SWEEPS.get(operation.name, ()))
    return sorted(mismatches, key=lambda mismatch: stages.index(mismatch.part) if mismatch.part in stages else -1)


def first_stage(operation: Operation, case: Case, mismatches: Sequence[Mismatch], found: Mapping[str, Array]) -> str:
    """The first step that departs, in words; empty where there is but one, or the outputs cannot be compared.

    Examples
    --------
    >>> from refquant.conformance.catalog import find_operation
    >>> quantize = find_operation("uniform.quantize")
    >>> case = next(quantize.cases())
    >>> outputs = {part: array + array.dtype.type(1) for part, array in case.expected.items() if part != "scale"}
    >>> wrong = [Mismatch(case=case.id, part=p, index=(0, 0), expected=0, found=1, rule="", why="") for p in outputs]
    >>> first_stage(quantize, case, wrong, outputs)
    'zero is the first step that departs, of scale, zero, codes'
    """
    wrong = {mismatch.part for mismatch in mismatches}
    sweep = SWEEPS.get(operation.name, ())
    stages = STAGES.get(operation.name, tuple(part.name for part in operation.outputs))
    if len(stages) + len(sweep) < 2 or any(mismatch.index is None for mismatch in mismatches):
        return ""
    everything = ", ".join((*stages, *sweep))
    for stage in stages:
        if stage in wrong:
            return f"{stage} is the first step that departs, of {everything}"
    told = _in_sweep(case, found, [part for part in sweep if part in wrong])
    return f"{', '.join(stages)} are right; {told}" if told else ""


def _in_sweep(case: Case, found: Mapping[str, Array], wrong: Sequence[str]) -> str:
    """The first column whose grid, code or error departs."""
    columns = case.expected["codes"].shape[1]
    order = decision_order(case, columns)
    group = case.parameters["group"]
    static = group is None or case.parameters["static_groups"]
    begins: dict[str, int] = {}
    rows: dict[str, int] = {}
    for part in wrong:
        differs = _differs(case, part, found[part])
        if part == "codes":
            differs = differs[:, order]
        if not differs.any():
            continue
        first = int(np.flatnonzero(differs.any(axis=0))[0])
        rows[part] = int(np.flatnonzero(differs[:, first])[0])
        begins[part] = first if part in ("codes", "errors") else 0 if static else first * int(group)
    if not begins:
        return ""
    part = min(begins, key=lambda name: begins[name])  # the first of equals: grids come before codes, codes before errors
    step = begins[part]
    if part in ("scale", "zero") and static:
        return f"{part} departs, which is fixed before the first column (row {rows[part]})"
    return f"the first to depart is {part}, at step {step} (column {int(order[step])}), row {rows[part]}"


def _differs(case: Case, part: str, found: Array) -> BoolArray:
    expected = case.expected[part]
    return differences(expected, np.asarray(found).astype(expected.dtype), case.rule(part), case.margins.get(part))[0]
