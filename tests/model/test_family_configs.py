"""Every switch of Dream, LLaDA-MoE and LLaDA2 against a second implementation in plain loops; and what their configs refuse."""

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

import model
from model.families import decoder, dream, llada2, llada_moe
from model.names import tensor_shapes
from refquant.errors import InputError
from tests.model.golden import FOLDER, expected
from tests.model.slow_families import Slow

SHARED = {
    "vocab_size": 7,
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "rope_theta": 30.0,
    "tie_word_embeddings": False,
    "mask_token_id": 6,
}
SMALL = {
    "Dream": {**SHARED, "model_type": "Dream", "intermediate_size": 6},
    "lladamoe": {
        **SHARED,
        "model_type": "lladamoe",
        "dense_intermediate_size": 6,
        "expert_intermediate_size": 4,
        "shared_expert_intermediate_size": None,
        "num_experts": 5,
        "num_experts_per_tok": 2,
        "moe_layer_freq": [1, 0],
        "moe_router_enable_expert_bias": False,
        "qk_layernorm": True,
        "attention_bias": False,
        "clip_qkv": None,
        "partial_rotary_factor": 1,
    },
    "llada2_moe": {
        **SHARED,
        "model_type": "llada2_moe",
        "intermediate_size": 6,
        "moe_intermediate_size": 4,
        "num_experts": 8,
        "num_experts_per_tok": 3,
        "num_shared_experts": 1,
        "n_group": 4,
        "topk_group": 2,
        "routed_scaling_factor": 2.5,
        "first_k_dense_replace": 1,
        "partial_rotary_factor": 0.5,
        "use_qk_norm": True,
        "use_bias": False,
        "use_qkv_bias": False,
    },
}


def make(config, folder, seed=0):
    rng = np.random.default_rng(seed)
    tensors = {name: rng.normal(0, 0.7, shape).astype(np.float32) for name, shape in Slow(config).shapes().items()}
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return {name: array.astype(np.float64).tolist() for name, array in tensors.items()}


def compare(config, folder, ids=(3, 0, 6, 2), sees=None, seed=0, **how):
    lists = make(config, folder, seed)
    wanted = np.array(Slow(config).logits(lists, list(ids), sees, how.get("position_ids", [None])[0]))
    found = model.load(folder, "float64").logits([list(ids)], **how)[0]
    assert np.abs(found - wanted).max() < 1e-11 * max(1, np.abs(wanted).max())


ALONE = [
    ("Dream", {}),
    ("Dream", {"hidden_act": "gelu", "tie_word_embeddings": True}),
    ("Dream", {"hidden_act": "relu", "num_key_value_heads": None, "rms_norm_eps": 0.3}),
    ("lladamoe", {}),
    ("lladamoe", {"moe_layer_freq": [0, 0], "num_experts": None, "expert_intermediate_size": None}),
    ("lladamoe", {"moe_layer_freq": [1, 1, 0], "dense_intermediate_size": None}),
    ("lladamoe", {"moe_router_enable_expert_bias": True, "shared_expert_intermediate_size": 3}),
    ("lladamoe", {"qk_layernorm": None, "attention_bias": True}),
    ("lladamoe", {"clip_qkv": 0.4}),
    ("lladamoe", {"clip_qkv": 0.4, "qk_layernorm": False}),
    ("lladamoe", {"partial_rotary_factor": 0.5, "num_experts_per_tok": 5}),
    ("lladamoe", {"num_experts_per_tok": 1, "tie_word_embeddings": True, "hidden_act": "gelu"}),
    ("llada2_moe", {}),
    ("llada2_moe", {"head_dim": 6, "partial_rotary_factor": 1.0}),
    ("llada2_moe", {"head_dim": 6, "partial_rotary_factor": 0.7, "num_shared_experts": 0}),
    ("llada2_moe", {"use_bias": True, "use_qkv_bias": True, "use_qk_norm": False}),
    ("llada2_moe", {"num_experts": None}),
    ("llada2_moe", {"first_k_dense_replace": 5}),
    ("llada2_moe", {"first_k_dense_replace": 0, "intermediate_size": None, "num_shared_experts": 3}),
    ("llada2_moe", {"num_experts_per_tok": 1, "topk_group": 1, "routed_scaling_factor": 1}),
    ("llada2_moe", {"n_group": 1, "topk_group": 1}),
    ("llada2_moe", {"n_group": 2, "topk_group": 2, "num_experts_per_tok": 8, "tie_word_embeddings": True}),
]


