"""Cards of methods, and lists of methods and recipes."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from rich import box
from rich.table import Table

from refquant.apply.recipe import Recipe
from refquant.methods.card import Card

WIDTH = 100


def card_json(card: Card) -> dict[str, Any]:
    """A card as plain JSON values.

    Examples
    --------
    >>> from refquant.methods.catalog import find_card
    >>> card_json(find_card("rtn"))["name"]
    'rtn'
    """
    tree: dict[str, Any] = msgspec.to_builtins(card)
    return tree


def card_lines(card: Card) -> Iterable[str]:
    """A card as lines of text, every part under its heading."""
    yield f"{card.name}: {card.title}"
    yield ""
    yield from _part("Paper", [card.paper])
    yield from _part("Needs", card.inputs)
    yield "Equations"
    for equation in card.equations:
        yield from textwrap.wrap(
            f"[{equation.label}]  {equation.text}", WIDTH, initial_indent="  ", subsequent_indent="      ", break_on_hyphens=False
        )
    yield ""
    yield from _part("Departures from the authors' code, and readings where the paper is silent", card.departures)
    yield from _part("Guarantees", card.guarantees)
    yield from _part("Arithmetic lane", [card.lane])
    yield from _part("Cost", [card.cost])
    yield from _part("Held against", [card.oracle])
    yield from _part("Laws", [", ".join(card.laws)] if card.laws else [])


def _part(heading: str, entries: Iterable[str]) -> Iterable[str]:
    entries = list(entries)
    yield heading
    for entry in entries or ["none"]:
        bullet = "  - " if len(entries) > 1 else "  "
        yield from textwrap.wrap(entry, WIDTH, initial_indent=bullet, subsequent_indent="    ", break_on_hyphens=False)
    yield ""


def methods_table(cards: Mapping[str, Card]) -> Table:
    """Name, what it is with its paper and needs, and arithmetic lane of every method."""
    table = _table("method", "what it is", "lane")
    for name, card in cards.items():
        table.add_row(name, f"{card.title}\n{card.paper}\nneeds {', '.join(card.inputs)}", card.lane)
    return table


def recipes_table(recipes: Mapping[str, Recipe]) -> Table:
    """Name and description of every recipe."""
    table = _table("recipe", "what it does")
    for name, recipe in recipes.items():
        table.add_row(name, recipe.description)
    return table


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for index, column in enumerate(columns):
        table.add_column(column, no_wrap=index == 0, overflow="fold")
    return table
