"""gguf's NumPy and ggml's C on the same numbers and bytes, and llama.cpp running the embedded model as we export it."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
import pytest

import model
from model import Config
from refquant.apply.exporting import export
from refquant.apply.gguf_llada import config_of, rotated_rows, tensor_names, unrotated, with_rows
from refquant.layout.gguf import BLOCK_TYPES, GgufTensor, quantize, read_gguf
from refquant.layout.gguf.products import GgmlLinear, activation_margin
from tests.layout.tensors import peer as recorded

QUANTIZED = ("F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "TQ1_0", "TQ2_0", "MXFP4")
K_TYPES = ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K")
HEAD = "model.transformer.ff_out"
NEAR = 1e-4
"""Codes: activations nearer to a tie than this may go the other way."""


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


def library(peer, name):
    llama = peer("llama_cpp")
    return ctypes.CDLL(str(Path(llama.__file__).parent / "lib" / name))


@pytest.mark.parametrize("kind", QUANTIZED)
def test_gguf_quantizes_and_dequantizes_the_same(peer, record, kind):
    gguf, x = peer("gguf"), nasty()
    ours = quantize(x, kind)
    theirs = gguf.quants.quantize(x, gguf.GGMLQuantizationType[kind])
    assert ours.blocks.tobytes() == theirs.tobytes()
    assert ours.dequantize().tobytes() == gguf.quants.dequantize(theirs, gguf.GGMLQuantizationType[kind]).tobytes()
    record(f"GGUF {kind}", "gguf", "quantizes, dequantizes", "equal", f"{len(x)} rows of 256")


@pytest.mark.parametrize("kind", K_TYPES)
def test_ggml_quantizes_the_same(peer, record, kind):
    x = nasty()
    kind = BLOCK_TYPES[kind]
    theirs = np.zeros((len(x), kind.nbytes), np.uint8)
    run = library(peer, "libggml-base.so").ggml_quantize_chunk
    run.restype = ctypes.c_size_t
    run.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p]
    run(kind.number, x.ctypes.data, theirs.ctypes.data, 0, len(x), 256, None)
    assert quantize(x, kind).blocks.tobytes() == theirs.tobytes()
    record(f"GGUF {kind.name}", "llama_cpp_python", "quantizes", "equal", f"ggml's C, {len(x)} rows of 256")


@pytest.mark.parametrize("name", [name for name in BLOCK_TYPES if name not in ("F32", "F16")])
def test_gguf_dequantizes_any_bytes_the_same(peer, name):
    gguf, kind = peer("gguf"), BLOCK_TYPES[name]
    blocks = np.random.default_rng(1).integers(0, 256, (4000, kind.nbytes), dtype=np.uint8)
    ours = GgufTensor(kind=kind, blocks=blocks, shape=(4000 * kind.size,)).dequantize()
    with np.errstate(all="ignore"):
        theirs = gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType[name]).reshape(-1)
    number = ~np.isnan(theirs)
    assert ours[number].tobytes() == theirs[number].tobytes()
    assert np.isnan(ours[~number]).all()


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


class Llama:
    """A file as llama.cpp runs it: logits of every position, attention in float32."""

    def __init__(self, llama, path):
        self.llama = llama
        self.quiet = llama.llama_log_callback(lambda level, text, user: None)
        llama.llama_log_set(self.quiet, ctypes.c_void_p(0))
        self.model = llama.llama_model_load_from_file(str(path).encode(), llama.llama_model_default_params())
        assert self.model
        self.vocabulary = llama.llama_model_get_vocab(self.model)
        settings = llama.llama_context_default_params()
        settings.n_ctx = settings.n_batch = settings.n_ubatch = 256
        settings.n_threads = settings.n_threads_batch = 1
        settings.flash_attn_type = 0  # it would round keys and values to float16
        self.context = llama.llama_init_from_model(self.model, settings)

    def logits(self, tokens):
        batch = self.llama.llama_batch_init(len(tokens), 0, 1)
        batch.n_tokens = len(tokens)
        for i, token in enumerate(tokens):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = int(token), i, 1, 1
            batch.seq_id[i][0] = 0
        assert self.llama.llama_decode(self.context, batch) == 0
        shape = (len(tokens), self.llama.llama_vocab_n_tokens(self.vocabulary))
        return np.ctypeslib.as_array(self.llama.llama_get_logits(self.context), shape).copy()

    def tokens(self, text):
        raw, room = text.encode(), (ctypes.c_int32 * 4096)()
        count = self.llama.llama_tokenize(self.vocabulary, raw, len(raw), room, 4096, False, False)
        return list(room[:count])


@pytest.fixture
def run(peer, tmp_path):
    llama = peer("llama_cpp")

    def made(variant):
        export(model.embedded_directory(), "gguf", tmp_path / "out", variant=variant, requantize=True)
        path = tmp_path / "out" / "model.gguf"
        return Llama(llama, path), read_gguf(path)

    return made


def ours_of(file):
    """Our model of a file, in float64: with plain products, with ggml's, and with what its linears saw."""
    config = Config.from_dict(config_of(file))
    tensors, linears = {}, {}
    for theirs, ours in tensor_names(config).items():
        held, order = file.read(f"{theirs}.weight"), rotated_rows(theirs, config)
        tensors[f"{ours}.weight"] = unrotated(held.dequantize(), order)
        if len(held.shape) == 2 and theirs != "token_embd":
            linears[ours] = GgmlLinear(with_rows(held, None if order is None else np.argsort(order)))
    head = linears.pop(HEAD)
    plain = model.build(config, tensors, "float64")
    as_ggml = plain.replace(linears=linears)

    def logits(tokens):
        seen = {}
        as_ggml.logits(tokens[None], observer=seen.__setitem__)
        inputs = [seen[f"{name}.input"] for name in linears]
        return plain.logits(tokens[None])[0], head(seen["head.input"])[0], min(activation_margin(x) for x in inputs)

    return logits


