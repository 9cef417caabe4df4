"""Recipes as data: TOML there and back, one line for every wrong field, a digest that sees what matters, the table's rows."""

from __future__ import annotations

import dataclasses
import re
import tomllib
from typing import Literal, get_args, get_origin, get_type_hints

import pytest
import tomli_w

from refquant.apply.parts import Calibration, Tokens, Values, Weights
from refquant.apply.recipe import PARTS, Recipe, find_recipe, recipe_names
from refquant.apply.run import baseline, comparison
from refquant.errors import InputError, UsageError
from tests.apply.wrong_fields import WRONG

SHIPPED = (
    "awq-w4a16",
    "awq-w4a4",
    "dash-q-w3",
    "dllmquant++-w4a4",
    "dllmquant+-w4a4",
    "dllmquant+weighted-w4a4",
    "dllmquant-w4a16",
    "dllmquant-w4a4",
    "duquant-w4a4",
    "fair-adaptation-w4a4",
    "gptq-w4a16",
    "gptq-w4a4",
    "quant-dllm-w2",
    "quarot-gptq-w4a4",
    "quarot-qdlm-w4a4",
    "quarot-rtn-w4a4",
    "rtn-w4a16",
    "rtn-w4a4",
    "smoothquant-gptq-w4a4",
    "smoothquant-qdlm-w4a4",
    "smoothquant-w8a8",
    "soloq-w4a4",
    "tac-gptq-w4a4",
    "w2",
    "w3",
    "w8a8",
)


def toml(name="a", **parts):
    return tomli_w.dumps({"name": name} | parts)


def test_the_shipped_recipes_are_those_that_are_promised():
    assert recipe_names() == SHIPPED
    assert all(find_recipe(name).name == name and find_recipe(name).description for name in SHIPPED)


@pytest.mark.parametrize("name", SHIPPED)
def test_toml_there_and_back(name):
    recipe = find_recipe(name)
    text = recipe.to_toml()
    assert Recipe.from_toml(text) == recipe
    assert Recipe.from_toml(text).digest() == recipe.digest()
    assert Recipe.from_dict(recipe.to_dict()) == recipe
    tree = tomllib.loads(text)
    assert set(tree) == {f.name for f in dataclasses.fields(Recipe)}  # defaults are written out
    for part, kind in PARTS.items():
        assert set(tree[part]) == {f.name for f in dataclasses.fields(kind)}
    assert hash(recipe) == hash(Recipe.from_toml(text))


def test_what_the_shipped_recipes_share():
    """Every row of the main table has the same grids, V and softmax; only weights, tokens, V's scale and states differ."""
    rtn, gptq, dllm = (find_recipe(f"{name}-w4a4") for name in ("rtn", "gptq", "dllmquant"))
    for recipe in (rtn, gptq, dllm):
        assert (recipe.weights.bits, recipe.weights.scheme, recipe.weights.group_size, recipe.weights.scale_format) == (
            4,
            "asym_incl0",
            128,
            "float16",
        )
        assert (recipe.activations.method, recipe.activations.scheme, recipe.activations.bits) == ("per_token", "sym_full", 4)
        assert (recipe.values.bits, recipe.probabilities.bits, recipe.skip) == (4, 16, ())
    assert (
        dllm.replace(tokens={"weighting": "uniform"}, values={"method": "minmax"}, calibration={"states": "iid"}).digest() == gptq.digest()
    )
    assert gptq.replace(weights={"method": "rtn"}).digest() == rtn.digest()
    assert dllm.tokens == Tokens(weighting="certainty", power=2.0, visible_weight=0.7, masked_weight=1.0, visible_confidence="zero")
    assert dllm.calibration.proportions == (0.3, 0.2, 0.2, 0.3)
    assert dllm.values.alphas == tuple(i / 100 for i in range(100, 79, -1))
    assert gptq.values.alphas == (1.0,)


