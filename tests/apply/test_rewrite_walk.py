"""What SmoothQuant and AWQ choose in the pass over the blocks, against both done by hand in plain NumPy on walk.Block: nothing is ours."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

import model
import refquant as rq
from refquant.apply.checkpoint import Provenance, load, load_quantized, save_quantized
from refquant.apply.quantize import quantize_model
from refquant.apply.recipe import Recipe, Weights, find_recipe
from refquant.apply.reload import check_reload
from refquant.apply.rewrite_parts import Awq, Smoothing
from refquant.apply.states import state_confidences
from refquant.errors import InputError
from tests.apply.tiny import recipe, states_of, tiny, write_folder
from tests.apply.walk import GROUPS, Block

PLACES = ("attn_in", "attn_out", "mlp_in", "mlp_out")
SITES = {  # place: (producer, linears that share the input)
    "attn_in": ("attn_norm", GROUPS[0]),
    "attn_out": ("v_proj", GROUPS[1]),
    "mlp_in": ("ff_norm", GROUPS[2]),
    "mlp_out": ("up_proj", GROUPS[3]),
}
GROUP = 10
HERE = Provenance(input_digest="a", calibration_digest="b", seed=0, run_digest="c")


def prefix(index):
    return f"model.transformer.blocks.{index}."


def rounded(w, bits):
    """``asym_minmax`` by group: codes and values."""
    codes, values = np.empty(w.shape, dtype=np.int64), np.empty_like(w)
    for start in range(0, w.shape[1], GROUP):
        part = w[:, start : start + GROUP]
        lo, hi = part.min(1, keepdims=True), part.max(1, keepdims=True)
        s = np.maximum(hi - lo, 1e-5) / (2**bits - 1)
        z = np.clip(-np.rint(lo / s), 0, 2**bits - 1)
        codes[:, start : start + GROUP] = np.clip(np.rint(part / s) + z, 0, 2**bits - 1)
        values[:, start : start + GROUP] = s * (codes[:, start : start + GROUP] - z)
    return codes, values


def hidden_of(m, states):
    embedding = m.parameters["model.transformer.wte.weight"]
    return [embedding[s.ids] for s in states]


def average(values, weights):
    """Mean over tokens [N, ...], weighted."""
    return np.average(values, axis=0, weights=weights)


def search(block, xs, place, bits, weights, inspect):
    """AWQ's exponent, factors and losses of one place by running the block with the candidates in it."""
    names = SITES[place][1]
    seen = [block.run(x)[1] for x in xs]
    x = np.concatenate([s[names[0]] for s in seen])
    m = average(np.abs(x), weights)

    def output():
        if inspect == "block_qdlm" and place in ("attn_in", "mlp_in"):
            return np.concatenate([block.run(s[names[0]])[0] for s in seen])
        if inspect == "linear" or place in ("attn_out", "mlp_out"):
            return np.concatenate([x @ block.w[name].T for name in names], axis=1)
        last = "attn_out" if place == "attn_in" else "ff_out"
        return np.concatenate([block.linear(last, block.run(x)[1][last]) for x in xs])

    plain, wanted, losses, tried = dict(block.w), output(), [], []
    for i in range(20):
        s = np.maximum(m ** (i / 20), 1e-4)
        s /= np.sqrt(s.max() * s.min())
        for name in names:
            block.w[name] = rounded(plain[name] * s, bits)[1] / s
        losses.append(average(((wanted - output()) ** 2).mean(1), weights))
        tried.append(s)
        block.w.update(plain)
    best = int(np.argmin(losses))
    return best / 20, tried[best], losses


def limits(w, x, bits, weights):
    """AWQ's limits, one row and group after the other, and the weight clipped to them."""
    clipped = w.copy()
    for r in range(len(w)):
        for start in range(0, w.shape[1], GROUP):
            g = slice(start, start + GROUP)
            top, losses = np.abs(w[r, g]).max(), []
            tried = [np.clip(w[r, g], -top * (1 - i / 20), top * (1 - i / 20)) for i in range(10)]
            for one in tried:
                losses.append(average((x[:, g] @ (rounded(one[None], bits)[1][0] - w[r, g])) ** 2, weights))
            clipped[r, g] = tried[int(np.argmin(losses))]
    return clipped


PLAIN = Weights(method="rtn", bits=3, scheme="asym_minmax", group_size=GROUP, scale_format="")


