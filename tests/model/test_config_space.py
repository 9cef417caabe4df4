"""Every architectural switch, alone and in random combinations, against a second implementation in plain loops."""

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

import model
from refquant.errors import InputError
from tests.model.golden import FOLDER, RICH, VARIANTS, expected
from tests.model.slow_llada import SlowLLaDA

SMALL = {
    "model_type": "llada",
    "d_model": 8,
    "n_heads": 2,
    "n_layers": 2,
    "mlp_hidden_size": 6,
    "vocab_size": 7,
    "embedding_size": None,
    "rope": True,
    "layer_norm_type": "rms",
    "activation_type": "silu",
    "block_type": "llama",
    "weight_tying": False,
}


def make(config, folder, seed=0):
    """Write a random checkpoint of `config` into `folder`; return its tensors."""
    rng = np.random.default_rng(seed)
    tensors = {name: rng.normal(0, 0.6, shape).astype(np.float32) for name, shape in SlowLLaDA(config).shapes().items()}
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return tensors


def compare(config, folder, ids=(3, 0, 6, 2), mask=None, seed=0):
    tensors = make(config, folder, seed)
    lists = {name: array.astype(np.float64).tolist() for name, array in tensors.items()}
    wanted = np.array(SlowLLaDA(config).logits(lists, list(ids), mask))
    m = model.load(folder, "float64")
    found = m.logits([ids], None if mask is None else [mask])
    assert np.abs(found[0] - wanted).max() < 1e-11 * max(1, np.abs(wanted).max())
    return m


ALONE = {
    "base": {},
    "gemma norm": {"layer_norm_type": "gemma_rms"},
    "layer norm": {"layer_norm_type": "default"},
    "layer norm ignores rms_norm_eps": {"layer_norm_type": "default", "rms_norm_eps": 0.7},
    "low precision norm": {"layer_norm_type": "low_precision", "rms_norm_eps": 0.3},
    "large eps": {"rms_norm_eps": 0.5},
    "norms without gain": {"layer_norm_with_affine": False, "bias_for_layer_norm": True},
    "layer norms without gain": {"layer_norm_with_affine": False, "layer_norm_type": "default", "include_bias": True},
    "norm bias alone": {"bias_for_layer_norm": True},
    "bias everywhere": {"include_bias": True},
    "bias but not in norms": {"include_bias": True, "bias_for_layer_norm": False},
    "qkv bias": {"include_qkv_bias": True},
    "gemma with bias": {"layer_norm_type": "gemma_rms", "include_bias": True},
    "tied with bias": {"weight_tying": True, "include_bias": True},
    "tied": {"weight_tying": True},
    "relu": {"activation_type": "relu"},
    "gelu": {"activation_type": "gelu"},
    "sequential": {"block_type": "sequential"},
    "sequential relu": {"block_type": "sequential", "activation_type": "relu", "include_bias": True},
    "sequential swiglu": {"block_type": "sequential", "activation_type": "swiglu", "include_bias": True},
    "sequential swiglu by ratio": {
        "block_type": "sequential",
        "activation_type": "swiglu",
        "mlp_hidden_size": None,
        "mlp_ratio": 3,
    },
    "sequential qkv bias": {"block_type": "sequential", "include_qkv_bias": True},
    "sequential q k norm": {"block_type": "sequential", "attention_layer_norm": True, "n_kv_heads": 1},
    "q k norm": {"attention_layer_norm": True},
    "q k norm without gain": {"attention_layer_norm": True, "attention_layer_norm_with_affine": False},
    "q k norm is the only one with gain": {
        "attention_layer_norm": True,
        "layer_norm_with_affine": False,
        "include_bias": True,
    },
    "q k layer norm, grouped": {
        "attention_layer_norm": True,
        "layer_norm_type": "default",
        "n_heads": 4,
        "n_kv_heads": 2,
    },
    "grouped queries": {"n_heads": 4, "n_kv_heads": 2},
    "one kv head": {"n_heads": 4, "n_kv_heads": 1},
    "multi query": {"n_heads": 4, "multi_query_attention": True},
    "multi query said twice": {"n_heads": 4, "n_kv_heads": 1, "multi_query_attention": True},
    "multi query denied": {"n_kv_heads": 2, "multi_query_attention": False},
    "block groups": {"n_layers": 4, "block_group_size": 2},
    "one group of all": {"n_layers": 2, "block_group_size": 2, "block_type": "sequential"},
    "scaled logits": {"scale_logits": True, "weight_tying": True},
    "embedding norm": {"input_emb_norm": True},
    "padded embedding": {"embedding_size": 11},
    "theta": {"rope_theta": 3},
    "mlp by default ratio": {"mlp_hidden_size": None},
    "rope in the weights' precision": {"rope_full_precision": False},
    "one layer, one head": {"n_layers": 1, "n_heads": 1},
}