@pytest.mark.parametrize(("parts", "named"), WRONG)
def test_a_wrong_field_is_named_in_one_line(parts, named):
    with pytest.raises(InputError, match=re.escape(named)) as caught:
        Recipe.from_toml(toml(**parts), "my.toml")
    assert str(caught.value).startswith("my.toml")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("parts", "told"),
    [
        ({"tokens": {"weighting": "cgq"}}, "my.toml.tokens.weighting is 'cgq'; allowed are 'uniform', 'certainty', 'fair_adaptation'"),
        (
            {"rewrites": [{"method": "awq", "inapplicable": "no"}]},
            "inapplicable of rewrite awq is 'no'; allowed are 'raise', 'skip', 'online'",
        ),
    ],
)
def test_a_wrong_choice_tells_the_right_ones(parts, told):
    with pytest.raises(InputError, match=re.escape(told)):
        Recipe.from_toml(toml(**parts), "my.toml")


@pytest.mark.parametrize(("parts", "named"), WRONG)
def test_nor_can_it_be_made_in_python(parts, named):
    """`replace` checks as the file reader does, and so does the constructor behind it."""
    with pytest.raises(UsageError):
        find_recipe("gptq-w4a16").replace(**parts)


@pytest.mark.parametrize("name", ["", "a b", "a/b", "a\n", 'a"b', None])
def test_names_fit_a_folder(name):
    tree = {} if name is None else {"name": name}
    with pytest.raises(InputError, match="name"):
        Recipe.from_dict(tree)


def test_all_fields_are_covered_by_a_wrong_value():
    """A field that is added later has to be added above, too."""
    tried = {(part, field) for parts, _ in WRONG for part, value in parts.items() if isinstance(value, dict) for field in value}
    assert tried >= {(part, f.name) for part, kind in PARTS.items() for f in dataclasses.fields(kind)}


def another(kind, field, value):
    """A different allowed value of a field."""
    special = {
        ("Weights", "scheme"): "sym_gptq",
        ("Activations", "scheme"): "asym_incl0",
        ("Values", "scheme"): "sym_gptq",
        ("QueriesKeys", "scheme"): "asym_incl0",
        ("Weights", "compat"): ("lazy",),
        ("Weights", "format"): "e4m3fn",
        ("Weights", "limit_skip"): ("v_proj",),
        ("Activations", "group_size"): 64,
        ("Probabilities", "bits"): 8,
        ("Calibration", "gen_length"): 128,
        ("Calibration", "block_length"): 32,
        ("Calibration", "tokens_per_step"): 2,
        ("Calibration", "proportions"): (0.5, 0.5),
    }
    if (kind.__name__, field) in special:
        return special[kind.__name__, field]
    hint = get_type_hints(kind)[field]
    if get_origin(hint) is Literal:
        return next(choice for choice in get_args(hint) if choice not in (value, "none"))
    if isinstance(value, bool):
        return not value
    return value + 1 if isinstance(value, int) else value * 0.5 if value else 0.25


FIELDS = [(part, f.name) for part, kind in PARTS.items() for f in dataclasses.fields(kind)]


@pytest.mark.parametrize(("part", "field"), FIELDS)
def test_the_digest_sees_every_field(part, field):
    recipe = find_recipe("dllmquant-w4a4")
    changed = recipe.replace(**{part: {field: another(PARTS[part], field, getattr(getattr(recipe, part), field))}})
    assert changed != recipe
    assert changed.digest() != recipe.digest()
    assert Recipe.from_toml(changed.to_toml()) == changed


def test_the_digest_sees_skip_and_propagate_and_neither_name_nor_description():
    recipe = find_recipe("dllmquant-w4a4")
    assert recipe.replace(name="b", description="c").digest() == recipe.digest()
    assert len({recipe.digest(), recipe.replace(skip=("q_proj",)).digest(), recipe.replace(propagate="float").digest()}) == 3


def test_the_digest_does_not_depend_on_how_a_number_is_written():
    whole = Recipe(name="a", tokens=Tokens(power=2, masked_weight=1), weights=Weights(range_ratio=1, compat=["lazy"]))
    point = Recipe(name="a", tokens=Tokens(power=2.0, masked_weight=1.0), weights=Weights(range_ratio=1.0, compat=("lazy",)))
    assert whole == point
    assert whole.digest() == point.digest() == Recipe.from_toml(whole.to_toml()).digest()
    assert hash(whole) == hash(point)


