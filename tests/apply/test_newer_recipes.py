"""The newer methods in whole models: what the pass hands them, folders that come back, what is refused, and states of a ratio grid."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from safetensors.numpy import load_file

import model
from model import DenseLinear, Keep
from refquant.apply.checkpoint import load, load_quantized, run_time_arrays
from refquant.apply.exporting import export, read_source
from refquant.apply.layers import QuantizedAttentionProduct
from refquant.apply.quantize import quantize_model
from refquant.apply.recipe import Recipe, find_recipe
from refquant.apply.rewrite_parts import RandomBlockRotations, Rotations
from refquant.apply.rotation_rewriters import RandomRotationRewriter, RotationRewriter
from refquant.apply.states import state_confidences
from refquant.core import QTensor, Stats, Tiling, spec
from refquant.core.binary_tensor import BinaryTensor
from refquant.errors import InputError, UsageError
from refquant.methods.activation.per_token import quantize_per_token
from refquant.methods.activation.tac import Moments
from refquant.methods.binary.quant_dllm import quant_dllm
from refquant.methods.codebook.lloyd_max import lloyd_max, lloyd_max_spec
from refquant.methods.diffusion.fair_weights import fair_weights
from refquant.methods.grid.dash_q import dash_q
from refquant.numerics import FAST, ORDERED
from refquant.numerics.hadamard import hadamard
from refquant.report.footprint import quantized_footprint
from refquant.storage import open_checkpoint, write_tensors
from tests.apply.folders import saved
from tests.apply.sampled import MASK, made
from tests.apply.tiny import LLADA, config_of, recipe, states_of, tensors_of, tiny

SOLOQ = find_recipe("soloq-w4a4").replace(rewrites=(RandomBlockRotations(block=8),), weights={"group_size": 8})
RECIPES = {
    "quant-dllm": find_recipe("quant-dllm-w2").replace(weights={"group_size": 5, "mixed_ratio": 0.4}),
    "dash-q": find_recipe("dash-q-w3").replace(weights={"group_size": 8}),
    "soloq": SOLOQ,
    "fair": find_recipe("fair-adaptation-w4a4").replace(weights={"group_size": 8}),
    "tac": find_recipe("tac-gptq-w4a4").replace(weights={"group_size": 8}, attention_output={"block": 4}),
}
Q_PROJ = "model.transformer.blocks.0.q_proj"


def ids_for(m):
    return np.arange(14).reshape(2, 7) % 90 + 4


@pytest.mark.parametrize("name", RECIPES)
def test_the_same_logits_and_sizes_come_back(tmp_path, name):
    m, quantized, out = saved(tmp_path, RECIPES[name])
    assert load(out).logits(ids_for(m)).tobytes() == quantized.attach(m).logits(ids_for(m)).tobytes()
    back = load_quantized(out)
    assert {n: (q.digest(), q.origin) for n, q in back.weights.items()} == {n: (q.digest(), q.origin) for n, q in quantized.weights.items()}
    assert {n: a.tobytes() for n, a in run_time_arrays(back).items()} == {n: a.tobytes() for n, a in run_time_arrays(quantized).items()}
    found = [quantized_footprint(open_checkpoint(where), quantized, m.linears) for where in (tmp_path / "source", out)]
    assert found[0] == found[1]
    beside = sum(array.nbytes for array in run_time_arrays(quantized).values())
    assert bool(beside) == (name in ("soloq", "tac"))
    source = open_checkpoint(tmp_path / "source")
    rest = sum(math.prod(source.shape(n)) * 4 for n in source.names)
    linears = sum(m.parameters[f"{n}.weight"].nbytes for n in m.linears)
    assert found[0].model_bits == found[0].weight_bits + 8 * (rest - linears + beside)


def statistics(m, index, name, states, weights):
    total = None
    for number, state in enumerate(states):
        seen = Keep(lambda tap: tap == f"{name}.input")
        m.logits(state.ids[None], observer=seen)
        one = Stats.of(seen.last(f"{name}.input"), None if weights is None else weights[number][None])
        total = one if total is None else total.merge(one)
    return total


def test_the_first_linear_gets_the_statistics_of_its_inputs():
    """q_proj of block 0 sees what the float model sees: DASH-Q with FAIR's weights, and Quant-dLLM, by hand."""
    m, states = tiny(), states_of()
    confidences = state_confidences(m, states, "argmax")
    weights = [fair_weights(s.masked[None], c[None], frontier=2, floor=0.3)[0] for s, c in zip(states, confidences, strict=True)]
    plan = recipe({"method": "dash_q", "bits": 3}, tokens={"weighting": "fair_adaptation", "frontier": 2, "floor": 0.3})
    found = quantize_model(m, plan, states).weights[Q_PROJ]
    stats = statistics(m, 0, Q_PROJ, states, weights)
    w = m.parameters[f"{Q_PROJ}.weight"].astype(np.float64)
    expected = dash_q(w, np.diagonal(stats.hessian), plan.weights.spec(), steps=15)
    assert found.digest() == expected.digest()

    plan = recipe({"method": "quant_dllm", "bits": 2, "mixed_ratio": 0.5, "saliency": "factor", "steps": 4})
    found = quantize_model(m, plan, states).weights[Q_PROJ]
    stats = statistics(m, 0, Q_PROJ, states, None)
    expected = quant_dllm(w, stats.hessian, ratio=0.5, block=10, saliency="factor", steps=4)
    assert isinstance(found, BinaryTensor)
    np.testing.assert_allclose(found.dequantize(), expected.dequantize(), rtol=1e-2, atol=1e-3)
    assert np.array_equal(found.orders, expected.orders)