@pytest.mark.parametrize(("kind", "changes"), ALONE)
def test_switch(kind, changes, tmp_path):
    compare({**SMALL[kind], **changes}, tmp_path)


@st.composite
def configs(draw):
    kind = draw(st.sampled_from(list(SMALL)))
    config = dict(SMALL[kind])
    heads, kv = draw(st.sampled_from([(1, 1), (2, 1), (2, 2), (4, 2), (4, None)]))
    config |= {"num_attention_heads": heads, "num_key_value_heads": kv, "hidden_act": draw(st.sampled_from(["silu", "gelu", "relu"]))}
    config |= {"tie_word_embeddings": draw(st.booleans()), "rms_norm_eps": draw(st.sampled_from([1e-6, 0.1]))}
    if kind == "lladamoe":
        flags = "moe_router_enable_expert_bias qk_layernorm attention_bias"
        config |= {flag: draw(st.booleans()) for flag in flags.split()}
        config["moe_layer_freq"] = draw(st.sampled_from([[0, 1], [1, 1], [1, 0]]))
        config["num_experts_per_tok"] = draw(st.integers(1, 5))
        config["shared_expert_intermediate_size"] = draw(st.sampled_from([None, 3]))
        config["clip_qkv"] = draw(st.sampled_from([None, 0.5, 2]))
    if kind == "llada2_moe":
        config |= {flag: draw(st.booleans()) for flag in ("use_qk_norm", "use_bias", "use_qkv_bias")}
        config |= {"head_dim": draw(st.sampled_from([4, 6, 8])), "partial_rotary_factor": draw(st.sampled_from([0.5, 1.0]))}
        config["n_group"], config["topk_group"] = draw(st.sampled_from([(1, 1), (2, 1), (4, 2), (4, 3)]))
        config["head_dim"] = 4 if config["head_dim"] == 6 and config["partial_rotary_factor"] == 0.5 else config["head_dim"]
        config["first_k_dense_replace"] = draw(st.integers(0, 2))
        config["num_shared_experts"] = draw(st.sampled_from([0, 1, 2]))
    return config


@settings(max_examples=40, deadline=None)
@given(configs(), st.lists(st.integers(0, 6), min_size=1, max_size=5), st.integers(0, 2**32 - 1))
def test_combinations(tmp_path_factory, config, ids, seed):
    compare(config, tmp_path_factory.mktemp("checkpoint"), ids, seed=seed)


def test_the_second_implementation_agrees_with_the_public_code():
    for variant in ("dream_gqa_f32", "llada_moe_f32", "llada_moe_mixed_f32", "llada2_moe_f32"):
        config = json.loads((FOLDER / variant / "config.json").read_text())
        parameters = model.load(FOLDER / variant, "float64").parameters
        assert Slow(config).shapes() == {name: array.shape for name, array in parameters.items()}
        ids, wanted = expected(variant)["forward/T7/input_ids"], expected(variant)["forward/T7/logits_f32"]
        found = Slow(config).logits({name: array.tolist() for name, array in parameters.items()}, ids[0].tolist())
        assert np.abs(np.array(found) - wanted[0]).max() < 1e-5 * np.abs(wanted).max()


HOLE = [[1, 1, 0, 1], [0, 1, 1, 1], [0, 0, 0, 0]]


@pytest.mark.parametrize("mask", HOLE)
def test_padding_in_dream(mask, tmp_path):
    sees = [[a * b for b in mask] for a in mask]
    counted = [sum(mask[: j + 1]) - 1 if bit else 1 for j, bit in enumerate(mask)]
    lists = make(SMALL["Dream"], tmp_path)
    wanted = np.array(Slow(SMALL["Dream"]).logits(lists, [3, 0, 6, 2], sees, counted))
    m = model.load(tmp_path, "float64")
    np.testing.assert_allclose(m.logits([[3, 0, 6, 2]], [mask])[0], wanted, rtol=0, atol=1e-11)
    pairs = np.array(sees, dtype=bool)[None, None]
    np.testing.assert_array_equal(m.logits([[3, 0, 6, 2]], pairs, position_ids=[counted]), m.logits([[3, 0, 6, 2]], [mask]))
    np.testing.assert_array_equal(m.logits([[3, 0]], "full"), m.logits([[3, 0]], [[1, 1]]))


