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


WRONG = [
    ({"weights": {"bits": 0}}, "bits"),
    ({"weights": {"bits": 17}}, "bits"),
    ({"weights": {"bits": "4"}}, "bits"),
    ({"weights": {"bits": 4.0}}, "bits"),
    ({"weights": {"bits": True}}, "bits"),
    ({"weights": {"method": "awq"}}, "method"),
    ({"weights": {"scheme": "sym"}}, "scheme"),
    ({"weights": {"scheme": "sym_full", "bits": 1}}, "sym_full"),
    ({"weights": {"group_size": 0}}, "group_size"),
    ({"weights": {"group_size": -2}}, "group_size"),
    ({"weights": {"scale_format": "float8"}}, "scale_format"),
    ({"weights": {"format": "float8"}}, "format"),
    ({"weights": {"clip_search": 1}}, "clip_search"),
    ({"weights": {"range_ratio": 0.0}}, "range_ratio"),
    ({"weights": {"range_ratio": 1.5}}, "range_ratio"),
    ({"weights": {"damping": -0.1}}, "damping"),
    ({"weights": {"damping": float("nan")}}, "damping"),
    ({"weights": {"damping": float("inf")}}, "damping"),
    ({"weights": {"block_size": 0}}, "block_size"),
    ({"weights": {"act_order": "yes"}}, "act_order"),
    ({"weights": {"static_groups": 0}}, "static_groups"),
    ({"weights": {"compat": "istdaslab"}}, "compat"),
    ({"weights": {"compat": ["torch"]}}, "compat"),
    ({"weights": {"hessian_inputs": "int"}}, "hessian_inputs"),
    ({"weights": {"limits": "mse"}}, "limits"),
    ({"weights": {"limits": "awq", "method": "none"}}, "limits clip weights before they are quantized"),
    ({"weights": {"limit_steps": 0}}, "limit_steps"),
    ({"weights": {"limit_shrink": 0.0}}, "limit_shrink"),
    ({"weights": {"limit_shrink": 0.1, "limit_steps": 4}}, "leaves no limit to try"),
    ({"weights": {"limit_tokens": 0}}, "limit_tokens"),
    ({"weights": {"limit_skip": "q_proj"}}, "limit_skip"),
    ({"weights": {"limit_inputs": "none"}}, "limit_inputs"),
    ({"weights": {"limit_weighted": 1}}, "limit_weighted"),
    ({"tokens": {"weighting": "random"}}, "weighting"),
    ({"tokens": {"power": 0.0}}, "power"),
    ({"tokens": {"visible_weight": -1.0}}, "visible_weight"),
    ({"tokens": {"masked_weight": float("inf")}}, "masked_weight"),
    ({"tokens": {"visible_confidence": "half"}}, "visible_confidence"),
    ({"tokens": {"confidence": "entropy"}}, "confidence"),
    ({"activations": {"method": "dynamic"}}, "method"),
    ({"activations": {"bits": 32}}, "bits"),
    ({"activations": {"scheme": "x"}}, "scheme"),
    ({"activations": {"group_size": 0}}, "group_size"),
    ({"activations": {"range_ratio": 2}}, "range_ratio"),
    ({"values": {"method": "max"}}, "method"),
    ({"values": {"bits": 0}}, "bits"),
    ({"values": {"scheme": 4}}, "scheme"),
    ({"values": {"per": "tensor"}}, "per"),
    ({"values": {"gram": "diag"}}, "gram"),
    ({"values": {"rows": "visible"}}, "rows"),
    ({"values": {"lowest_alpha": 0.0}}, "lowest_alpha"),
    ({"values": {"alpha_step": 0.0}}, "alpha_step"),
    ({"values": {"alpha_step": 1e-9}}, "alpha_step"),
    ({"values": {"range_ratio": -1}}, "range_ratio"),
    ({"values": {"calibrate": "later"}}, "calibrate"),
    ({"queries_keys": {"bits": 0}}, "bits"),
    ({"queries_keys": {"operands": "queries"}}, "operands"),
    ({"queries_keys": {"per": "feature"}}, "per"),
    ({"queries_keys": {"range_ratio": 0.0}}, "range_ratio"),
    ({"queries_keys": {"method": "static"}}, "method"),
    ({"queries_keys": {"scheme": "sym"}}, "scheme"),
    ({"probabilities": {"bits": 17}}, "bits"),
    ({"probabilities": {"bits": -1}}, "bits"),
    ({"probabilities": {"range": "max"}}, "range"),
    ({"calibration": {"states": "c4"}}, "states"),
    ({"calibration": {"states": "none"}}, "calibration.states"),
    ({"calibration": {"samples": 0}}, "samples"),
    ({"calibration": {"prompts": 0}}, "prompts"),
    ({"calibration": {"gen_length": 0}}, "gen_length"),
    ({"calibration": {"gen_length": 24}}, "gen_length"),
    ({"calibration": {"block_length": 0}}, "block_length"),
    ({"calibration": {"tokens_per_step": 0}}, "tokens_per_step"),
    ({"calibration": {"tokens_per_step": 3}}, "tokens_per_step"),
    ({"calibration": {"temperature": -1.0}}, "temperature"),
    ({"calibration": {"proportions": [0.3, -0.1]}}, "proportions"),
    ({"calibration": {"proportions": []}}, "proportions"),
    ({"calibration": {"proportions": [0, 0]}}, "proportions"),
    ({"calibration": {"bins": "block"}}, "bins"),
    ({"calibration": {"joint": 1}}, "joint"),
    ({"calibration": {"min_distinct": 1.1}}, "min_distinct"),
    ({"calibration": {"min_expert_tokens": 0}}, "min_expert_tokens"),
    ({"tokens": {"routing": "all"}}, "routing"),
    ({"tokens": {"frontier": 0}}, "frontier"),
    ({"tokens": {"frontier_weight": -1.0}}, "frontier_weight"),
    ({"tokens": {"early_boost": -1.0}}, "early_boost"),
    ({"tokens": {"floor": -1.0}}, "floor"),
    ({"tokens": {"normalize": "sum"}}, "normalize"),
    ({"weights": {"steps": -1}}, "steps"),
    ({"weights": {"mixed_ratio": 0.6}}, "mixed_ratio"),
    ({"weights": {"emphasis": 0.0}}, "emphasis"),
    ({"weights": {"deviations": -1.0}}, "deviations"),
    ({"weights": {"saliency": "both"}}, "saliency"),
    ({"weights": {"scale_correction": 1}}, "scale_correction"),
    ({"weights": {"method": "quant_dllm", "bits": 2, "scheme": "sym_full"}}, "codes of their own; leave out scheme"),
    ({"weights": {"method": "quant_dllm"}}, "1 to 3 bits"),
    ({"weights": {"method": "quant_dllm", "bits": 3, "mixed_ratio": 0.1}}, "2 with a mixed_ratio"),
    ({"weights": {"method": "quant_dllm", "bits": 2, "group_size": -1}}, "blocks of group_size columns"),
    ({"weights": {"method": "lloyd_max", "bits": 9}}, "1 to 8 bits"),
    ({"weights": {"method": "lloyd_max", "limits": "awq"}}, "limits clip to a grid of integers"),
    ({"weights": {"method": "lloyd_max", "format": "nf4"}}, "leave out format"),
    ({"activations": {"scale_correction": 0}}, "scale_correction"),
    ({"activations": {"method": "lloyd_max", "range_ratio": 0.9}}, "lloyd_max has a scale of its own"),
    ({"activations": {"method": "lloyd_max", "bits": 9}}, "at most 8 bits"),
    ({"values": {"method": "ia_aq", "per": "token"}}, "per 'token' is for scales at run time"),
    ({"values": {"method": "per_token", "per": "feature"}}, "per 'feature' is for static scales"),
    ({"probabilities": {"range": "log2", "bits": 8}}, "at most 7 bits"),
    ({"attention_output": {"method": "sgat"}}, "method"),
    ({"attention_output": {"block": 0}}, "block"),
    ({"attention_output": {"damping": -1.0}}, "damping"),
    ({"attention_output": {"shrinkage": 1.5}}, "shrinkage"),
    ({"calibration": {"visible_share": 1.5}}, "visible_share"),
    ({"skip": "q_proj"}, "skip"),
    ({"skip": [1]}, "skip"),
    ({"propagate": "both"}, "propagate"),
    ({"description": 1}, "description"),
    ({"weights": 4}, "weights"),
    ({"wieghts": {}}, "wieghts"),
    ({"weights": {"bit": 4}}, "weights: unknown field 'bit'; allowed are method, bits"),
    ({"calibration": {"sample": 4}}, "calibration: unknown field 'sample'"),
]


@pytest.mark.parametrize(("parts", "named"), WRONG)
def test_a_wrong_field_is_named_in_one_line(parts, named):
    with pytest.raises(InputError, match=re.escape(named)) as caught:
        Recipe.from_toml(toml(**parts), "my.toml")
    assert str(caught.value).startswith("my.toml")
    assert "\n" not in str(caught.value)


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
