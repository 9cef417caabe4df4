"""An evaluation in detail: tables with the same rows, stacked, so that nothing is cut at 100 columns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from refquant.apply.evaluation import Curve, Evaluation, Row, Trajectory, Used
from refquant.numerics import FAST
from refquant.report.footprint import Footprint
from refquant.report.numbers import NOTHING, bits, byte_size, counted, interval, number, percent, percent_interval

QUARTERS = 4
FAMILIES = {"dllmquant": "DLLMQuant", "gptq": "GPTQ", "rtn": "RTN"}


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationUse:
    """What one row was calibrated on.

    Parameters
    ----------
    states : str
        As in a recipe's ``calibration.states``; ``"none"`` without calibration.
    sequences, tokens, rejected : int
        Sequences, their tokens, and rollouts that were thrown away.
    """

    states: str
    sequences: int = 0
    tokens: int = 0
    rejected: int = 0


def display_name(label: str) -> str:
    """Write a row's label as people know it.

    Examples
    --------
    >>> display_name("dllmquant-w4a4, 4-bit softmax"), display_name("RTN"), display_name("mine")
    ('DLLMQuant W4A4, 4-bit softmax', 'RTN', 'mine')
    """
    recipe, comma, rest = label.partition(",")
    family, dash, variant = recipe.partition("-")
    if family not in FAMILIES:
        return label
    return FAMILIES[family] + (" " + variant.upper() if dash else "") + comma + rest


def evaluation_tables(evaluation: Evaluation, footprints: Mapping[str, Footprint]) -> list[Group]:
    """All tables of an evaluation; those for which nothing was measured are left out.

    Parameters
    ----------
    evaluation : Evaluation
    footprints : mapping of str to Footprint
        By the row's name.
    """
    used, tables = evaluation.used, []
    if used.texts:
        tables.append(likelihood_table(evaluation, footprints))
    if used.trajectories:
        tables += [trajectory_table(evaluation), final_token_table(evaluation)]
    if used.items:
        tables.append(task_table(evaluation))
    return [*tables, footprint_table(footprints)]


def likelihood_table(evaluation: Evaluation, footprints: Mapping[str, Footprint]) -> Group:
    """NLL bound, its paired difference, and distances of the predictions, on the same masked texts; and what they cost in bits."""
    table = titled_table(["NLL bound", "minus full precision [95%]", "KL", "flips", "bits"])
    for row, first in _rows(evaluation):
        found = row.likelihood
        rest = (
            ["reference"] + [NOTHING] * 2
            if first
            else [interval(found.difference, signed=True), number(found.kl.mean), percent(found.flips.mean)]
        )
        size = bits(footprints[row.name].bits_per_weight) if row.name in footprints else NOTHING
        table.add_row(display_name(row.name), number(found.nll.mean), *rest, size)
    return section(
        "Held-out texts: NLL bound, nats a token",
        table,
        "KL(full precision || row) in nats; flips: share of other argmaxes; bits: a weight, all counted" + _mask_errors(evaluation),
    )


def _mask_errors(evaluation: Evaluation) -> str:
    """What the draw of the masks alone contributes, at the most."""
    bound = evaluation.rows[0].likelihood.nll_mask_error
    others = [row.likelihood.difference_mask_error for row in evaluation.rows[1:]]
    known = [error for error in others if error is not None]
    if bound is None or not known:
        return ""
    return f"\nstandard error from the masks alone: {number(bound)} of full precision's bound, at most {number(max(known))} of a difference"


def trajectory_table(evaluation: Evaluation) -> Group:
    """Error of the logits along the trajectory, on the reference's states and on the model's own."""
    columns = ["forced\nmean [95%]", "forced\nlast quarter", "free-running\nmean [95%]", "free-running\nlast quarter"]
    table = titled_table(columns)
    for row, first in _rows(evaluation):
        cells = ["reference", *[NOTHING] * 3] if first else [*_ends(row.trajectory.forced_error), *_ends(row.trajectory.free_error)]
        table.add_row(display_name(row.name), *cells)
    return section(
        "Denoising trajectory: relative squared error of the logits",
        table,
        "forced (teacher-forced): on full precision's states; free-running: each model on its own states",
    )


def _ends(curve: Curve) -> list[str]:
    return [interval(curve.whole, 3), number(curve.by_quarter[-1].mean, 3)]


def final_token_table(evaluation: Evaluation) -> Group:
    """Agreement of the final tokens with the reference's, over the response and by position."""
    spans = position_spans(len(evaluation.rows[0].trajectory.final_agreement_by_position))
    columns = ["agreement [95%]", *[f"{start}-{stop - 1}" for start, stop in spans], "all equal", "parts at"]
    table = titled_table(columns)
    for row, first in _rows(evaluation):
        found = row.trajectory
        if first:
            table.add_row(display_name(row.name), "reference", *[NOTHING] * (len(columns) - 1))
            continue
        parts = [percent(share) for share in agreement_by_span(found, spans)]
        median = NOTHING if found.divergence.median is None else f"step {found.divergence.median}"
        equal = f"{found.exact_match.hits}/{found.exact_match.n}"
        table.add_row(display_name(row.name), percent_interval(found.final_agreement), *parts, equal, median)
    return section(
        "Final tokens: the same as full precision's",
        table,
        "columns a-b: response positions a to b; parts at: median step after which the sequences differ",
    )


