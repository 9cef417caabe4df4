"""``refquant study qdlm``: the grid of bit widths, methods and models, taken up where it was left, and its report."""

from __future__ import annotations

import time
from pathlib import Path

import click
from threadpoolctl import threadpool_limits

import model
from refquant.apply.evaluation.record import plain
from refquant.apply.executors import chosen_executor, open_workforce
from refquant.apply.study.cell import Laboratory, open_laboratory, outlier_record
from refquant.apply.study.folder import RAW, open_folder, raw_lines
from refquant.apply.study.grid import KINDS, METHODS, WIDTHS, Cell, cells
from refquant.apply.study.run import Outcome, run_cells
from refquant.apply.study.settings import Settings
from refquant.cli.interruption import Interruption
from refquant.cli.progress import Progress
from refquant.cli.streams import talk, talk_console
from refquant.cli.workers import worker_options
from refquant.errors import UsageError
from refquant.report.study_page import Study, study_page
from refquant.report.study_plots import require_matplotlib
from refquant.storage import write_text

PAGE = "qdlm.html"
QUICK = (("W4A4", "W4A16", "W3A16"), ("RTN", "GPTQ", "SmoothQuant, 4 places", "QuaRot, RTN"))

EPILOG = """\b
Examples:
  refquant study qdlm --quick
  refquant study qdlm --out study --workers 2
  refquant study qdlm --minutes 30 --out study

Run it again with the same --out and only the missing cells are computed. Ctrl-C finishes the cells in hand.
"""


@click.command(epilog=EPILOG)
@click.option("--out", type=click.Path(path_type=Path), default=Path("qdlm"), show_default=True, help="Folder of cells and report.")
@click.option("--quick", is_flag=True, help="A corner of the grid in a few minutes, two seeds.")
@click.option("--large", is_flag=True, help="The whole grid on twice the data and more; hours.")
@click.option("--seeds", type=click.IntRange(min=1), help="Number of calibration seeds, from 0.")
@click.option("--width", "widths", multiple=True, type=click.Choice(list(WIDTHS)), help="Only this width; may be repeated.")
@click.option("--method", "methods", multiple=True, type=click.Choice(list(METHODS)), help="Only this method; may be repeated.")
@click.option("--also", multiple=True, help="A further recipe, run as it is shipped; may be repeated.")
@worker_options("Cells")
@click.option("--minutes", type=click.FloatRange(min=0), help="Begin no cell after this time; the report says what is missing.")
def qdlm(
    out: Path,
    quick: bool,
    large: bool,
    seeds: int | None,
    widths: tuple[str, ...],
    methods: tuple[str, ...],
    also: tuple[str, ...],
    workers: int | None,
    executor: str | None,
    minutes: float | None,
) -> None:
    """Bit widths, methods, a plain model and one with outliers: cell by cell, with one HTML page and JSON lines at the end."""
    require_matplotlib()  # hours later would be late to hear of it
    settings = _settings(quick, large, seeds)
    wanted = cells(
        widths or (QUICK[0] if quick else tuple(WIDTHS)),
        methods or (QUICK[1] if quick else tuple(METHODS)),
        also=also,
    )
    plan, interruption = chosen_executor(executor, workers), Interruption(talk, "the cells in hand are")
    began = time.monotonic()
    labels = [cell.label for cell in wanted]

    def may_begin() -> bool:
        return not interruption() and (minutes is None or time.monotonic() - began < 60 * minutes)

    with Progress({"cells": float(len(labels))}, talk_console()) as progress, threadpool_limits(limits=1, user_api="blas"):
        progress.begin("cells")
        with open_workforce(plan) as force:
            lab = open_laboratory(model.embedded_directory(), settings, force)
            folder = open_folder(out, lab)
            try:
                with interruption.deferred():
                    outcome = run_cells(lab, folder, wanted, force, lambda _, done, total: progress("cells", done, total), may_begin)
            except KeyboardInterrupt:
                talk(f"interrupted: finished cells are safe in {out}; run the same command again for the others")
                raise
        write_report(out, lab, wanted, outcome, "refquant study qdlm" + (" --quick" if quick else " --large" if large else ""))
    click.echo(f"{out / PAGE}")
    click.echo(f"{out / RAW}")
    if outcome.left_out:
        click.echo(f"{len(outcome.left_out)} of {len(wanted)} cells were not run; run the same command again for them", err=True)


def _settings(quick: bool, large: bool, seeds: int | None) -> Settings:
    if quick and large:
        raise UsageError("--quick and --large are both given; one of them is allowed")
    found = Settings.quick() if quick else Settings.large() if large else Settings()
    return found if seeds is None else found.replace(seeds=seeds)


def write_report(out: Path, lab: Laboratory, wanted: list[Cell], outcome: Outcome, command: str) -> str:
    """Write page and raw results into a folder; the root hash comes back."""
    outliers = [outlier_record(lab, kind) for kind in KINDS]
    head = {
        "command": command,
        "settings": plain(lab.settings),
        "inputs": lab.inputs,
        "tokens": list(lab.tokens),
        "injected": lab.injected,
        "cells": len(wanted),
        "left_out": [cell.label for cell in outcome.left_out],
    }
    text, root = raw_lines(head, list(outcome.records), outliers)
    study = Study(
        head={**head, "root": root}, records=outcome.records, outliers=outliers, left_out=tuple(cell.label for cell in outcome.left_out)
    )
    write_text(out / RAW, text)
    write_text(out / PAGE, study_page(study))
    return root