@pytest.mark.parametrize(
    ("inspect", "weighted", "clip", "propagate"),
    [
        ("module", False, True, "quantized"),
        ("linear", False, False, "float"),
        ("block_qdlm", False, True, "float"),
        ("module", True, True, "quantized"),
    ],
)
def test_awq_in_the_pass_is_awq_by_hand(inspect, weighted, clip, propagate):
    """[AWQ-1] to [AWQ-5] on float inputs whatever is quantized before: exponents, rewritten norms and biases, all codes."""
    m, states = tiny(n_kv_heads=4, include_bias=True), states_of()
    plan = Recipe(
        name="t",
        weights=dataclasses.replace(PLAIN, limits="awq" if clip else "none", limit_weighted=weighted),
        rewrites=(Awq(inspect=inspect, weighted=weighted),),
        propagate=propagate,
    ).replace(tokens={"weighting": "certainty" if weighted else "uniform"})
    found = quantize_model(m, plan, states)
    floats = quantize_model(m, plan.replace(weights={"method": "none", "limits": "none"}), states).rewritten.tensors
    weights = None
    if weighted:
        sure = np.concatenate(state_confidences(m, states, "argmax"))
        masked = np.concatenate([s.masked for s in states])
        weights = np.where(masked, 1 + np.sqrt(sure), 0.7) ** 2
    xs = hidden_of(m, states)
    for index, notes in enumerate(found.rewritten.notes):
        block, expected = Block(m, index), {}
        seen = [block.run(x)[1] for x in xs]
        chosen = {place: search(block, xs, place, 3, weights, inspect) for place in PLACES}
        for place, (alpha, _, losses) in chosen.items():
            first = sorted(losses)
            assert first[1] - first[0] > 1e-9 * first[0]  # no tie that rounding could decide
            assert notes[prefix(index) + SITES[place][1][0]] == alpha
        for place, (_, s, _) in chosen.items():
            for name in SITES[place][1]:
                expected[name] = expected.get(name, block.w[name]) * s
        for place in ("attn_out", "mlp_out"):
            producer, s = SITES[place][0], chosen[place][1]
            expected[producer] = expected[producer] / s[:, None]
            bias = prefix(index) + producer + ".bias"
            close(found.rewritten.tensors.get(bias, m.parameters[bias]), block.b[producer] / s)
        for place in ("attn_in", "mlp_in"):
            producer = prefix(index) + SITES[place][0] + ".weight"
            close(found.rewritten.tensors.get(producer, m.parameters[producer]), m.parameters[producer] / chosen[place][1])
        for place, (_, names) in SITES.items():
            for name in names:
                # A group clipped at both ends has its zero point at 3 1/2: the last bit of its weights decides, so they are taken over.
                w = floats.get(prefix(index) + name + ".weight", block.w[name])
                close(w, expected[name])
                if clip and name not in ("q_proj", "k_proj"):
                    w = limits(w, np.concatenate([s[names[0]] for s in seen]) / chosen[place][1], 3, weights)
                np.testing.assert_array_equal(found.weights[prefix(index) + name].codes, rounded(w, 3)[0])
        xs = [block.run(x)[0] for x in xs]
    assert not found.rewritten.online
    assert sum(alpha > 0 for notes in found.rewritten.notes for name, alpha in notes.items() if "." in name) == len(found.rewritten.tensors)


def close(a, b):
    np.testing.assert_allclose(a, b, rtol=1e-11)


@pytest.mark.parametrize("counted", [(), ("q_proj", "up_proj"), ("k_proj", "v_proj", "ff_proj")], ids=["all", "qdlm", "others"])
@pytest.mark.parametrize("propagate", ["quantized", "float"])
def test_smoothquant_in_the_pass_is_smoothquant_by_hand(propagate, counted):
    """[SMOOTH-1] to [SMOOTH-3] at four places; in the QDLM study's form q_proj and up_proj alone make the weights' maxima."""
    m, states = tiny(n_kv_heads=4, include_bias=False), states_of()
    part = Smoothing(alpha=0.6, places=PLACES, counted=counted, activation_floor=1e-5)
    found = quantize_model(m, Recipe(name="t", weights=PLAIN, rewrites=(part,), propagate=propagate), states)
    xs = hidden_of(m, states)
    for index in range(m.config.n_layers):
        block, expected, gains = Block(m, index), {}, {}
        seen = [block.run(x)[1] for x in xs]
        for producer, names in SITES.values():
            a = np.abs(np.concatenate([s[names[0]] for s in seen])).max(0)
            m_j = np.max([np.abs(block.w[name]).max(0) for name in names if name in counted or not counted or len(names) == 1], axis=0)
            s = np.maximum(np.maximum(a, 1e-5) ** 0.6 / np.maximum(m_j, 1e-5) ** 0.4, 1e-5)
            expected.update({name: expected.get(name, block.w[name]) * s for name in names})
            if producer in expected:
                expected[producer] = expected[producer] / s[:, None]
            else:
                gains[producer] = s
        for producer, s in gains.items():
            name = prefix(index) + producer + ".weight"
            close(found.rewritten.tensors[name], m.parameters[name] / s)
        for name, w in expected.items():
            np.testing.assert_array_equal(found.weights[prefix(index) + name].codes, rounded(w, 3)[0])
        xs = [block.run(x)[0] for x in xs]