def position_spans(length: int) -> list[tuple[int, int]]:
    """Cut `length` positions into quarters, those that are not empty.

    Examples
    --------
    >>> position_spans(32), position_spans(3)
    ([(0, 8), (8, 16), (16, 24), (24, 32)], [(0, 1), (1, 2), (2, 3)])
    """
    ends = [-(-length * quarter // QUARTERS) for quarter in range(QUARTERS + 1)]
    return [(start, stop) for start, stop in pairwise(ends) if stop > start]


def agreement_by_span(trajectory: Trajectory, spans: Sequence[tuple[int, int]]) -> list[float | None]:
    """Share of equal final tokens in each span of positions, each token counting the same; None where there is none."""
    counts = trajectory.n_by_position.astype(np.float64)
    equal = np.where(counts > 0, trajectory.final_agreement_by_position, 0.0) * counts
    shares: list[float | None] = []
    for start, stop in spans:
        total = float(FAST.sum(counts[start:stop]))
        shares.append(float(FAST.sum(equal[start:stop])) / total if total else None)
    return shares


def task_table(evaluation: Evaluation) -> Group:
    """Exact answers by task, and against the reference on the same items."""
    tasks = list(evaluation.used.items_by_task.items())
    columns = [f"{task}\nof {count}" for task, count in tasks] + ["all\n[95%]", "lost/won\n(p)"]
    table = titled_table(columns)
    for row, first in _rows(evaluation):
        overall = row.tasks.overall
        versus = overall.versus_reference
        against = "reference" if first else f"{versus.lost}/{versus.gained} ({number(versus.p_value, 3)})"
        hits = [str(score.accuracy.hits) for score in row.tasks.by_task]
        table.add_row(display_name(row.name), *hits, percent_interval(overall.accuracy), against)
    return section(
        "Tasks: exact answers", table, "lost/won: items that only full precision, or only the row, got right; p of McNemar's exact test"
    )


def footprint_table(footprints: Mapping[str, Footprint]) -> Group:
    """True bits per weight."""
    table = titled_table(["linears", "whole model", "size"])
    for name, found in footprints.items():
        table.add_row(display_name(name), bits(found.bits_per_weight), bits(found.bits_per_parameter), byte_size(found.nbytes))
    return section(
        "True bits per weight",
        table,
        "whole model: embedding, head, norms and static scales too; size: packed without padding",
    )


def used_lines(used: Used, calibrations: Mapping[str, CalibrationUse]) -> list[str]:
    """How much was used: one line for each kind of data."""
    lines = []
    if used.texts:
        domains = ", ".join(used.domains)
        lines.append(f"{counted(used.texts, 'text')} ({counted(used.tokens, 'token')}; {domains}) x {counted(used.masks, 'mask')} each")
    if used.trajectories:
        parts = f"{used.trajectory_texts} continue {used.prefix} tokens by {used.continuation}, {used.trajectory_items} answer items"
        lines.append(f"{counted(used.trajectories, 'trajectory', 'trajectories')}: {parts}; {used.tokens_per_step} a step")
    if used.items:
        lines.append(f"{counted(used.items, 'item')}: {', '.join(f'{count} {task}' for task, count in used.items_by_task.items())}")
    lines.append(f"sampler: {used.sampler}")
    how = f"over {counted(used.resamples, 'resample')} of texts or sequences, seed {used.seed}; shares of answers: Wilson"
    lines.append(f"{100 * used.level:.0f}% intervals: percentile bootstrap {how}")
    return lines + calibration_lines(calibrations)


def calibration_lines(calibrations: Mapping[str, CalibrationUse]) -> list[str]:
    """What each row was calibrated on; rows with the same calibration share a line."""
    groups: dict[CalibrationUse, list[str]] = {}
    for name, use in calibrations.items():
        groups.setdefault(use, []).append(display_name(name))
    lines = []
    for use, names in groups.items():
        if use.states == "none":
            lines.append(f"calibration of {' and '.join(names)}: none")
            continue
        rejected = f", {counted(use.rejected, 'rollout')} rejected" if use.states in ("rollout", "tmas") else ""
        size = f"{counted(use.sequences, 'sequence')}, {counted(use.tokens, 'token')}"
        lines.append(f"calibration of {' and '.join(names)}: {size}, states '{use.states}'{rejected}")
    return lines


def coverage_lines(coverage: Mapping[int, Sequence[int]]) -> list[str]:
    """How many calibration tokens reached the experts, a line a block.

    Examples
    --------
    >>> coverage_lines({3: [40, 100, 60]})
    ['block 3: 40 to 100 calibration tokens an expert, median 60; fewest: expert 0']
    """
    lines = []
    for index, tokens in coverage.items():
        few, many, middle = min(tokens), max(tokens), sorted(tokens)[len(tokens) // 2]
        fewest = list(tokens).index(few)
        lines.append(f"block {index}: {few} to {many} calibration tokens an expert, median {middle}; fewest: expert {fewest}")
    return lines


def _rows(evaluation: Evaluation) -> Iterable[tuple[Row, bool]]:
    return [(row, index == 0) for index, row in enumerate(evaluation.rows)]


def titled_table(columns: Sequence[str]) -> Table:
    """Numbers are never broken or cut; where room is short, the row's name takes a second line."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("", overflow="fold", vertical="top")
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def section(title: str, table: Table, note: str) -> Group:
    """Put a title over a table and a note under it."""
    return Group(Text(title, style="bold"), table, Text(note, style="dim"), Text(""))
