"""Experts are linears: their own Hessians, the tokens that reach them, and what is too few."""

from pathlib import Path

import numpy as np
import pytest

import model
import refquant as rq
from refquant.apply.checkpoint import Provenance, input_digest, load, save_quantized
from refquant.apply.experts import check_coverage, coverage, expert_numbers, expert_weights
from refquant.apply.quantize import quantize_model
from refquant.apply.recipe import Recipe
from refquant.apply.states import CalibrationState, state_confidences
from refquant.errors import InputError

LLADA = Path(__file__).parents[1] / "data" / "llada"
VARIANTS = ["llada_moe_f32", "llada_moe_mixed_f32", "llada2_moe_f32"]


def loaded(variant):
    return model.load(LLADA / variant, "float64")


def states(m, lengths=(64, 64, 64, 90, 90), seed=0):
    rng, mask = np.random.default_rng(seed), m.config.embedding_rows - 1
    found = []
    for line, length in enumerate(lengths):
        final = rng.integers(0, mask, length)
        masked = rng.random(length) < 0.5
        found.append(CalibrationState(ids=np.where(masked, mask, final), masked=masked, final_ids=final, line=line))
    return found


def recipe(**parts):
    plain = {"weights": {"group_size": -1, "scale_format": ""}, "calibration": {"min_expert_tokens": 1}, "propagate": "float"}
    return Recipe(name="experts").replace(**(plain | parts))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("tokens", [{}, {"weighting": "certainty"}, {"routing": "mixing"}, {"weighting": "certainty", "routing": "mixing"}])
def test_an_experts_gate_is_gptq_on_the_tokens_that_reach_it(variant, tokens):
    """By hand: in the last block everything before is float (propagate), so the float model's own inputs and routing decide."""
    m = loaded(variant)
    sequences = states(m)
    found = quantize_model(m, recipe(tokens=tokens), sequences)
    index = m.config.n_layers - 1
    numbers = expert_numbers(m, index)
    gate = next(name for name in numbers if name.endswith("gate_proj"))
    confidences = state_confidences(m, sequences, "argmax")
    x, weights = [], []
    for state, confidence in zip(sequences, confidences, strict=True):
        keep = model.Keep()
        hidden = m.embed(state.ids[None])
        for before in range(index):
            hidden = m.block(before, hidden, m.context(1, len(state.ids)))
        # Attention of this block is quantized before its experts are.
        partly = m.replace({name: _quantized(found, m, name) for name in m.linear_groups(index)[0] + m.linear_groups(index)[1]})
        partly.block(index, hidden, m.context(1, len(state.ids)), keep)
        routing, mixing = keep.last(f"blocks.{index}.routing")[0], keep.last(f"blocks.{index}.routing_weights")[0]
        for t in range(len(state.ids)):
            for slot in range(routing.shape[1]):
                if routing[t, slot] == numbers[gate]:
                    s = np.sqrt(confidence[t])
                    c = (1 + s if state.masked[t] else 0.7) if tokens.get("weighting") else 1.0
                    weights.append(c * c * (mixing[t, slot] ** 2 if tokens.get("routing") else 1.0))
        x.append(keep.last(f"{gate}.input"))
    x = np.concatenate(x)
    assert len(x) == len(weights) == next(r.tokens for r in found.records if r.name == gate)
    h = rq.hessian(x, np.array(weights))
    trace = rq.gptq_trace(m.linears[gate].weight, h, found.weights[gate].spec)
    different = trace.quantized.codes != found.weights[gate].codes
    assert trace.margins[different].max(initial=0.0) < 1e-6  # same sums in another order


def _quantized(found, m, name):
    return model.DenseLinear(found.weights[name].dequantize(np.dtype(np.float64)), m.linears[name].bias)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_linear_of_every_expert_is_quantized_and_the_router_never(variant):
    m = loaded(variant)
    found = quantize_model(m, recipe(), states(m))
    assert set(found.weights) == set(m.linears)
    assert sum(".experts." in name for name in found.weights) == sum(len(expert_numbers(m, i)) for i in range(m.config.n_layers))
    assert not any(name.endswith("mlp.gate") for name in found.weights)
    quantized = found.attach(m)
    ids = states(m)[0].ids[None]
    assert not np.array_equal(quantized.logits(ids), m.logits(ids))


