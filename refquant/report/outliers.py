"""Outliers at the inputs of linears along a denoising trajectory, as tables and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Group

from refquant.apply.outliers import CHANNEL_THRESHOLDS, ENTRY_THRESHOLDS, OutlierCount
from refquant.report.numbers import number
from refquant.report.tables import section, titled_table

Stages = Sequence[Sequence[OutlierCount]]
NORMAL, MASSIVE = CHANNEL_THRESHOLDS.index(6.0), ENTRY_THRESHOLDS.index(100.0)
"""Where on their curves the table looks; JSON has the curves."""
COLUMNS = ("max/median", "max/rms", "kurtosis", "normal channels", "massive entries", "tokens", "channels")


def outlier_tables(stages: Stages) -> list[Group]:
    """A table for each stage of the trajectory, a row for each input.

    Parameters
    ----------
    stages : sequence of sequence of OutlierCount
        As :func:`refquant.apply.outliers.outlier_counts` makes them, at the beginning of each part of the trajectory.
    """
    return [_table(counts, f"Part {place} of {len(stages)} of the trajectory") for place, counts in enumerate(stages, 1)]


def _table(counts: Sequence[OutlierCount], title: str) -> Group:
    table = titled_table(COLUMNS)
    for count in counts:
        table.add_row(
            ".".join(count.linear.split(".")[-2:]),
            *(number(value, 3) for value in (count.max_over_median, count.max_over_rms, count.kurtosis)),
            f"{count.normal_channels[NORMAL]}/{count.channels}",
            str(count.massive_entries[MASSIVE]),
            f"{count.massive_tokens[MASSIVE]}/{count.tokens}",
            f"{count.massive_channels[MASSIVE]}/{count.channels}",
        )
    note = (
        f"inputs of each group's first linear; a normal channel's median is above {CHANNEL_THRESHOLDS[NORMAL]:g} medians of channels, "
        f"a massive entry above {ENTRY_THRESHOLDS[MASSIVE]:g} medians of all; --format json has the counts at every threshold"
    )
    return section(title, table, note)


def outliers_json(stages: Stages) -> dict[str, Any]:
    """Every count at every threshold."""
    return {
        "channel_thresholds": list(CHANNEL_THRESHOLDS),
        "entry_thresholds": list(ENTRY_THRESHOLDS),
        "stages": [[asdict(count) for count in counts] for counts in stages],
    }
