"""`refquant conform`: hold anybody's implementation against the golden vectors."""

from __future__ import annotations

from pathlib import Path

import click

from refquant.cli.progress import Progress
from refquant.cli.streams import show, show_json, talk, talk_console
from refquant.conformance.backends.files import FilesBackend, write_questions
from refquant.conformance.backends.pipe import PipeBackend
from refquant.conformance.backends.python import PythonBackend
from refquant.conformance.backends.session import Backend
from refquant.conformance.conform import LEVELS, Report, Selection, chosen_cases, conform
from refquant.conformance.failures import read_expected
from refquant.conformance.locate import golden_directory
from refquant.conformance.reporting.junit import junit_text
from refquant.conformance.reporting.lines import COLUMNS, report_lines, summary_rows
from refquant.conformance.reporting.page import page_text
from refquant.conformance.reporting.tree import report_tree
from refquant.errors import UsageError
from refquant.report.vectors import plain_table
from refquant.storage import canonical_json, write_text

EPILOG = """\b
Exit codes: 0 all conform, 1 something does not, 2 usage, 3 bad input file or a command that says no hello.
docs/conformance.md goes from nothing to a first report; there ./kernel is a command of yours:

\b
  refquant conform --pipe ./kernel --operation 'uniform.*' --flag tie
  refquant conform --pipe ./kernel --expected known.toml --strict --out junit.xml

\b
Examples:
  refquant conform --backend refquant.conformance.own:backend
  refquant conform --backend refquant.conformance.own:backend --level codes --out report.html
  refquant conform --files questions --operation 'rounding.*'
"""
SUFFIXES = {".json": "json", ".xml": "junit", ".html": "html"}


@click.command(epilog=EPILOG)
@click.option("--backend", help="A Python object with any subset of the operations: package.module:object.")
@click.option("--pipe", help="A command that reads questions from its standard input and writes answers, one JSON line each.")
@click.option("--files", type=click.Path(path_type=Path), help="A folder: a new one gets questions, one with answers is judged.")
@click.option("--level", "levels", multiple=True, help=f"Only operations of this level: {', '.join(LEVELS)} (may be repeated).")
@click.option("--operation", "operations", multiple=True, help="Only operations of this name or pattern (may be repeated).")
@click.option("--flag", "flags", multiple=True, help="Only cases with one of these flags (may be repeated).")
@click.option("--case", "cases", multiple=True, help="Only the case of this id, or pattern with * (may be repeated).")
@click.option("--expected", type=click.Path(path_type=Path), help="TOML file of failures that are expected, each with a reason.")
@click.option("--strict", is_flag=True, help="Expected failures that match nothing or conform by now fail the run.")
@click.option("--allow-missing", is_flag=True, help="Outputs that the backend does not give are not judged.")
@click.option("--streams", is_flag=True, help="Run the accumulated digests too: about a million inputs each.")
@click.option("--timeout", type=float, default=60.0, show_default=True, help="Seconds that --pipe may take for an answer.")
@click.option("--most", type=click.IntRange(0), default=3, show_default=True, help="Wrong cases of an operation that are explained.")
@click.option("--dir", "folder", type=click.Path(path_type=Path), help="Folder of vectors; default: the published ones.")
@click.option(
    "--out", "outs", type=click.Path(path_type=Path), multiple=True, help="Write the report to a .json, .xml (JUnit) or .html file."
)
@click.option("--format", "form", type=click.Choice(["table", "json", "junit", "html"]), default="table", help="What goes to stdout.")
def command(
    backend: str | None,
    pipe: str | None,
    files: Path | None,
    levels: tuple[str, ...],
    operations: tuple[str, ...],
    flags: tuple[str, ...],
    cases: tuple[str, ...],
    expected: Path | None,
    strict: bool,
    allow_missing: bool,
    streams: bool,
    timeout: float,
    most: int,
    folder: Path | None,
    outs: tuple[Path, ...],
    form: str,
) -> int:
    """Ask an implementation what the golden vectors ask, and explain every answer that is wrong."""
    if sum(way is not None for way in (backend, pipe, files)) != 1:
        raise UsageError("name one implementation: --backend package.module:object, --pipe 'COMMAND' or --files FOLDER")
    for out in outs:
        if out.suffix not in SUFFIXES:
            raise UsageError(f"--out {out}: the ending says what is written; {', '.join(SUFFIXES)} are known")
    if files is not None and streams:
        raise UsageError("--streams ask a million questions, which --files does not; use --backend or --pipe")
    selection = Selection(levels=levels, operations=operations, flags=flags, cases=cases)
    entries = () if expected is None else read_expected(expected)
    place = folder or golden_directory()
    if files is not None and not files.exists():
        return _write(files, place, selection)
    reached = _reach(backend, pipe, files, timeout)
    among = reached.asked if isinstance(reached, FilesBackend) else None
    with Progress({reached.name: 1.0}, talk_console()) as progress:
        report = conform(
            reached,
            place,
            selection,
            expected=entries,
            allow_missing=allow_missing,
            streams=streams,
            most=most,
            among=among,
            tell=lambda what, done, total: progress(reached.name, done, total),
        )
    for out in outs:
        write_text(out, report_text(report, SUFFIXES[out.suffix], strict))
    _show(report, form, strict)
    return 0 if report.ok(strict) else 1


def _reach(backend: str | None, pipe: str | None, files: Path | None, timeout: float) -> Backend:
    if backend is not None:
        return PythonBackend(backend)
    if files is not None:
        return FilesBackend(files)
    return PipeBackend(pipe or "", timeout)


def _write(files: Path, place: Path, selection: Selection) -> int:
    """The first of the two steps."""
    asked = [case for _, cases in chosen_cases(place, selection) for case in cases]
    if not asked:
        raise UsageError("nothing to ask: no case is selected")
    count = write_questions(files, asked)
    show([f"{files}: {count} questions"])
    talk(f"answer them in {files / 'answers.jsonl'} or answers.safetensors ({files / 'README.txt'} tells how), then type the same again")
    return 0


def report_text(report: Report, form: str, strict: bool) -> str:
    """A report as the text of a file: ``json``, ``junit`` or ``html``."""
    if form == "json":
        return canonical_json({"command": "conform", **report_tree(report, strict)}) + "\n"
    return junit_text(report, strict) if form == "junit" else page_text(report, strict)


def _show(report: Report, form: str, strict: bool) -> None:
    if form == "json":
        show_json({"command": "conform", **report_tree(report, strict)})
    elif form == "table":
        table = plain_table(COLUMNS, summary_rows(report), right=range(2, len(COLUMNS)))
        show([table, "", *report_lines(report, strict)])
    else:
        click.echo(report_text(report, form, strict), nl=False)
