"""`refquant explain`: the card of a method, or a recipe with what each field does."""

from __future__ import annotations

import click

from refquant.apply.recipe import find_recipe, recipe_names
from refquant.cli.streams import show, show_json
from refquant.errors import UsageError
from refquant.methods.catalog import find_card, method_targets
from refquant.report.cards import card_json, card_lines
from refquant.report.recipes import annotated_toml

EPILOG = """\b
Examples:
  refquant explain gptq
  refquant explain dllmquant-w4a4 > mine.toml
  refquant quantize --recipe mine.toml --dry-run
  refquant explain cgq --format json
"""


@click.command(epilog=EPILOG)
@click.argument("name")
@click.option("--format", "form", type=click.Choice(["table", "json"]), default="table", help="What goes to stdout.")
def command(name: str, form: str) -> None:
    """Print the card of the method NAME: equations, departures from the authors, guarantees, cost.

    Or the recipe NAME, built in or a file ending in .toml: complete TOML, a comment at every field; a file to begin your own with.
    """
    if name in method_targets():
        card = find_card(name)
        show_json({"command": "explain", "method": card_json(card)}) if form == "json" else show(card_lines(card))
        return
    if name not in recipe_names() and not name.endswith(".toml"):
        known = f"methods are {', '.join(method_targets())}; recipes are {', '.join(recipe_names())}, or a file ending in .toml"
        raise UsageError(f"there is no method or recipe {name!r}; {known}")
    recipe = find_recipe(name)
    show_json({"command": "explain", "recipe": recipe.to_dict()}) if form == "json" else show([annotated_toml(recipe)])
