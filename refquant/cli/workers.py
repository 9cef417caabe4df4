"""Options that say who computes what is independent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

_F = TypeVar("_F", bound=Callable[..., Any])


def worker_options(what: str) -> Callable[[_F], _F]:
    """Add ``--workers`` and ``--executor``; :func:`refquant.apply.executors.chosen_executor` reads them.

    Parameters
    ----------
    what : str
        What is done at a time, for the help.
    """

    def added(function: _F) -> _F:
        for option in (
            click.option("--executor", metavar="TEXT", help="Who works: processes?workers=N, threads?workers=N or dask://HOST:PORT."),
            click.option("--workers", type=click.IntRange(min=1), metavar="N", help=f"{what} at a time, in N processes; default: 1."),
        ):
            function = option(function)
        return function

    return added
