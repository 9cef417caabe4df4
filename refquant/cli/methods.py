"""`refquant methods`: what there is."""

from __future__ import annotations

import click

from refquant.apply.recipe import find_recipe, recipe_names
from refquant.cli.streams import show, show_json
from refquant.methods.catalog import find_card, method_targets
from refquant.report.cards import card_json, methods_table, recipes_table

EPILOG = """\b
Examples:
  refquant methods
  refquant methods --format json
"""


@click.command(epilog=EPILOG)
@click.option("--format", "form", type=click.Choice(["table", "json"]), default="table", help="What goes to stdout.")
def command(form: str) -> None:
    """List the methods, with paper and arithmetic lane, and the recipes that put them together."""
    cards = {name: find_card(name) for name in method_targets()}
    recipes = {name: find_recipe(name) for name in recipe_names()}
    if form == "json":
        found = {"methods": {n: card_json(card) for n, card in cards.items()}, "recipes": {n: r.to_dict() for n, r in recipes.items()}}
        show_json({"command": "methods", **found})
        return
    show(
        [methods_table(cards), "", recipes_table(recipes), "", "`refquant explain NAME` prints the card of a method, or a recipe in full."]
    )
