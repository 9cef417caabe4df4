"""A whole model quantized by the package and by hand: the same codes, scales and zeros, tensor by tensor."""

from __future__ import annotations

import numpy as np
import pytest

import refquant as rq
from refquant.apply.quantize import quantize_model
from refquant.apply.states import state_confidences
from tests.apply.tiny import recipe, states_of, tiny
from tests.apply.walk import Walk, rms

P = "model.transformer.blocks.{}.{}"
ACTS = {"method": "per_token", "bits": 4}
IA_AQ = {"method": "ia_aq", "bits": 4}
SIXTEEN = {"bits": 16}


def certainty(m, states):
    return [rq.certainty_weights(s.masked, c) for s, c in zip(states, state_confidences(m, states, "argmax"), strict=True)]


# name: (changes to the recipe, options of the walk)
CASES = {
    "rtn": ({"weights": {"method": "rtn"}}, {"method": "rtn"}),
    "gptq": ({}, {}),
    "gptq, 2 bits": ({"weights": {"bits": 2}}, {"bits": 2}),
    "gptq, act order": ({"weights": {"act_order": True}}, {"gptq": {"act_order": True}}),
    "gptq, static groups": (
        {"weights": {"act_order": True, "static_groups": True}},
        {"gptq": {"act_order": True, "static_groups": True}},
    ),
    "gptq, damping": ({"weights": {"damping": 0.3}}, {"gptq": {"damping": 0.3}}),
    "gptq, float propagation": ({"propagate": "float"}, {"propagate": "float"}),
    "gptq, 4-bit inputs": ({"activations": ACTS}, {"acts": 4}),
    "gptq, Hessian of 4-bit inputs": (
        {"activations": ACTS, "weights": {"hessian_inputs": "quantized"}},
        {"acts": 4, "hessian": "quantized"},
    ),
    "gptq, static 6-bit inputs": ({"activations": {"method": "static", "bits": 6}}, {"acts": 6, "act_kind": "static"}),
    "gptq, some skipped": ({"skip": ("q_proj", "ff_out"), "activations": ACTS}, {"skip": ("q_proj", "ff_out"), "acts": 4}),
    "cgq": ({"tokens": {"weighting": "certainty"}}, {"token_weights": certainty}),
    "min/max V": ({"values": {"method": "minmax", "bits": 4}}, {"v_bits": 4}),
    "IA-AQ": ({"values": IA_AQ, "probabilities": SIXTEEN}, {"v_bits": 4, "v_method": "ia_aq", "p_bits": 16}),
    "IA-AQ, 2-bit softmax": (
        {"values": IA_AQ | {"per": "feature"}, "probabilities": {"bits": 2}},
        {"v_bits": 4, "v_method": "ia_aq", "per": "feature", "p_bits": 2},
    ),
    "IA-AQ, before q, k, v": ({"values": IA_AQ | {"calibrate": "before_qkv"}}, {"v_bits": 4, "v_method": "ia_aq", "early_v": True}),
    "IA-AQ, a feature": ({"values": IA_AQ | {"per": "feature"}}, {"v_bits": 4, "v_method": "ia_aq", "per": "feature"}),
    "IA-AQ, mass": ({"values": IA_AQ | {"gram": "mass"}}, {"v_bits": 4, "v_method": "ia_aq", "gram": "mass"}),
    "IA-AQ, masked rows": ({"values": IA_AQ | {"rows": "masked"}}, {"v_bits": 4, "v_method": "ia_aq", "masked_rows": True}),
    "everything": (
        {"tokens": {"weighting": "certainty"}, "activations": ACTS, "values": IA_AQ, "probabilities": SIXTEEN},
        {"token_weights": certainty, "acts": 4, "v_bits": 4, "v_method": "ia_aq", "p_bits": 16},
    ),
}


def both(case, **changes):
    parts, options = CASES[case]
    m, states = tiny(**changes), states_of()
    if "token_weights" in options:
        options = options | {"token_weights": certainty(m, states)}
    return m, quantize_model(m, recipe(**parts), states), Walk(m, states, **options).run()


@pytest.mark.parametrize("case", CASES)
def test_same_tensors_as_by_hand(case):
    m, found, walk = both(case)
    assert {n: q.digest() for n, q in found.weights.items()} == {n: q.digest() for n, q in walk.weights.items()}
    assert {r.name for r in found.records} == set(walk.weights)
    assert set(found.value_grids) == set(walk.v_grids)
    for index, (scale, zero) in walk.v_grids.items():
        grid = found.value_grids[index]
        assert (grid.scale == scale).all()
        assert (grid.zero == zero).all()
        assert found.value_alphas[index] == pytest.approx(walk.alphas[index], abs=1e-12)
    # What the attached model computes is what the walk computed behind the last block.
    last = [walk.states[0], walk.states[1]]
    for number, state in enumerate(last):
        got = found.attach(m).hidden_states(state.ids[None])[-1][0]
        if walk.o["propagate"] == "quantized":
            np.testing.assert_allclose(got, rms(walk.final[number], m.parameters["model.transformer.ln_f.weight"]), rtol=0, atol=1e-9)


def test_static_input_grids_are_those_of_the_walk():
    _, found, walk = both("gptq, static 6-bit inputs")
    assert set(found.input_grids) == set(found.weights)
    for names in (("q_proj", "k_proj", "v_proj"), ("attn_out",), ("ff_proj", "up_proj"), ("ff_out",)):
        for name in names:
            scale = found.input_grids[P.format(1, name)].scale  # the walk keeps the last block's
            assert scale.shape == (1, 1)
            assert scale[0, 0] == pytest.approx(walk.tops[names[0]] / 31, rel=1e-12)


@pytest.mark.parametrize("name", ["attn_out", "ff_proj", "up_proj", "ff_out"])
def test_a_group_is_calibrated_behind_the_quantized_groups_before_it(name):
    """A walk that takes every group's inputs from the untouched block finds other codes: the order shows."""
    m, states = tiny(), states_of()
    found = quantize_model(m, recipe({"bits": 2}), states)
    wrong = Walk(m, states, bits=2, causal=False).run()
    assert found.weights[P.format(0, "q_proj")].digest() == wrong.weights[P.format(0, "q_proj")].digest()
    assert found.weights[P.format(0, name)].digest() != wrong.weights[P.format(0, name)].digest()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("gptq", "cgq"),
        ("gptq", "gptq, float propagation"),
        ("gptq, 4-bit inputs", "gptq, Hessian of 4-bit inputs"),
        ("min/max V", "IA-AQ"),
        ("IA-AQ", "IA-AQ, before q, k, v"),
        ("IA-AQ", "IA-AQ, mass"),
        ("IA-AQ", "IA-AQ, masked rows"),
        ("gptq, act order", "gptq, static groups"),
    ],
)
def test_every_switch_changes_something(one, other):
    """Else the cases above could not tell the readings apart."""
    results = []
    for case in (one, other):
        _, found, _ = both(case)
        results.append([q.digest() for q in found.weights.values()] + [g.scale.tobytes() for g in found.value_grids.values()])
    assert results[0] != results[1]


def test_float32_and_batches_do_not_matter_beyond_rounding(monkeypatch):
    m, states = tiny(), states_of(lengths=(9,) * 6)
    whole = quantize_model(m, recipe(), states)
    monkeypatch.setattr("refquant.apply.quantize.BATCH_TOKENS", 18)
    apart = quantize_model(m, recipe(), states)
    assert {n: q.digest() for n, q in whole.weights.items()} == {n: q.digest() for n, q in apart.weights.items()}
