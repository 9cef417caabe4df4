"""``refquant study outliers``: what the inputs of a model's linears look like along its own denoising."""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np
from threadpoolctl import threadpool_limits

import model
from refquant.apply.checkpoint import load
from refquant.apply.corpus import read_calibration
from refquant.apply.outliers import outlier_counts, trajectory_states
from refquant.cli.streams import show, show_json
from refquant.errors import InputError
from refquant.report.outliers import outlier_tables, outliers_json

EPILOG = """\b
Examples:
  refquant study outliers
  refquant study outliers MODEL_DIR --prompts texts.jsonl --sequences 2 --stages 2 --format json
"""


@click.command(epilog=EPILOG)
@click.argument("model_dir", required=False, type=click.Path(path_type=Path))
@click.option(
    "--prompts", type=click.Path(path_type=Path), help="JSON lines whose beginnings are continued; default: calib.jsonl in MODEL_DIR."
)
@click.option(
    "--sequences", type=click.IntRange(min=1), default=4, show_default=True, help="Number of prompts, the first that are long enough."
)
@click.option("--prefix", type=click.IntRange(min=1), default=32, show_default=True, help="Tokens of a prompt.")
@click.option("--continuation", type=click.IntRange(min=1), default=32, show_default=True, help="Tokens denoised, one a step.")
@click.option("--stages", type=click.IntRange(min=1), default=4, show_default=True, help="Parts of the trajectory; divides --continuation.")
@click.option("--format", "form", type=click.Choice(["table", "json"]), default="table", help="What goes to stdout.")
def outliers(model_dir: Path | None, prompts: Path | None, sequences: int, prefix: int, continuation: int, stages: int, form: str) -> None:
    """Normal and massive outliers of MODEL_DIR (default: the embedded model), by linear, channel and token, along its denoising.

    A normal outlier is a channel that is large for most tokens, a massive one an entry that is large for few.
    """
    source = model_dir or model.embedded_directory()
    m, tokenizer = load(source), model.Tokenizer.from_directory(source)
    path = prompts or source / "calib.jsonl"
    lines = [line.ids[:prefix] for line in read_calibration(path, tokenizer, m.config.embedding_rows) if len(line.ids) >= prefix]
    if not lines:
        raise InputError(f"{path}: no line has the {prefix} tokens that a prompt takes (--prefix)")
    with threadpool_limits(limits=1, user_api="blas"):
        states = trajectory_states(m, np.array(lines[:sequences], dtype=np.int64), continuation, stages)
        found = [outlier_counts(m, ids) for ids in states]
    if form == "json":
        show_json({"command": "study outliers", "sequences": len(lines[:sequences]), **outliers_json(found)})
        return
    show(outlier_tables(found))
