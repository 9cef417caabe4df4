"""What is quantized and what never is, over block layouts; ablations; errors that name the linear."""

from __future__ import annotations

import numpy as np
import pytest

import model
import refquant as rq
from refquant.apply.layers import QuantizedLinear
from refquant.apply.quantize import QuantizedModel, quantize_model
from refquant.apply.recipe import find_recipe
from refquant.apply.run import baseline
from refquant.errors import InputError, NotPositiveDefiniteError, NumericalError
from tests.apply.tiny import GROUPED, LLADA, SEQUENTIAL, recipe, states_of, tensors_of, tiny

SEVEN = ("q_proj", "k_proj", "v_proj", "attn_out", "ff_proj", "up_proj", "ff_out")
FOUR = ("att_proj", "attn_out", "ff_proj", "ff_out")
HEAD, EMBEDDING = "model.transformer.ff_out", "model.transformer.wte"

LAYOUTS = {
    "llama": ({}, [f"model.transformer.blocks.{i}.{n}" for i in range(2) for n in SEVEN]),
    "sequential": (SEQUENTIAL, [f"model.transformer.blocks.{i}.{n}" for i in range(2) for n in FOUR]),
    "block groups": (GROUPED, [f"model.transformer.block_groups.{i // 2}.{i % 2}.{n}" for i in range(4) for n in SEVEN]),
    "tied": ({"weight_tying": True}, [f"model.transformer.blocks.{i}.{n}" for i in range(2) for n in SEVEN]),
}


def digests(found):
    grids = {i: (g.scale.tobytes(), None if g.zero is None else g.zero.tobytes()) for i, g in found.value_grids.items()}
    return {name: q.digest() for name, q in found.weights.items()}, grids


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("method", ["rtn", "gptq"])
def test_exactly_the_linears_of_the_blocks_are_quantized(layout, method):
    changes, names = LAYOUTS[layout]
    m = tiny(**changes)
    states = states_of()
    done = []
    parts = {"activations": {"method": "per_token"}, "values": {"method": "minmax"}}
    found = quantize_model(m, recipe({"method": method}, **parts), states, lambda *a: done.append(a))
    assert list(found.weights) == names == [r.name for r in found.records]
    blocks = [step for step in done if step[0] == "blocks"]
    assert blocks == [("blocks", i + 1, m.config.n_layers) for i in range(m.config.n_layers)]
    steps = [(what.rpartition(", ")[2], *count) for what, *count in done if what != "blocks"]  # "block 1/2, q_proj" when it is begun
    last = [name.rpartition(".")[2] for name in names]
    assert [step for step in steps if step[0] in last] == [(name, i, len(names)) for i, name in enumerate(last)]
    assert [count for _, count, _ in steps] == sorted(count for _, count, _ in steps)  # what is done of all
    others = {"scales of V", "on to the next block"}
    statistics = {"weights of tokens", *(f"statistics for {name}" for name in last)} if method == "gptq" else set()
    assert others <= {step for step, _, _ in steps} <= {*last, *others, *statistics}
    attached = found.attach(m)
    assert {n for n, linear in attached.linears.items() if isinstance(linear, QuantizedLinear)} == set(names)
    # Embedding and head see and give full precision: the same arrays, the same function.
    for name in (EMBEDDING, HEAD):
        if name + ".weight" in m.parameters:
            assert attached.parameters[name + ".weight"].tobytes() == m.parameters[name + ".weight"].tobytes()
    x = np.random.default_rng(0).standard_normal((1, 3, 16))
    assert attached.head(x).tobytes() == m.head(x).tobytes()


def test_the_head_is_not_taken_for_a_block_s_ff_out():
    """Skipping ``ff_out`` skips the blocks' ones, and what is left of that name is not the head either."""
    m = tiny()
    assert HEAD + ".weight" in m.parameters
    found = quantize_model(m, recipe(skip=("ff_out",)), states_of())
    assert not [n for n in found.weights if n.endswith("ff_out")]
    assert len(found.weights) == 12


@pytest.mark.parametrize("layout", ["sequential", "block groups"])
def test_groups_of_other_layouts_are_walked_in_causal_order(layout):
    """Quantizing the groups one at a time, by hand, with everything before them in place."""
    m, states = tiny(**LAYOUTS[layout][0]), states_of(lengths=(9, 9))
    plan = recipe()
    found = quantize_model(m, plan, states)
    current = m
    for index in range(m.config.n_layers):
        for group in m.linear_groups(index):
            keep = model.Keep([f"{group[0]}.input"])
            for state in states:
                current.logits(state.ids[None], observer=keep)
            hessian = rq.hessian(np.concatenate([x[0] for x in keep.kept[f"{group[0]}.input"]]))
            for name in group:
                q = rq.gptq(m.parameters[name + ".weight"], hessian, plan.weights.spec(), block_size=7)
                assert found.weights[name].digest() == q.digest(), name
                dense = model.DenseLinear(q.dequantize(np.dtype(np.float64)), m.linears[name].bias)
                current = current.replace({name: dense})