def sequences(count, length):
    found = np.random.default_rng(5).integers(4, 1024, (count, length))
    found[:, 1::3] = 3  # masks
    return found


def off(found, theirs):
    return float(np.abs(found - theirs).max() / np.abs(theirs).max())


def test_llama_cpp_runs_the_embedded_model_in_f32(run, record):
    llama, file = run("f32")
    logits = ours_of(file)
    short = max(off(logits(tokens)[0], llama.logits(tokens)) for tokens in sequences(8, 16))
    long = max(off(logits(tokens)[0], llama.logits(tokens)) for tokens in sequences(4, 48))
    assert short < 1e-6
    assert long < 2e-6
    note = f"logits of 8 x 16 positions, against ours in float64, of the largest; of 4 x 48: {long:.1e}"
    record("GGUF F32, model", "llama_cpp_python", "runs ours", f"{short:.1e}", note)


@pytest.mark.parametrize("variant", ["q8_0", "q4_0", "q5_0", "mxfp4"])
def test_llama_cpp_runs_the_embedded_model_quantized(run, record, variant):
    """Within 1e-6 unless an activation lies so near a tie that the last bits of float32 decide which code it gets."""
    llama, file = run(variant)
    logits, found = ours_of(file), []
    for tokens in (*sequences(80, 2), *sequences(20, 6)):
        theirs = llama.logits(tokens)
        plain, as_ggml, margin = logits(tokens)
        found.append((off(as_ggml, theirs), off(plain, theirs), margin))
    errors, without, margins = np.array(found).T
    same = errors < 1e-6
    assert (margins > NEAR).sum() >= 3
    assert same[margins > NEAR].all()
    assert same.sum() >= 75
    assert np.median(without) > 1e-3
    note = f"{same.sum()} of 100 sequences; in the others ({errors.max():.0e}) an activation lies within {NEAR:.0e} codes of a tie; "
    note += f"without ggml's activations {np.median(without):.0e}"
    record(f"GGUF {variant.upper()}, model", "llama_cpp_python", "runs ours", f"{errors[same].max():.1e}", note)


def test_llama_cpp_runs_the_embedded_model_in_f16(run, record):
    llama, file = run("f16")
    logits = ours_of(file)
    found = [(off(plain, theirs), off(rounded, theirs)) for tokens in sequences(4, 48) for plain, rounded, _ in [logits(tokens)]
             for theirs in [llama.logits(tokens)]]  # fmt: skip
    plain, rounded = np.max(found, axis=0)
    # What happens to activations depends on how ggml was compiled: float32, float16, and something in between have been seen.
    assert min(plain, rounded) < 1e-3
    note = f"no bound is claimed: with activations rounded to float16 {rounded:.1e}"
    record("GGUF F16, model", "llama_cpp_python", "runs ours", f"{plain:.1e}", note)


def test_llama_cpp_splits_text_as_the_tokenizer_does(run, record):
    llama, _ = run("f32")
    import json

    lines = (model.embedded_directory() / "eval.jsonl").read_text(encoding="utf-8").splitlines()
    tokenizer = model.Tokenizer.from_directory(model.embedded_directory())
    texts = [text for line in lines[:200] for text in json.loads(line).values() if isinstance(text, str)]
    texts += ["1234 and 5.6", "  two  spaces\n\nlines\t", "ünïcödé — dash", "it's 7am"]
    assert len(texts) > 100
    for text in texts:
        assert llama.tokens(text) == tokenizer.encode(text), text
    record("GGUF vocabulary", "llama_cpp_python", "runs ours", "equal", f"{len(texts)} texts split the same")
