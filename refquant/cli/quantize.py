"""`refquant quantize`: quantize a model, save it, read it back, and compare it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click

import model
from refquant.apply.checkpoint import is_quantized
from refquant.apply.description import read_description
from refquant.apply.evaluation import Evaluation, EvaluationSet, Sizes
from refquant.apply.executors import ExecutorPlan, chosen_executor, open_workforce
from refquant.apply.experts import coverage
from refquant.apply.memory import estimated_peak
from refquant.apply.quantized import QuantizedModel
from refquant.apply.recipe import Recipe, find_recipe
from refquant.apply.reload import check_reload
from refquant.apply.run import Workbench, check_output, check_writable, default_folder, is_there, open_workbench
from refquant.apply.work_folder import sweep
from refquant.cli.evaluating import (
    REFERENCE,
    calm_blas,
    chosen_sizes,
    evaluation_costs,
    evaluation_options,
    held_out,
    result_tables,
    run_evaluation,
    source_folder,
)
from refquant.cli.progress import Progress
from refquant.cli.rows import QuantizedRow, footprint_json, quantize_rows, recipe_rows, row_json
from refquant.cli.streamed import execute_streamed
from refquant.cli.streams import show, show_json, talk, talk_console
from refquant.cli.workers import worker_options
from refquant.cli.working import working
from refquant.errors import UsageError
from refquant.numerics import LANES, Arithmetic
from refquant.report.footprint import full_footprint
from refquant.report.numbers import byte_size, duration
from refquant.report.plan import plan_json, plan_parts
from refquant.report.tables import CalibrationUse, coverage_lines
from refquant.storage import open_checkpoint

CALIBRATION_FILE = "calib.jsonl"
QUICK_CALIBRATION = {"samples": 8, "prompts": 2}

EPILOG = """\b
Examples:
  refquant quantize
  refquant quantize --recipe gptq-w4a4 --dry-run
  refquant quantize --recipe w3 --out w3-folder --quick
  refquant quantize --recipe rtn-w4a16 --out rtn-folder --no-compare --format json
  refquant quantize --recipe rtn-w4a16 --out streamed --stream --workers 2
  refquant quantize --recipe w3 --out same-everywhere --no-compare --quick --lane ordered
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    """Everything that is known before the first computation."""

    bench: Workbench
    recipe: Recipe
    own: str
    rows: dict[str, Recipe]
    left_out: list[str]
    calibration: Path | None
    folder: Path
    run_digest: str
    exists: bool
    existing: QuantizedModel | None
    data: EvaluationSet | None
    sizes: Sizes