@pytest.mark.parametrize("variant", VARIANTS)
def test_coverage_adds_up(variant):
    """Every token goes to top-k experts, so the experts' tokens of a block add up to k times all tokens."""
    m = loaded(variant)
    sequences = states(m)
    found = {record.name: record.tokens for record in quantize_model(m, recipe(), sequences).records}
    total = sum(len(state.ids) for state in sequences)
    for index in range(m.config.n_layers):
        gates = [name for name in expert_numbers(m, index) if name.endswith("gate_proj")]
        if gates:
            assert coverage(m, found)[index] == [found[name] for name in gates]
            top_k = m.architecture.blocks[index].mlp.router.top_k
            assert sum(found[name] for name in gates) == top_k * total


def test_an_expert_that_sees_too_little_is_refused_with_the_number_needed():
    m = loaded("llada_moe_f32")
    with pytest.raises(InputError, match=r"experts\.\d+\..*calibration tokens were routed to this expert; 1000 are needed"):
        quantize_model(m, recipe(calibration={"min_expert_tokens": 1000}), states(m))
    with pytest.raises(InputError, match=r"3 of 100 .*; 8 are needed .* about 267 calibration tokens are needed"):
        check_coverage("x", 3, 100, 8)
    with pytest.raises(InputError, match=r"0 of 100 .* calibrate on more, and other, sequences"):
        check_coverage("x", 0, 100, 8)
    check_coverage("x", 8, 100, 8)


def test_static_activations_and_w4a4_reach_the_experts():
    m = loaded("llada_moe_mixed_f32")
    found = quantize_model(m, recipe(activations={"method": "static", "bits": 8}), states(m))
    assert set(found.input_grids) == set(m.linears)
    found.attach(m).logits(states(m)[0].ids[None])


def test_weights_of_routed_tokens_by_hand():
    routing = np.array([[[0, 1], [1, 2], [2, 0]]])
    mixing = np.array([[[0.5, 0.25], [0.75, 0.1], [0.6, 0.2]]])
    tokens = np.array([[2.0, 3.0, 5.0]])
    assert expert_weights(0, routing, mixing, None, "routed") is None
    assert expert_weights(0, routing, mixing, tokens, "routed").tolist() == [2.0, 5.0]
    np.testing.assert_allclose(expert_weights(1, routing, mixing, None, "mixing"), [0.0625, 0.5625])
    np.testing.assert_allclose(expert_weights(2, routing, mixing, tokens, "mixing"), [0.03, 1.8])


def test_dreams_confidences_are_of_the_tokens_at_their_positions():
    """Dream's logits at j are of the token at j + 1."""
    m = model.load(LLADA / "dream_gqa_f32", "float64")
    found = state_confidences(m, states(m, (9,)), "final_token")[0]
    state = states(m, (9,))[0]
    logits = m.logits(state.ids[None])[0]
    shifted = np.concatenate([logits[:1], logits[:-1]])
    p = np.exp(shifted - shifted.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    np.testing.assert_allclose(found, p[np.arange(9), state.final_ids], rtol=1e-12)


def test_dream_is_quantized_like_any_other():
    m = model.load(LLADA / "dream_gqa_f32", "float64")
    found = quantize_model(m, recipe(tokens={"weighting": "certainty"}, values={"method": "ia_aq", "bits": 4}), states(m))
    assert set(found.weights) == set(m.linears)
    name, x = next(name for name in m.linears if name.endswith("q_proj")), np.zeros((1, 1, m.config.d_model))
    assert np.array_equal(found.attach(m).linears[name](x)[0, 0], m.linears[name].bias)


@pytest.mark.parametrize("variant", [*VARIANTS, "dream_bf16"])
def test_a_saved_folder_of_any_family_gives_the_same_bytes_back(variant, tmp_path):
    m = model.load(LLADA / variant)
    found = quantize_model(m, recipe(activations={"method": "per_token", "bits": 8}), states(m))
    made_of = Provenance(input_digest=input_digest(LLADA / variant), calibration_digest="", seed=0, run_digest="x")
    save_quantized(tmp_path / "folder", LLADA / variant, found, made_of)
    ids = states(m)[0].ids[None]
    expected = found.attach(m).logits(ids)
    assert load(tmp_path / "folder").logits(ids).tobytes() == expected.tobytes()
    assert not np.array_equal(expected, m.logits(ids))