def test_alphas_run_from_one_to_the_lowest():
    assert Values(method="ia_aq", lowest_alpha=0.9, alpha_step=0.05).alphas == (1.0, 0.95, 0.9)
    assert Values(method="ia_aq", lowest_alpha=0.9, alpha_step=0.03).alphas == (1.0, 0.97, 0.94, 0.91)
    assert Values(method="ia_aq", lowest_alpha=1.0).alphas == (1.0,)


def test_files_and_names(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(find_recipe("w3").to_toml())
    assert find_recipe(str(path)) == find_recipe("w3")
    with pytest.raises(UsageError, match=r"unknown recipe 'w5'; known are .*dllmquant-w4a16, .*\.toml$"):
        find_recipe("w5")
    with pytest.raises(UsageError, match="unknown recipe"):
        find_recipe("../recipe")
    with pytest.raises(InputError, match=r"none.toml: cannot be read"):
        find_recipe(str(tmp_path / "none.toml"))
    for data, message in (
        (b"name = ", "not valid TOML"),
        (b"\xff\xfe", "cannot be read as text"),
        (b'name = "a b"', "mine.toml: a recipe's name"),
    ):
        path.write_bytes(data)
        with pytest.raises(InputError, match=message) as caught:
            find_recipe(str(path))
        assert str(path) in str(caught.value)


# The table.


def test_rows_of_the_main_table():
    recipe = find_recipe("dllmquant-w4a4")
    rows = comparison(recipe)
    assert list(rows) == ["RTN", "GPTQ", "dllmquant-w4a4", "dllmquant-w4a4, 4-bit softmax"]
    assert rows["RTN"].digest() == find_recipe("rtn-w4a4").digest()
    assert rows["GPTQ"].digest() == find_recipe("gptq-w4a4").digest()
    assert rows["dllmquant-w4a4"] is recipe
    assert rows["dllmquant-w4a4, 4-bit softmax"].digest() == recipe.replace(probabilities={"bits": 4}).digest()


def test_rows_that_coincide_are_there_once():
    assert list(comparison(find_recipe("gptq-w4a4"))) == ["RTN", "GPTQ", "gptq-w4a4, 4-bit softmax"]
    assert list(comparison(find_recipe("gptq-w4a16"))) == ["RTN", "GPTQ"]
    assert list(comparison(find_recipe("w8a8"))) == ["RTN", "GPTQ", "w8a8, 4-bit softmax"]
    assert list(comparison(find_recipe("dllmquant-w4a4").replace(probabilities={"bits": 4}))) == ["RTN", "GPTQ", "dllmquant-w4a4"]


def test_a_recipe_may_bear_the_name_of_a_baseline():
    rows = comparison(find_recipe("dllmquant-w4a16").replace(name="GPTQ"))
    assert list(rows) == ["RTN", "GPTQ", "recipe GPTQ"]
    assert rows["GPTQ"].tokens.weighting == "uniform"
    assert rows["recipe GPTQ"].tokens.weighting == "certainty"


@pytest.mark.parametrize("method", ["rtn", "gptq"])
@pytest.mark.parametrize("name", SHIPPED)
def test_a_baseline_differs_in_the_ideas_only(name, method):
    recipe = find_recipe(name)
    base = baseline(recipe, method)
    assert base.weights == dataclasses.replace(recipe.weights, method=method, limits="none")
    assert base.tokens.weighting == "uniform"
    assert base.rewrites == ()
    assert base.values.method == ("minmax" if recipe.values.method == "ia_aq" else recipe.values.method)
    assert dataclasses.replace(base.values, method=recipe.values.method) == recipe.values
    integers = "per_token" if recipe.activations.method == "lloyd_max" else recipe.activations.method
    assert base.attention_output.method == "none"
    assert (base.activations, base.probabilities, base.skip, base.propagate) == (
        dataclasses.replace(recipe.activations, method=integers),
        recipe.probabilities,
        recipe.skip,
        recipe.propagate,
    )
    assert base.calibration.states == ("iid" if base.needs_calibration else "none")
    assert dataclasses.replace(base.calibration, states="iid") == dataclasses.replace(recipe.calibration, states="iid")
    assert isinstance(base.calibration, Calibration)
