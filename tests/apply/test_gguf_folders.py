"""The embedded model as GGUF files and back: numbers, rows of rotated heads, keys, refusals."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

import model
from model import Config
from refquant.apply.checkpoint import is_quantized
from refquant.apply.exporting import export
from refquant.apply.gguf_llada import KEPT, rotated_rows, tensor_names
from refquant.apply.importing import import_folder
from refquant.apply.inspecting import inspect
from refquant.errors import InputError, UsageError
from refquant.layout.gguf import BLOCK_TYPES, GgufTensor, Value, quantize, read_gguf, write_gguf
from refquant.layout.gguf.grids import from_gguf
from refquant.storage import open_checkpoint

TINY = model.embedded_directory()
Q = "blocks.0.q_proj.weight"


def exported(folder, variant, **how):
    written = export(TINY, "gguf", folder / variant, variant=variant, **how)
    return folder / variant / "model.gguf", written


def changed(path, metadata=None, tensors=None):
    """The file with other keys or tensors; None takes one out."""
    file = read_gguf(path)
    keys = {**file.metadata, **(metadata or {})}
    held = {name: file.read(name) for name in file.tensors} | (tensors or {})
    write_gguf(path, {key: value for key, value in keys.items() if value is not None}, {k: t for k, t in held.items() if t is not None})
    return path


def test_f32_is_exact_and_comes_back(tmp_path):
    path, written = exported(tmp_path, "f32")
    assert not written.losses
    import_folder(path, tmp_path / "back")
    ours, back = open_checkpoint(TINY), open_checkpoint(tmp_path / "back")
    assert set(back.names) == set(ours.names)
    for name in ours.names:
        assert np.array_equal(back.read(name).astype(np.float64), ours.read(name).astype(np.float64))
    was, found = (Config.from_dict(json.loads((folder / "config.json").read_text())) for folder in (TINY, tmp_path / "back"))
    assert found.architecture() == was.architecture()
    assert (found.mask_token_id, found.eos_token_id, found.pad_token_id, found.vocab_size) == (3, 1, 1, 1024)
    assert found.max_sequence_length == was.max_sequence_length
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "back" / name).read_bytes() == (TINY / name).read_bytes()


def test_bf16_holds_a_bfloat16_checkpoint_byte_for_byte(tmp_path):
    path, written = exported(tmp_path, "bf16")
    assert not written.losses
    import_folder(path, tmp_path / "back")
    ours, back = open_checkpoint(TINY), open_checkpoint(tmp_path / "back")
    name = "model.transformer." + Q
    assert back.read(name).dtype == ours.read(name).dtype
    assert back.read(name).tobytes() == ours.read(name).tobytes()


def test_rows_of_queries_are_pairs(tmp_path):
    path, _ = exported(tmp_path, "f32")
    ours, theirs = open_checkpoint(TINY).read("model.transformer." + Q).astype(np.float32), read_gguf(path)
    found = theirs.read("blk.0.attn_q.weight").dequantize()
    # Head 1 of width 64: rows 64, 96, 65, 97, ...
    assert np.array_equal(found[64:68], ours[[64, 96, 65, 97]])
    assert np.array_equal(
        theirs.read("blk.0.attn_v.weight").dequantize(), open_checkpoint(TINY).read("model.transformer.blocks.0.v_proj.weight")
    )


@pytest.mark.parametrize("variant", ["q8_0", "q4_0", "mxfp4"])
def test_quantized_folders_come_back_as_the_same_file(tmp_path, variant):
    path, written = exported(tmp_path, variant, requantize=True)
    assert len(written.losses) == written.weights == 28
    import_folder(path.parent, tmp_path / "back")
    again = export(tmp_path / "back", "gguf", tmp_path / "again")
    assert again.variant == variant
    assert not again.losses
    assert (tmp_path / "again" / "model.gguf").read_bytes() == path.read_bytes()


def test_a_quantized_folder_runs_as_its_file_says(tmp_path):
    path, _ = exported(tmp_path, "q4_0", requantize=True)
    import_folder(path, tmp_path / "back")
    file, config = read_gguf(path), model.embedded().config
    held = file.read("blk.2.attn_k.weight")
    order = rotated_rows("blk.2.attn_k", config)
    from refquant.apply.checkpoint import load_quantized

    weight = load_quantized(tmp_path / "back").weights["model.transformer.blocks.2.k_proj"]
    assert np.array_equal(weight.dequantize()[order], held.dequantize())
    assert np.array_equal(weight.codes[order], from_gguf(held).codes)


def test_any_type_comes_back_as_numbers(tmp_path):
    path, _ = exported(tmp_path, "q4_k", requantize=True)
    import_folder(path, tmp_path / "back", variant="dequantized")
    found = open_checkpoint(tmp_path / "back").read("model.transformer.blocks.0.ff_out.weight")
    assert np.array_equal(found, read_gguf(path).read("blk.0.ffn_down.weight").dequantize())
    assert not is_quantized(tmp_path / "back")


def test_what_is_lost_is_refused_or_said(tmp_path):
    with pytest.raises(InputError, match=r"q_proj: Q8_0 cannot hold .* choose another --variant or --requantize"):
        exported(tmp_path, "q8_0")
    with pytest.raises(UsageError, match="variants of gguf are as-is, f32"):
        exported(tmp_path, "q9_0")
    _, written = exported(tmp_path, "q8_0", requantize=True)
    assert all(0 < loss.noise_to_signal < 1e-3 for loss in written.losses.values())


def test_models_that_llama_cpp_does_not_compute_are_refused(tmp_path):
    folder = tmp_path / "other"
    shutil.copytree(TINY, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"scale_logits": True}))
    with pytest.raises(InputError, match=r"scale_logits is True; llama.cpp's llada has False"):
        export(folder, "gguf", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_vocabulary_is_written_only_if_text_is_split_that_way(tmp_path):
    path, written = exported(tmp_path, "f32")
    keys = read_gguf(path).metadata
    assert keys["tokenizer.ggml.pre"].value == "smollm"
    assert keys["tokenizer.ggml.mask_token_id"].value == 3
    assert keys["tokenizer.ggml.tokens"].value[3] == "<|mdm_mask|>"
    assert keys["tokenizer.ggml.token_type"].value[:5] == [3, 3, 3, 3, 1]
    assert not written.notes
    folder = tmp_path / "other"
    shutil.copytree(TINY, folder)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["pre_tokenizer"]["pretokenizers"][0]["individual_digits"] = False
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    written = export(folder, "gguf", tmp_path / "out")
    assert "no vocabulary: llama.cpp has no name for how its tokenizer splits text" in written.notes[0]
    assert read_gguf(tmp_path / "out" / "model.gguf").metadata["tokenizer.ggml.model"].value == "no_vocab"


def test_files_that_are_not_ours(tmp_path):
    path, _ = exported(tmp_path, "f32")
    whole = path.read_bytes()
    odd = quantize(np.ones((2, 2), np.float32), "f32")
    text = Value(kind="text", value="x")
    for metadata, tensors, message in [
        ({"general.architecture": Value(kind="text", value="gpt\n2")}, {}, r"architecture 'gpt\\n2'; llada is read"),
        ({"general.architecture": None}, {}, "general.architecture is missing"),
        ({"llada.block_count": None}, {}, "llada.block_count is missing"),
        ({"llada.block_count": text}, {}, "llada.block_count is 'x'; a value of type int is needed"),
        ({"llada.attention.causal": Value(kind="bool", value=True)}, {}, "LLaDA looks both ways"),
        ({"llada.block_count": Value(kind="uint32", value=5)}, {}, "tensor blk.4.attn_norm.weight is missing"),
        ({"llada.block_count": Value(kind="uint32", value=3)}, {}, "a tensor 'blk.3.attn_k.weight', for which LLaDA has no place"),
        ({}, {"blk.0.attn_q.weight": odd}, r"attn_q.weight is of shape \(2, 2\); the file's keys ask for \(256, 256\)"),
        ({"llada.block_count": Value(kind="uint32", value=2**31)}, {}, f"{2**31} blocks; the file has 39 tensors"),
        ({"llada.attention.head_count": Value(kind="uint32", value=2**31)}, {}, "n_heads"),
        ({"llada.embedding_length": Value(kind="uint32", value=2**30)}, {}, "is of shape"),
        ({}, {"rope_freqs.weight": odd}, "a tensor 'rope_freqs.weight'"),
        ({}, {"token_embd.weight": None}, "no tensor token_embd.weight"),
        ({f"{KEPT}../../x": text}, {}, r"keeps a file '../../x'"),
    ]:
        path.write_bytes(whole)
        with pytest.raises(InputError, match=message) as caught:
            import_folder(changed(path, metadata, tensors), tmp_path / "back")
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "back").exists()


def test_names_cover_every_tensor():
    m = model.embedded()
    assert {f"{ours}.weight" for ours in tensor_names(m.config).values()} == set(open_checkpoint(TINY).names)


def test_inspect_counts_what_is_no_number(tmp_path):
    bits = np.array([0x7F800001, 0x7FC00000, 0x7F800000, 0x3F800000], np.uint32)  # a signalling NaN, a quiet one, infinity, 1
    blocks = bits.view(np.uint8).reshape(4, 4)
    write_gguf(tmp_path / "a.gguf", {}, {"w": GgufTensor(kind=BLOCK_TYPES["F32"], blocks=blocks, shape=(4,))})
    row = next(iter(inspect(tmp_path / "a.gguf").rows))
    assert (row.values.low, row.values.high, row.values.not_finite) == (1.0, 1.0, 3)


def test_inspect_counts_scales_that_are_no_numbers(tmp_path):
    """An infinite scale over codes of 0 is NaN, and no reason for a warning."""
    held = quantize(np.linspace(-1, 1, 512, dtype=np.float32).reshape(2, 256), "q4_k")
    blocks = held.blocks.copy()
    blocks[0, :16] = [0x00, 0x7C, 0x00, 0x7E, *[0] * 12]  # d infinite, dmin NaN, all scales and minima 0
    write_gguf(tmp_path / "a.gguf", {}, {"w": GgufTensor(kind=held.kind, blocks=blocks, shape=(2, 256))})
    row = next(iter(inspect(tmp_path / "a.gguf").rows))
    assert (row.scales.not_finite, row.zeros.not_finite, row.values.not_finite) == (8, 8, 256)
    assert row.scales.low > 0


def test_inspect_shows_types_and_scales(tmp_path):
    path, _ = exported(tmp_path, "q4_k", requantize=True)
    found = inspect(path)
    assert found.kind == "GGUF file (version 3, 27 keys)"
    row = next(row for row in found.rows if row.name == "blk.0.ffn_down.weight")
    held = read_gguf(path).read(row.name)
    assert row.format == "Q4_K"
    assert float(row.bits_per_weight) == 4.5
    assert row.counts == tuple(np.bincount(held.fields().codes.ravel(), minlength=16))
    assert row.values.high == held.dequantize().max()
