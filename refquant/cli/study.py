"""`refquant study`: experiments over several seeds, with intervals, written down as a page."""

from __future__ import annotations

from pathlib import Path

import click
from threadpoolctl import threadpool_limits

import model
from refquant.apply.evaluation import EvaluationSet
from refquant.apply.ladder import MEASURES, model_names, run_ladder, rungs
from refquant.apply.run import Workbench, open_workbench
from refquant.cli.evaluating import chosen_sizes, evaluation_costs, held_out, processors
from refquant.cli.progress import Progress
from refquant.cli.streams import show_json, talk_console
from refquant.cli.study_outliers import outliers
from refquant.cli.study_qdlm import qdlm
from refquant.errors import InputError
from refquant.report.ladder import ladder_markdown
from refquant.storage import write_text

QUANTIZING = 0.3
"""Expected cost of quantizing one model, in millions of tokens through a model."""
TITLE = "RTN, GPTQ, and DLLMQuant part by part, W4A4"

EPILOG = """\b
Examples:
  refquant study ladder --seeds 2 --quick
  refquant study ladder --seeds 5 --out ladder.md
"""


@click.group(name="study")
def command() -> None:
    """Experiments on the embedded model, over calibration seeds, with intervals; outliers of any model."""


command.add_command(qdlm)
command.add_command(outliers)


@command.command(epilog=EPILOG)
@click.option("--seeds", type=click.IntRange(min=1), default=5, show_default=True, help="Number of calibration seeds, from 0.")
@click.option("--out", type=click.Path(path_type=Path), help="File to write the page to; default: stdout.")
@click.option("--quick", is_flag=True, help="So little that it takes a minute; no number in it means anything.")
@click.option("--full", is_flag=True, help="All held-out texts and items, with 128 masks: hours.")
@click.option("--format", "form", type=click.Choice(["markdown", "json"]), default="markdown", help="What is written.")
def ladder(seeds: int, out: Path | None, quick: bool, full: bool, form: str) -> None:
    """RTN, GPTQ, + TMAS, + CGQ, + IA-AQ at 4-bit weights and activations, one part at a time."""
    source = model.embedded_directory()
    m = model.load(source)
    tokenizer = model.Tokenizer.from_directory(source)
    data, sizes = _held_out(source), chosen_sizes(full, quick)
    names = model_names(range(seeds))
    costs = dict.fromkeys(names, QUANTIZING) | evaluation_costs(data, sizes, len(names) + 1)
    with Progress(costs, talk_console(), events=form == "json") as progress, threadpool_limits(limits=1, user_api="blas"):

        def bench(seed: int) -> Workbench:
            return open_workbench(source, m, source / "calib.jsonl", seed, progress)

        found = run_ladder(bench, range(seeds), data, tokenizer, sizes, progress, processors(), progress.begin)
    if form == "json":
        show_json({label: {measure: found.means[label, measure].values for measure in MEASURES} for label in rungs()})
        return
    page = ladder_markdown(found, TITLE)
    if out is None:
        click.echo(page, nl=False)
    else:
        write_text(out, page)


def _held_out(source: Path) -> EvaluationSet:
    data = held_out(source, None)
    if data is None:
        raise InputError(f"{source} holds no held-out texts (eval.jsonl)")
    return data