def test_lloyd_max_codes_weights_and_inputs():
    m = tiny()
    plan = recipe({"method": "lloyd_max", "bits": 3}, activations={"method": "lloyd_max", "bits": 4, "group_size": 8})
    assert not plan.needs_calibration
    quantized = quantize_model(m, plan, [])
    w = m.parameters[f"{Q_PROJ}.weight"].astype(np.float64)
    assert quantized.weights[Q_PROJ].digest() == lloyd_max(w, lloyd_max_spec(3, 10, "float16")).digest()
    x = np.random.default_rng(0).standard_normal((2, 3, 16))
    inputs = lloyd_max(x.reshape(6, 16), lloyd_max_spec(4, 8)).dequantize(np.dtype(np.float64))
    linear = quantized.attach(m).linears[Q_PROJ]
    bias = m.linears[Q_PROJ].bias
    expected = inputs @ quantized.weights[Q_PROJ].dequantize(np.dtype(np.float64)).T + bias
    np.testing.assert_allclose(linear(x).reshape(6, -1), expected, atol=1e-12)


@pytest.mark.parametrize("name", ["tiny", "dream_gqa_f32", "llada_moe_f32", "llada2_moe_f32"])
def test_tac_gives_the_attention_output_its_moments_back(name):
    """In mixtures, too: whatever the experts do comes behind it."""
    m, states = tiny() if name == "tiny" else model.load(LLADA / name, "float64"), states_of((20, 24, 20))
    plan = recipe({"method": "rtn", "bits": 2}, attention_output={"method": "tac", "block": 4, "damping": 0.0})
    quantized = quantize_model(m, plan, states)
    name = f"{m.architecture.blocks[0].attn_out.name}.input"

    def moments(network):
        seen = [Keep(lambda tap: tap == name) for _ in states]
        for keep, state in zip(seen, states, strict=True):
            network.logits(state.ids[None], observer=keep)
        width = seen[0].last(name).shape[-1]
        return Moments.of(np.concatenate([keep.last(name).reshape(-1, width) for keep in seen]), 4)

    wanted, found = moments(m), moments(quantized.attach(m))
    without = moments(quantize_model(m, plan.replace(attention_output={"method": "none"}), states).attach(m))
    np.testing.assert_allclose(found.mean, wanted.mean, atol=1e-9)
    np.testing.assert_allclose(found.covariance, wanted.covariance, atol=1e-7)
    assert np.abs(without.covariance - wanted.covariance).max() > 1e-3
    assert len(quantized.corrections) == m.config.n_layers
    bare = replace(quantized, corrections={})
    with pytest.raises(InputError, match="corrections are missing"):
        bare.attach(m)