@pytest.mark.parametrize("changes", ALONE.values(), ids=ALONE)
def test_switch(changes, tmp_path):
    compare({**SMALL, **changes}, tmp_path)


MASKS = {"left": [0, 0, 1, 1], "right": [1, 1, 1, 0], "hole": [1, 0, 1, 1], "nothing visible": [0, 0, 0, 0]}


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_mask(mask, tmp_path):
    compare({**SMALL, "n_heads": 4, "n_kv_heads": 2}, tmp_path, mask=mask)


def test_defaults_of_absent_keys_are_those_of_the_class(tmp_path):
    # Everything left out that has a default: sequential swiglu blocks, LayerNorm, tied head, 4 * d_model, 50304 rows.
    config = model.Config.from_dict({"model_type": "llada", "rope": True})
    assert (config.d_model, config.n_layers, config.n_heads, config.kv_heads, config.mlp_width) == (
        768,
        12,
        12,
        12,
        3072,
    )
    assert (config.block_type, config.activation_type, config.layer_norm_type) == ("sequential", "swiglu", "default")
    assert (config.embedding_rows, config.vocab_size, config.weight_tying, config.norm_bias) == (
        50304,
        50257,
        True,
        False,
    )
    assert (config.rope_theta, config.mask_token_id, config.mlp_out_width) == (10000.0, 50256, 1536)
    few = {"rope": True, "d_model": 8, "n_heads": 2, "n_layers": 1, "vocab_size": 5, "embedding_size": None}
    same = {"layer_norm_type": "default", "activation_type": "swiglu", "block_type": "sequential", "weight_tying": True}
    make({**few, **same}, tmp_path)
    with_defaults_written_out = model.load(tmp_path, "float64").logits([[1, 2, 3]])
    (tmp_path / "config.json").write_text(json.dumps(few))
    np.testing.assert_array_equal(model.load(tmp_path, "float64").logits([[1, 2, 3]]), with_defaults_written_out)


@st.composite
def configs(draw):
    heads, kv = draw(st.sampled_from([(1, 1), (2, 1), (2, 2), (4, 1), (4, 2), (4, 4)]))
    sequential = draw(st.booleans())
    layers, group = draw(st.sampled_from([(1, 1), (2, 1), (2, 2)]))
    flags = "layer_norm_with_affine attention_layer_norm attention_layer_norm_with_affine include_bias include_qkv_bias weight_tying"
    flags += " scale_logits input_emb_norm rope_full_precision"
    return {
        **SMALL,
        **{flag: draw(st.booleans()) for flag in flags.split()},
        "bias_for_layer_norm": draw(st.sampled_from([None, True, False])),
        "n_heads": heads,
        "n_kv_heads": kv,
        "n_layers": layers,
        "block_group_size": group,
        "block_type": "sequential" if sequential else "llama",
        "activation_type": draw(st.sampled_from(["silu", "gelu", "relu", *(["swiglu"] if sequential else [])])),
        "layer_norm_type": draw(st.sampled_from(["rms", "gemma_rms", "default", "low_precision"])),
        "mlp_hidden_size": draw(st.sampled_from([2, 6, None])),
        "mlp_ratio": draw(st.sampled_from([1, 2])),
        "embedding_size": draw(st.sampled_from([None, 7, 9])),
        "rope_theta": draw(st.sampled_from([10000.0, 500000, 2.5])),
        "rms_norm_eps": draw(st.sampled_from([1e-6, 1e-5, 0.1])),
    }