@pytest.mark.parametrize("mask", HOLE[:2])
def test_padding_in_llada_moe_hides_keys(mask, tmp_path):
    compare(SMALL["lladamoe"], tmp_path, sees=[mask] * 4, attention_mask=[mask])


def test_masks_of_pairs_in_llada2(tmp_path):
    sees = [[1, 1, 0, 0], [1, 1, 0, 1], [0, 0, 0, 0], [1, 1, 1, 1]]
    for form in (sees, [sees], [[sees]]):
        compare(SMALL["llada2_moe"], tmp_path, sees=sees, attention_mask=form)


@pytest.mark.parametrize("kind", SMALL)
def test_positions_can_be_given(kind, tmp_path):
    compare(SMALL[kind], tmp_path, position_ids=[[5, 0, 3, 9]])


def test_forms_of_masks_that_a_family_does_not_take(tmp_path):
    make(SMALL["llada2_moe"], tmp_path)
    m, ids = model.load(tmp_path), [[1, 2, 3], [1, 2, 3]]
    with pytest.raises(InputError, match=r"attention_mask has shape \(2, 3\) for 2 rows of 3 tokens; allowed in this family: \[T, T\]"):
        m.logits(ids, np.ones((2, 3)))
    make(SMALL["Dream"], tmp_path)
    m = model.load(tmp_path)
    with pytest.raises(InputError, match=r"shape \(2, 2, 3, 3\) for 2 rows of 3 tokens; allowed in this family: \[B, T\] or"):
        m.logits(ids, np.ones((2, 2, 3, 3)))
    for positions in ([[0, 1]], [[0.0, 1, 2]], [[-1, 0, 1]]):
        with pytest.raises(InputError, match="position_ids has"):
            m.logits(ids, position_ids=positions)
    with pytest.raises(InputError, match="position_ids is given to a llada model; allowed: none"):
        model.embedded().logits([[1]], position_ids=[[0]])


REFUSED = [
    ("Dream", {"num_heads": 3}, "not understood in a Dream model: num_heads (3)"),
    ("Dream", {"rope_scaling": {"rope_type": "yarn", "factor": 4}}, "rope_scaling is {'rope_type': 'yarn', 'factor': 4}; allowed: null"),
    ("Dream", {"use_sliding_window": True}, "use_sliding_window is True; allowed: false only"),
    ("Dream", {"hidden_act": "gelu_new"}, "hidden_act is 'gelu_new'; allowed: silu, gelu, relu"),
    ("Dream", {"hidden_size": 9}, "hidden_size is 9 with num_attention_heads 2; allowed: a multiple"),
    ("Dream", {"head_dim": 8}, "head_dim is 8; allowed: null or 4, hidden_size / num_attention_heads"),
    ("Dream", {"num_attention_heads": 8, "num_key_value_heads": 3}, "num_key_value_heads is 3 with num_attention_heads 8"),
    ("Dream", {"num_attention_heads": 8}, "1 of the 1 features of a head turn; allowed: an even number"),
    ("lladamoe", {"quantization_config": {}}, "not understood in a LLaDA-MoE model: quantization_config ({})"),
    ("lladamoe", {"moe_layer_freq": [1]}, "moe_layer_freq has 1 entries; allowed: at least num_hidden_layers 2"),
    ("lladamoe", {"moe_layer_freq": [1, 2]}, "moe_layer_freq is [1, 2]; allowed: a list of 0 and 1"),
    ("lladamoe", {"dense_intermediate_size": None}, "dense_intermediate_size is absent or null and moe_layer_freq has a 0"),
    ("lladamoe", {"num_experts": None}, "num_experts is absent or null and moe_layer_freq has a 1"),
    ("lladamoe", {"num_experts_per_tok": 6}, "num_experts_per_tok is 6; allowed: at most num_experts 5"),
    ("lladamoe", {"clip_qkv": 0}, "clip_qkv is 0; allowed: null or a finite number above 0"),
    ("lladamoe", {"partial_rotary_factor": 0.25}, "1 of the 4 features of a head turn"),
    ("llada2_moe", {"norm_head": True}, "norm_head is True; allowed: false only"),
    ("llada2_moe", {"num_key_value_heads": 0}, "num_key_value_heads is 0; allowed: null or an integer of at least 1"),
    ("llada2_moe", {"n_group": 3}, "num_experts is 8 with n_group 3; allowed: groups of one size, at least 2 each"),
    ("llada2_moe", {"n_group": 8}, "num_experts is 8 with n_group 8"),
    ("llada2_moe", {"topk_group": 5}, "topk_group is 5; allowed: at most n_group 4"),
    ("llada2_moe", {"num_experts_per_tok": 5}, "num_experts_per_tok is 5; allowed: at most 4, the experts of the groups kept"),
    ("llada2_moe", {"intermediate_size": None}, "intermediate_size is absent or null and some blocks are dense"),
    ("llada2_moe", {"moe_intermediate_size": None}, "moe_intermediate_size is absent or null and some blocks have experts"),
    ("llada2_moe", {"partial_rotary_factor": 1.5}, "partial_rotary_factor is 1.5; allowed: a number above 0 and at most 1"),
]


