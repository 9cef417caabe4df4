"""What `quantize` and `evaluate` share: options, sizes, held-out data, and the stages of an evaluation."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.console import RenderableType
from threadpoolctl import threadpool_limits

import model
from model import Tokenizer, Transformer
from refquant.apply.evaluation import Evaluation, EvaluationSet, Sizes, Start, Traces, evaluate, read_evaluation_set
from refquant.cli.progress import Progress
from refquant.errors import UsageError
from refquant.numerics import FAST, LANES
from refquant.report.footprint import Footprint
from refquant.report.summary import summary_table
from refquant.report.tables import CalibrationUse, evaluation_tables, used_lines

EVALUATION_FILE = "eval.jsonl"
REFERENCE = "full precision"
WIDE = 1024
"""Width from which a single product is worth several threads."""

_F = TypeVar("_F", bound=Callable[..., Any])


def lane_option(function: _F) -> _F:
    """Add ``--lane``, which says how arithmetic is done; :data:`refquant.numerics.LANES` says what the names stand for."""
    return click.option(
        "--lane",
        type=click.Choice(list(LANES)),
        default=FAST.name,
        show_default=True,
        help="Arithmetic: this machine's fastest, or one that gives the same bits on every machine.",
    )(function)


def evaluation_options(function: _F) -> _F:
    """Add the options that say what is evaluated, how much, and how it is printed."""
    for option in (
        lane_option,
        click.option("--format", "form", type=click.Choice(["table", "json"]), default="table", help="What goes to stdout."),
        click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Decides everything that is drawn."),
        click.option("--quick", is_flag=True, help="So little that it takes seconds; no number in it means anything."),
        click.option("--full", is_flag=True, help="All held-out texts and items, with 128 masks: hours."),
        click.option("--texts", type=click.Path(path_type=Path), help="Held-out data, JSON lines; default: eval.jsonl beside the model."),
    ):
        function = option(function)
    return function


def chosen_sizes(full: bool, quick: bool) -> Sizes:
    """How much is evaluated."""
    if full and quick:
        raise UsageError("--full and --quick are both given; one of them is allowed")
    return Sizes.full() if full else Sizes.quick() if quick else Sizes()


def held_out(source: Path, texts: Path | None) -> EvaluationSet | None:
    """Data of ``--texts``, or those beside the model; None if there are none."""
    path = source / EVALUATION_FILE if texts is None else texts
    if texts is None and not path.is_file():
        return None
    return read_evaluation_set(path)


def source_folder(folder: Path | None) -> Path:
    """The folder that was named, or the embedded model's."""
    return model.embedded_directory() if folder is None else folder


def evaluation_costs(data: EvaluationSet | None, sizes: Sizes, models: int) -> dict[str, float]:
    """Expected cost of each stage; the unit is about a million tokens through a model."""
    if data is None:
        return {}
    texts, items = data.first_texts(sizes.texts), data.first_items(sizes.items)
    starts = [text for text in data.first_texts(sizes.trajectory_texts) if len(text.ids) >= sizes.prefix]
    questions = data.first_items(sizes.trajectory_items)
    forced = 2 * len(starts) * (sizes.prefix + sizes.continuation) * sizes.continuation
    forced += 2 * sum((len(item.prompt) // 2 + item.gen_length) * item.gen_length for item in questions)
    answers = sum((len(item.prompt) // 2 + item.gen_length) * item.gen_length for item in items)
    bounds = sum(len(text.ids) for text in texts) * sizes.masks
    costs = {"likelihood": 1.7 * bounds, "trajectories": 0.3 * forced, "tasks": answers}  # measured, for the time left
    return {stage: models * tokens / 1e6 for stage, tokens in costs.items() if tokens}


def run_evaluation(
    reference: Transformer,
    candidates: Mapping[str, Transformer],
    tokenizer: Tokenizer,
    data: EvaluationSet,
    sizes: Sizes,
    seed: int,
    progress: Progress,
    take_traces: Callable[[str, Sequence[Start], Traces], None] | None = None,
) -> Evaluation:
    """Evaluate on all processors there are; how many does not change a number.

    Each worker gets one BLAS thread: the products are small, and threads that wait for each other cost more than they bring.
    """
    with threadpool_limits(limits=1, user_api="blas"):
        return evaluate(
            reference,
            candidates,
            tokenizer,
            data,
            sizes,
            seed,
            progress,
            reference_name=REFERENCE,
            workers=processors(),
            take_traces=take_traces,
        )


def calm_blas(m: Transformer) -> AbstractContextManager[Any]:
    """Keep a narrow model's products on one BLAS thread each.

    Two threads that wait for each other on a busy machine were seen to take ten times the processor time of one. A wide model keeps what
    BLAS would do by itself.
    """
    limits: AbstractContextManager[Any] = threadpool_limits(limits=1 if m.config.d_model < WIDE else None, user_api="blas")
    return limits


def processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def result_tables(
    evaluation: Evaluation, footprints: Mapping[str, Footprint], calibrations: Mapping[str, CalibrationUse]
) -> list[RenderableType]:
    """One table of everything, tables that say more, and how much was used."""
    return [summary_table(evaluation, footprints), *evaluation_tables(evaluation, footprints), *used_lines(evaluation.used, calibrations)]
