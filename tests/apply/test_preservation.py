"""The law of rewrites for all of them, found in the tables rather than listed: whoever adds one is held to it here.

Each by itself on every kind of checkpoint, each after each other one, and the rewrites of every recipe that comes with the package.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest

import model
from model import Transformer
from refquant.apply.quantize import quantize_model
from refquant.apply.recipe import Recipe, find_recipe, recipe_names
from refquant.apply.rewrite_parts import (
    REWRITES,
    Awq,
    BlockRotations,
    RandomBlockRotations,
    RewritePart,
    Rotations,
    Smoothing,
    check_together,
)
from refquant.apply.states import CalibrationState
from refquant.errors import InputError, UsageError
from refquant.methods.catalog import METHODS, find_card

DATA = Path(__file__).parents[1] / "data" / "llada"
VARIANTS = sorted(folder.name for folder in DATA.iterdir() if folder.is_dir())
NO_STREAM = {"sequential_gelu_layernorm_f32": "subtracts the mean", "bias_everywhere_f32": "adds a bias"}
PLACES = ("attn_in", "attn_out", "mlp_in", "mlp_out")
BOUND = 1e-10
EXAMPLES: dict[str, RewritePart] = {
    "smoothquant": Smoothing(places=PLACES, inapplicable="online", counted=("q_proj", "up_proj")),
    "awq": Awq(candidates=3, inapplicable="online"),
    "quarot": Rotations(odd_sizes="blocks"),
    "duquant": BlockRotations(block=8, steps=3),
    "soloq": RandomBlockRotations(block=4),
}


def loaded(name: str) -> tuple[Transformer, list[CalibrationState]]:
    m = model.load(DATA / name, "float64")
    rng, states = np.random.default_rng(3), []
    for length in (24, 24, 17):
        ids = rng.integers(0, m.architecture.rows - 1, length)
        states.append(CalibrationState(ids=ids, masked=np.zeros(length, bool), final_ids=ids, line=0))
    return m, states


def change(m: Transformer, states: list[CalibrationState], *rewrites: RewritePart) -> float:
    """Largest change of a logit that rewrites alone make, with nothing quantized, relative to the largest logit."""
    plan = Recipe(name="t", rewrites=rewrites).replace(
        weights={"method": "none", "bits": 3, "group_size": 16}, calibration={"min_expert_tokens": 1}
    )
    ids = np.random.default_rng(0).integers(0, m.architecture.rows - 1, (2, 9))
    ids[:, 4:7] = m.config.mask_token_id or 0
    before = m.logits(ids)
    found = quantize_model(m, plan, states)
    assert found.rewritten.tensors or found.rewritten.online
    return float(np.abs(found.attach(m).logits(ids) - before).max() / np.abs(before).max())


def test_every_rewrite_stands_here() -> None:
    assert set(EXAMPLES) == set(REWRITES)
    assert all(type(part) is REWRITES[name] for name, part in EXAMPLES.items())
    preserving = {name for name, target in METHODS.items() if target.startswith(("refquant.methods.scale.", "refquant.methods.rotate."))}
    assert preserving == set(REWRITES), "a method that scales or rotates is a rewrite of recipes, and held to the law here"
    assert preserving >= {name for name in METHODS if "function_preserved" in find_card(name).laws}


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("method", EXAMPLES)
def test_each_preserves_the_function_of_every_kind_of_checkpoint(method: str, name: str) -> None:
    m, states = loaded(name)
    if method == "quarot" and name in NO_STREAM:
        with pytest.raises(UsageError, match=NO_STREAM[name]):
            change(m, states, EXAMPLES[method])
        assert change(m, states, Rotations(odd_sizes="blocks", rotations=("R2", "R3", "R4"))) < BOUND
    else:
        assert change(m, states, EXAMPLES[method]) < BOUND


def one_turns_scores(first: RewritePart, second: RewritePart) -> RewritePart:
    """The second one, leaving queries and keys to the first."""
    if not (first.turns_scores and second.turns_scores):
        return second
    return replace(second, scores=False)  # type: ignore[type-var, call-arg]


PAIRS = [(a, b) for a, b in permutations(EXAMPLES, 2) if EXAMPLES[a].whole_model or not EXAMPLES[b].whole_model]
SOME = ("base_mha_f32", "dream_gqa_f32", "llada_moe_f32", "sequential_swiglu_mqa_f32")


@pytest.mark.parametrize("name", [n if n in SOME else pytest.param(n, marks=pytest.mark.slow) for n in VARIANTS if n not in NO_STREAM])
@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_each_after_each_other(first: str, second: str, name: str) -> None:
    """No rewrite knows of another; factors that cannot be fused in front of a rotation are applied behind it."""
    m, states = loaded(name)
    parts = (EXAMPLES[first], one_turns_scores(EXAMPLES[first], EXAMPLES[second]))
    if "moe" in name and first in ("duquant", "soloq") and second in ("smoothquant", "awq"):
        with pytest.raises(InputError, match=r"mlp_in of .* goes through an online transform"):
            change(m, states, *parts)
        parts = (parts[0], replace(parts[1], places=("attn_in", "attn_out", "mlp_out")))  # type: ignore[type-var, call-arg]
    assert change(m, states, *parts) < BOUND


SHIPPED = [name for name in recipe_names() if find_recipe(name).rewrites]


def sized(part: RewritePart) -> RewritePart:
    """A recipe's rewrite on checkpoints of few features."""
    if isinstance(part, BlockRotations):
        return replace(part, block=8, steps=3)
    if isinstance(part, RandomBlockRotations):
        return replace(part, block=4)
    return replace(part, odd_sizes="blocks") if isinstance(part, Rotations) else part