PLANS = {
    "gptq behind awq": recipe(rewrites=(Awq(candidates=5, inapplicable="skip"),)),
    "certainty-guided gptq behind awq, activations, values": recipe(
        rewrites=(Awq(candidates=5, inapplicable="skip"),),
        tokens={"weighting": "certainty"},
        activations={"method": "per_token", "bits": 4},
        values={"method": "ia_aq", "bits": 4},
        probabilities={"bits": 8},
    ),
    "static activations behind smoothing": recipe(rewrites=(Smoothing(),), activations={"method": "static", "bits": 8}),
    "two rewrites, some linears skipped": recipe(
        rewrites=(Smoothing(alpha=0.8), Awq(candidates=3, inapplicable="skip")), skip=("v_proj", "ff_out")
    ),
    "float propagation": recipe(rewrites=(Smoothing(places=PLACES, inapplicable="skip"),), propagate="float"),
    "limits behind what is quantized": recipe({"limits": "awq", "limit_inputs": "quantized", "limit_steps": 4}, rewrites=(Smoothing(),)),
}


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_quantizing_with_rewrites_is_quantizing_the_rewritten_model(plan):
    """Whatever comes after: no method needs to know of rewrites."""
    m, states = tiny(), states_of()
    whole = quantize_model(m, plan, states)
    bare = plan.replace(
        weights={"method": "none", "limits": "none"}, activations={"method": "none"}, values={"method": "none"}, probabilities={"bits": 0}
    )
    rewritten = quantize_model(m, bare, states).attach(m)
    apart = quantize_model(rewritten, plan.replace(rewrites=()), states)
    assert whole.weights.keys() == apart.weights.keys()
    for name, weight in whole.weights.items():
        np.testing.assert_array_equal(weight.codes, apart.weights[name].codes)
        np.testing.assert_array_equal(weight.scale, apart.weights[name].scale)
    ids = np.arange(24).reshape(2, 12)
    np.testing.assert_array_equal(whole.attach(m).logits(ids), apart.attach(rewritten).logits(ids))


@pytest.mark.parametrize("kind", ["per_token", "static"])
def test_quantizers_see_the_input_behind_its_online_transforms(kind):
    """By hand for one linear: factors at run time, GPTQ on their Hessian, activations quantized after them."""
    m, states = tiny(), states_of()
    others = tuple(name for names in GROUPS for name in names if name != "attn_out")
    plan = recipe(
        {"method": "gptq"},
        rewrites=(Smoothing(places=("attn_out",), inapplicable="online"),),
        skip=others,
        activations={"method": kind, "bits": 6},
    )
    found, name = quantize_model(m, plan, states), prefix(0) + "attn_out"
    block, xs = Block(m, 0), hidden_of(m, states)
    x = np.concatenate([block.run(one)[1]["attn_out"] for one in xs])
    s = np.sqrt(np.abs(x).max(0)) / np.sqrt(np.abs(block.w["attn_out"]).max(0))
    w = block.w["attn_out"] * found.rewritten.online[name][0].factors
    close(found.rewritten.online[name][0].factors, s)
    expected = rq.gptq(w, rq.hessian(x / s), plan.weights.spec(), block_size=plan.weights.block_size)
    np.testing.assert_array_equal(found.weights[name].codes, expected.codes)
    top = np.abs(x / s).max(1, keepdims=True) if kind == "per_token" else np.abs(x / s).max()
    if kind == "static":
        close(found.input_grids[name].scale.item(), top / 31)
    arrived = np.clip(np.rint(x / s / (top / 31)), -32, 31) * (top / 31)
    linear = found.attach(m).linears[name]
    np.testing.assert_allclose(linear(x), arrived @ expected.dequantize(np.dtype("f8")).T + block.b["attn_out"], rtol=1e-9, atol=1e-9)


ONLINE = recipe(
    rewrites=(Smoothing(places=PLACES, inapplicable="online"), Awq(candidates=3, places=("mlp_in", "mlp_out"))),
    skip=("attn_out",),
    activations={"method": "per_token", "bits": 8},
    queries_keys={"method": "per_token", "bits": 8},
)


