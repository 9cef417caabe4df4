"""The command line: thin, one file a command, loaded only when called.

stdout is data, stderr is talk. Exit codes: 0 ok, 1 findings, 2 usage, 3 bad input file, 4 numerical failure, 130 interrupted,
141 when whoever read the output went away.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import TextIO

import click

from refquant.errors import InputError, RefquantError

COMMANDS = {
    "quantize": "Quantize a model by a recipe and compare it with full precision, RTN and GPTQ.",
    "evaluate": "Compare a quantized folder with full precision on held-out texts and tasks.",
    "study": "Repeat an experiment over seeds and write it down, with intervals.",
    "generate": "Answer a prompt, showing the tokens as they fill in.",
    "export": "Write a quantized folder in another program's layout.",
    "import": "Read another program's quantized folder.",
    "inspect": "Show the tensors of a file or folder: formats, ranges, bits, histograms, hashes.",
    "methods": "List the methods and recipes.",
    "explain": "Print the card of a method, or a recipe with a comment at every field.",
    "golden": "Make, check and read the golden vectors.",
    "conform": "Hold anybody's implementation against the golden vectors, and explain what is wrong.",
}
MODULES = {"import": "import_"}  # where a command's name is no name for a module
INTERRUPTED = 130
NOBODY_READS = 141  # 128 + SIGPIPE, what a shell reports of any other program

EPILOG = """\b
Examples:
  refquant quantize
  refquant methods
  refquant explain gptq

`refquant quantize` needs no arguments and no files; begin there. Each command has its own --help.
Exit codes: 0 ok, 1 findings, 2 usage, 3 bad input file, 4 numerical failure, 130 interrupted.
"""


class _LazyGroup(click.Group):
    """Knows its commands' names and one-liners without importing them, so that ``--help`` stays fast."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        # First of all, since it finds out whether `model` is ours: a user's file of that name must not even be run.
        importlib.import_module("refquant.apply")
        command: click.Command = importlib.import_module(f"refquant.cli.{MODULES.get(cmd_name, cmd_name)}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=_LazyGroup, name="refquant", epilog=EPILOG, invoke_without_command=True)
@click.version_option(package_name="refquant", message="%(version)s")
@click.pass_context
def group(context: click.Context) -> None:
    """Quantize masked diffusion language models in plain NumPy, and say what every step computes."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


def main() -> None:
    """Run the command line and exit with its code."""
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show a character gets its number, not a traceback.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    code = _run()
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        code = _silenced(sys.stdout)
    sys.exit(code)


def _run() -> int:
    try:
        code = group.main(prog_name="refquant", standalone_mode=False)
    except (click.exceptions.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except SystemExit as finished:
        if isinstance(finished.__context__, BrokenPipeError):  # click's answer to it
            return _silenced(sys.stdout)
        raise
    except BrokenPipeError:
        return _silenced(sys.stdout)
    except click.ClickException as error:
        return _refused(error.format_message(), 2)
    except RefquantError as error:
        return _refused(str(error), error.exit_code)
    except OSError as error:
        return _refused(f"{error.filename or 'output'}: {error.strerror or error}", InputError.exit_code)
    return code if isinstance(code, int) else 0


def _refused(message: str, code: int) -> int:
    """Say what was wrong in one line, whatever the message holds."""
    print(f"refquant: {' '.join(message.split())}", file=sys.stderr)
    return code


def _silenced(stream: TextIO) -> int:
    """Send what is still to be flushed nowhere, or Python would complain at its very end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
    return NOBODY_READS
