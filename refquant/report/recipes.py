"""A recipe as TOML with a comment at every part and field, taken from the docstrings, so that they cannot drift apart."""

from __future__ import annotations

import dataclasses
import inspect
import re
import textwrap
from typing import Any

import tomli_w

from refquant.apply.recipe import Recipe

WIDTH = 100


def annotated_toml(recipe: Recipe) -> str:
    """A recipe as TOML that reads back to the same recipe, explained.

    Examples
    --------
    >>> from refquant.apply.recipe import find_recipe
    >>> text = annotated_toml(find_recipe("w3"))
    >>> Recipe.from_toml(text) == find_recipe("w3")
    True
    >>> "# How the linears' weights are quantized." in text
    True
    """
    parts = {f.name: getattr(recipe, f.name) for f in dataclasses.fields(recipe) if dataclasses.is_dataclass(getattr(recipe, f.name))}
    tree = recipe.to_dict()
    # Tables stand behind all plain values: an empty list of rewrites is one of those, each rewrite is a table.
    top = {name: value for name, value in tree.items() if name not in parts and not (name == "rewrites" and value)}
    blocks = [_fields(Recipe, top)]
    tables = [(f"[{name}]", part, tree[name]) for name, part in parts.items()]
    tables += [("[[rewrites]]", part, values) for part, values in zip(recipe.rewrites, tree["rewrites"], strict=True)]
    for title, part, values in tables:
        blocks.append(_comment(_summary(type(part))) + f"{title}\n" + _fields(type(part), values))
    return "\n".join(blocks).rstrip("\n")


def _fields(kind: type, values: dict[str, Any]) -> str:
    """One `key = value` a field, each group of fields under what their docstring says of them."""
    lines, last = "", ""
    notes = field_notes(kind)
    for name, value in values.items():
        note = notes.get(name, "")
        if note and note != last:
            lines += _comment(note)
        last = note
        lines += tomli_w.dumps({name: value})
    return lines


def _comment(text: str) -> str:
    return "".join(f"# {line}\n" for line in textwrap.wrap(text, WIDTH - 2, break_on_hyphens=False))


def _summary(kind: type) -> str:
    return (inspect.getdoc(kind) or "").partition("\n")[0]


def field_notes(kind: type) -> dict[str, str]:
    """What a class's docstring says of each field, choices first; empty where it says nothing.

    Examples
    --------
    >>> from refquant.apply.recipe import Probabilities
    >>> field_notes(Probabilities)["bits"]
    '0 leaves it in floating point.'
    """
    notes: dict[str, str] = {}
    names: list[str] = []
    section = (inspect.getdoc(kind) or "").partition("Parameters\n----------\n")[2]
    for line in re.split(r"\n\n(?=\w+\n-+\n)", section)[0].splitlines():
        if line[:1].strip():
            left, _, allowed = line.partition(" : ")
            names = [name.strip() for name in left.split(",")]
            choices = re.fullmatch(r"\{(.*)\}", allowed)
            told = f"One of {choices[1]}.".replace('"', "") if choices else ""
            notes.update(dict.fromkeys(names, told))
        else:
            text = re.sub(r":\w+:`([^`]+)`", r"\1", line.strip()).replace("``", "").replace("`", "")
            notes.update({name: f"{notes[name]} {text}".strip() for name in names})
    return notes
