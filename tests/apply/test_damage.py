"""No change of any byte of a quantized folder goes unnoticed."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from refquant.apply.checkpoint import load, load_quantized
from refquant.errors import InputError
from refquant.storage import canonical_json, digest, read_json, read_tensors, write_tensors
from tests.apply.folders import STATIC, saved
from tests.apply.tiny import recipe


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A folder with every kind of thing in it: permutations, static scales of inputs and of V."""
    plan = recipe({"act_order": True}, **STATIC)
    return saved(tmp_path_factory.mktemp("whole"), plan)[2]


@pytest.fixture
def copy(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "copy")


def refused(folder, match):
    for read in (load, load_quantized):
        with pytest.raises(InputError, match=match) as caught:
            read(folder)
        assert "\n" not in str(caught.value)
        assert folder.name in str(caught.value)


def test_one_flipped_bit_in_any_tensor_is_noticed(whole, copy):
    tensors = read_tensors(whole / "model.safetensors")
    assert {name.rpartition(".")[2] for name in tensors} == {"codes", "scale", "zero", "perm", "weight", "bias"}
    for name, array in tensors.items():
        changed = np.ascontiguousarray(array).copy()
        changed.reshape(-1).view(np.uint8)[changed.nbytes // 2] ^= 1
        write_tensors(copy / "model.safetensors", tensors | {name: changed}, {"format": "pt"})
        owner = name.rpartition(".")[0] if name.endswith(("codes", "scale", "zero", "perm")) else name
        with pytest.raises(InputError, match=rf"{owner} is damaged"):
            load_quantized(copy)


def test_a_tensor_that_is_missing_or_too_many_is_noticed(whole, copy):
    tensors = read_tensors(whole / "model.safetensors")
    for name in tensors:
        write_tensors(copy / "model.safetensors", {n: a for n, a in tensors.items() if n != name}, {"format": "pt"})
        with pytest.raises(InputError, match=name.rpartition(".")[0]):
            load_quantized(copy)
    head = "model.transformer.ff_out"
    for extra in (f"{head}.codes", "model.transformer.blocks.0.rotary_emb.inv_freq", "model.transformer.blocks.0.q_proj.weight", "x"):
        write_tensors(copy / "model.safetensors", tensors | {extra: np.zeros(3, np.float32)}, {"format": "pt"})
        refused(copy, f"{extra} is not recorded in quantization.json")


def test_another_dtype_or_shape_of_the_same_bytes_is_noticed(whole, copy):
    tensors = read_tensors(whole / "model.safetensors")
    name = "model.transformer.blocks.0.q_proj"
    for part, changed in (
        (".codes", tensors[name + ".codes"].view(np.int8)),
        (".scale", tensors[name + ".scale"].T.copy()),
        (".bias", tensors[name + ".bias"].reshape(4, 4)),
    ):
        write_tensors(copy / "model.safetensors", tensors | {name + part: changed}, {"format": "pt"})
        refused(copy, rf"{name}(.bias)? is damaged")


def leaves(tree, path=()):
    if isinstance(tree, dict | list) and tree:
        for key in tree if isinstance(tree, dict) else range(len(tree)):
            yield from leaves(tree[key], (*path, key))
    else:
        yield path


def test_any_change_of_the_description_is_noticed(whole, copy):
    """Every leaf of the JSON in turn: scales of V and inputs, alphas, specs, digests, the seed, the recipe."""
    original = read_json(whole / "quantization.json")
    paths = list(leaves(original))
    assert len({p[0] for p in paths}) == 15
    rng = np.random.default_rng(0)
    for number in rng.permutation(len(paths))[:150].tolist() + [i for i, p in enumerate(paths) if len(p) == 1]:
        tree = json.loads(json.dumps(original))
        *inner, last = paths[number]
        at = tree
        for key in inner:
            at = at[key]
        value = at[last]
        at[last] = value + "0" if isinstance(value, str) else [] if isinstance(value, dict) else not value if not value else value * 2
        (copy / "quantization.json").write_text(json.dumps(tree))
        with pytest.raises(InputError, match=r"quantization\.json"):
            load_quantized(copy)
    for key in original:
        (copy / "quantization.json").write_text(json.dumps({k: v for k, v in original.items() if k != key}))
        refused(copy, r"quantization\.json")
    (copy / "quantization.json").write_text(json.dumps(original | {"note": "mine"}))
    refused(copy, "changed since it was written: its digest is")
    (copy / "quantization.json").write_text(json.dumps(original, indent=3))  # the same content
    load(copy)


def resealed(folder, **changes):
    """A description that somebody changed and gave a fresh digest: now its content has to be looked at."""
    tree = read_json(folder / "quantization.json") | changes
    del tree["digest"]
    tree["digest"] = digest(canonical_json(tree))
    (folder / "quantization.json").write_text(canonical_json(tree))


def test_a_description_that_is_whole_and_wrong(whole, copy):
    tree = read_json(whole / "quantization.json")
    q_proj = "model.transformer.blocks.0.q_proj"
    without = {k: v for k, v in tree["activation_scales"].items() if k != q_proj}
    entry = tree["weights"][q_proj]
    for changes, message in (
        ({"schema_version": 2}, "schema_version is 2; this version reads 1"),
        ({"schema_version": "1"}, "schema_version is '1'"),
        ({"weights": []}, r"Expected `object`, got `array` - at `\$.weights`"),
        ({"seed": "7"}, "seed"),
        ({"recipe": tree["recipe"] | {"propagate": "x"}}, "recipe.propagate is 'x'; allowed are 'quantized', 'float'"),
        ({"recipe": tree["recipe"] | {"weights": {"scheme": "x"}}}, "recipe: unknown scheme 'x'"),
        ({"recipe": tree["recipe"] | {"hello": 1}}, "recipe: unknown field 'hello'"),
        ({"weights": tree["weights"] | {q_proj: entry | {"spec": "{}"}}}, "q_proj is damaged: this is not the JSON"),
        ({"weights": {k: v for k, v in tree["weights"].items() if k != q_proj}}, "q_proj.codes is not recorded"),
        ({"weights": tree["weights"] | {"x": entry}}, "x lacks codes, scale, which quantization.json promises"),
        ({"value_scales": tree["value_scales"] | {"a": tree["value_scales"]["0"]}}, r"quantization\.json: invalid literal"),
        ({"value_scales": tree["value_scales"] | {"0": tree["value_scales"]["0"] | {"shape": [3]}}}, r"quantization\.json: cannot reshape"),
        ({"value_scales": tree["value_scales"] | {"0": tree["value_scales"]["0"] | {"dtype": "int3"}}}, r"quantization\.json: .*int3"),
    ):
        shutil.copyfile(whole / "quantization.json", copy / "quantization.json")
        resealed(copy, **changes)
        refused(copy, message)
    for changes, message in (
        ({"activation_scales": without}, "activation scales are missing for model.transformer.blocks.0.q_proj"),
        ({"value_scales": {}}, "V scales are missing for 0, 1"),
        ({"value_scales": tree["value_scales"] | {"2": tree["value_scales"]["0"]}}, "V scales are there for what .* does not have: 2"),
    ):
        shutil.copyfile(whole / "quantization.json", copy / "quantization.json")
        resealed(copy, **changes)
        with pytest.raises(InputError, match=message):
            load(copy)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_a_changed_or_missing_file_is_noticed(copy, name):
    text = (copy / name).read_text()
    (copy / name).write_text(text.replace("1024", "1025", 1) if name == "config.json" else text.replace("a", "b", 1))
    refused(copy, f"{name} is damaged: its digest is")
    (copy / name).unlink()
    refused(copy, f"{name} is missing, which quantization.json promises")


def test_truncation_and_foreign_files(copy):
    data = (copy / "model.safetensors").read_bytes()
    (copy / "model.safetensors").write_bytes(data[:-1])
    refused(copy, "model.safetensors")
    (copy / "model.safetensors").unlink()
    refused(copy, "no checkpoint here")
    (copy / "quantization.json").write_text("{")
    refused(copy, "quantization.json: not valid JSON")
