"""Models out of GGUF files: the numbers of the checkpoint where nothing is rounded, ggml's products and angles where they are asked for."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

import model
from refquant.apply.exporting import export
from refquant.apply.gguf_model import GgufModel, ggml_angles, head_name, load_gguf
from refquant.errors import UsageError
from refquant.layout.gguf.products import GgmlLinear
from refquant.storage import open_checkpoint, write_tensors

TINY = model.embedded_directory()
TOKENS = np.array([[5, 3, 900, 17, 3, 3, 60]])


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gguf")
    for variant in ("f32", "q4_1"):
        export(TINY, "gguf", folder / variant, variant=variant, requantize=True)
    return folder


def test_plain_is_the_checkpoint(files):
    wanted = model.load(TINY, "float64").logits(TOKENS)
    for path in (files / "f32", files / "f32" / "model.gguf"):
        assert np.array_equal(load_gguf(path, products="plain", angles="plain").logits(TOKENS), wanted)


def test_each_part_of_ggmls_way_shows(files):
    def off(a, b):
        return np.abs(a - b).max() / np.abs(b).max()

    plain = load_gguf(files / "q4_1", products="plain", angles="plain").logits(TOKENS)
    angles = load_gguf(files / "q4_1", products="plain").logits(TOKENS)
    both = load_gguf(files / "q4_1").logits(TOKENS)
    assert 1e-9 < off(angles, plain) < 1e-6
    assert 1e-4 < off(both, plain) < 3e-2


def test_a_tied_head_is_ggmls_too(tmp_path):
    tied = tmp_path / "tied"
    shutil.copytree(TINY, tied)
    config = json.loads((tied / "config.json").read_text())
    (tied / "config.json").write_text(json.dumps(config | {"weight_tying": True}))
    stored = open_checkpoint(TINY)
    tensors = {name: stored.read(name) for name in stored.names if not name.startswith("model.transformer.ff_out")}
    write_tensors(tied / "model.safetensors", tensors, {"format": "pt"})
    export(tied, "gguf", tmp_path / "out", variant="f16", requantize=True)
    made = load_gguf(tmp_path / "out")
    assert head_name(made.transformer) == "model.transformer.wte"
    assert isinstance(made.transformer._head, GgmlLinear)
    plain = load_gguf(tmp_path / "out", products="plain")
    assert 0 < np.abs(made.logits(TOKENS) - plain.logits(TOKENS)).max() < 0.05


def test_positions_are_where_float32_puts_them():
    angles = ggml_angles(1000, 64, 10000.0).astype(float)
    exact = np.arange(1000)[:, None] * 10000.0 ** (-np.arange(32) / 32)
    assert np.array_equal(angles[:, 0], exact[:, 0])
    off = np.abs(angles - exact).max(axis=1)
    assert off[999] > 100 * off[3] > 0


def test_refusals(files):
    with pytest.raises(UsageError, match="products are ggml or plain, not 'exact'"):
        load_gguf(files / "f32", products="exact")
    with pytest.raises(UsageError, match="angles are ggml or plain, not 'exact'"):
        load_gguf(files / "f32", angles="exact")
    with pytest.raises(UsageError, match="there is no linear 'x'"):
        GgufModel(transformer=model.embedded()).with_linears({"x": None})
