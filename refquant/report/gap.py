"""How far from optimal, as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from rich.console import Group

from refquant.apply.gap import METHODS, Gap
from refquant.numerics import FAST
from refquant.report.numbers import number
from refquant.report.tables import section, titled_table


def gap_tables(gaps: Mapping[int, Sequence[Gap]]) -> list[Group]:
    """A summary by bits, then every layer's ratios.

    Parameters
    ----------
    gaps : mapping of int to sequence of Gap
        By the number of bits.
    """
    return [_summary(gaps), *(_layers(bits, found) for bits, found in gaps.items())]


def gap_json(gaps: Mapping[int, Sequence[Gap]]) -> list[dict[str, Any]]:
    """Every number, a record a layer and number of bits."""
    return [{"bits": bits, **asdict(gap)} for bits, found in gaps.items() for gap in found]


def mean_ratio(gaps: Sequence[Gap], method: str) -> float:
    """Geometric mean over layers of a method's loss over the optimum's.

    Examples
    --------
    >>> one = {"RTN": 2.0, "optimum": 1.0}
    >>> layers = [Gap(name="a", rows=1, columns=2, tokens=9, losses=one, optimal_rows={}),
    ...           Gap(name="b", rows=1, columns=2, tokens=9, losses={"RTN": 8.0, "optimum": 1.0}, optimal_rows={})]
    >>> round(mean_ratio(layers, "RTN"), 6)
    4.0
    """
    logs = FAST.log(np.array([gap.ratio(method) for gap in gaps]))
    return float(FAST.exp(FAST.mean(logs)))


def _summary(gaps: Mapping[int, Sequence[Gap]]) -> Group:
    table = titled_table(list(METHODS))
    for bits, found in gaps.items():
        rows = sum(gap.rows for gap in found)
        table.add_row(f"{bits} bits: loss / optimum", *(number(mean_ratio(found, method), 3) for method in METHODS))
        table.add_row("  rows solved optimally", *(f"{sum(gap.optimal_rows[m] for gap in found)}/{rows}" for m in METHODS))
    first = next(iter(gaps.values()))
    return section(
        "How far from optimal",
        table,
        f"geometric mean over {len(first)} layers cut to {first[0].rows} x {first[0].columns}, Hessians of {first[0].tokens} tokens; "
        "one fixed grid a row; Babai is GPTQ in reverse column order",
    )


def _layers(bits: int, gaps: Sequence[Gap]) -> Group:
    table = titled_table(list(METHODS[:-1]))
    for gap in gaps:
        table.add_row(".".join(gap.name.split(".")[-2:]), *(number(gap.ratio(method), 3) for method in METHODS[:-1]))
    return section(f"{bits} bits, layer by layer: loss / optimum", table, "")
