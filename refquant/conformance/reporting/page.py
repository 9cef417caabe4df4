"""A report as one HTML page that needs nothing else: no scripts, no fonts, no network."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from refquant.conformance.conform import Report, Verdict
from refquant.conformance.explain import Explanation
from refquant.conformance.flags import FLAGS
from refquant.conformance.lookup import Number
from refquant.conformance.reporting.lines import COLUMNS, last_line, summary_rows, trouble_line

STYLE = """
:root { color-scheme: light dark; --line: #8886; --bad: #c0392b; --good: #1e8449; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; margin: .5rem 0 1rem; } th, td { padding: .15rem .7rem; border-bottom: 1px solid var(--line); }
th { text-align: left; font-weight: 600; } td.n { text-align: right; font-variant-numeric: tabular-nums; }
code, td.m { font: 13px/1.4 ui-monospace, monospace; } .verdict { font-size: 1.15rem; font-weight: 600; padding: .6rem 1rem; color: #fff; }
.good { background: var(--good); } .bad { background: var(--bad); } .told { border-left: 4px solid var(--bad); padding-left: .8rem; }
details { margin: .4rem 0; } summary { cursor: pointer; } section { margin-top: 2rem; } .what { opacity: .75; }
"""


def page_text(report: Report, strict: bool = False) -> str:
    """The page."""
    return "\n".join(_parts(report, strict)) + "\n"


def _parts(report: Report, strict: bool) -> Iterator[str]:
    ok = report.ok(strict)
    yield '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    yield f"<title>Conformance of {escape(report.backend)}</title><style>{STYLE}</style></head><body>"
    yield f"<h1>Conformance of <code>{escape(report.backend)}</code></h1>"
    yield f'<p class="verdict {"good" if ok else "bad"}">{escape(last_line(report, strict))}</p>'
    yield f"<p>Golden vectors with root hash <code>{report.root}</code>. Again: <code>refquant conform {escape(report.option)}</code></p>"
    yield table_text(COLUMNS, summary_rows(report), right=range(2, len(COLUMNS)))
    for title, texts in (("Streams", [str(s) for s in report.streams]), ("Strays", report.strays), ("Stale expectations", report.stale)):
        if texts:
            yield f"<section><h2>{title}</h2><ul>{''.join(f'<li>{escape(text)}</li>' for text in texts)}</ul></section>"
    for name in report.operations():
        yield from _operation(report, name)
    if report.missing:
        yield f"<p>Not offered: {escape(', '.join(report.missing))}</p>"
    yield "</body></html>"


def table_text(columns: tuple[str, ...], rows: list[tuple[object, ...]], right: range = range(0)) -> str:
    """A table; columns whose numbers stand in `right` hold numbers.

    Examples
    --------
    >>> table_text(("a",), [("<",)])
    '<table><tr><th>a</th></tr><tr><td>&lt;</td></tr></table>'
    """
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    body = "".join(f"<tr>{''.join(_cell(value, i in right) for i, value in enumerate(row))}</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


def _cell(value: object, is_number: bool) -> str:
    return f'<td class="n">{value}</td>' if is_number else f"<td>{escape(str(value))}</td>"


def _operation(report: Report, name: str) -> Iterator[str]:
    verdicts = report.of(name)
    failing = [verdict for verdict in verdicts if verdict.status in ("differs", "trouble")]
    if not failing:
        return
    yield f"<section><h2><code>{escape(name)}</code></h2>"
    found = report.diagnoses.get(name, ())
    whole = [diagnosis for diagnosis in found if diagnosis.explains == diagnosis.wrong]
    yield from (f'<p class="told"><b>Diagnosis.</b> {escape(str(diagnosis))}.</p>' for diagnosis in whole or found[:3])
    for verdict in failing:
        yield from _verdict(report, verdict)
    yield "</section>"


def _verdict(report: Report, verdict: Verdict) -> Iterator[str]:
    case = verdict.case
    told = f" <i>as expected: {escape(verdict.expected)}</i>" if verdict.expected is not None else ""
    parts = ", ".join(dict.fromkeys(mismatch.part for mismatch in verdict.mismatches)) or verdict.kind
    opened = " open" if verdict.explanations else ""
    yield f"<details{opened}><summary><code>{escape(case.id)}</code>: {escape(parts)}{told}</summary>"
    flags = "; ".join(f"{flag}: {FLAGS[flag].meaning}" for flag in case.flags)
    yield f'<p class="what">{escape(flags)}</p>'
    if verdict.status == "trouble":
        yield f"<pre>{escape(trouble_line(report, verdict))}</pre>"
    yield from (_explanation(explanation) for explanation in verdict.explanations)
    if verdict.mismatches and not verdict.explanations:
        rows: list[tuple[object, ...]] = [(m.part, m.index, m.expected, m.found, m.count) for m in verdict.mismatches]
        yield table_text(("output", "first at", "expected", "found", "wrong elements"), rows)
    yield "</details>"


def _explanation(e: Explanation) -> str:
    where = e.part if e.index is None else f"{e.part}[{', '.join(map(str, e.index))}]"
    more = f"; {e.count} elements are wrong, this is the first" if e.count > 1 else ""
    lines = [f"<h3><code>{escape(where)}</code></h3><p>{escape(e.why)}{escape(f' ({e.apart})' if e.apart else '')}{more}.</p>"]
    numbers = [*e.values, *e.around.inputs, *e.around.neighbours]
    if numbers:
        lines.append(_numbers(numbers))
    if e.around.place:
        lines.append(f"<p>Exactly {escape(e.around.place)}.</p>")
    if e.margin is not None:
        tie = ": a tie" if e.margin == 0 else ""
        lines.append(f"<p>Decision margin {e.margin:.3g} steps{tie}; compared by {escape(e.rule)}.</p>")
    told = [e.stage] if e.stage else []
    told += [f"This is what {mutant} gives." for mutant in e.mutants] + [f"Where it differs, these are the values of {h}." for h in e.hints]
    lines += [f'<p class="told">{escape(text)}</p>' for text in told]
    return "".join([*lines, f"<p><code>{escape(e.reproduce)}</code></p>"])


def _numbers(numbers: list[Number]) -> str:
    cells = [(n.label, n.decimal, n.hexadecimal, n.exact) for n in numbers]
    rows = ""
    for label, *texts in cells:
        forms = [f'<td class="m">{escape(text)}</td>' for text in texts]
        rows += f"<tr><td>{escape(label)}</td>{''.join(forms)}</tr>"
    return f"<table><tr><th></th><th>decimal</th><th>hexadecimal</th><th>exact</th></tr>{rows}</table>"