@pytest.mark.parametrize("name", ["base_mha_f32", "dream_gqa_f32"])
@pytest.mark.parametrize("recipe", SHIPPED)
def test_the_rewrites_of_every_recipe_preserve_the_function(recipe: str, name: str) -> None:
    m, states = loaded(name)
    assert change(m, states, *(sized(part) for part in find_recipe(recipe).rewrites)) < BOUND


def test_what_would_be_taken_in_another_order_is_refused() -> None:
    with pytest.raises(UsageError, match=r"recipe t: rewrites: quarot rewrites the whole model .* before smoothquant"):
        Recipe(name="t", rewrites=(Smoothing(), Rotations()))
    with pytest.raises(InputError, match="quarot rewrites the whole model"):
        Recipe.from_toml('name = "t"\n[[rewrites]]\nmethod = "awq"\n[[rewrites]]\nmethod = "quarot"\n')
    check_together((Rotations(), Rotations(rotations=("R1",), seed=1), Smoothing(), Awq()))


def test_two_that_transform_queries_and_keys_are_refused() -> None:
    with pytest.raises(UsageError, match="quarot and duquant both transform queries and keys; leave R3 out"):
        Recipe(name="t", rewrites=(Rotations(), BlockRotations()))
    Recipe(name="t", rewrites=(Rotations(), BlockRotations(scores=False)))
    Recipe(name="t", rewrites=(Rotations(rotations=("R1",)), RandomBlockRotations()))


def test_a_place_behind_a_rotation_is_raised_skipped_or_applied_at_run_time() -> None:
    """QuaRot leaves its part across heads online before attn_out, and R4 before ff_out: no factor can be fused in front of them."""
    m, states = loaded("base_mha_f32")
    with pytest.raises(InputError, match=r"attn_out of .*attn_out takes no factors: its input goes through an online transform"):
        change(m, states, Rotations(), Smoothing(places=PLACES))
    out = "model.transformer.blocks.0.attn_out"
    for how, kinds in (("skip", ["hadamard"]), ("online", ["hadamard", "scale"])):
        plan = Recipe(name="t", rewrites=(Rotations(), Smoothing(places=PLACES, inapplicable=how))).replace(weights={"method": "none"})  # type: ignore[arg-type]
        found = quantize_model(m, plan, states).rewritten
        assert [transform.kind for transform in found.online[out]] == kinds


def test_counted_names_at_least_one_linear_of_a_place() -> None:
    m, states = loaded("base_mha_f32")
    with pytest.raises(UsageError, match=r"mlp_in of .*blocks\.0\.ff_proj: counted names q_proj, gate_proj; here are ff_proj, up_proj"):
        change(m, states, Smoothing(counted=("q_proj", "gate_proj")))
