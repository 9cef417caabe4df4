"""Rewrites by factors on whole models: the function is preserved on every family, or the refusal says why it could not be.

Rotations: test_rotating.py. What SmoothQuant and AWQ choose in the pass over the blocks: test_rewrite_walk.py.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import model
from model import Keep
from refquant.apply.layers import OnlineLinear
from refquant.apply.quantize import quantize_model
from refquant.apply.recipe import Recipe, Weights
from refquant.apply.rewrite_parts import Awq, Smoothing
from refquant.apply.rewriting import module_roles, rewrite_model, untied
from refquant.apply.scale_sites import scale_sites
from refquant.apply.states import CalibrationState
from refquant.core.rewrite import Fold, Joint, Rewrite
from refquant.core.transform import BlockRotation, Permutation, Scale
from refquant.errors import InputError, UsageError
from tests.apply.tiny import config_of, tensors_of, tiny

DATA = Path(__file__).parents[1] / "data" / "llada"
VARIANTS = sorted(folder.name for folder in DATA.iterdir() if folder.is_dir())
PLACES = ("attn_in", "attn_out", "mlp_in", "mlp_out")
GROUPED = {
    name: "serves" for name in VARIANTS if any(word in name for word in ("gqa", "mqa", "bias_everywhere", "llada2", "mixed", "qk_norm"))
}
OBSTACLES = {("attn_out", name): why for name, why in (GROUPED | {"dream_bf16": "serves"}).items()}
OBSTACLES |= {("mlp_out", "sequential_gelu_layernorm_f32"): "gelu stands between"}
BOUND = 1e-10


def ids_of(m):
    ids = np.random.default_rng(0).integers(0, m.architecture.rows - 1, (2, 9))
    ids[:, 4:7] = m.config.mask_token_id or 0
    return ids


def change(m, rewritten):
    """Largest change of a logit, relative to the largest logit."""
    before = m.logits(ids_of(m))
    return np.abs(rewritten.logits(ids_of(m)) - before).max() / np.abs(before).max()


def factors(rng, width):
    return 10.0 ** rng.uniform(-2, 2, width)


def width_of(m, site):
    return m.linears[site.searched[0]].weight.shape[1]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", VARIANTS)
def test_factors_preserve_the_function_of_every_variant(name, place):
    """[SMOOTH-3] for factors over four orders of magnitude in every block; with an obstacle the message names it."""
    m, rng = model.load(DATA / name, "float64"), np.random.default_rng(1)
    sites = [site for i in range(m.config.n_layers) for site in scale_sites(m.architecture, i) if site.place == place]
    assert sites
    if (place, name) in OBSTACLES:
        for site in sites:
            with pytest.raises(InputError, match=OBSTACLES[place, name]):
                site.joint(factors(rng, width_of(m, site)))
        return
    rewritten = rewrite_model(m, Rewrite(method="t", steps=tuple(site.joint(factors(rng, width_of(m, site))) for site in sites)))
    changed = [n for n in m.parameters if not np.array_equal(m.parameters[n], rewritten.parameters[n])]
    assert {n.removesuffix(".weight").removesuffix(".bias") for n in changed} == {n for s in sites for n in (s.producer, *s.consumers)}
    assert change(m, rewritten) < BOUND
    broken = sites[0].consumers[-1 if place == "attn_in" else 0] + ".weight"  # the values, because a norm of queries hides their size
    halved = dict(rewritten.parameters) | {broken: rewritten.parameters[broken] / 2}
    assert change(m, model.build(m.config, halved, "float64")) > 1e-6  # the law can fail


@pytest.mark.parametrize("name", VARIANTS)
def test_online_transforms_before_every_linear_preserve_the_function(name):
    """Factors, a permutation and a rotation one after the other, at run time, before all linears; and a shear-free scale of q and k."""
    m, rng = model.load(DATA / name, "float64"), np.random.default_rng(2)
    steps = []
    for linear in m.linears:
        width = m.linears[linear].weight.shape[1]
        rotation = np.linalg.qr(rng.standard_normal((1, width, width)))[0]
        for transform in (Scale(factors=factors(rng, width)), Permutation(order=rng.permutation(width)), BlockRotation(blocks=rotation)):
            steps.append(Joint(transform=transform, consumers=(linear,)))
    scores = {i: Scale(factors=factors(rng, m.architecture.head_dim)) for i in range(m.config.n_layers)}
    rewritten = rewrite_model(m, Rewrite(method="t", steps=tuple(steps), scores=scores))
    assert all(isinstance(linear, OnlineLinear) and len(linear.online) == 3 for linear in rewritten.linears.values())
    assert change(m, rewritten) < BOUND


@pytest.mark.parametrize("name", [n for n in VARIANTS if n != "sequential_gelu_layernorm_f32"])
def test_gains_fold_into_whoever_reads_the_norm(name):
    m = untied(model.load(DATA / name, "float64"))
    steps = []
    for index in range(m.config.n_layers):
        for site in scale_sites(m.architecture, index):
            if site.place in ("attn_in", "mlp_in"):
                steps.append(Fold(norm=site.producer, consumers=site.consumers))
    steps.append(Fold(norm=m.architecture.final_norm.name, consumers=(m.architecture.head.name,)))
    if "bias_everywhere" in name:
        with pytest.raises(InputError, match="bias, which does not fold"):
            rewrite_model(m, Rewrite(method="t", steps=tuple(steps)))
        return
    rewritten = rewrite_model(m, Rewrite(method="t", steps=tuple(steps)))
    gains = {rewritten.parameters[f"{step.norm}.weight"].tobytes() for step in steps}
    assert gains == {np.full(m.architecture.width, 0.0 if "gemma" in name else 1.0).tobytes()}
    assert change(m, rewritten) < BOUND


def test_a_gain_of_zero_folds():
    m = tiny()
    norm = scale_sites(m.architecture, 0)[0]
    gain = m.parameters[f"{norm.producer}.weight"].copy()
    gain[3] = 0
    m = m.replace(parameters={f"{norm.producer}.weight": gain})
    rewritten = rewrite_model(m, Rewrite(method="t", steps=(Fold(norm=norm.producer, consumers=norm.consumers),)))
    assert (rewritten.parameters[f"{norm.consumers[0]}.weight"][:, 3] == 0).all()
    assert change(m, rewritten) < BOUND


@pytest.mark.parametrize("part", [Smoothing(places=PLACES, alpha=0.7, inapplicable="online"), Awq(candidates=4, inapplicable="online")])
@pytest.mark.parametrize("name", VARIANTS)
def test_what_smoothquant_and_awq_choose_preserves_the_function(name, part):
    """[SMOOTH-2] [AWQ-2]: the pass with nothing quantized, on every variant; factors that cannot be fused are applied online."""
    m = model.load(DATA / name, "float64")
    rng = np.random.default_rng(3)
    states = []
    for length in (24, 24, 17):
        ids = rng.integers(0, m.architecture.rows - 1, length)
        states.append(CalibrationState(ids=ids, masked=np.zeros(length, bool), final_ids=ids, line=0))
    recipe = Recipe(name="t", weights=Weights(method="none", bits=3, group_size=16), rewrites=(part,)).replace(
        calibration={"min_expert_tokens": 1}
    )
    found = quantize_model(m, recipe, states)
    assert change(m, found.attach(m)) < BOUND
    assert len(found.rewritten.notes) == m.config.n_layers
    online = {linear for (place, variant) in OBSTACLES if variant == name for linear in _consumers(m, place)}
    assert set(found.rewritten.online) == online
    assert found.rewritten.tensors


def _consumers(m, place):
    return [
        name for i in range(m.config.n_layers) for site in scale_sites(m.architecture, i) if site.place == place for name in site.searched
    ]


def test_what_does_not_apply_says_why():
    m = tiny()
    q, norm = "model.transformer.blocks.0.q_proj", "model.transformer.blocks.0.attn_norm"
    scale, turn = Scale(factors=np.ones(16)), Permutation(order=np.arange(16))

    def refused(told, m=m, **joint):
        with pytest.raises(InputError, match=told):
            rewrite_model(m, Rewrite(method="t", steps=(Joint(**joint),)))

    refused("the model has no module q_proj", transform=scale, consumers=("q_proj",))
    refused("a norm's gain takes in one factor a feature", transform=turn, producers=(norm,), consumers=(q,))
    refused("has 16 features at this joint; the scale is of 3", transform=Scale(factors=np.ones(3)), producers=(norm,), consumers=(q,))
    refused("is taken out of a linear", transform=scale, producers=(q,), consumers=(norm,))
    refused("online transform stands before a linear of a block", transform=scale, consumers=("model.transformer.ff_out",))
    plain = tiny(layer_norm_with_affine=False)
    refused("has no gain that could take a factor in", m=plain, transform=scale, producers=(norm,), consumers=(q,))
    assert scale_sites(plain.architecture, 0)[0].obstacle.endswith("has no gain to take them in")
    tied = tiny(weight_tying=True)
    refused("is the head, too", m=tied, transform=scale, producers=("model.transformer.wte",), consumers=(q,))
    online = rewrite_model(m, Rewrite(method="t", steps=(Joint(transform=turn, consumers=(q,)),)))
    refused("has to come before that", m=online, transform=scale, producers=(norm,), consumers=(q,))
    refused("already quantized", m=m.replace({q: lambda x: x}), transform=scale, consumers=(q,))
    streamed = model.load(DATA / "base_mha_f32", stream=True)
    joint = scale_sites(streamed.architecture, 0)[0].joint(np.ones(streamed.architecture.width))
    with pytest.raises(UsageError, match="load the model into memory"):
        rewrite_model(streamed, Rewrite(method="t", steps=(joint,)))
    scores = Rewrite(method="t", scores={0: Scale(factors=np.ones(4))})
    with pytest.raises(InputError, match="already go through"):
        rewrite_model(rewrite_model(m, scores), scores)
    with pytest.raises(InputError, match="both transform queries and keys of block 0"):
        scores.then(scores)


def test_a_model_gets_a_head_of_its_own_and_computes_the_same_bytes():
    for changes in ({"weight_tying": True}, {"weight_tying": True, "include_bias": False}):
        m = tiny(**changes)
        own = untied(m)
        assert own.architecture.head is not None
        np.testing.assert_array_equal(own.logits(ids_of(m)), m.logits(ids_of(m)))
        assert untied(own) is own
    with pytest.raises(UsageError, match="as it was loaded"):
        untied(m.replace({name: linear.__call__ for name, linear in m.linears.items()}))


def test_roles_cover_every_tensor_but_norms_inside_attention():
    for name in VARIANTS:
        m = model.load(DATA / name)
        covered = {f"{module}.{end}" for module in module_roles(m.architecture) for end in ("weight", "bias")}
        left = set(m.parameters) - covered
        inner = ("q_norm", "k_norm", "query_layernorm", "key_layernorm")
        assert all(any(norm in tensor for norm in inner) or tensor.endswith("expert_bias") for tensor in left), left


def test_replaced_parameters_reach_linears_norms_and_head():
    config = config_of()
    m = model.build(config, tensors_of(config, 0), "float64")
    other = model.build(config, tensors_of(config, 1), "float64")
    np.testing.assert_array_equal(m.replace(parameters=dict(other.parameters)).logits(ids_of(m)), other.logits(ids_of(m)))
    name = "model.transformer.blocks.0.q_proj.weight"
    for wrong, told in (
        ({"x.weight": np.ones(1)}, "there is no parameter"),
        ({name: np.ones((2, 2))}, "is float64"),
        ({name: np.ones((16, 16), "f4")}, "float32"),
    ):
        with pytest.raises(UsageError, match=told):
            m.replace(parameters=wrong)


def test_attention_and_mlp_are_the_blocks_own():
    m, keep = tiny(), Keep()
    x = m.embed(ids_of(m))
    context = m.context(*x.shape[:2])
    out = m.block(0, x, context, keep)
    prefix = "model.transformer.blocks.0."
    middle = x + m.attention(0, keep.last(prefix + "q_proj.input"), context)
    np.testing.assert_array_equal(middle + m.mlp(0, keep.last(prefix + "ff_proj.input")), out)
