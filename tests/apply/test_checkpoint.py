"""Quantized folders: the same logits back, untouched tensors as they were, written whole or not at all."""

from __future__ import annotations

import json

import numpy as np
import pytest

import model
from refquant.apply import checkpoint
from refquant.apply.checkpoint import input_digest, is_quantized, load, load_quantized, read_provenance, save_quantized
from refquant.apply.quantize import quantize_model
from refquant.apply.recipe import find_recipe
from refquant.errors import InputError, UsageError
from refquant.storage import canonical_json, digest, open_checkpoint, read_json, read_tensors, write_tensors
from tests.apply.folders import PROVENANCE, STATIC, saved
from tests.apply.tiny import LLADA, recipe, write_folder

RECIPES = {
    "rtn": recipe({"method": "rtn"}),
    "act order with a permutation": recipe({"act_order": True}),
    "no zero points": recipe({"scheme": "sym_full"}),
    "midpoint zeros": recipe({"scheme": "sym_gptq", "bits": 3}),
    "real numbers as scales": recipe({"scale_format": "", "group_size": -1}),
    "bfloat16 scales": recipe({"scale_format": "bfloat16"}),
    "clip search": recipe({"method": "rtn", "clip_search": True, "bits": 2}),
    "static activations": recipe(**STATIC),
    "asymmetric static activations": recipe(activations={"method": "static", "bits": 4, "scheme": "asym_incl0"}),
    "a scale of V per feature": recipe(values={"method": "ia_aq", "bits": 4, "per": "feature"}, probabilities={"bits": 4}),
    "dynamic V": recipe(values={"method": "per_token", "bits": 4}),
    "weights stay": recipe({"method": "none"}, activations={"method": "per_token", "bits": 4}),
    "some skipped": recipe(skip=("q_proj", "ff_out"), **STATIC),
    "everything": find_recipe("dllmquant-w4a4").replace(weights={"group_size": 16}),
}


def ids_for(m):
    return np.arange(14).reshape(2, 7) % 90 + 4


@pytest.mark.parametrize("name", RECIPES)
def test_the_same_logits_come_back(tmp_path, name):
    m, quantized, out = saved(tmp_path, RECIPES[name])
    again = load(out)
    assert again.logits(ids_for(m)).tobytes() == quantized.attach(m).logits(ids_for(m)).tobytes()
    assert not np.array_equal(again.logits(ids_for(m)), m.logits(ids_for(m)))
    back = load_quantized(out)
    assert back.recipe == quantized.recipe
    assert {n: (q.digest(), q.origin) for n, q in back.weights.items()} == {n: (q.digest(), q.origin) for n, q in quantized.weights.items()}
    for mine, theirs in ((back.input_grids, quantized.input_grids), (back.value_grids, quantized.value_grids)):
        assert set(mine) == set(theirs)
        for key, grid in mine.items():
            assert grid.scale.tobytes() == theirs[key].scale.tobytes()
            assert grid.scale.dtype == theirs[key].scale.dtype
            assert (grid.zero is None) == (theirs[key].zero is None)
            if grid.zero is not None:
                assert grid.zero.tobytes() == theirs[key].zero.tobytes()
                assert grid.zero.dtype == theirs[key].zero.dtype
    assert dict(back.value_alphas) == dict(quantized.value_alphas)
    assert read_provenance(out) == PROVENANCE


@pytest.mark.parametrize("variant", ["base_bf16_sharded", "base_f16", "tied_gqa_f32", "bias_everywhere_f32", "sequential_swiglu_mqa_f32"])
@pytest.mark.parametrize("name", ["everything", "act order with a permutation"])
def test_untouched_tensors_keep_dtype_and_bytes(tmp_path, variant, name):
    """Sharded bfloat16, float16, a tied head, biases, fused projections: nothing but the linears' weights is replaced."""
    source = LLADA / variant
    m, quantized, out = saved(tmp_path, RECIPES[name], source)
    before, after = open_checkpoint(source), open_checkpoint(out)
    kept = set(before.names) - {n + ".weight" for n in m.linears}
    assert len(kept) == len(before.names) - len(m.linears)
    for tensor in kept:
        assert after.dtype(tensor) == before.dtype(tensor)
        assert after.read(tensor).tobytes() == before.read(tensor).tobytes()
    parts = {f"{n}.{part}" for n, q in quantized.weights.items() for part in q.parts()}
    assert set(after.names) == kept | parts
    assert [f.name for f in after.files] == ["model.safetensors"]
    assert (out / "config.json").read_bytes() == (source / "config.json").read_bytes()
    assert load(out).logits(ids_for(m)).tobytes() == quantized.attach(m).logits(ids_for(m)).tobytes()


def test_float64_loads_the_same_codes(tmp_path):
    source = write_folder(tmp_path / "source")
    m, quantized, out = saved(tmp_path, RECIPES["everything"], source, "float64")
    assert load(out, "float64").logits(ids_for(m)).tobytes() == quantized.attach(m).logits(ids_for(m)).tobytes()
    with pytest.raises(UsageError, match="dtype is 'float16'; allowed: float32, float64"):
        load(out, "float16")


