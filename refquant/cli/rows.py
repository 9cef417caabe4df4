"""The rows of a comparison: quantized one after the other, all but the recipe's own on as many calibration tokens as that one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from refquant.apply.keeper import Keeper
from refquant.apply.quantized import QuantizedModel
from refquant.apply.recipe import Recipe
from refquant.apply.run import Workbench, comparison
from refquant.cli.interruption import Interruption
from refquant.cli.progress import Progress
from refquant.report.footprint import Footprint, quantized_footprint
from refquant.report.tables import CalibrationUse
from refquant.storage import open_checkpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizedRow:
    """One row: the quantized model, its bits, and what it was calibrated on."""

    quantized: QuantizedModel
    footprint: Footprint
    calibration: CalibrationUse


def recipe_rows(recipe: Recipe, compare: bool, calibrated: bool) -> tuple[str, dict[str, Recipe], list[str]]:
    """What is to be quantized.

    Parameters
    ----------
    recipe : Recipe
    compare : bool
        False leaves the recipe alone.
    calibrated : bool
        Whether there are calibration lines; without them, rows that need some are left out.

    Returns
    -------
    own : str
        Label of the recipe's own row.
    rows : dict of str to Recipe
    left_out : list of str
    """
    rows = comparison(recipe) if compare else {recipe.name: recipe}
    own = next(label for label, row in rows.items() if row.digest() == recipe.digest())
    rows[own] = recipe  # under a baseline's label it would carry the baseline's name
    left_out = [label for label, row in rows.items() if row.needs_calibration and not calibrated and label != own]
    return own, {label: row for label, row in rows.items() if label not in left_out}, left_out


def quantize_rows(
    bench: Workbench,
    rows: Mapping[str, Recipe],
    own: str,
    existing: QuantizedModel | None,
    progress: Progress,
    keeping: tuple[Keeper, Interruption] | None = None,
) -> dict[str, QuantizedRow]:
    """Quantize every row; the recipe's own is taken as it is if it exists already.

    Parameters
    ----------
    bench : Workbench
    rows : mapping of str to Recipe
    own : str
        Label of the row that says how many calibration tokens the others take.
    existing : QuantizedModel or None
    progress : Progress
        With a stage ``quantize LABEL`` for each row that is quantized here.
    keeping : tuple of Keeper and Interruption, optional
        Takes the linears of the recipe's own row, and decides when Ctrl-C ends it.
    """
    stored, linears = open_checkpoint(bench.source), tuple(bench.model.linears)
    found = {}
    tokens = bench.states(rows[own].calibration).tokens if rows[own].needs_calibration else None
    for label, recipe in rows.items():
        limit = None if recipe.calibration == rows[own].calibration else tokens  # the same plan: the same states, drawn once
        if label == own and existing is not None:
            quantized = existing
        else:
            if recipe.needs_calibration:
                bench.states(recipe.calibration, limit)  # rollouts are a stage of their own
            progress.begin(f"quantize {label}")
            progress.tokens = bench.states(recipe.calibration, limit).tokens if recipe.needs_calibration else 0
            if label == own and keeping is not None:
                with keeping[1].deferred():
                    quantized = bench.quantize(recipe, limit, keeping[0])
            else:
                quantized = bench.quantize(recipe, limit)
        found[label] = QuantizedRow(
            quantized=quantized,
            footprint=quantized_footprint(stored, quantized, linears),
            calibration=_calibration_use(bench, recipe, limit),
        )
    return found


def _calibration_use(bench: Workbench, recipe: Recipe, tokens: int | None) -> CalibrationUse:
    if not recipe.needs_calibration:
        return CalibrationUse(states="none")
    used = bench.states(recipe.calibration, tokens)
    return CalibrationUse(states=recipe.calibration.states, sequences=len(used.states), tokens=used.tokens, rejected=used.rejected)


def row_json(row: QuantizedRow) -> dict[str, Any]:
    """A row without its arrays."""
    use = row.calibration
    return {
        "recipe": row.quantized.recipe.to_dict(),
        "recipe_digest": row.quantized.recipe.digest(),
        "calibration": {"states": use.states, "sequences": use.sequences, "tokens": use.tokens, "rejected_rollouts": use.rejected},
        "size": footprint_json(row.footprint),
        "linears": [
            {"name": record.name, "tokens": record.tokens, "output_error": record.error, "rtn_output_error": record.rtn_error}
            for record in row.quantized.records
        ],
    }


def footprint_json(found: Footprint) -> dict[str, Any]:
    """Bits of a model; fractions as text, exactly."""
    return {
        "weights": found.weights,
        "weight_bits": found.weight_bits,
        "bits_per_weight": str(found.bits_per_weight),
        "parameters": found.parameters,
        "model_bits": found.model_bits,
        "bits_per_parameter": str(found.bits_per_parameter),
    }
