"""`refquant evaluate`: a folder beside full precision, on held-out texts and tasks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click

import model
from model import Tokenizer
from refquant.apply.checkpoint import input_digest, is_quantized, load, load_quantized, read_provenance
from refquant.apply.evaluation import Start, Traces, step_records
from refquant.apply.integer_check import IntegerCheck, compare_arithmetics, first_batch
from refquant.apply.quantized import LinearArithmetic
from refquant.cli.evaluating import (
    EVALUATION_FILE,
    REFERENCE,
    chosen_sizes,
    evaluation_costs,
    evaluation_options,
    held_out,
    result_tables,
    run_evaluation,
)
from refquant.cli.progress import Progress
from refquant.cli.rows import footprint_json
from refquant.cli.streams import show, show_json, talk, talk_console
from refquant.errors import UsageError
from refquant.numerics import LANES
from refquant.report.footprint import Footprint, full_footprint, quantized_footprint
from refquant.report.numbers import counted, duration, number, percent
from refquant.storage import canonical_json, open_checkpoint, write_text

EPILOG = """\b
Examples:
  refquant quantize --recipe w3 --out w3-folder --no-compare --quick
  refquant evaluate w3-folder --quick
  refquant evaluate w3-folder --quick --format json --trajectories steps.jsonl
  refquant quantize --recipe w8a8 --out w8a8-folder --no-compare --quick
  refquant evaluate w8a8-folder --quick --arithmetic integer
"""


@click.command(epilog=EPILOG)
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "--reference", type=click.Path(path_type=Path), help="Full-precision checkpoint; default: the embedded model, if DIR is made of it."
)
@click.option(
    "--arithmetic",
    type=click.Choice(["fake", "integer"]),
    default="fake",
    show_default=True,
    help="Linears multiply the numbers that codes stand for, or the codes themselves.",
)
@click.option("--trajectories", type=click.Path(path_type=Path), help="New file for one JSON line a sequence and denoising step.")
@evaluation_options
def command(
    directory: Path,
    reference: Path | None,
    arithmetic: LinearArithmetic,
    trajectories: Path | None,
    texts: Path | None,
    full: bool,
    quick: bool,
    lane: str,
    seed: int,
    form: str,
) -> None:
    """Compare DIR, a quantized folder or a checkpoint, with full precision.

    Both see the same texts, masks and prompts. Held-out data are read beside the reference unless --texts names a file.
    """
    sizes = chosen_sizes(full, quick)
    if trajectories is not None and trajectories.exists():
        raise UsageError(f"{trajectories} exists; name a new file with --trajectories")
    open_checkpoint(directory)  # says what is wrong with a path before anything else is looked for in it
    made_of = read_provenance(directory).input_digest if is_quantized(directory) else input_digest(directory)
    source = _reference(directory, made_of, reference)
    data = held_out(source, texts)
    if data is None:
        raise UsageError(f"{source} holds no held-out texts ({EVALUATION_FILE}); name a file with --texts")
    m, candidate = model.load(source, arithmetic=LANES[lane]), load(directory, arithmetic=LANES[lane], linears=arithmetic)
    name = directory.resolve().name or str(directory)
    name = f"{name} (evaluated)" if name == REFERENCE else name
    tokenizer, check = Tokenizer.from_directory(source), None
    if arithmetic == "integer":
        name = f"{name}, integer"
        check = compare_arithmetics(load(directory, arithmetic=LANES[lane]), candidate, first_batch(m, tokenizer, data, sizes, seed))
    steps: list[str] = []

    def take(model_name: str, starts: Sequence[Start], traces: Traces) -> None:
        if model_name == name:
            steps.extend(canonical_json(record) + "\n" for record in step_records(model_name, starts, traces))

    with Progress(evaluation_costs(data, sizes, 2), talk_console(), events=form == "json") as progress:
        evaluation = run_evaluation(m, {name: candidate}, tokenizer, data, sizes, seed, progress, take)
    if trajectories is not None:
        write_text(trajectories, "".join(steps))
    talk(f"done in {duration(progress.seconds)}")
    stored = open_checkpoint(source)
    footprints = {REFERENCE: full_footprint(stored, m.linears), name: _footprint(directory, tuple(candidate.linears))}
    if form == "table":
        show([*result_tables(evaluation, footprints, {}), *([] if check is None else integer_lines(check))])
        return
    show_json(
        {
            "command": "evaluate",
            "version": version("refquant"),
            "seed": seed,
            "lane": lane,
            "folder": str(directory),
            "reference": str(source),
            "arithmetic": arithmetic,
            "integer_check": None if check is None else integer_json(check),
            "sizes": {label: footprint_json(footprint) for label, footprint in footprints.items()},
            "evaluation": json.loads(evaluation.to_json()),
        }
    )


def integer_lines(check: IntegerCheck) -> list[str]:
    """What was found about integer arithmetic, for people."""
    share = percent(check.accumulator_bound / check.accumulator_limit, 4)
    return [
        f"integer arithmetic: {counted(check.linears, 'linear')} multiply codes; attention products are as in fake quantization",
        f"int32 accumulators stay within bounds: at most {check.accumulator_bound:,} of {check.accumulator_limit:,} ({share}), "
        "proved for the formats' ends",
        f"on the first batch ({counted(check.sequences, 'sequence')}, {counted(check.tokens, 'token')}) linears differ from fake "
        f"quantization by at most {percent(check.bound_share)} of the proved bound",
        f"largest logit difference there: {number(check.logit_difference)}; logits reach {number(check.largest_logit)} "
        "(a last bit can move a later activation to the next code)",
    ]


def integer_json(check: IntegerCheck) -> dict[str, Any]:
    """The same for programs."""
    return {
        "integer_linears": check.linears,
        "accumulator_bound": check.accumulator_bound,
        "accumulator_limit": check.accumulator_limit,
        "first_batch": {"sequences": check.sequences, "tokens": check.tokens},
        "largest_share_of_bound": check.bound_share,
        "largest_logit_difference": check.logit_difference,
        "largest_logit": check.largest_logit,
    }


def _reference(directory: Path, made_of: str, reference: Path | None) -> Path:
    """The full-precision folder to compare with; never guessed where the digests do not say so."""
    if reference is None:
        if input_digest(model.embedded_directory()) != made_of:
            raise UsageError(f"{directory} is not made of the embedded model; name the checkpoint it is to be compared with by --reference")
        return model.embedded_directory()
    open_checkpoint(reference)
    if is_quantized(reference):
        raise UsageError(f"{reference} is quantized; a reference is a full-precision checkpoint")
    if input_digest(reference) != made_of:
        talk(f"{directory} is not made of {reference}: differences are between two models, not between a model and its quantized self")
    return reference


def _footprint(directory: Path, linears: tuple[str, ...]) -> Footprint:
    stored = open_checkpoint(directory)
    return quantized_footprint(stored, load_quantized(directory), linears) if is_quantized(directory) else full_footprint(stored, linears)
