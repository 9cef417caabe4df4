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
  refquant explain gptq --gap
"""

GAP_METHODS = ("rtn", "gptq", "obq", "optimum")


@click.command(epilog=EPILOG)
@click.argument("name")
@click.option("--format", "form", type=click.Choice(["table", "json"]), default="table", help="What goes to stdout.")
@click.option("--gap", is_flag=True, help="For gptq: solve tiny layers of the embedded model with RTN, GPTQ, OBQ and to the optimum.")
def command(name: str, form: str, gap: bool) -> None:
    """Print the card of the method NAME: equations, departures from the authors, guarantees, cost.

    Or the recipe NAME, built in or a file ending in .toml: complete TOML, a comment at every field; a file to begin your own with.
    """
    if gap:
        _show_gap(name, form)
        return
    if name in method_targets():
        card = find_card(name)
        show_json({"command": "explain", "method": card_json(card)}) if form == "json" else show(card_lines(card))
        return
    if name not in recipe_names() and not name.endswith(".toml"):
        known = f"methods are {', '.join(method_targets())}; recipes are {', '.join(recipe_names())}, or a file ending in .toml"
        raise UsageError(f"there is no method or recipe {name!r}; {known}")
    recipe = find_recipe(name)
    show_json({"command": "explain", "recipe": recipe.to_dict()}) if form == "json" else show([annotated_toml(recipe)])


def _show_gap(name: str, form: str) -> None:
    """The measurement behind ``--gap``; everything it needs is loaded here, so that cards stay fast."""
    if name not in GAP_METHODS:
        raise UsageError(f"--gap compares {', '.join(GAP_METHODS)}; it says nothing of {name!r}")
    from refquant.apply.gap import embedded_gaps
    from refquant.report.gap import gap_json, gap_tables

    gaps = embedded_gaps()
    show_json({"command": "explain", "gaps": gap_json(gaps)}) if form == "json" else show(gap_tables(gaps))
