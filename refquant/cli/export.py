"""`refquant export`: a folder in another program's layout."""

from __future__ import annotations

from pathlib import Path

import click

from refquant.apply.exporting import EXPORTERS, Exported, export
from refquant.cli.streams import show, show_json
from refquant.report.numbers import bits, counted, number

EPILOG = """\b
Examples:
  refquant quantize --recipe rtn-w4a16 --out q4 --no-compare
  refquant export q4 --to dequantized --out plain
  refquant export q4 --to awq --requantize --out q4-awq --format json
"""


@click.command(epilog=EPILOG)
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--to", "layout", required=True, type=click.Choice(list(EXPORTERS)), help="The layout.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder to write; it must not exist.")
@click.option("--variant", default="", help="Of the layout; a wrong one is answered with those there are.")
@click.option("--requantize", is_flag=True, help="Round what the layout cannot hold to what it can, and report the loss.")
@click.option("--weights-only", is_flag=True, help="Leave out that activations, values or attention are quantized, too.")
@click.option("--format", "form", type=click.Choice(["table", "json"]), default="table", help="What goes to stdout.")
def command(folder: Path, layout: str, out: Path, variant: str, requantize: bool, weights_only: bool, form: str) -> None:
    """Write the quantized folder DIR in another program's layout, exactly or not at all.

    With --requantize, DIR may also be a full-precision checkpoint.
    """
    written = export(folder, layout, out, variant=variant, requantize=requantize, weights_only=weights_only)
    if form == "json":
        show_json({"command": "export", "out": str(out), "layout": layout, **exported_json(written)})
    else:
        show(exported_lines(layout, out, written))


def exported_json(written: Exported) -> dict[str, object]:
    """What was written, for JSON."""
    losses = {name: {"largest": loss.largest, "noise_to_signal": loss.noise_to_signal} for name, loss in written.losses.items()}
    return {
        "variant": written.variant,
        "weights": written.weights,
        "bits_per_weight": float(written.bits_per_weight),
        "exact": not losses,
        "losses": losses,
        "notes": list(written.notes),
    }


def exported_lines(layout: str, out: Path, written: Exported) -> list[str]:
    """What was written, for people."""
    lines = [f"{out}: {counted(written.weights, 'linear')} in {layout} ({written.variant}), {bits(written.bits_per_weight)} bits a weight"]
    if written.losses:
        worst = max(written.losses, key=lambda name: written.losses[name].noise_to_signal)
        loss = written.losses[worst]
        share = f"noise to signal {number(loss.noise_to_signal)}, largest change {number(loss.largest)}"
        lines.append(f"requantized {counted(len(written.losses), 'linear')}; the worst, {worst}: {share}")
    else:
        lines.append("exact: every number is the same")
    return [*lines, *written.notes]
