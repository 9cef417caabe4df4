"""What a run would do, before it does it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from model import Transformer
from refquant.apply.planned_rewrites import planned_rewrites
from refquant.apply.quantized import is_skipped
from refquant.apply.recipe import Recipe, Weights
from refquant.report.footprint import planned_binary_bits, planned_bits
from refquant.report.numbers import bits, byte_size, counted
from refquant.report.tables import display_name
from refquant.storage import Checkpoint


def planned_linears(m: Transformer, recipe: Recipe) -> dict[str, tuple[tuple[int, int], int]]:
    """Shape and bits of every linear that a recipe quantizes, by name."""
    if recipe.weights.method == "none":
        return {}
    found = {}
    for name in m.linears:
        if not is_skipped(recipe, name):
            rows, columns = m.parameters[f"{name}.weight"].shape
            permuted = recipe.weights.method == "gptq" and recipe.weights.act_order and not recipe.weights.static_groups
            found[name] = ((rows, columns), _bits_of(recipe.weights, (rows, columns), permuted))
    return found


def _bits_of(weights: Weights, shape: tuple[int, int], permuted: bool) -> int:
    if weights.method == "quant_dllm":
        return planned_binary_bits(shape, weights.bits, weights.group_size, weights.scale_format or "float64")
    return planned_bits(weights.spec(), shape, permuted)


def plan_json(
    m: Transformer,
    stored: Checkpoint,
    recipe: Recipe,
    rows: Mapping[str, Recipe],
    folder: Path,
    run_digest: str,
    lines: int,
    exists: bool,
) -> dict[str, Any]:
    """Everything that is known beforehand, as plain JSON values.

    Parameters
    ----------
    m : Transformer
    stored : Checkpoint
    recipe : Recipe
    rows : mapping of str to Recipe
        By label.
    folder : Path
        Where the result goes.
    run_digest : str
    lines : int
        Calibration lines found.
    exists : bool
        The result is there already.
    """
    linears = planned_linears(m, recipe)
    quantized = {f"{name}.weight" for name in linears}
    planned = planned_rewrites(m, recipe)
    changed = {name: array for name, array in planned.model.parameters.items() if name in planned.tensors - quantized}
    kept = {name: stored.shape(name) for name in stored.names if name not in quantized | set(changed)}
    kept_bits = sum(math.prod(shape) * stored.dtype(name).itemsize * 8 for name, shape in kept.items())
    kept_bits += sum(array.nbytes * 8 for array in changed.values()) + planned.run_time_bits
    return {
        "recipe": recipe.to_dict(),
        "rows": {label: row.to_dict() for label, row in rows.items()},
        "linears": {
            name: {"shape": list(shape), "bits": total, "bits_per_weight": str(Fraction(total, math.prod(shape)))}
            for name, (shape, total) in linears.items()
        },
        "kept": {name: {"shape": list(shape), "dtype": stored.dtype(name).name} for name, shape in kept.items()},
        "rewritten": {name: {"shape": list(array.shape), "dtype": array.dtype.name} for name, array in changed.items()},
        "run_time_bytes": planned.run_time_bits // 8,
        "bytes": -(-(kept_bits + sum(total for _, total in linears.values())) // 8),
        "stored_bytes": sum(math.prod(stored.shape(name)) * stored.dtype(name).itemsize for name in stored.names),
        "calibration_lines": lines,
        "folder": str(folder),
        "run_digest": run_digest,
        "exists": exists,
    }


def plan_parts(
    m: Transformer,
    stored: Checkpoint,
    recipe: Recipe,
    rows: Mapping[str, Recipe],
    folder: Path,
    run_digest: str,
    lines: int,
    exists: bool,
) -> Iterable[RenderableType]:
    """The same as tables and lines; parameters as :func:`plan_json`."""
    plan = plan_json(m, stored, recipe, rows, folder, run_digest, lines, exists)
    yield Text("# Recipe", style="bold")
    yield recipe.to_toml().rstrip("\n")
    yield ""
    yield Text("# Rows of the table", style="bold")
    for label, row in rows.items():
        states = row.calibration.states if row.needs_calibration else "none"
        softmax = f"softmax {row.probabilities.bits} bits" if row.probabilities.bits else "softmax in floating point"
        parts = f"weights {row.weights.method}, V {row.values.method}, {softmax}, calibration states {states}"
        yield f"{display_name(label)}: {parts}"
    yield ""
    yield Text("# Linears that are quantized", style="bold")
    yield _linears_table(plan["linears"])
    yield ""
    yield Text("# Kept as stored", style="bold")
    for name, kept in plan["kept"].items():
        yield f"{name} {kept['shape']} {kept['dtype']}"
    yield ""
    if plan["rewritten"] or plan["run_time_bytes"]:
        yield Text("# Rewritten and kept, and needed at run time", style="bold")
        for name, changed in plan["rewritten"].items():
            yield f"{name} {changed['shape']} {changed['dtype']}"
        yield f"transforms and corrections at run time: {byte_size(plan['run_time_bytes'])}"
        yield ""
    yield f"estimated size, packed: {byte_size(plan['bytes'])}, of {byte_size(plan['stored_bytes'])} as stored"
    yield f"calibration: {counted(lines, 'line')} found, {recipe.calibration.samples} sequences wanted"
    yield f"output folder: {folder}" + (" (there already, complete and verified)" if exists else "")
    yield f"run digest: {run_digest}"


def _linears_table(linears: Mapping[str, Mapping[str, Any]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("", overflow="fold")
    table.add_column("shape", justify="right", no_wrap=True)
    table.add_column("bits a weight", justify="right", no_wrap=True)
    for name, entry in linears.items():
        table.add_row(name, " x ".join(map(str, entry["shape"])), bits(Fraction(entry["bits_per_weight"])))
    return table