def test_what_the_description_says(tmp_path):
    _, quantized, out = saved(tmp_path, RECIPES["everything"])
    tree = read_json(out / "quantization.json")
    assert tree["schema_version"] == 1
    assert tree["recipe"] == json.loads(json.dumps(RECIPES["everything"].to_dict()))
    assert (tree["input_digest"], tree["seed"], tree["run_digest"]) == ("a" * 64, 7, "c" * 64)
    assert set(tree["weights"]) == set(quantized.weights)
    entry = tree["weights"]["model.transformer.blocks.0.q_proj"]
    assert (entry["method"], entry["bits_per_weight"]) == ("gptq", "21/4")  # 4 + 16/16 + 4/16 bits
    assert tree["files"]["tokenizer.json"] == digest((out / "tokenizer.json").read_bytes())
    assert (out / "quantization.json").read_text() == canonical_json(tree) + "\n"
    assert sorted(p.name for p in out.iterdir()) == ["config.json", "model.safetensors", "quantization.json", "tokenizer.json"]


def test_a_plain_checkpoint_loads_as_it_is(tmp_path):
    source = write_folder(tmp_path / "source")
    assert not is_quantized(source)
    assert load(source).logits([[4, 5]]).tobytes() == model.load(source).logits([[4, 5]]).tobytes()
    with pytest.raises(InputError, match=r"source: not a quantized folder: it holds no quantization.json"):
        load_quantized(source)
    with pytest.raises(InputError, match=r"nothing.*[Nn]o such"):
        load(tmp_path / "nothing")


# Writing.


def test_nothing_is_left_when_saving_fails_in_the_middle(tmp_path, monkeypatch):
    source = write_folder(tmp_path / "source")
    m = model.load(source)
    quantized = quantize_model(m, recipe({"method": "rtn"}), [])
    before = sorted(p.name for p in tmp_path.iterdir())

    def fail(*arguments, **keywords):
        raise KeyboardInterrupt

    for target in ("write_streamed", "write_bytes", "Description.write"):
        with monkeypatch.context() as patch:
            patch.setattr(f"refquant.apply.saving.{target}", fail)
            with pytest.raises(KeyboardInterrupt):
                save_quantized(tmp_path / "out", source, quantized, PROVENANCE)
        assert sorted(p.name for p in tmp_path.iterdir()) == before
    save_quantized(tmp_path / "out", source, quantized, PROVENANCE)
    assert load(tmp_path / "out")


@pytest.mark.parametrize("kind", ["folder", "file", "link"])
def test_an_existing_output_is_not_touched(tmp_path, kind):
    source = write_folder(tmp_path / "source")
    quantized = quantize_model(model.load(source), recipe({"method": "rtn"}), [])
    out = tmp_path / "out"
    {"folder": out.mkdir, "file": out.touch, "link": lambda: out.symlink_to(tmp_path / "nowhere")}[kind]()
    with pytest.raises(InputError, match="out: exists already"):
        save_quantized(out, source, quantized, PROVENANCE)
    assert not (tmp_path / "nowhere").exists()
    with pytest.raises(InputError, match="missing"):
        save_quantized(tmp_path / "missing" / "out", source, quantized, PROVENANCE)


def test_a_result_of_another_model_is_not_saved(tmp_path):
    source = write_folder(tmp_path / "source")
    quantized = quantize_model(model.load(source), recipe({"method": "rtn"}), [])
    other = write_folder(tmp_path / "other", n_layers=1)
    with pytest.raises(InputError, match=r"blocks.1.\w+.weight was quantized but is not in this checkpoint"):
        save_quantized(tmp_path / "out", other, quantized, PROVENANCE)
    assert not (tmp_path / "out").exists()


def test_names_do_not_collide(tmp_path):
    source = write_folder(tmp_path / "source")
    quantized = quantize_model(model.load(source), recipe({"method": "rtn"}), [])
    tensors = read_tensors(source / "model.safetensors")
    name = "model.transformer.blocks.0.q_proj.codes"
    write_tensors(source / "model.safetensors", tensors | {name: np.zeros(1, np.float32)}, {"format": "pt"})
    with pytest.raises(InputError, match=r"q_proj.codes has the name of a quantized weight's part"):
        save_quantized(tmp_path / "out", source, quantized, PROVENANCE)


def test_the_digest_of_an_input(tmp_path):
    source = write_folder(tmp_path / "source")
    first = input_digest(source)
    assert input_digest(write_folder(tmp_path / "same")) == first
    assert input_digest(write_folder(tmp_path / "seed", seed=1)) != first
    assert input_digest(write_folder(tmp_path / "config", rope_theta=5000.0)) != first
    quantized = quantize_model(model.load(source), recipe({"method": "rtn"}), [])
    save_quantized(tmp_path / "out", source, quantized, PROVENANCE)
    with pytest.raises(UsageError, match="out is already quantized; quantize a full-precision checkpoint"):
        input_digest(tmp_path / "out")


def test_kept_files_are_all_covered(tmp_path):
    source = write_folder(tmp_path / "source")
    for name in checkpoint.KEPT_FILES:
        if not (source / name).exists():
            (source / name).write_text("{}")
    (source / "notes.txt").write_text("not ours")
    quantized = quantize_model(model.load(source), recipe({"method": "rtn"}), [])
    save_quantized(tmp_path / "out", source, quantized, PROVENANCE)
    assert set(read_json(tmp_path / "out" / "quantization.json")["files"]) == set(checkpoint.KEPT_FILES)
    assert not (tmp_path / "out" / "notes.txt").exists()
