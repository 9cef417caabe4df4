"""A report in lines of text: what is wrong, why, and what to type next."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from refquant.conformance.catalog import find_operation
from refquant.conformance.conform import Report, Verdict, reproduction
from refquant.conformance.explain import Explanation
from refquant.conformance.lookup import Number
from refquant.conformance.reporting.tree import counts

MOST_TROUBLES = 5
"""Of one operation that are printed in full."""
COLUMNS = ("operation", "level", "cases", "conform", "differ", "trouble", "expected", "skipped")


def summary_rows(report: Report) -> list[tuple[object, ...]]:
    """One row an operation, as of COLUMNS."""
    rows = []
    for name in report.operations():
        verdicts = report.of(name)
        found = counts(verdicts)
        numbers = (found[key] for key in ("cases", "conforms", "differs", "trouble", "expected", "skipped"))
        rows.append((name, find_operation(name).level, *numbers))
    return rows


def number_line(value: Number) -> str:
    """A labelled number in all its forms.

    Examples
    --------
    >>> number_line(Number("x", "0.5", "0x1.0000000000000p-1", "1/2"))
    'x = 0.5  0x1.0000000000000p-1  1/2'
    """
    forms = dict.fromkeys(text for text in (value.decimal, value.hexadecimal, value.exact) if text)
    return f"{value.label} = {'  '.join(forms)}"


def headline(e: Explanation) -> str:
    """One mismatch in one line."""
    where = e.part if e.index is None else f"{e.part}[{', '.join(map(str, e.index))}]"
    more = f", and {e.count - 1} more" if e.count > 1 else ""
    return f"{where}: {e.why}{f' ({e.apart})' if e.apart else ''}{more}"


def case_lines(explanations: Sequence[Explanation]) -> Iterator[str]:
    """The mismatches of one case: the first in full, since what is computed after it may only follow from it."""
    for first in explanations[:1]:
        yield from explanation_lines(first)
        yield from (f"    then {headline(later)}" for later in explanations[1:])
        yield f"    {first.reproduce}"


def explanation_lines(e: Explanation) -> Iterator[str]:
    """One mismatch in full."""
    yield f"{e.case} {headline(e)}"
    yield from (f"    {number_line(value)}" for value in (*e.values, *e.around.inputs))
    if e.around.place:
        yield f"    exactly {e.around.place}, between"
    yield from (f"      {number_line(value)}" for value in e.around.neighbours)
    if e.margin is not None:
        yield f"    decision margin {e.margin:.3g} steps{': a tie' if e.margin == 0 else ''}; compared by {e.rule}"
    if e.stage:
        yield f"    {e.stage}"
    yield from (f"    this is what {mutant} gives" for mutant in e.mutants)
    yield from (f"    where it differs, these are the values of {hint}" for hint in e.hints)


def report_lines(report: Report, strict: bool = False) -> Iterator[str]:
    """Everything below the table."""
    for name in report.operations():
        yield from _operation_lines(report, name)
    yield from (f"stream {stream}" for stream in report.streams)
    yield from (f"stray: {stray}" for stray in report.strays)
    yield from (f"stale: {stale}" for stale in report.stale)
    if report.missing:
        yield f"not offered: {', '.join(report.missing)}"
    yield last_line(report, strict)


def _operation_lines(report: Report, name: str) -> Iterator[str]:
    verdicts = report.of(name)
    failing = [verdict for verdict in verdicts if not verdict.ok]
    if failing and (found := report.diagnoses.get(name)):
        whole = [diagnosis for diagnosis in found if diagnosis.explains == diagnosis.wrong]
        yield from (f"DIAGNOSIS {name}: {diagnosis}" for diagnosis in whole or found[:3])
        yield ""
    told = [verdict for verdict in failing if verdict.explanations]
    for verdict in told:
        yield from case_lines(verdict.explanations)
        yield ""
    troubles = [verdict for verdict in failing if verdict.status == "trouble"]
    for verdict in troubles[:MOST_TROUBLES]:
        yield trouble_line(report, verdict)
    untold = len(failing) - len(told) - min(len(troubles), MOST_TROUBLES)
    if untold > 0:
        yield f"{name}: {untold} more fail; `--most` explains more, `--format json` names all"
    skips = dict.fromkeys(verdict.trouble for verdict in verdicts if verdict.status == "skipped")
    if skips:
        count = sum(verdict.status == "skipped" for verdict in verdicts)
        yield f"{name}: {count} skipped: {'; '.join(list(skips)[:3])}{'; ...' if len(skips) > 3 else ''}"
    unjudged = sorted({part for verdict in verdicts for part in verdict.unjudged})
    if unjudged:
        yield f"{name}: not given, and not judged: {', '.join(unjudged)}"


def trouble_line(report: Report, verdict: Verdict) -> str:
    """A case without an answer."""
    return f"{verdict.case.id}: {verdict.kind}: {verdict.trouble}\n    {reproduction(report, verdict)}"


def last_line(report: Report, strict: bool = False) -> str:
    """The run in one line."""
    found = counts(report.verdicts)
    parts = [f"{found['conforms']} of {found['cases']} cases conform"]
    parts += [f"{found[key]} {what}" for key, what in _FATES if found[key]]
    if report.streams:
        parts.append(f"{sum(stream.ok and not stream.skipped for stream in report.streams)} of {len(report.streams)} streams as published")
    verdict = "CONFORMS" if report.ok(strict) else "DOES NOT CONFORM"
    return f"{verdict}: {report.backend}: {', '.join(parts)} (vectors {report.root[:16]})"


_FATES = (("differs", "differ"), ("trouble", "without an answer"), ("expected", "fail as expected"), ("skipped", "skipped"))
