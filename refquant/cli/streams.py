"""stdout is data, stderr is talk."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

import click
from rich.console import Console, RenderableType
from rich.text import Text

from refquant.storage import canonical_json

PIPED_WIDTH = 100
"""Columns where no terminal says how wide it is: tables are made to fit."""


def talk_console() -> Console:
    """The console on stderr."""
    return Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)


def talk(line: str) -> None:
    """Say something to the person in front, on stderr."""
    click.echo(f"refquant: {line}", err=True)


def show(things: Iterable[RenderableType]) -> None:
    """Print tables and lines of data to stdout: wide enough for the tables, coloured on a terminal only."""
    console = Console(file=sys.stdout, highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = PIPED_WIDTH
    for thing in things:
        # Lines are data: they are broken where they end, not where a window does.
        console.print(Text(thing) if isinstance(thing, str) else thing, soft_wrap=isinstance(thing, str))


def show_json(value: Any) -> None:
    """Print one JSON document to stdout."""
    click.echo(canonical_json(value))
