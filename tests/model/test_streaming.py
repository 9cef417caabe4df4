"""Streamed models: the same bytes as in memory, and memory that does not grow with depth, vocabulary or experts."""

import gc
import json
import shutil
import tracemalloc

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import model
from model import streaming
from model.names import tensor_shapes
from refquant.errors import InputError, UsageError
from refquant.storage import Checkpoint
from tests.model.golden import FOLDER, VARIANTS, expected, loaded
from tests.model.test_family_configs import SMALL


def streamed(variant, dtype="float32"):
    return model.load(FOLDER / variant, dtype, stream=True)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_same_bytes(variant, dtype):
    m, s = loaded(variant, dtype), streamed(variant, dtype)
    rng = np.random.default_rng(0)
    for shape in ((1, 1), (3, 13)):
        ids = rng.integers(0, m.config.embedding_rows, shape)
        assert m.logits(ids).tobytes() == s.logits(ids).tobytes()
        for one, other in zip(m.hidden_states(ids), s.hidden_states(ids), strict=True):
            assert one.tobytes() == other.tobytes()
    kept, other = model.Keep(), model.Keep()
    m.logits(ids, observer=kept)
    s.logits(ids, observer=other)
    assert list(kept.kept) == list(other.kept)
    for name, arrays in kept.kept.items():
        np.testing.assert_array_equal(arrays[0], other.last(name), err_msg=name)


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_can_be_read_of_it_is_the_same(variant):
    m, s = loaded(variant, "float32"), streamed(variant)
    assert list(m.linears) == list(s.linears)
    assert set(m.parameters) == set(s.parameters)
    for name, array in m.parameters.items():
        np.testing.assert_array_equal(s.parameters[name], array, err_msg=name)
        assert name in s.parameters
    for name, linear in m.linears.items():
        np.testing.assert_array_equal(s.linears[name].weight, linear.weight)
        assert (s.linears[name].bias is None) == (linear.bias is None)
    assert "nothing" not in s.parameters
    assert f"{sum(a.size for a in m.parameters.values()):,} parameters, streamed, float32" in repr(s)
    with pytest.raises(KeyError):
        s.parameters["nothing"]


@pytest.mark.parametrize("variant", ["base_mha_f32", "tied_gqa_f32", "bias_everywhere_f32", "padded_embedding_f32"])
@pytest.mark.parametrize("rows", [1, 30, 64, 100, 5000])
def test_a_head_in_chunks(variant, rows, monkeypatch):
    m, s = loaded(variant, "float64"), streamed(variant, "float64")
    monkeypatch.setattr(streaming, "HEAD_STEP", 1)
    monkeypatch.setattr(streaming, "HEAD_CHUNK", rows * m.config.d_model * 8)
    ids = np.arange(14).reshape(2, 7)
    np.testing.assert_allclose(s.logits(ids), m.logits(ids), rtol=0, atol=1e-12)  # thin chunks may differ in the last bits


LARGE = [(40001, 128, "float32"), (17000, 256, "float64"), (33000, 136, "float32"), (20500, 192, "float32")]


@pytest.mark.parametrize(("vocabulary", "width", "dtype"), LARGE)
def test_a_large_head_in_chunks_has_the_same_bytes(vocabulary, width, dtype, tmp_path):
    config = {**SMALL["Dream"], "vocab_size": vocabulary, "hidden_size": width, "num_hidden_layers": 1}
    write(config, tmp_path)
    m, s = model.load(tmp_path, dtype), model.load(tmp_path, dtype, stream=True)
    assert vocabulary * width * np.dtype(dtype).itemsize > streaming.HEAD_CHUNK
    for shape in ((1, 1), (2, 3), (1, 40)):
        ids = np.random.default_rng(2).integers(0, vocabulary, shape)
        assert m.logits(ids).tobytes() == s.logits(ids).tobytes()


def write(config, folder, seed=0):
    rng = np.random.default_rng(seed)
    shapes = tensor_shapes(model.Config.from_dict(config))
    save_file({name: rng.normal(0, 0.2, shape).astype(np.float32) for name, shape in shapes.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))


def memory(folder, ids, stream=True):
    """Bytes that a loaded model holds, and those that one forward pass takes besides at its worst moment."""
    gc.collect()
    tracemalloc.start()
    try:
        m = model.load(folder, stream=stream)
        held = tracemalloc.get_traced_memory()[0]
        loading = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        m.logits(ids)
        return held, tracemalloc.get_traced_memory()[1] - held, loading
    finally:
        tracemalloc.stop()


WIDE = {"hidden_size": 128, "num_attention_heads": 4, "num_key_value_heads": 4, "vocab_size": 50}


