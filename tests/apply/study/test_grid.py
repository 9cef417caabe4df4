"""Rows of a width differ in their method alone; cells are named, counted and refused as they should be."""

from __future__ import annotations

import dataclasses

import pytest

from refquant.apply.recipe import find_recipe
from refquant.apply.study.grid import KINDS, METHODS, STATES, WIDTHS, cell_recipes, cells, controlled
from refquant.apply.study.settings import Settings
from refquant.errors import UsageError

SETTINGS = Settings(seeds=2)
METHODS_OWN = {  # what a row may differ in: everything else is compared below
    "weights": {"method", "limits", "limit_steps", "limit_shrink", "limit_tokens", "limit_skip", "limit_inputs", "limit_weighted"},
    "values": {"method", "per", "gram", "rows", "lowest_alpha", "alpha_step"},
    "calibration": {"states"},
}


def shared(recipe):
    """All fields of a recipe that are no method's own."""
    tree = recipe.to_dict()
    for part, own in METHODS_OWN.items():
        tree[part] = {key: value for key, value in tree[part].items() if key not in own}
    return {key: value for key, value in tree.items() if key not in ("name", "description", "rewrites", "tokens")}


@pytest.mark.parametrize("width", WIDTHS)
def test_rows_of_a_width_share_all_but_the_method(width):
    made = [controlled(find_recipe(method.recipe), WIDTHS[width], SETTINGS, 0) for method in METHODS.values()]
    assert all(shared(recipe) == shared(made[0]) for recipe in made)
    assert made[0].weights.bits == WIDTHS[width].weights
    assert made[0].activations.method == ("per_token" if WIDTHS[width].activations else "none")
    assert {recipe.values.method for recipe in made} == ({"minmax", "ia_aq"} if WIDTHS[width].activations else {"none"})
    assert {recipe.values.bits for recipe in made} == {WIDTHS[width].activations or 8}


def test_methods_keep_their_ideas():
    made = {name: controlled(find_recipe(m.recipe), WIDTHS["W4A4"], SETTINGS, 1) for name, m in METHODS.items()}
    assert [part.method for part in made["DuQuant"].rewrites] == ["smoothquant", "duquant"]
    assert made["AWQ"].weights.limits == "awq"
    assert made["DLLMQuant"].tokens.weighting == "certainty"
    assert made["DLLMQuant"].values.method == "ia_aq"
    assert {name for name, recipe in made.items() if recipe.calibration.states == "tmas"} == {"DLLMQuant", "DLLMQuant+", "DLLMQuant++"}
    assert len({recipe.digest() for recipe in made.values()}) == len(METHODS)


def test_seeds_turn_rotations_and_nothing_is_run_twice():
    width = cells(["W4A16"], ["RTN", "QuaRot, RTN", "GPTQ"], ["plain"])
    runs = {cell.method: cell_recipes(cell, SETTINGS) for cell in width}
    assert len(runs["RTN"]) == 1  # nothing is drawn
    assert [recipe.rewrites[0].seed for recipe in runs["QuaRot, RTN"]] == [0, 1]
    assert len(runs["GPTQ"]) == 2
    assert runs["GPTQ"][0] == runs["GPTQ"][1]  # seeds enter through the calibration data


def test_the_grid_is_whole():
    """Six widths, methods that only help inputs where inputs are quantized, both models; states and shipped recipes besides."""
    found = cells()
    grid = [cell for cell in found if cell.group == "grid"]
    only_inputs = [name for name, method in METHODS.items() if not method.weight_only]
    assert len(set(found)) == len(found)
    assert len(grid) == 2 * (6 * len(METHODS) - 3 * len(only_inputs))
    assert {cell.method for cell in found if cell.group == "calibration"} == set(STATES) - {"iid"}
    assert {cell.kind for cell in found} == set(KINDS)


def test_calibration_states_are_the_only_difference():
    found = {cell.method: cell_recipes(cell, SETTINGS)[0] for cell in cells(["W4A4"]) if cell.group == "calibration"}
    base = controlled(find_recipe("gptq-w4a4"), WIDTHS["W4A4"], SETTINGS, 0)
    for states, recipe in found.items():
        assert recipe.calibration.states == states
        assert recipe.replace(calibration=dataclasses.asdict(base.calibration)) == base


def test_further_recipes_run_as_shipped():
    found = [cell for cell in cells(["W8A8"], ["RTN"], also=["w2"]) if cell.group == "shipped"]
    assert [cell.method for cell in found] == ["w2", "w2"]
    recipe, shipped = cell_recipes(found[0], SETTINGS)[0], find_recipe("w2")
    assert recipe == shipped.replace(calibration={"samples": SETTINGS.samples, "prompts": SETTINGS.prompts})


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: cells(["W1A1"]), "unknown width 'W1A1'"),
        (lambda: cells(methods=["magic"]), "unknown method 'magic'"),
        (lambda: cells(also=["magic"]), "unknown recipe 'magic'"),
        (lambda: Settings(seeds=0), "seeds is 0; allowed: an integer of at least 1"),
        (lambda: Settings(evaluation_seed=-1), "evaluation_seed is -1"),
        (lambda: Settings(tasks=()), "tasks is empty"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(UsageError, match=message):
        call()
