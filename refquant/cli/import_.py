"""`refquant import`: another program's quantized folder as one of ours."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import click

from refquant.apply.importing import IMPORTERS, import_folder
from refquant.cli.streams import show, show_json
from refquant.report.numbers import bits, counted

EPILOG = """\b
Examples:
  refquant quantize --recipe rtn-w4a16 --out q4 --no-compare
  refquant export q4 --to awq --requantize --out q4-awq
  refquant import q4-awq --out back
  refquant import q4-awq --from awq --out again --format json
"""


@click.command(epilog=EPILOG)
@click.argument("path", metavar="PATH", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Quantized folder to write; it must not exist.")
@click.option("--from", "layout", type=click.Choice(list(IMPORTERS)), help="The layout; default: what the folder says of itself.")
@click.option("--variant", default="", help="Instead of what the file says of itself, for files that say it wrong.")
@click.option("--format", "form", type=click.Choice(["table", "json"]), default="table", help="What goes to stdout.")
def command(path: Path, out: Path, layout: str | None, variant: str, form: str) -> None:
    """Read PATH, a quantized folder of another program, and write it as a folder that the other commands take.

    Codes, scales and zero points stay what they are. If nothing in PATH is quantized, what is written is a plain checkpoint.
    """
    found = import_folder(path, out, layout=layout or "", variant=variant)
    average = Fraction(found.total_bits, found.elements) if found.elements else Fraction(0)
    if form == "json":
        tree = {"layout": found.layout, "variant": found.variant, "weights": len(found.weights), "bits_per_weight": float(average)}
        show_json({"command": "import", "out": str(out), **tree, "input_digest": found.digest})
    else:
        linears = [counted(len(found.weights) - len(found.tables), "linear"), *(name.rpartition(".")[2] for name in found.tables)]
        what = f"{' and '.join(linears)}, {bits(average)} bits a weight" if found.elements else "nothing in it is quantized"
        show([f"{out}: from {found.layout} ({found.variant}): {what}"])
