"""What the study's numbers allow to be said, and what they do not.

Verdicts and intervals are counted, so that no sentence can outgrow them; what one small checkpoint cannot tell whatever its numbers are
stands here in words.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from itertools import combinations
from typing import Any

from refquant.apply.evaluation.intervals import Estimate
from refquant.apply.study.findings import UNDECIDED, Finding, above
from refquant.apply.study.grid import Kind
from refquant.apply.study.results import Results
from refquant.report.numbers import number
from refquant.report.study_plots import BOTH, TITLES

BEYOND = (
    "Anything about models of eight billion parameters: this is one checkpoint of four million, of one training run. A statement that is "
    "reproduced here is not confirmed there, and one that is contradicted here is not refuted there.",
    "How outliers that grew in training behave. Those of the second model are injected where factors and rotations can reach them, and are "
    "the same for all tokens; a method that undoes them to the bit shows that it finds these.",
    "Whether a method is good in its authors' hands. Rows of the grid share weight grids, activations and calibration tokens on purpose; "
    "recipes as shipped have the published settings, and are not comparable with each other.",
    "What a tuned model or another family would show, except where a finding says what was measured of it: there is one base model.",
    "That two rows are equal. An interval that holds 0 says that this many texts and seeds do not tell them apart.",
    "Other tasks. Answers are those of short synthetic tasks; long generations with one fatal token are not among them.",
    "Speed and memory of a deployment. Quantizers are simulated; bits per weight are counted, seconds are not measured.",
)
"""What stays out of reach whatever the numbers are."""


def conclusions(found: Sequence[Finding], results: Results, settings: Mapping[str, Any]) -> Iterator[str]:
    """The section's HTML, line by line.

    Parameters
    ----------
    found : sequence of Finding
    results : Results
    settings : mapping
        Of the study: ``seeds``, ``texts``, ``items`` and ``tasks``.
    """
    decided = [finding for finding in found if finding.verdict != UNDECIDED]
    counts = {verdict: sum(finding.verdict == verdict for finding in found) for verdict in ("reproduced", "contradicted", UNDECIDED)}
    yield "<section><h2>What can and what cannot be concluded</h2>"
    yield f"<p>Of {len(found)} statements {', '.join(f'{count} {verdict}' for verdict, count in counts.items())}.</p>"
    yield "<h3>Can, of this checkpoint and its copy with injected outliers</h3>"
    yield _items(f"{finding.claim}: {finding.verdict}" for finding in decided)
    told = [line for kind in BOTH for width in results.widths(kind) if (line := resolution(results, kind, width))]
    yield f"<p>How fine the grid sees, with {settings['texts']} texts and {settings['seeds']} seeds:</p>{_items(told)}"
    yield "<h3>Cannot</h3>" + _items(BEYOND)
    yield "<p>Not decided, for want of cells or because an interval holds the border:</p>"
    yield _items(finding.claim for finding in found if finding.verdict == UNDECIDED) + "</section>"


def resolution(results: Results, kind: Kind, width: str) -> str:
    """How many pairs of rows are told apart, and how wide the intervals of their differences are; empty for fewer than two rows."""
    gaps = [results.paired(kind, (width, a), (width, b)) for a, b in combinations(results.methods(kind, width), 2)]
    halves = sorted(_half_width(gap) for gap in gaps)
    if not halves:
        return ""
    apart = sum(above(gap) is not None for gap in gaps)
    middle = number(halves[len(halves) // 2])
    return f"{width}, {TITLES[kind]}: {apart} of {len(gaps)} pairs of rows are told apart; a difference is known to +-{middle} nats a token"


def _half_width(gap: Estimate) -> float:
    return float("inf") if gap.low is None or gap.high is None else (gap.high - gap.low) / 2


def _items(lines: Iterator[str] | Sequence[str]) -> str:
    listed = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f"<ul>{listed}</ul>" if listed else "<p>Nothing.</p>"