def test_soloq_preserves_the_function_and_rotates_every_group_its_own_way():
    m = tiny()
    part = RandomBlockRotations(block=8)
    plan = Recipe(name="t").replace(weights={"method": "none"}, rewrites=(part,), calibration={"states": "none"})
    quantized = quantize_model(m, plan, [])
    ids = np.arange(10)[None]
    np.testing.assert_allclose(quantized.attach(m).logits(ids), m.logits(ids), rtol=0, atol=1e-10 * np.abs(m.logits(ids)).max())
    online = quantized.rewritten.online
    assert set(online) == set(m.linears)
    groups = [group for index in range(2) for group in m.linear_groups(index)]
    orders = {tuple(online[name][0].parts()["order"].tolist()) for group in groups for name in group}
    assert len(orders) == len(groups)
    assert isinstance(m.linears[Q_PROJ], DenseLinear)
    assert RandomRotationRewriter(part).notes == ()
    with pytest.raises(UsageError, match="has to divide the width"):
        quantize_model(m, plan.replace(rewrites=(RandomBlockRotations(block=7),)), [])


def test_sums_of_signs_are_read_as_the_page_says(tmp_path):
    """With safetensors and NumPy alone."""
    _, quantized, out = saved(tmp_path, RECIPES["quant-dllm"])
    tensors = load_file(out / "model.safetensors")
    entry = json.loads((out / "quantization.json").read_text())["weights"][Q_PROJ]
    block = json.loads(entry["spec"])["block"]
    codes, orders = tensors[f"{Q_PROJ}.codes"], tensors[f"{Q_PROJ}.orders"]
    rows, columns = tensors[f"{Q_PROJ}.row_scales"].astype(float), list(tensors[f"{Q_PROJ}.column_scales"].astype(float))
    weight, term = np.zeros(codes.shape), 0
    for t, order in enumerate(orders.tolist()):
        part = slice(t * block, (t + 1) * block)
        for k in range(order):
            width = codes[:, part].shape[1]
            taken, columns = np.array(columns[:width]), columns[width:]
            weight[:, part] += (2.0 * (codes[:, part] >> k & 1) - 1) * np.outer(rows[term], taken)
            term += 1
    assert (term, columns) == (len(rows), [])
    assert len(set(orders.tolist())) == 3
    np.testing.assert_allclose(quantized.weights[Q_PROJ].dequantize(), weight, rtol=1e-6)


@pytest.mark.parametrize("name", ["soloq", "quant-dllm"])
def test_no_integer_path_is_told(name):
    m = tiny()
    plan = RECIPES[name].replace(activations={"method": "per_token"}) if name == "quant-dllm" else SOLOQ
    quantized = quantize_model(m, plan, states_of())
    with pytest.raises(UsageError, match=r"have codes that are no multiples of one step; integer arithmetic needs integer formats"):
        quantized.attach(m, arithmetic="integer")


def test_layouts_of_weights_hold_no_sums_of_signs(tmp_path):
    _, quantized, out = saved(tmp_path, RECIPES["quant-dllm"])
    weights = read_source(out).weights
    assert not any(isinstance(weight, QTensor) for weight in weights.values())
    assert all(weight.digest() == quantized.weights[name].digest() for name, weight in weights.items())
    with pytest.raises(InputError, match="layout awq cannot hold sums of signs"):
        export(out, "awq", tmp_path / "no", weights_only=True)


def test_one_scale_for_all_heads_of_a_token():
    values = np.random.default_rng(0).standard_normal((2, 3, 5, 4))
    plan = recipe(values={"method": "per_token", "per": "token", "bits": 3}).values
    product = QuantizedAttentionProduct(0, "unit", plan.spec(), None, value_per="token")
    rows = values.swapaxes(1, 2).reshape(10, 12)
    expected = quantize_per_token(rows, spec("int3", tiling=Tiling.token(), scale_format="float32")).reshape(2, 5, 3, 4).swapaxes(1, 2)
    assert np.array_equal(product.quantize_values(values), expected)
    by_head = QuantizedAttentionProduct(0, "unit", plan.spec(), None).quantize_values(values)
    assert not np.array_equal(by_head, expected)