@pytest.mark.parametrize("plan", [ONLINE, *PLANS.values()], ids=["online", *PLANS])
def test_a_saved_folder_holds_the_rewritten_model(tmp_path, plan):
    source = write_folder(tmp_path / "source")
    m, states = model.load(source), states_of()
    found = quantize_model(m, plan, states)
    save_quantized(tmp_path / "out", source, found, HERE)
    assert len(check_reload(m, found, tmp_path / "out")) == 64
    again = load_quantized(tmp_path / "out").rewritten
    assert again.tensors.keys() == found.rewritten.tensors.keys()
    assert [dict(note) for note in again.notes] == [dict(note) for note in found.rewritten.notes]
    assert again.online.keys() == found.rewritten.online.keys() == ({prefix(i) + "attn_out" for i in (0, 1)} if plan is ONLINE else set())


def test_integer_linears_code_the_transformed_input():
    m, states = tiny(), states_of()
    plan = recipe({"method": "rtn"}, rewrites=ONLINE.rewrites, activations={"method": "per_token", "bits": 8})
    found, ids = quantize_model(m, plan, states), np.arange(24).reshape(2, 12)
    fake, integer = found.attach(m), found.attach(m, arithmetic="integer")
    np.testing.assert_allclose(integer.logits(ids), fake.logits(ids), rtol=1e-9, atol=1e-9)
    name = prefix(0) + "attn_out"
    assert integer.linears[name].online
    x = np.random.default_rng(0).standard_normal((5, 16))
    assert (np.abs(integer.linears[name](x) - fake.linears[name](x)) <= integer.linears[name].difference_bound(x)).all()


def test_a_float64_run_can_be_loaded_in_float32(tmp_path):
    source = write_folder(tmp_path / "source")
    m = model.load(source, "float64")
    save_quantized(tmp_path / "out", source, quantize_model(m, ONLINE, states_of()), HERE)
    ids = np.arange(12)[None]
    wide, narrow = (load(tmp_path / "out", dtype).logits(ids) for dtype in ("float64", "float32"))
    assert narrow.dtype == np.float32
    assert np.abs(wide - narrow).mean() < 0.05 * np.abs(wide).mean()


@pytest.mark.parametrize("change", ["transform", "tensor", "promise"])
def test_damage_to_a_rewritten_folder_is_named(tmp_path, change):
    from refquant.apply.description import Description, read_description
    from refquant.storage import open_checkpoint, write_tensors

    source = write_folder(tmp_path / "source")
    save_quantized(tmp_path / "out", source, quantize_model(model.load(source), ONLINE, states_of()), HERE)
    stored = open_checkpoint(tmp_path / "out")
    tensors = {name: stored.read(name).copy() for name in stored.names}
    factors, norm = prefix(0) + "attn_out.online.0.factors", prefix(0) + "attn_norm.weight"
    if change == "promise":
        told = read_description(tmp_path / "out")
        lost = dataclasses.replace(told.rewritten, tensors=[*told.rewritten.tensors, "no.weight"])
        assert isinstance(told, Description)
        dataclasses.replace(told, rewritten=lost).write(tmp_path / "out")
    else:
        tensors[factors if change == "transform" else norm] *= 2
        write_tensors(tmp_path / "out" / "model.safetensors", tensors)
    with pytest.raises(InputError, match={"transform": factors, "tensor": norm, "promise": "no.weight"}[change]):
        load_quantized(tmp_path / "out")


def test_grouped_heads_are_refused_unless_the_recipe_says_what_else_to_do():
    m, states = tiny(), states_of()
    for part in (Awq(candidates=2), Smoothing(places=PLACES)):
        with pytest.raises(InputError, match=r"attn_out: .*each of 2 value heads serves 2 query heads"):
            quantize_model(m, recipe(rewrites=(part,)), states)
    skipped = quantize_model(m, find_recipe("awq-w4a16").replace(weights={"group_size": 10}), states).rewritten
    assert all(len(note) == 2 + 3 for note in skipped.notes)  # method, block and three places


def test_inputs_behind_quantized_blocks_give_other_factors_from_the_second_block_on():
    m, states = tiny(), states_of()
    first, second = (
        quantize_model(m, recipe({"bits": 2}, rewrites=(Smoothing(inputs=inputs),)), states).rewritten.tensors
        for inputs in ("float", "quantized")
    )
    for index, same in ((0, True), (1, False)):
        for norm in ("attn_norm.weight", "ff_norm.weight"):
            assert np.array_equal(first[prefix(index) + norm], second[prefix(index) + norm]) == same


def test_a_scale_search_counts_the_spec_that_is_used():
    """At 8 bits nothing is to be gained and at 2 much: the exponents differ."""
    m, states = tiny(n_kv_heads=4), states_of()
    notes = [quantize_model(m, recipe({"bits": bits}, rewrites=(Awq(),)), states).rewritten.notes for bits in (2, 8)]
    assert json.dumps([dict(n) for n in notes[0]]) != json.dumps([dict(n) for n in notes[1]])
