"""The command line: thin, one file a command, loaded only when called.

stdout is data, stderr is talk. Exit codes: 0 ok, 1 findings, 2 usage, 3 bad input file, 4 numerical failure, 130 interrupted.
"""

from __future__ import annotations

import importlib
import sys

import click

from refquant.errors import RefquantError

COMMANDS = {
    "quantize": "Quantize a model by a recipe and compare it with full precision, RTN and GPTQ.",
    "evaluate": "Compare a quantized folder with full precision on held-out texts and tasks.",
    "generate": "Answer a prompt, showing the tokens as they fill in.",
    "methods": "List the methods and recipes.",
    "explain": "Print the card of a method: equations, departures, guarantees.",
}


class _LazyGroup(click.Group):
    """Knows its commands' names and one-liners without importing them, so that ``--help`` stays fast."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"refquant.cli.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=_LazyGroup, epilog="Start with `refquant quantize`: it needs no arguments and no files.", no_args_is_help=True)
@click.version_option(package_name="refquant", message="%(version)s")
def group() -> None:
    """Quantize masked diffusion language models in plain NumPy, and say what every step computes."""


def main() -> None:
    """Run the command line and exit with its code."""
    try:
        code = group.main(standalone_mode=False)
    except click.exceptions.Abort:
        code = 130
    except KeyboardInterrupt:
        code = 130
    except click.exceptions.Exit as finished:
        code = finished.exit_code
    except click.ClickException as error:
        error.show()
        code = 2
    except RefquantError as error:
        print(f"refquant: {error}", file=sys.stderr)
        code = error.exit_code
    sys.exit(code if isinstance(code, int) else 0)