@click.command(epilog=EPILOG)
@click.argument("model_dir", required=False, type=click.Path(path_type=Path))
@click.option("--recipe", "recipe_name", default="dllmquant-w4a4", show_default=True, help="A recipe's name, or a file ending in .toml.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder to write; default: quantized-RECIPE-DIGEST.")
@click.option("--calibration", type=click.Path(path_type=Path), help="Calibration lines; default: calib.jsonl in MODEL_DIR.")
@click.option("--samples", type=click.IntRange(min=1), help="Calibration sequences, in the place of the recipe's number.")
@click.option("--dry-run", is_flag=True, help="Print the plan; compute nothing, write nothing.")
@click.option("--no-compare", is_flag=True, help="Quantize and save, without baselines and tables.")
@click.option("--resume", is_flag=True, help="Go on with what an interrupted run left in OUT.partial.")
@click.option("--stream", is_flag=True, help="Hold about one block of the model at a time; implies --no-compare.")
@worker_options("Linears, calibration batches and rollouts")
@evaluation_options
def command(
    model_dir: Path | None,
    recipe_name: str,
    out: Path | None,
    calibration: Path | None,
    samples: int | None,
    dry_run: bool,
    no_compare: bool,
    resume: bool,
    stream: bool,
    workers: int | None,
    executor: str | None,
    texts: Path | None,
    full: bool,
    quick: bool,
    lane: str,
    seed: int,
    form: str,
) -> None:
    """Quantize MODEL_DIR (default: the embedded model) by a recipe, save it, and compare it.

    The table has a row for full precision, RTN, GPTQ, the recipe, and the recipe with a 4-bit softmax. Stdout is data, stderr is talk.
    """
    sizes, plan = chosen_sizes(full, quick), chosen_executor(executor, workers)
    recipe = _adapted(find_recipe(recipe_name), samples, quick)
    recipe.weights.spec()  # one that describes imported weights is refused before anything is computed
    compare = not (no_compare or stream)
    source, wanted = source_folder(model_dir), sizes if compare else None
    run = _prepare(source, LANES[lane], recipe, calibration, seed, out, wanted, texts, compare, stream)
    if dry_run:
        stored = open_checkpoint(run.bench.source)
        known = (run.bench.model, stored, run.recipe, run.rows, run.folder, run.run_digest, len(run.bench.lines), run.exists)
        tokens = recipe.calibration.samples * max((len(line.prompt) + len(line.response or ()) for line in run.bench.lines), default=0)
        peak = estimated_peak(run.bench.model, recipe, tokens, plan)
        if form == "json":
            show_json(plan_json(*known) | {"peak_memory_bytes": peak})
        else:
            together = "" if plan is None else ", all processes on this machine together"
            show([*plan_parts(*known), f"estimated peak of memory while quantizing: {byte_size(peak)}{together}"])
        return
    if not run.exists:
        check_writable(run.folder)
    if stream:
        execute_streamed(run.bench, run.recipe, run.folder, run.exists, resume, form, plan)
    else:
        _execute(run, seed, resume, form, plan)


def _adapted(recipe: Recipe, samples: int | None, quick: bool) -> Recipe:
    """The recipe with the numbers that options replace."""
    if quick:
        recipe = recipe.replace(calibration=QUICK_CALIBRATION)
    return recipe if samples is None else recipe.replace(calibration={"samples": samples})


def _prepare(
    source: Path,
    lane: Arithmetic,
    recipe: Recipe,
    calibration: Path | None,
    seed: int,
    out: Path | None,
    sizes: Sizes | None,
    texts: Path | None,
    compare: bool,
    stream: bool,
) -> _Run:
    """Read and check everything; whatever the user got wrong shows here, before the first minute of work."""
    open_checkpoint(source)  # says what is wrong with a path before anything else is looked for in it
    if is_quantized(source):
        raise UsageError(f"{source} is already quantized; quantize a full-precision checkpoint")
    if calibration is None and (source / CALIBRATION_FILE).is_file():
        calibration = source / CALIBRATION_FILE
    if calibration is None and recipe.needs_calibration:
        raise UsageError(
            f"recipe {recipe.name} needs calibration data and {source} holds no {CALIBRATION_FILE}; name a file with --calibration"
        )
    recipe.weights.check_lane(lane)
    bench = open_workbench(source, model.load(source, arithmetic=lane, stream=stream), calibration, seed)
    own, rows, left_out = recipe_rows(recipe, compare, calibrated=bool(bench.lines))
    run_digest = bench.run_digest(recipe)
    folder = default_folder(recipe, run_digest) if out is None else out
    exists = is_there(folder, run_digest)
    existing = check_output(folder, run_digest) if exists and not stream else None
    data = None if sizes is None else held_out(source, texts)
    return _Run(
        bench=bench,
        recipe=recipe,
        own=own,
        rows=rows,
        left_out=left_out,
        calibration=calibration,
        folder=folder,
        run_digest=run_digest,
        exists=exists,
        existing=existing,
        data=data,
        sizes=sizes or Sizes(),
    )


