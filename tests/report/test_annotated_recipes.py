"""Recipes with explanations are the recipes."""

from __future__ import annotations

import dataclasses

import pytest

from refquant.apply.recipe import Recipe, find_recipe, recipe_names
from refquant.report.recipes import annotated_toml, field_notes


@pytest.mark.parametrize("name", recipe_names())
def test_the_explained_text_reads_back(name):
    assert Recipe.from_toml(annotated_toml(find_recipe(name))) == find_recipe(name)


@pytest.mark.parametrize("name", ["awq-w4a4", "smoothquant-w8a8"])
def test_every_field_of_a_rewrite_is_explained(name):
    for part in find_recipe(name).rewrites:
        notes = field_notes(type(part))
        assert all(notes.get(f.name) for f in dataclasses.fields(part))
        assert all(line in annotated_toml(find_recipe(name)) for line in ("[[rewrites]]", f'method = "{part.method}"'))
