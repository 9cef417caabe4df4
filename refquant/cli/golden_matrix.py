"""`refquant golden matrix`: the same hashes whatever BLAS, NumPy and workers."""

from __future__ import annotations

from dataclasses import asdict

import click

from refquant.cli.streams import show, show_json, talk
from refquant.conformance.matrix import Matrix, Result, all_rows, choose, run_matrix
from refquant.report.vectors import plain_table

EPILOG = """\b
Examples:
  refquant golden matrix
  refquant golden matrix --only plain --only simd-off --only workers
  refquant golden matrix --python other/bin/python --only python-1
"""
SHOWN = 12
"""Digits of a hash in the table; the whole ones stand below."""


@click.command(name="matrix", epilog=EPILOG)
@click.option("--only", multiple=True, metavar="ROW", help="Run this row (may be repeated).")
@click.option("--skip", multiple=True, metavar="ROW", help="Leave this row out (may be repeated).")
@click.option(
    "--python",
    "pythons",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False),
    help="An interpreter with another NumPy and all that refquant needs (may be repeated); default: pip makes environments with the "
    "oldest and the newest NumPy in a temporary folder.",
)
@click.option("--format", "form", type=click.Choice(["table", "json"]), default="table", help="What goes to stdout.")
def matrix(only: tuple[str, ...], skip: tuple[str, ...], pythons: tuple[str, ...], form: str) -> int:
    """Make the vectors and quantize the embedded model in the ordered lane under one setting after the other, and compare the hashes."""
    found = run_matrix(choose(all_rows(pythons), only, skip), lambda result: talk(result_line(result)))
    if form == "json":
        rows = [asdict(result) for result in found.results]
        show_json({"command": "golden matrix", "ok": found.ok, "published": found.published, "rows": rows})
    else:
        show(
            [
                plain_table(["row", "golden set", "quantized", "seconds", "what it ran with"], table_rows(found), right=(3,)),
                "",
                *ends(found),
            ]
        )
    return 0 if found.ok else 1


def result_line(result: Result) -> str:
    """What became of a row, in a line: enough to keep if a run is cut short.

    Examples
    --------
    >>> result_line(Result(name="kernel-zen", missing="no such kernel"))
    'kernel-zen: this machine cannot give it: no such kernel'
    """
    if result.missing:
        return f"{result.name}: this machine cannot give it: {result.missing}"
    return f"{result.name}: golden {result.golden}, quantized {result.quantized or 'none'}, {result.seconds:.0f} seconds"


def table_rows(found: Matrix) -> list[tuple[str, ...]]:
    """Rows of the table: a setting that did not take hold has no hashes in it."""
    rows: list[tuple[str, ...]] = []
    for result in found.results:
        seen = result.surroundings
        with_what = "" if seen is None else f"NumPy {seen.numpy}, {'/'.join(dict.fromkeys(seen.blas_kernels))}, "
        if seen is not None:
            with_what += f"{'/'.join(str(n) for n in dict.fromkeys(seen.blas_threads))} BLAS threads, SIMD {' '.join(seen.simd) or 'off'}"
        hashes = (result.golden[:SHOWN], result.quantized[:SHOWN]) if result.counts else ("-", "-")
        rows.append((result.name, *hashes, f"{result.seconds:.0f}", result.missing or with_what))
    return rows


def ends(found: Matrix) -> list[str]:
    """The last lines: whole hashes, and what is wrong."""
    counting = [result for result in found.results if result.counts]
    lines = [f"golden set, published: {found.published}"]
    for what in ("golden", "quantized"):
        for value in dict.fromkeys(getattr(result, what) for result in counting):
            names = [result.name for result in counting if getattr(result, what) == value]
            which = "" if found.ok else f" ({', '.join(names)})"
            lines.append(f"{what} {value or 'none'}: {len(names)} of {len(counting)} rows{which}")
    absent = [result.name for result in found.results if not result.counts]
    return lines + ([f"not given by this machine: {', '.join(absent)}"] if absent else [])