@settings(max_examples=60, deadline=None)
@given(configs(), st.lists(st.integers(0, 6), min_size=1, max_size=5), st.integers(0, 2**32 - 1))
def test_combinations(tmp_path_factory, config, ids, seed):
    mask = [int(bit) for bit in f"{seed:032b}"[: len(ids)]]
    compare(config, tmp_path_factory.mktemp("checkpoint"), ids, mask, seed)


def test_the_second_implementation_agrees_with_the_public_code():
    """Otherwise agreeing with it would prove little."""
    for variant in ("sequential_swiglu_mqa_f32", "gemma_norm_scaled_grouped_f32", "qk_norm_f32", "bias_everywhere_f32"):
        assert variant in VARIANTS
        config = json.loads((FOLDER / variant / "config.json").read_text())
        parameters = model.load(FOLDER / variant, "float64").parameters
        ids, wanted = expected(variant)["forward/T7/input_ids"], expected(variant)["forward/T7/logits_f32"]
        found = SlowLLaDA(config).logits({name: array.tolist() for name, array in parameters.items()}, ids[0].tolist())
        assert np.abs(np.array(found) - wanted[0]).max() < 1e-5 * np.abs(wanted).max()


REFUSED = {
    "alibi": ({"alibi": True}, "alibi is True; allowed: false only"),
    "no rope": ({"rope": False}, "rope is False; allowed: true only"),
    "parallel": ({"block_type": "parallel"}, "block_type is 'parallel'; allowed: llama, sequential"),
    "swiglu in llama": (
        {"activation_type": "swiglu"},
        "activation_type is 'swiglu' in block_type 'llama'; allowed there: silu, gelu, relu",
    ),
    "norm": (
        {"layer_norm_type": "amd_compatible"},
        "layer_norm_type is 'amd_compatible'; allowed: rms, gemma_rms, default, low_precision",
    ),
    "activation": ({"activation_type": "tanh"}, "activation_type is 'tanh'; allowed: silu, gelu, relu, swiglu"),
    "kv heads": (
        {"n_heads": 4, "n_kv_heads": 2, "multi_query_attention": True},
        "n_kv_heads is 2 with multi_query_attention true; allowed: 1",
    ),
    "kv denied": (
        {"n_heads": 4, "n_kv_heads": 2, "multi_query_attention": False},
        "n_kv_heads is 2 with multi_query_attention false; allowed: 4",
    ),
    "kv divisor": ({"n_heads": 4, "n_kv_heads": 3}, "n_kv_heads is 3 with n_heads 4; allowed: a divisor of n_heads"),
    "heads": ({"n_heads": 3}, "d_model is 8 with n_heads 3; allowed: a multiple of n_heads"),
    "odd heads": ({"n_heads": 8}, "d_model / n_heads is 1; allowed: an even number"),
    "small embedding": ({"embedding_size": 6}, "embedding_size is 6; allowed: null or at least vocab_size 7"),
    "groups": ({"n_layers": 3, "block_group_size": 2}, "block_group_size is 2; allowed: a divisor of n_layers 3"),
    "odd swiglu": (
        {"block_type": "sequential", "activation_type": "swiglu", "mlp_hidden_size": 5},
        "mlp_hidden_size is 5 with activation_type 'swiglu'; allowed: an even number",
    ),
    "dream": ({"model_type": "Dream"}, "not understood in a Dream model: activation_type ('silu'), block_type ('llama'), d_model (8), ..."),
    "moe": ({"model_type": "llada_moe"}, "not understood in a LLaDA-MoE model: activation_type ('silu')"),
    "another family": ({"model_type": "llama"}, "model_type is 'llama'; allowed: 'llada', 'Dream', 'lladamoe', 'llada2_moe'"),
    "two families": ({"architectures": ["DreamModel"]}, "model_type is 'llada' but architectures is ['DreamModel']"),
    "zero layers": ({"n_layers": 0}, "n_layers is 0; allowed: an integer of at least 1"),
    "float width": ({"d_model": 8.0}, "d_model is 8.0; allowed: an integer of at least 1"),
    "bool width": ({"d_model": True}, "d_model is True; allowed: an integer of at least 1"),
    "text flag": ({"include_bias": "yes"}, "include_bias is 'yes'; allowed: true or false"),
    "null flag": ({"include_qkv_bias": None}, "include_qkv_bias is None; allowed: true or false"),
    "theta": ({"rope_theta": 0}, "rope_theta is 0; allowed: a finite number above 0"),
    "eps": ({"rms_norm_eps": float("nan")}, "rms_norm_eps is nan; allowed: a finite number above 0"),
    "mask id": ({"mask_token_id": -1}, "mask_token_id is -1; allowed: null or a token id"),
    "null kv flag": ({"multi_query_attention": 1}, "multi_query_attention is 1; allowed: null or true or false"),
}