def test_biases_stay():
    m = tiny()
    attached = quantize_model(m, recipe({"method": "rtn"}), states_of()).attach(m)
    for name, linear in m.linears.items():
        assert linear.bias is not None
        zero = np.zeros((1, linear.weight.shape[1]))
        assert attached.linears[name](zero)[0].tobytes() == linear.bias.tobytes()


def test_equal_certainty_weights_are_no_weights():
    """All multipliers 1: GPTQ's bytes. Another constant: its codes, scales and zeros too, as damping is relative."""
    m, states = tiny(), states_of()
    uniform = digests(quantize_model(m, recipe(), states))

    def weighted(visible, masked):
        constant = {"weighting": "certainty", "visible_weight": visible, "masked_weight": masked, "visible_confidence": "one"}
        flat = [s.__class__(ids=s.ids, masked=np.zeros_like(s.masked), final_ids=s.final_ids, line=s.line) for s in states]
        return digests(quantize_model(m, recipe(tokens=constant), flat))  # no mask: one multiplier, visible + 1

    assert weighted(0.0, 0.0) == uniform
    assert weighted(2.0, 0.0) == uniform
    assert digests(quantize_model(m, recipe(tokens={"weighting": "certainty"}), states)) != uniform


def test_visible_weight_zero_is_calibration_on_masked_rows():
    m, states = tiny(), states_of()
    plan = {"weighting": "certainty", "visible_weight": 0.0}
    records = quantize_model(m, recipe(tokens=plan), states).records
    assert {r.tokens for r in records} == {sum(int(np.count_nonzero(s.masked)) for s in states)}
    assert {r.tokens for r in quantize_model(m, recipe(), states).records} == {sum(len(s.ids) for s in states)}


def test_dllmquant_with_every_part_off_is_the_gptq_row():
    """One part at a time, each step to the recipe that the table documents, and the last one byte for byte."""
    small = {"group_size": 10}
    full = find_recipe("dllmquant-w4a4").replace(weights=small)
    off = full.replace(tokens={"weighting": "uniform"}, values={"method": "minmax"}, calibration={"states": "iid"})
    assert off.digest() == baseline(full, "gptq").digest() == find_recipe("gptq-w4a4").replace(weights=small).digest()
    m, states = tiny(), states_of()
    expected = digests(quantize_model(m, baseline(full, "gptq"), states))
    assert digests(quantize_model(m, off, states)) == expected
    for part in ({"tokens": {"weighting": "certainty"}}, {"values": {"method": "ia_aq"}}):
        assert digests(quantize_model(m, off.replace(**part), states)) != expected
    rtn = off.replace(weights={"method": "rtn"})
    assert rtn.digest() == baseline(full, "rtn").digest() == find_recipe("rtn-w4a4").replace(weights=small).digest()


def test_rtn_s_weights_need_no_calibration_and_are_rounded_in_float64():
    m = tiny("float32")
    plan = recipe({"method": "rtn", "scale_format": ""}, calibration={"states": "none"})  # the scales show what they were computed in
    found = quantize_model(m, plan, [])
    for name, q in found.weights.items():
        assert q.scale.dtype == np.float64
        assert q.digest() == rq.rtn(m.parameters[name + ".weight"].astype(np.float64), plan.weights.spec()).digest()
    assert all(r.tokens == 0 and r.error is None and r.rtn_error is None for r in found.records)


def test_records_hold_the_output_errors_of_gptq_and_of_rtn():
    m, states = tiny(), states_of(lengths=(9, 9))
    plan = recipe({"bits": 3})
    name = m.linear_groups(0)[0][1]
    found = quantize_model(m, plan, states)
    keep = model.Keep([f"{name}.input"])
    m.logits(np.stack([s.ids for s in states]), observer=keep)
    x, w = keep.last(f"{name}.input").reshape(-1, 16), m.parameters[name + ".weight"]
    record = next(r for r in found.records if r.name == name)
    for q, error in ((found.weights[name], record.error), (rq.rtn(w, plan.weights.spec()), record.rtn_error)):
        assert error == pytest.approx((((w - q.dequantize(np.dtype(np.float64))) @ x.T) ** 2).sum(), rel=1e-10)


