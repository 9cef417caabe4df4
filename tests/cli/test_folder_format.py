"""docs/checkpoint.md is enough to read a folder: everything here is NumPy, safetensors, json and hashlib."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from refquant.apply.checkpoint import load_quantized
from refquant.apply.recipe import find_recipe

RECIPES = {
    "dllmquant-w4a4": {},
    "ragged and permuted": {"act_order": True, "group_size": 10},
    "whole rows, no zeros": {"group_size": -1, "scheme": "sym_full", "scale_format": ""},
    "wide zeros": {"scheme": "asym_omni", "group_size": 7, "bits": 3},
    "ten bits": {"bits": 10},
}


@pytest.fixture(params=RECIPES)
def folder(request, run, checkpoint, tmp_path):
    recipe = find_recipe("dllmquant-w4a4").replace(weights=RECIPES[request.param])
    (tmp_path / "mine.toml").write_text(recipe.to_toml())
    ran = run("quantize", checkpoint, "--quick", "--no-compare", "--recipe", tmp_path / "mine.toml", "--out", tmp_path / "out")
    assert ran.code == 0, ran.err
    return tmp_path / "out"


def canonical(value):
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def sha(data):
    return hashlib.sha256(data).hexdigest()


def dequantized(tensors, name, group):
    """As the page says."""
    codes = tensors[f"{name}.codes"].astype(np.float64)
    columns = codes.shape[1]
    group = columns if group is None else group
    scale = tensors[f"{name}.scale"].astype(np.float64).repeat(group, axis=1)[:, :columns]
    zero = np.zeros_like(scale)
    if f"{name}.zero" in tensors:
        zero = tensors[f"{name}.zero"].astype(np.float64).repeat(group, axis=1)[:, :columns]
    if f"{name}.perm" not in tensors:
        return scale * (codes - zero)
    order = tensors[f"{name}.perm"]
    values = np.empty_like(codes)
    values[:, order] = scale * (codes[:, order] - zero)
    return values


def test_weights_read_without_refquant(folder, checkpoint):
    tensors = load_file(folder / "model.safetensors")
    description = json.loads((folder / "quantization.json").read_text())
    quantized = load_quantized(folder)
    original = load_file(checkpoint / "model.safetensors")
    assert description["schema_version"] == 1
    for name, entry in description["weights"].items():
        spec = json.loads(entry["spec"])
        values = dequantized(tensors, name, spec["tiling"][1])
        assert np.array_equal(values, quantized.weights[name].dequantize(np.dtype(np.float64)))
        weight = original[f"{name}.weight"]
        assert values.shape == weight.shape
        levels = 2 ** spec["format"]["bits"] - 1
        assert np.abs(values - weight).max() < 4 * np.ptp(weight) / levels  # compensated, so not within half a step
    kept = set(original) - {f"{name}.weight" for name in description["weights"]}
    assert kept == set(description["untouched"])
    assert all(tensors[name].tobytes() == original[name].tobytes() for name in kept)


def test_digests_are_as_written_down(folder):
    tensors = load_file(folder / "model.safetensors")
    text = (folder / "quantization.json").read_text()
    description = json.loads(text)
    assert text == canonical(description) + "\n"
    rest = {key: value for key, value in description.items() if key != "digest"}
    assert description["digest"] == sha(canonical(rest).encode())
    for name, digest in description["untouched"].items():
        array = tensors[name]
        assert digest == sha(canonical([array.dtype.name, list(array.shape)]).encode() + b"\n" + array.tobytes())
    for name, entry in description["weights"].items():
        parts = {part: tensors[f"{name}.{part}"] for part in ("codes", "perm", "scale", "zero") if f"{name}.{part}" in tensors}
        data = entry["spec"].encode()
        for part, array in parts.items():
            data += json.dumps([part, array.dtype.name, list(array.shape)]).encode() + array.tobytes()
        assert entry["digest"] == sha(data)
    for name, digest in description["files"].items():
        assert digest == sha((folder / name).read_bytes())
    assert {path.name for path in folder.iterdir()} == {"model.safetensors", "quantization.json", *description["files"]}


def test_dtypes_are_as_written_down(folder):
    tensors = load_file(folder / "model.safetensors")
    description = json.loads((folder / "quantization.json").read_text())
    for name, entry in description["weights"].items():
        spec = json.loads(entry["spec"])
        wide, signed = spec["format"]["bits"] > 8, spec["scheme"]["signed"]
        assert tensors[f"{name}.codes"].dtype == {(0, 0): "u1", (0, 1): "i1", (1, 0): "u2", (1, 1): "i2"}[int(wide), int(signed)]
        assert tensors[f"{name}.scale"].dtype == (spec["scale_format"] or "float64")
        assert (f"{name}.zero" in tensors) == (spec["scheme"]["zero"] != "none")
        if spec["scheme"]["zero"] == "integer":
            assert tensors[f"{name}.zero"].dtype == tensors[f"{name}.codes"].dtype
        if spec["scheme"]["name"] == "asym_omni":
            assert tensors[f"{name}.zero"].dtype == np.int16
    for grid in description["value_scales"].values():
        assert len(grid["scale"]) == np.prod(grid["shape"])


def test_the_page_names_every_key(folder):
    page = (Path(__file__).parents[2] / "docs" / "checkpoint.md").read_text()
    for key in json.loads((folder / "quantization.json").read_text()):
        assert f"| `{key}` |" in page
