"""The one table that answers first: a row a model, every kind of measure in it; the tables behind it say more of each."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Group

from refquant.apply.evaluation import Evaluation, Row
from refquant.report.footprint import Footprint
from refquant.report.numbers import NOTHING, bits, number
from refquant.report.tables import agreement_by_span, display_name, position_spans, section, titled_table

NAME_WIDTH = 15
"""The row's name takes more lines rather than less room than this."""


def summary_table(evaluation: Evaluation, footprints: Mapping[str, Footprint]) -> Group:
    """All measures of all rows in one table of at most 100 columns.

    Parameters
    ----------
    evaluation : Evaluation
    footprints : mapping of str to Footprint
        By the row's name.
    """
    tasks = evaluation.used.items_by_task
    table = titled_table(["NLL", "minus full\nprecision [95%]", "KL", "same\ntokens, %", "exact\nanswers", "logit\nerror", "bits"])
    table.padding = (0, 0, 0, 1)
    table.columns[0].min_width = NAME_WIDTH
    spans = position_spans(len(evaluation.rows[0].trajectory.final_agreement_by_position))
    for index, row in enumerate(evaluation.rows):
        answers = " ".join(str(score.accuracy.hits) for score in row.tasks.by_task) or NOTHING
        compared = ["reference", *[NOTHING] * 3] if index == 0 else _compared(row, spans)
        size = bits(footprints[row.name].bits_per_weight) if row.name in footprints else NOTHING
        table.add_row(display_name(row.name), number(row.likelihood.nll.mean, 3), *compared[:3], answers, compared[3], size)
    return section(
        "Summary",
        table,
        "NLL: bound, nats a token; KL: full precision to row, at masked positions; same tokens: as full precision's in the end, by quarter "
        f"of the response; answers: {', '.join(f'{task} of {count}' for task, count in tasks.items())}; logit error: relative, squared, "
        "along trajectories, on full precision's states and on the model's own; bits: a weight, all counted",
    )


def _compared(row: Row, spans: list[tuple[int, int]]) -> list[str]:
    kept = " ".join(NOTHING if share is None else f"{100 * share:.0f}" for share in agreement_by_span(row.trajectory, spans))
    forced, free = row.trajectory.forced_error.whole.mean, row.trajectory.free_error.whole.mean
    found = row.likelihood.difference
    difference = number(found.mean, 3, signed=True) + ("" if found.low is None else f" [{number(found.low, 3)}, {number(found.high, 3)}]")
    return [difference, number(row.likelihood.kl.mean, 3), kept or NOTHING, f"{number(forced, 2)} {number(free, 2)}"]
