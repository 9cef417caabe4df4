"""Whole exported folders, read with nothing but safetensors, ``config.json`` and the program itself."""

from __future__ import annotations

import json

import numpy as np
import pytest

import model
from refquant.apply.checkpoint import load_quantized
from refquant.apply.exporting import export
from refquant.apply.recipe import find_recipe
from refquant.apply.run import open_workbench, save_run


def quantized(tmp_path, **weights):
    source = model.embedded_directory()
    bench = open_workbench(source, model.load(source), calibration=None, seed=0)
    save_run(tmp_path / "q", bench, bench.quantize(find_recipe("rtn-w4a16").replace(weights=weights)))
    return load_quantized(tmp_path / "q").weights


def parts_of(torch_file, folder, name):
    with torch_file(folder / "model.safetensors", "pt") as file:
        return {key.removeprefix(f"{name}."): file.get_tensor(key) for key in file.keys() if key.startswith(f"{name}.")}  # noqa: SIM118


@pytest.fixture
def torch_file(peer):
    peer("torch")
    return peer("safetensors").safe_open


def test_compressed_tensors_reads_the_embedded_model(peer, torch_file, record, tmp_path):
    peer("compressed_tensors")
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationConfig

    weights = quantized(tmp_path, scale_format="float32")
    export(tmp_path / "q", "compressed-tensors", tmp_path / "ct")
    config = QuantizationConfig(**json.loads((tmp_path / "ct" / "config.json").read_text())["quantization_config"])
    program = BaseCompressor.get_value_from_registry(config.format)
    for name, q in weights.items():
        found = program.decompress(parts_of(torch_file, tmp_path / "ct", name), config.config_groups["group_0"])["weight"]
        assert np.array_equal(found.numpy(), q.dequantize())
    record("pack-quantized", "compressed-tensors", "reads ours", "equal", "the embedded model's exported folder, 4 bits, groups of 128")


def test_bitsandbytes_reads_the_embedded_model(peer, torch_file, record, tmp_path):
    torch = peer("torch")
    functional = peer("bitsandbytes").functional
    weights = quantized(tmp_path, format="nf4", scale_format="float16", group_size=128)
    export(tmp_path / "q", "bitsandbytes", tmp_path / "bnb")
    for name, q in weights.items():
        parts = parts_of(torch_file, tmp_path / "bnb", name)
        state = {key.removeprefix("weight."): tensor for key, tensor in parts.items() if key.startswith("weight.")}
        found = functional.dequantize_4bit(parts["weight"], functional.QuantState.from_dict(state, device=torch.device("cpu")))
        assert np.array_equal(found.numpy(), q.dequantize(np.dtype(np.float32)))
    record("bitsandbytes nf4", "bitsandbytes", "reads ours", "equal", "the embedded model's exported folder")