def _execute(run: _Run, seed: int, resume: bool, form: str, plan: ExecutorPlan | None) -> None:
    compare = len(run.rows) > 1 or run.data is not None
    if run.existing is not None:
        talk(f"{run.folder} holds this very run, complete and verified; it is used as it is")
    if run.left_out:
        talk(f"no calibration data: the rows {', '.join(run.left_out)} are left out; name a file with --calibration")
    if compare and run.data is None:
        talk(f"{run.bench.source} holds no held-out texts (eval.jsonl): no table; name a file with --texts")
    rows = run.rows if run.data is not None else {run.own: run.recipe}
    idle = run.existing is not None and len(rows) == 1
    with (
        calm_blas(run.bench.model),
        open_workforce(None if idle else plan) as run.bench.workers,
        Progress(_costs(run, rows), talk_console(), events=form == "json") as progress,
    ):
        run.bench.progress = progress
        if run.existing is not None:
            sweep(run.folder)
            done = quantize_rows(run.bench, rows, run.own, run.existing, progress)
            progress.begin("save and reload")
        else:
            with working(run.bench, run.recipe, run.folder, resume) as keeping:
                done = quantize_rows(run.bench, rows, run.own, None, progress, keeping)
                progress.begin("save and reload")
                keeping[0].finish(run.bench.source, done[run.own].quantized, run.bench.provenance(run.recipe))
        logits = check_reload(run.bench.model, done[run.own].quantized, run.folder)
        evaluation = _evaluation(run, done, seed, progress)
    talk(f"done in {duration(progress.seconds)}")
    _print(run, done, evaluation, logits, seed, form)


def _costs(run: _Run, rows: dict[str, Recipe]) -> dict[str, float]:
    """Expected cost of each stage, in the unit of :func:`evaluation_costs`."""
    costs = {}
    plan = run.recipe.calibration
    tokens = plan.samples * 100 / 1e6
    if run.recipe.needs_calibration and plan.states in ("rollout", "tmas"):
        costs["rollouts"] = 1.5 * plan.prompts * plan.gen_length * 100 / 1e6
    for label, row in rows.items():
        if label != run.own or run.existing is None:
            costs[f"quantize {label}"] = {"gptq": 25.0}.get(row.weights.method, 12.0) * (tokens if row.needs_calibration else 0.001)
    costs["save and reload"] = 0.01
    return costs | evaluation_costs(run.data, run.sizes, len(rows) + 1)


def _evaluation(run: _Run, rows: dict[str, QuantizedRow], seed: int, progress: Progress) -> Evaluation | None:
    if run.data is None:
        return None
    candidates = {label: row.quantized.attach(run.bench.model) for label, row in rows.items()}
    return run_evaluation(run.bench.model, candidates, run.bench.tokenizer, run.data, run.sizes, seed, progress)


def _print(run: _Run, rows: dict[str, QuantizedRow], evaluation: Evaluation | None, logits: str, seed: int, form: str) -> None:
    reference = full_footprint(open_checkpoint(run.bench.source), run.bench.model.linears)
    folder_digest = read_description(run.folder).digest
    if form == "json":
        found: dict[str, Any] = {
            "command": "quantize",
            "version": version("refquant"),
            "seed": seed,
            "lane": run.bench.model.arithmetic.name,
            "own_row": run.own,
            "reference": {"size": footprint_json(reference), "input_digest": run.bench.input_digest},
            "rows": {label: row_json(row) for label, row in rows.items()},
            "evaluation": None if evaluation is None else json.loads(evaluation.to_json()),
            "folder": str(run.folder),
            "folder_digest": folder_digest,
            "run_digest": run.run_digest,
            "reused": run.existing is not None,
            "reloaded_logits_sha256": logits,
        }
        show_json(found)
        return
    footprints = {REFERENCE: reference, **{label: row.footprint for label, row in rows.items()}}
    calibrations: dict[str, CalibrationUse] = {label: row.calibration for label, row in rows.items()}
    if evaluation is not None:
        show(result_tables(evaluation, footprints, calibrations))
        show([""])
    tokens = {record.name: record.tokens for record in rows[run.own].quantized.records if record.tokens}
    show(coverage_lines(coverage(run.bench.model, tokens)))
    verb = "verified" if run.existing is not None else "saved"
    show(
        [f"{verb}: {run.folder} (digest {folder_digest[:12]}, run {run.run_digest[:12]})", f"reloaded: logits identical (SHA-256 {logits})"]
    )
