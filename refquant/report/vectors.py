"""Tables about golden vectors, of plain words and numbers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich import box
from rich.table import Table


def plain_table(columns: Sequence[str], rows: Iterable[Sequence[object]], right: Iterable[int] = ()) -> Table:
    """A table of words; the columns of which the numbers stand in `right` hold numbers. Nothing is cut; the last column may be folded.

    Examples
    --------
    >>> plain_table(["id", "cases"], [("a", 3)], right=[1]).row_count
    1
    """
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    numbers = set(right)
    for index, column in enumerate(columns):
        folds = index == len(columns) - 1
        table.add_column(column, justify="right" if index in numbers else "left", no_wrap=not folds, overflow="fold")
    for row in rows:
        table.add_row(*map(str, row))
    return table