@pytest.mark.parametrize(("kind", "changes", "message"), REFUSED)
def test_refused(kind, changes, message):
    with pytest.raises(InputError) as caught:
        model.Config.from_dict({**SMALL[kind], **changes}, where="here.json")
    assert str(caught.value).startswith("here.json: " + message)
    assert "\n" not in str(caught.value)


def test_keys_without_a_usable_default():
    absent = "vocab_size, hidden_size, num_hidden_layers, num_attention_heads, rope_theta, moe_layer_freq absent"
    with pytest.raises(InputError, match=f"here: {absent}"):
        model.Config.from_dict({"model_type": "lladamoe"}, "here")
    with pytest.raises(InputError, match="here: num_key_value_heads absent"):
        model.Config.from_dict({"model_type": "llada2_moe"}, "here")


@pytest.mark.parametrize("kind", SMALL)
def test_keys_that_change_nothing_are_tolerated(kind):
    extra = {"torch_dtype": "bfloat16", "use_cache": True, "sliding_window": 4096, "max_position_embeddings": 5, "attention_dropout": 0.5}
    extra |= {"rope_scaling": None, "use_sliding_window": False, "auto_map": {}}
    if kind == "lladamoe":
        extra |= {"norm_topk_prob": True, "routed_scaling_factor": 9, "moe_router_score_function": "sigmoid", "router_num_group": 3}
    assert model.Config.from_dict({**SMALL[kind], **extra}) == model.Config.from_dict(SMALL[kind])


def test_every_key_is_checked():
    for module, name in ((dream, "DreamConfig"), (llada_moe, "LLaDAMoEConfig"), (llada2, "LLaDA2Config")):
        fields = {field.name for field in dataclasses.fields(getattr(module, name))}
        assert {*decoder.CHECKS, *module._OWN} == fields
        assert set(module._DEFAULTS) <= fields


def test_llada_moe_was_published_under_the_model_type_of_llada():
    config = {**SMALL["lladamoe"], "model_type": "llada", "architectures": ["LLaDAMoEModel"]}
    assert model.Config.from_dict(config) == model.Config.from_dict(SMALL["lladamoe"])
    assert model.Config.from_dict({**SMALL["Dream"], "architectures": ["DreamModel"]}).architecture().shift == 1


def test_released_mixtures_name_no_mask():
    large = {**SMALL["llada2_moe"], "vocab_size": 157184, "mask_token_id": None}
    found = model.Config.from_dict(large)
    assert (found.mask_token_id, found.eos_token_id) == (156895, 156892)
    assert model.Config.from_dict({**large, "vocab_size": 160}).mask_token_id is None


def test_parameters_of_the_released_models():
    dream7 = {"model_type": "Dream", "hidden_size": 3584, "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4}
    dream7 |= {"intermediate_size": 18944, "vocab_size": 152064, "rope_theta": 1e6}
    total = sum(int(np.prod(shape)) for shape in tensor_shapes(model.Config.from_dict(dream7)).values())
    assert total == 7_615_616_512  # as Qwen2.5-7B, whose layout it has
    moe = {**SMALL["lladamoe"], "vocab_size": 157184, "hidden_size": 2048, "num_hidden_layers": 16, "num_attention_heads": 16}
    moe |= {"num_key_value_heads": 16, "num_experts": 64, "num_experts_per_tok": 8, "expert_intermediate_size": 1024}
    moe |= {"moe_layer_freq": [1] * 16}
    shapes = tensor_shapes(model.Config.from_dict(moe))
    per_layer = 4 * 2048**2 + 64 * 3 * 2048 * 1024 + 64 * 2048 + 2 * 2048 + 2 * 128
    assert sum(int(np.prod(shape)) for shape in shapes.values()) == 16 * per_layer + 2 * 157184 * 2048 + 2048
