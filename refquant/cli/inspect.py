"""`refquant inspect`: what is in a file."""

from __future__ import annotations

from pathlib import Path

import click

from refquant.apply.inspecting import inspect
from refquant.cli.streams import show, show_json
from refquant.errors import InputError
from refquant.report.inspection import inspection_lines, row_json

EPILOG = """\b
Examples:
  refquant quantize --recipe rtn-w4a16 --out q4 --no-compare
  refquant inspect q4
  refquant inspect q4/model.safetensors --only ff_out --format json
"""


@click.command(epilog=EPILOG)
@click.argument("path", metavar="PATH", type=click.Path(path_type=Path))
@click.option("--only", default="", help="Tensors whose names contain this.")
@click.option("--format", "form", type=click.Choice(["table", "json"]), default="table", help="What goes to stdout.")
def command(path: Path, only: str, form: str) -> None:
    """Show the tensors of PATH, a file or a folder, quantized by refquant or another program, or not at all.

    One line each: name, format, shape, bits a number in the file, ranges of values, scales and zero points, a histogram (of codes where
    there are any), and the first digits of a SHA-256.
    """
    found = inspect(path)
    rows = (row for row in found.rows if only in row.name)
    if form == "json":
        tensors = [row_json(row) for row in rows]
        _require(only, bool(tensors), path)
        show_json({"command": "inspect", "kind": found.kind, "tensors": tensors})
        return
    lines = list(inspection_lines(found.kind, rows))
    _require(only, len(lines) > 2, path)  # the first says the kind, the last the sum
    show(lines)


def _require(only: str, any_left: bool, path: Path) -> None:
    if only and not any_left:
        raise InputError(f"{path}: no tensor has {only!r} in its name")
