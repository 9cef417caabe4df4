"""Exports and imports of folders in several files, in memory for a few linears."""

from __future__ import annotations

import gc
import tracemalloc

import numpy as np
import pytest

from refquant.apply.checkpoint import load, load_quantized
from refquant.apply.exporting import export
from refquant.apply.importing import import_folder
from refquant.apply.inspecting import inspect
from refquant.apply.recipe import Recipe
from refquant.errors import InputError
from refquant.storage import open_checkpoint
from tests.apply.folders import saved
from tests.apply.tiny import write_folder

PLAIN = Recipe(name="plain").replace(weights={"method": "rtn", "group_size": 16}, calibration={"states": "none"})


def parts_of(folder):
    return sorted(path.name for path in folder.glob("*.safetensors*"))


@pytest.mark.parametrize("layout", ["gptq", "compressed-tensors", "dequantized"])
def test_several_files_there_and_back(tmp_path, layout):
    source = write_folder(tmp_path / "source", d_model=32, mlp_hidden_size=64, n_kv_heads=4)
    quantized, folder = saved(tmp_path, PLAIN, source)[1:]
    variant = "v2" if layout == "gptq" else ""
    export(folder, layout, tmp_path / "one", variant=variant)
    export(folder, layout, tmp_path / "many", variant=variant, shard_bytes=6000)
    assert parts_of(tmp_path / "one") == ["model.safetensors"]
    assert len(parts_of(tmp_path / "many")) > 3
    assert "model.safetensors.index.json" in parts_of(tmp_path / "many")
    one, many = open_checkpoint(tmp_path / "one"), open_checkpoint(tmp_path / "many")
    assert one.digest() == many.digest()
    ids = np.arange(4, 16)[None]
    if layout == "dequantized":
        assert np.array_equal(load(tmp_path / "many").logits(ids), load(folder).logits(ids))
        return
    for row, other in zip(inspect(tmp_path / "one").rows, inspect(tmp_path / "many").rows, strict=True):
        assert row == other
    found = import_folder(tmp_path / "many", tmp_path / "back", shard_bytes=9000)
    assert (found.elements, found.total_bits) == (
        sum(q.codes.size for q in quantized.weights.values()),
        sum(q.total_bits for q in quantized.weights.values()),
    )
    assert len(parts_of(tmp_path / "back")) > 3
    back = load_quantized(tmp_path / "back")
    assert {name: q.digest() for name, q in back.weights.items()} == {name: q.digest() for name, q in quantized.weights.items()}
    assert np.array_equal(load(tmp_path / "back").logits(ids), load(folder).logits(ids))
    (tmp_path / "many" / parts_of(tmp_path / "many")[1]).unlink()
    with pytest.raises(InputError):
        import_folder(tmp_path / "many", tmp_path / "again")
    assert not (tmp_path / "again").exists()


def peak_of(call):
    """Most bytes that a call had allocated at one time, NumPy's arrays among them."""
    gc.collect()
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_is_that_of_a_few_linears(tmp_path):
    """Codes and numbers of one linear at a time; a model of twice the depth takes no more."""
    peaks = {}
    for depth in (2, 6):
        here = tmp_path / str(depth)
        here.mkdir()
        source = write_folder(here / "source", n_layers=depth, d_model=128, n_heads=4, n_kv_heads=4, mlp_hidden_size=256)
        folder = saved(here, PLAIN, source)[2]
        gc.collect()
        peaks[depth] = (
            peak_of(lambda folder=folder, here=here: export(folder, "gptq", here / "gptq", variant="v2", shard_bytes=100_000)),
            peak_of(lambda here=here: import_folder(here / "gptq", here / "back", shard_bytes=100_000)),
            peak_of(lambda folder=folder, here=here: export(folder, "dequantized", here / "plain", shard_bytes=100_000)),
        )
    for few, many in zip(peaks[2], peaks[6], strict=True):
        assert many < 1.3 * few + 200_000, peaks
