"""`refquant quantize --stream`: from folder to folder without ever holding the model."""

from __future__ import annotations

import math
from fractions import Fraction
from importlib.metadata import version
from pathlib import Path

from refquant.apply.description import Description
from refquant.apply.executors import ExecutorPlan, open_workforce
from refquant.apply.recipe import Recipe
from refquant.apply.run import Workbench
from refquant.apply.verifying import verify_folder
from refquant.apply.work_folder import sweep
from refquant.cli.evaluating import calm_blas
from refquant.cli.progress import Progress
from refquant.cli.rows import footprint_json
from refquant.cli.streams import show, show_json, talk, talk_console
from refquant.cli.working import working
from refquant.report.footprint import full_footprint
from refquant.report.numbers import bits, counted, duration
from refquant.storage import open_checkpoint


def execute_streamed(
    bench: Workbench, recipe: Recipe, out: Path, exists: bool, resume: bool, form: str, plan: ExecutorPlan | None = None
) -> None:
    """Quantize, save, and check what was saved against its digests, holding about one block at a time.

    Parameters
    ----------
    bench : Workbench
        With a streamed model.
    recipe : Recipe
    out : Path
    exists : bool
        The result is there already.
    resume : bool
    form : {"text", "json"}
    plan : ExecutorPlan, optional
        Of the workers.
    """
    costs = {"rollouts": 5.0} if recipe.calibration.states in ("rollout", "tmas") and recipe.needs_calibration else {}
    costs |= {"quantize": 10.0, "save": 1.0, "verify": 1.0}
    with (
        calm_blas(bench.model),
        open_workforce(None if exists else plan) as bench.workers,
        Progress(costs, talk_console(), events=form == "json") as progress,
    ):
        bench.progress = progress
        if exists:
            sweep(out)
            talk(f"{out} holds this very run; it is verified and used as it is")
        else:
            with working(bench, recipe, out, resume) as (work, interruption):
                if recipe.needs_calibration:
                    progress.tokens = bench.states(recipe.calibration).tokens
                progress.begin("quantize")
                with interruption.deferred():
                    quantized = bench.quantize(recipe, keeper=work)
                progress.begin("save")
                work.finish(bench.source, quantized, bench.provenance(recipe))
        progress.begin("verify")
        description = verify_folder(out)
    talk(f"done in {duration(progress.seconds)}")
    _print(bench, out, description, exists, form)


def _print(bench: Workbench, out: Path, description: Description, exists: bool, form: str) -> None:
    stored = open_checkpoint(bench.source)
    sizes = {name: math.prod(stored.shape(f"{name}.weight")) for name in description.weights}
    weight_bits = sum((Fraction(entry.bits_per_weight) * sizes[name] for name, entry in description.weights.items()), Fraction(0))
    weights = sum(sizes.values())
    mean = weight_bits / weights if weights else Fraction(0)
    if form == "json":
        found = {
            "command": "quantize",
            "version": version("refquant"),
            "seed": bench.seed,
            "lane": bench.model.arithmetic.name,
            "reference": {"size": footprint_json(full_footprint(stored, bench.model.linears)), "input_digest": bench.input_digest},
            "size": {"weights": weights, "weight_bits": int(weight_bits), "bits_per_weight": str(mean)},
            "folder": str(out),
            "folder_digest": description.digest,
            "run_digest": description.run_digest,
            "reused": exists,
        }
        show_json(found)
        return
    verb = "verified" if exists else "saved and verified"
    show(
        [
            f"{counted(len(sizes), 'linear')} quantized, {bits(mean)} bits a weight",
            f"{verb}: {out} (digest {description.digest[:12]}, run {description.run_digest[:12]})",
        ]
    )