def test_weights_can_stay_while_activations_are_quantized():
    m, states = tiny(), states_of()
    found = quantize_model(m, recipe({"method": "none"}, activations={"method": "per_token", "bits": 3}), states)
    assert not found.weights
    assert np.abs(found.attach(m).logits(states[0].ids[None]) - m.logits(states[0].ids[None])).max() > 1e-3
    fine = quantize_model(m, recipe({"method": "none"}, activations={"method": "per_token", "bits": 16}), states)
    assert np.abs(fine.attach(m).logits(states[0].ids[None]) - m.logits(states[0].ids[None])).max() < 1e-2


def test_sixteen_bits_everywhere_are_almost_the_model():
    m, states = tiny(), states_of()
    plan = recipe(
        {"bits": 16, "scale_format": "", "group_size": -1},
        activations={"method": "per_token", "bits": 16},
        values={"method": "minmax", "bits": 16},
        probabilities={"bits": 16},
    )
    got = quantize_model(m, plan, states).attach(m).logits(states[0].ids[None])
    assert np.abs(got - m.logits(states[0].ids[None])).max() < 0.01


@pytest.mark.parametrize("variant", ["base_bf16_sharded", "gqa_f32", "qk_norm_f32", "sequential_swiglu_mqa_f32", "padded_embedding_f32"])
def test_every_recipe_runs_on_the_small_checkpoints(variant):
    m = model.load(LLADA / variant)
    states = states_of(lengths=(8, 8, 6))
    states = [
        s.__class__(ids=np.where(s.masked, m.config.mask_token_id, s.ids), masked=s.masked, final_ids=s.final_ids, line=0) for s in states
    ]
    for name in ("rtn-w4a16", "dllmquant-w4a4"):
        found = quantize_model(m, find_recipe(name), states)
        assert set(found.weights) == set(m.linears)
        assert np.isfinite(found.attach(m).logits(states[0].ids[None])).all()
        if found.value_grids:
            assert found.value_grids[0].scale.shape == (m.config.kv_heads, 1, 1)


# Errors.


def test_missing_calibration_and_unknown_skips_are_refused():
    m = tiny()
    with pytest.raises(InputError, match="needs calibration states; there are none"):
        quantize_model(m, recipe(), [])
    with pytest.raises(InputError, match=r"skips \['att_proj', 'lm_head'\]; the model's linears are \['attn_out'"):
        quantize_model(m, recipe(skip=("lm_head", "att_proj", "q_proj")), states_of())


def test_a_quantized_model_is_not_quantized_again():
    m = tiny()
    attached = quantize_model(m, recipe({"method": "rtn"}), states_of()).attach(m)
    with pytest.raises(InputError, match="q_proj is already quantized"):
        quantize_model(attached, recipe({"method": "rtn"}), states_of())


def test_errors_name_the_linear():
    m = tiny()
    with pytest.raises(NotPositiveDefiniteError, match=r"^model.transformer.blocks.0.q_proj: ") as caught:
        quantize_model(m, recipe({"damping": 0.0}), states_of(lengths=(5,)))
    assert caught.value.pivot >= 0
    config = m.config
    tensors = dict(tensors_of(config))
    tensors["model.transformer.blocks.1.up_proj.weight"][3, 4] = 1e7  # its scale does not fit float16
    huge = model.build(config, tensors, "float64")
    with pytest.raises(NumericalError, match=r"^model.transformer.blocks.1.up_proj: "):
        quantize_model(huge, recipe({"method": "rtn"}, calibration={"states": "none"}), [])


def test_a_result_with_something_missing_is_not_attached():
    m, states = tiny(), states_of()
    plan = recipe(activations={"method": "static"}, values={"method": "minmax"})
    whole = quantize_model(m, plan, states)
    name = "model.transformer.blocks.1.ff_out"

    def without(**parts):
        full = {n: dict(getattr(whole, n)) for n in ("weights", "input_grids", "value_grids")}
        for part, key in parts.items():
            del full[part][key]
        return QuantizedModel(recipe=plan, **full)

    for part, key, message in (
        ("weights", name, "quantized weights are missing for model.transformer.blocks.1.ff_out"),
        ("input_grids", name, "activation scales are missing for model.transformer.blocks.1.ff_out"),
        ("value_grids", 1, "V scales are missing for 1"),
    ):
        with pytest.raises(InputError, match=message):
            without(**{part: key}).attach(m)
    extra = QuantizedModel(recipe=recipe(), weights=dict(whole.weights) | {HEAD: whole.weights[name]})
    with pytest.raises(InputError, match=r"are there for what the recipe or the model does not have: model\.transformer\.ff_out$"):
        extra.attach(m)
    with pytest.raises(InputError, match="the quantized weight has shape"):
        whole.attach(tiny(mlp_hidden_size=32))
