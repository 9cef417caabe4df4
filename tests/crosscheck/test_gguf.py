"""gguf's NumPy and ggml's C on the same numbers and bytes, files included."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest

import model
from refquant.apply.exporting import export
from refquant.layout.gguf import BLOCK_TYPES, GgufTensor, quantize, read_gguf
from refquant.layout.gguf.codebooks import codebook
from refquant.layout.gguf.types import WEIGHTED
from tests.crosscheck.llama import library
from tests.layout.tensors import peer as recorded

QUANTIZED = ("F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "TQ1_0", "TQ2_0", "MXFP4")
K_TYPES = ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K")
SEARCHED = ("IQ1_M", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_NL", "IQ4_XS", "NVFP4")


def nasty():
    """Recorded rows, random ones of many sizes, ties of halves, and numbers next to every power of two that float16 scales can follow."""
    rng = np.random.default_rng(0)
    sizes = np.exp2(rng.integers(-14, 12, (200, 1)))
    powers = np.exp2(np.arange(-13.0, 14.0)).astype(np.float32)[:, None]
    beside = (powers.view(np.int32) + rng.integers(-40, 3, (27, 256), dtype=np.int32)).view(np.float32)
    parts = [
        np.delete(recorded("gguf")["input"], 6, axis=0),
        rng.standard_normal((200, 256)) * sizes,
        rng.integers(-256, 257, (50, 256)) / 2,
        beside * rng.choice([-1, 1], beside.shape),
        rng.standard_t(2, (100, 256)),
        rng.standard_normal((50, 256)) * (rng.random((50, 256)) < 0.1),
    ]
    return np.concatenate([part.astype(np.float32) for part in parts])


@pytest.mark.parametrize("kind", QUANTIZED)
def test_gguf_quantizes_and_dequantizes_the_same(peer, record, kind):
    gguf, x = peer("gguf"), nasty()
    ours = quantize(x, kind)
    theirs = gguf.quants.quantize(x, gguf.GGMLQuantizationType[kind])
    assert ours.blocks.tobytes() == theirs.tobytes()
    assert ours.dequantize().tobytes() == gguf.quants.dequantize(theirs, gguf.GGMLQuantizationType[kind]).tobytes()
    record(f"GGUF {kind}", "gguf", "quantizes, dequantizes", "equal", f"{len(x)} rows of 256")


def by_ggml(llama, kind, x, importance=None):
    """What ggml's C makes of rows."""
    theirs = np.zeros((len(x), x.shape[1] // kind.size * kind.nbytes), np.uint8)
    run = library(llama, "libggml-base.so").ggml_quantize_chunk
    run.restype = ctypes.c_size_t
    run.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p]
    pointer = None if importance is None else importance.ctypes.data
    run(kind.number, x.ctypes.data, theirs.ctypes.data, 0, len(x), x.shape[1], pointer)
    return theirs


def nastier(columns):
    """Rows of many kinds, for searches: equal numbers, signs, groups of zeros, offsets, subnormal numbers, sizes within a row."""
    rng = np.random.default_rng(1)
    shape = (12, columns)
    grouped = rng.standard_normal(shape)
    grouped.reshape(12, -1, 32)[rng.random((12, columns // 32)) < 0.4] = 0
    parts = [
        rng.standard_normal(shape) * np.exp2(rng.integers(-50, 10, (12, 1))),
        rng.standard_normal(shape) * np.exp2(rng.integers(-12, 4, shape)),
        rng.standard_normal(shape) * np.exp2(rng.integers(-149, -60, (12, 1))),
        rng.standard_normal(shape) * 1000 + rng.standard_normal((12, 1)) * 1e4,
        rng.standard_t(2, shape),
        rng.integers(-3, 4, shape) / 2,
        rng.choice([-1, 1], shape) * rng.uniform(1, 2, (12, 1)),
        np.abs(rng.standard_normal(shape)) * rng.choice([-1, 1], (12, 1)),
        np.where(rng.random(shape) < 0.5, -0.0, 0.0),
        grouped,
    ]
    return np.concatenate([part.astype(np.float32) for part in parts])


def importances(columns):
    """Vectors of many kinds: even, wide, with zeros, nearly all and nothing but zeros."""
    rng = np.random.default_rng(2)
    found = [
        rng.random(columns),
        np.ones(columns),
        np.exp2(rng.integers(-10, 10, columns)),
        rng.standard_normal(columns) ** 2 * (rng.random(columns) < 0.3),
        rng.standard_normal(columns) ** 2 * (rng.random(columns) < 0.05),
        np.zeros(columns),
    ]
    return [importance.astype(np.float32) for importance in found]


@pytest.mark.parametrize("kind", [*K_TYPES, *SEARCHED])
def test_ggml_quantizes_the_same(peer, record, kind):
    llama, kind, x = peer("llama_cpp"), BLOCK_TYPES[kind], np.concatenate([nasty(), nastier(256)])
    assert quantize(x, kind).blocks.tobytes() == by_ggml(llama, kind, x).tobytes()
    record(f"GGUF {kind.name}", "llama_cpp_python", "quantizes", "equal", f"ggml's C, {len(x)} rows of 256")


@pytest.mark.parametrize("kind", WEIGHTED)
def test_ggml_weighs_the_same(peer, record, kind):
    llama, kind, count = peer("llama_cpp"), BLOCK_TYPES[kind], 0
    for columns in (256, 320, 768):
        if columns % kind.size:
            continue
        x = nastier(columns)
        for importance in importances(columns):
            found = quantize(x, kind, importance=importance).blocks
            assert found.tobytes() == by_ggml(llama, kind, x, importance).tobytes()
            count += len(x)
    record(f"GGUF {kind.name}, importance", "llama_cpp_python", "quantizes", "equal", f"ggml's C, {count} rows of 256 to 768")


@pytest.mark.parametrize("name", [name for name in BLOCK_TYPES if name not in ("F32", "F16")])
def test_gguf_dequantizes_any_bytes_the_same(peer, record, name):
    gguf, kind = peer("gguf"), BLOCK_TYPES[name]
    blocks = np.random.default_rng(1).integers(0, 256, (4000, kind.nbytes), dtype=np.uint8)
    ours = GgufTensor(kind=kind, blocks=blocks, shape=(4000 * kind.size,)).dequantize()
    with np.errstate(all="ignore"):
        theirs = gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType[name]).reshape(-1)
    number = ~np.isnan(theirs)
    assert ours[number].tobytes() == theirs[number].tobytes()
    assert np.isnan(ours[~number]).all()
    if name not in QUANTIZED:
        record(f"GGUF {name}", "gguf", "dequantizes", "equal", "4000 blocks of random bytes; NaN where it has NaN")


@pytest.mark.parametrize("name", ["IQ1_S", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S"])
def test_codebooks_are_those_of_gguf(peer, name):
    held = getattr(peer("gguf").quants, name)
    held.init_grid()
    assert np.array_equal(held.grid.reshape(held.grid_shape), codebook(name).points)


def test_gguf_reads_our_file(peer, record, tmp_path):
    gguf = peer("gguf")
    export(model.embedded_directory(), "gguf", tmp_path / "out", variant="q4_k", requantize=True)
    path = tmp_path / "out" / "model.gguf"
    theirs, ours = gguf.GGUFReader(path), read_gguf(path)
    assert {tensor.name for tensor in theirs.tensors} == set(ours.tensors)
    for tensor in theirs.tensors:
        held = ours.read(tensor.name)
        assert tuple(int(n) for n in tensor.shape)[::-1] == held.shape
        assert tensor.tensor_type.name == held.kind.name
        assert np.asarray(tensor.data).tobytes() == held.blocks.tobytes()
    for key, value in ours.metadata.items():
        assert theirs.fields[key].contents() == value.value
    record("GGUF file", "gguf", "reads ours", "equal", "every key and tensor")


def test_we_read_ggufs_file(peer, record, tmp_path):
    gguf = peer("gguf")
    writer = gguf.GGUFWriter(tmp_path / "a.gguf", "none")
    writer.add_array("texts", ["a", "ü"])
    writer.add_float64("real", 0.1)
    x = np.random.default_rng(0).standard_normal((4, 256)).astype(np.float32)
    for kind in QUANTIZED:
        number = gguf.GGMLQuantizationType[kind]
        writer.add_tensor(kind, gguf.quants.quantize(x, number), raw_dtype=number)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found = read_gguf(tmp_path / "a.gguf")
    assert found.metadata["texts"].value == ["a", "ü"]
    assert found.metadata["real"].value == 0.1
    for kind in QUANTIZED:
        assert found.read(kind).digest() == quantize(x, kind).digest()
    record("GGUF file", "gguf", "writes, we read", "equal", f"{len(QUANTIZED)} types")