def test_powers_of_two_for_probabilities():
    p = np.array([[[[0.7, 0.3, 1e-6]]]])
    assert QuantizedAttentionProduct(3, "log2", None, None).quantize_probabilities(p).tolist() == [[[[0.5, 0.25, 0.0]]]]
    assert QuantizedAttentionProduct(3, "log2_power", None, None).quantize_probabilities(p).tolist() == [[[[0.5, 0.25, 2.0**-7]]]]


# Calibration states.


def test_a_ratio_grid_masks_more_and_more_behind_a_visible_beginning():
    found = made("ratio_grid", samples=40, visible_share=0.25).states
    for number, state in enumerate(found):
        visible = int(0.25 * len(state.ids))
        assert not state.masked[:visible].any()
        assert np.array_equal(state.masked, state.ids == MASK)
        if number == len(found) - 1:
            assert state.masked[visible:].all()  # the last ratio is 1
    shares = [np.mean([s.masked.mean() for s in found[start : start + 10]]) for start in range(0, 40, 10)]
    assert all(a < b for a, b in pairwise(shares))
    assert shares[0] == pytest.approx(0.75 * 5.5 / 40, abs=0.06)
    assert any(s.masked[: len(s.ids) // 2].any() for s in found)


def test_a_ratio_grid_reaches_one_where_tokens_are_counted():
    found = made("ratio_grid", tokens=200)
    assert found.tokens == 200
    assert found.states[-1].masked[8:].all()
    alone = made("ratio_grid", samples=1, visible_share=0.5).states[0]
    assert np.array_equal(alone.masked, np.arange(len(alone.ids)) >= len(alone.ids) // 2)


# Other bases of Hadamard matrices.


def test_a_recipe_names_its_bases_and_what_they_are(tmp_path):
    mirrored = hadamard(12).base[:, ::-1].copy()
    path = tmp_path / "bases.safetensors"
    write_tensors(path, {"12": mirrored.astype(np.float32)})
    sha = hashlib.sha256(path.read_bytes()).hexdigest()
    m = tiny(mlp_hidden_size=12)
    part = Rotations(rotations=("R4",), bases=str(path), bases_sha256=sha)
    quantized = quantize_model(m, Recipe(name="t").replace(weights={"method": "none"}, rewrites=(part,)), states_of())
    used = quantized.rewritten.online["model.transformer.blocks.0.ff_out"][0]
    assert np.array_equal(used.parts()["base"], mirrored)
    ids = np.arange(10)[None]
    np.testing.assert_allclose(quantized.attach(m).logits(ids), m.logits(ids), rtol=0, atol=1e-10 * np.abs(m.logits(ids)).max())
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(InputError, match="its SHA-256 is"):
        RotationRewriter(part).prepare(m)
    with pytest.raises(UsageError, match="go together"):
        Rotations(bases=str(path))
    write_tensors(path, {"11": mirrored.astype(np.float32)})
    sha = hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(InputError, match="a base of size n is a tensor n x n"):
        RotationRewriter(Rotations(bases=str(path), bases_sha256=sha)).prepare(m)
    with pytest.raises(InputError, match="cannot be read"):
        RotationRewriter(Rotations(bases=str(tmp_path / "none"), bases_sha256=sha)).prepare(m)


# Lanes.


@pytest.mark.parametrize("name", RECIPES)
def test_both_lanes_agree(name):
    """Within what a flipped decision costs: hardly any code differs, and the logits are as far from those of the float model."""
    ids = np.arange(10)[None]
    reference = tiny().logits(ids)
    distances = []
    for lane in (FAST, ORDERED):
        tensors = {name: array.astype(np.float32) for name, array in tensors_of(config_of()).items()}
        m = model.build(config_of(), tensors, "float64", lane)
        found = quantize_model(m, RECIPES[name], states_of()).attach(m).logits(ids) - reference
        distances.append(np.sqrt((found * found).mean()))
    assert distances[0] == pytest.approx(distances[1], rel=0.05)
