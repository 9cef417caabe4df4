"""The forward pass against what the public PyTorch code computed, on every variant."""

import numpy as np
import pytest

import model
from model import ops
from refquant.numerics import FAST
from tests.model.golden import FOLDER, RICH, VARIANTS, expected, loaded, named


def relative(found, wanted):
    return np.abs(np.asarray(found) - wanted).max() / np.abs(wanted).max()


def mask_of(data, place):
    return data.get(f"{place}/attention_mask", data.get(f"{place}/allowed"))


def test_every_variant_is_here():
    assert len(VARIANTS) == 17


@pytest.mark.parametrize(("variant", "place"), named("/logits_f32"))
def test_float32_logits(variant, place):
    data = expected(variant)
    found = loaded(variant, "float32").logits(data[f"{place}/input_ids"], mask_of(data, place))
    assert found.dtype == np.float32
    assert found.shape == data[f"{place}/logits_f32"].shape
    assert relative(found, data[f"{place}/logits_f32"]) < 1e-5


@pytest.mark.parametrize(("variant", "place"), named("/logits_f64"))
def test_float64_logits(variant, place):
    data = expected(variant)
    found = loaded(variant, "float64").logits(data[f"{place}/input_ids"], mask_of(data, place))
    assert found.dtype == np.float64
    assert np.abs(found - data[f"{place}/logits_f64"]).max() < 1e-10


@pytest.mark.parametrize(("dtype", "tail", "bound"), [("float32", "/hidden_f32", 1e-5), ("float64", "/hidden_f64", 1e-12)])
def test_hidden_states(dtype, tail, bound):
    for variant, place in named(tail):
        data = expected(variant)
        found = loaded(variant, dtype).hidden_states(data[f"{place}/input_ids"])
        assert len(found) == len(data[place + tail])
        for state, wanted in zip(found, data[place + tail], strict=True):
            assert relative(state, wanted) < bound, (variant, place)


@pytest.mark.parametrize(("variant", "place"), named("/attn_probs_f32"))
def test_attention_probabilities(variant, place):
    data, keep = expected(variant), model.Keep(lambda name: name.endswith(".probabilities"))
    loaded(variant, "float32").logits(data[f"{place}/input_ids"], observer=keep)
    for index, wanted in enumerate(data[f"{place}/attn_probs_f32"]):
        found = keep.last(f"blocks.{index}.probabilities")[: len(wanted)]
        assert np.abs(found - wanted).max() < 1e-5


@pytest.mark.parametrize(("variant", "place"), named("/layer0_q_after_rope_f32"))
def test_queries_keys_and_values_of_the_first_block(variant, place):
    data, keep = expected(variant), model.Keep()
    m = loaded(variant, "float32")
    m.logits(data[f"{place}/input_ids"], observer=keep)
    times = m.config.n_heads // m.config.kv_heads
    found = {"q_after_rope": keep.last("blocks.0.q")}
    found["k_after_rope_repeated"] = np.repeat(keep.last("blocks.0.k"), times, axis=1)
    found["v_repeated"] = np.repeat(keep.last("blocks.0.v"), times, axis=1)
    for name, array in found.items():
        assert relative(array, data[f"{place}/layer0_{name}_f32"]) < 1e-5, name


def test_inputs_of_linears():
    seen = 0
    for variant in VARIANTS:
        data = expected(variant)
        names = [name for name in data if "/linear_input/" in name]
        for place in {name.split("/linear_input/")[0] for name in names}:
            keep = model.Keep()
            loaded(variant, "float32").logits(data[f"{place}/input_ids"], observer=keep)
            for name in names:
                tensor = name.split("/linear_input/")[1]
                tap = "head.input" if tensor == "model.transformer.ff_out" else tensor + ".input"
                assert relative(keep.last(tap), data[name]) < 1e-5, (variant, name)
                seen += 1
    assert seen >= 13


def test_rotary_tables():
    found = 0
    for variant in VARIANTS:
        data, config = expected(variant), loaded(variant, "float32").config
        if "rope/cos_f32" not in data:
            continue
        cos, sin = ops.rope_tables(64, config.head_dim, config.rope_theta, np.dtype("float32"), FAST)
        # Row p of a float32 table has an angle error of p * 2^-24 at most times a few roundings.
        for table, wanted in ((cos, data["rope/cos_f32"]), (sin, data["rope/sin_f32"])):
            assert np.abs(np.concatenate([table, table], axis=1) - wanted).max() < 64 * 2**-22
        found += 1
    assert found


def test_padding_changes_logits_unlike_in_old_modeling_files():
    data, m = expected(RICH), loaded(RICH, "float32")
    ids, mask = data["attention_mask/input_ids"], data["attention_mask/attention_mask"]
    assert relative(m.logits(ids), data["attention_mask/logits_ignoring_mask_f32"]) < 1e-5
    assert np.abs(m.logits(ids, mask) - m.logits(ids)).max() > 1


def test_float64_is_not_the_public_code_in_double():
    # `.double()` of the public class keeps float32 inside norms and rotary embedding; we do not.
    place = "forward/T32"
    data = expected(RICH)
    found = loaded(RICH, "float64").logits(data[f"{place}/input_ids"])
    assert 1e-7 < np.abs(found - data[f"{place}/logits_f64_with_released_casts"]).max() < 1e-4


def test_sequences_longer_than_max_sequence_length_run():
    config = loaded("qkv_bias_only_f32", "float32").config
    assert config.max_sequence_length == 24
    assert ("qkv_bias_only_f32", "forward/T32") in named("/logits_f32")


def test_padded_embedding_keeps_its_columns():
    m = loaded("padded_embedding_f32", "float32")
    assert (m.config.vocab_size, m.logits([[1, 2]]).shape[-1]) == (200, 256)


@pytest.mark.parametrize("variant", ["base_bf16_sharded", "base_f16"])
def test_half_precision_weights_are_carried_over_exactly(variant):
    low, high = loaded(variant, "float32"), loaded(variant, "float64")
    for name, array in low.parameters.items():
        np.testing.assert_array_equal(array, high.parameters[name], err_msg=name)
    assert (FOLDER / "base_bf16_sharded" / "model.safetensors.index.json").exists()