@pytest.mark.parametrize(("changes", "message"), REFUSED.values(), ids=REFUSED)
def test_refused(changes, message):
    with pytest.raises(InputError) as caught:
        model.Config.from_dict({**SMALL, **changes}, where="here.json")
    assert str(caught.value).startswith("here.json: " + message)
    assert "\n" not in str(caught.value)


def test_every_key_is_checked():
    from model import config

    assert set(config._CHECKS) == {field.name for field in dataclasses.fields(model.Config)}


def test_absent_rope_is_false():
    with pytest.raises(InputError, match="rope is absent, which means false"):
        model.Config.from_dict({"model_type": "llada"})


def test_other_architectures_are_refused_without_a_model_type():
    with pytest.raises(InputError, match=r"architectures is \['ILLaDAForCausalLM'\] and model_type is absent; allowed: .* DreamModel"):
        model.Config.from_dict({"architectures": ["ILLaDAForCausalLM"], "rope": True})


def test_keys_that_change_nothing_are_tolerated():
    extra = {
        "auto_map": {"AutoModel": "x"},
        "init_fn": "?",
        "attention_dropout": 0.9,
        "alibi_bias_max": None,
        "use_cache": True,
        "flash_attention": True,
    }
    assert model.Config.from_dict({**SMALL, **extra}) == model.Config.from_dict(SMALL)


def test_a_released_config_has_the_published_number_of_parameters():
    eight_billion = {
        "model_type": "llada",
        "d_model": 4096,
        "n_layers": 32,
        "n_heads": 32,
        "n_kv_heads": 32,
        "mlp_hidden_size": 12288,
        "vocab_size": 126464,
        "embedding_size": 126464,
        "rope": True,
        "rope_theta": 500000.0,
        "layer_norm_type": "rms",
        "bias_for_layer_norm": False,
        "activation_type": "silu",
        "block_type": "llama",
        "weight_tying": False,
    }
    from model.names import tensor_shapes

    shapes = tensor_shapes(model.Config.from_dict(eight_billion))
    assert sum(int(np.prod(shape)) for shape in shapes.values()) == 8_015_581_184


def test_names_and_shapes_are_those_of_every_golden_checkpoint():
    from model.names import tensor_shapes

    for variant in VARIANTS:
        m = model.load(FOLDER / variant)
        assert {name: array.shape for name, array in m.parameters.items()} == tensor_shapes(m.config)
    assert RICH in VARIANTS