@pytest.mark.parametrize(
    ("kind", "less", "more"),
    [
        ("Dream", {"num_hidden_layers": 2}, {"num_hidden_layers": 12}),
        ("Dream", {"vocab_size": 40_000}, {"vocab_size": 120_000}),
        ("llada2_moe", {"num_experts": 8}, {"num_experts": 64}),
    ],
    ids=["depth", "vocabulary", "experts"],
)
def test_memory_does_not_grow(kind, less, more, tmp_path):
    base = {**SMALL[kind], **WIDE, "intermediate_size": 512}
    if kind == "llada2_moe":
        base |= {"moe_intermediate_size": 512, "head_dim": 32, "first_k_dense_replace": 0}
    working, ids = {}, [[1, 2, 3, 4]]
    for name, changes in (("less", less), ("more", more)):
        config = {**base, **changes}
        (tmp_path / name).mkdir()
        write(config, tmp_path / name)
        held, taken, loading = memory(tmp_path / name, ids)
        assert max(held, loading - held) < 30_000 + 2_000 * len(tensor_shapes(model.Config.from_dict(config)))  # names, no numbers
        working[name] = taken - 4 * 4 * config["vocab_size"]  # float32 logits of four tokens: those do grow
    # How the head is cut leaves up to a step's rows for the last chunk.
    assert working["more"] < 1.02 * working["less"] + (3 * streaming.HEAD_STEP * 128 * 4 if "vocab_size" in more else 0)
    stored = (tmp_path / "more" / "model.safetensors").stat().st_size
    assert working["more"] < stored / (2 if "vocab_size" in more else 10)
    assert memory(tmp_path / "more", ids, stream=False)[0] > stored * 0.99  # so the measure measures
    if kind == "Dream" and "vocab_size" not in more:
        assert working["more"] < 4 * (4 * 128**2 + 3 * 128 * 512)  # one block


def test_tensors_are_read_when_they_are_needed(monkeypatch):
    names = []
    original = Checkpoint.read
    monkeypatch.setattr(Checkpoint, "read", lambda self, name: names.append(name) or original(self, name))
    m = streamed("llada2_moe_f32")
    assert names == ["model.norm.weight"]
    x, context = m.embed([[3]]), m.context(1, 1)
    names.clear()
    keep = model.Keep(["blocks.1.routing"])
    m.block(1, x, context, keep)
    assert all(name.startswith("model.layers.1.") for name in names)
    assert len(names) == len(set(names))
    experts = {int(name.split(".experts.")[1].split(".")[0]) for name in names if ".experts." in name}
    assert experts == set(keep.last("blocks.1.routing").ravel().tolist())
    names.clear()
    m.head(x)
    assert names == []  # rows only


def test_samplers_run_on_it():
    data, place = expected("dream_gqa_f32"), "dream_generate/maskgit_8_steps/"
    found = model.generate_dream(streamed("dream_gqa_f32"), data[place + "prompt"], max_new_tokens=12, steps=8, alg="maskgit_plus")
    np.testing.assert_array_equal(found, data[place + "out"])


def test_replaced_linears_are_kept_and_the_others_are_read():
    m, s = loaded("llada_moe_f32", "float32"), streamed("llada_moe_f32")
    name = s.linear_groups(1)[0][0]
    half = model.DenseLinear(m.linears[name].weight / 2)
    np.testing.assert_array_equal(s.replace({name: half}).logits([[1, 2]]), m.replace({name: half}).logits([[1, 2]]))


def test_any_number_of_shards(tmp_path):
    tensors = load_file(FOLDER / "qk_norm_f32" / "model.safetensors")
    shutil.copy(FOLDER / "qk_norm_f32" / "config.json", tmp_path)
    shards = {name: f"model-{i:05}-of-{len(tensors):05}.safetensors" for i, name in enumerate(sorted(tensors, reverse=True))}
    for name, shard in shards.items():
        save_file({name: tensors[name]}, tmp_path / shard)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": shards}))
    np.testing.assert_array_equal(model.load(tmp_path, stream=True).logits([[1, 2]]), loaded("qk_norm_f32", "float32").logits([[1, 2]]))


def test_what_is_wrong_is_found_at_the_latest_when_it_is_read(tmp_path):
    shutil.copytree(FOLDER / "gqa_f32", tmp_path / "m")
    path = tmp_path / "m" / "model.safetensors"
    tensors = load_file(path)
    bad = {name: array.copy() for name, array in tensors.items()}
    bad["model.transformer.blocks.1.v_proj.weight"][3, 5] = np.nan
    bad["model.transformer.wte.weight"][7, 2] = np.inf
    save_file(bad, path)
    m = model.load(tmp_path / "m", stream=True)
    with pytest.raises(InputError, match=r"v_proj.weight\[3, 5\] is nan; allowed: finite numbers"):
        m.logits([[1, 2]])
    with pytest.raises(InputError, match=r"wte.weight\[7, 2\] is inf; allowed: finite numbers"):
        m.embed([[9, 7]])
    del bad["model.transformer.ln_f.weight"]
    save_file(bad, path)
    with pytest.raises(InputError, match=r"1 of the 21 tensors that the config asks for are missing: model\.transformer\.ln_f"):
        model.load(tmp_path / "m", stream=True)
    with pytest.raises(UsageError, match="dtype is 'int8'"):
        model.load(FOLDER / "gqa_f32", "int8", stream=True)
