"""GGUF files as quantized folders: every type's codes, the same bytes again, mixtures, and what other layouts say of them."""

from __future__ import annotations

import json

import numpy as np
import pytest

import model
from refquant.apply.checkpoint import is_quantized, load, load_quantized
from refquant.apply.exporting import export
from refquant.apply.gguf_llada import tensor_names
from refquant.apply.gguf_model import load_gguf
from refquant.apply.importing import import_folder
from refquant.apply.inspecting import inspect
from refquant.core import QTensor
from refquant.core.affine_spec import AFFINE_FORMATS
from refquant.core.affine_tensor import AffineTensor
from refquant.errors import InputError
from refquant.layout.gguf import BLOCK_TYPES, read_gguf
from refquant.layout.gguf.coded import to_coded
from refquant.storage import open_checkpoint
from tests.apply.folders import saved
from tests.apply.gguf_files import matrices, peers_blocks, small_config, write_model
from tests.apply.test_exporting import WIDE
from tests.apply.tiny import recipe, write_folder
from tests.layout.tensors import DATA, peer

TINY = model.embedded_directory()
RECORDED = peer("gguf")
IDS = np.array([[5, 3, 60, 17, 3, 3, 9]])
CONFIG = small_config()
CODED = ("Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "TQ1_0", "TQ2_0", "MXFP4")
FLOATS = ("F32", "F16", "BF16")


def same_tensors(path, other):
    """Whether two files hold the same bytes of the same types under the same names."""
    a, b = read_gguf(path), read_gguf(other)
    return list(a.tensors) == list(b.tensors) and all(a.read(name).digest() == b.read(name).digest() for name in a.tensors)


def runs_as_its_file_says(folder, path, config=CONFIG):
    wanted = load_gguf(path, products="plain", angles="plain").logits(IDS)
    assert np.array_equal(load(folder, "float64").logits(IDS), wanted)
    assert np.array_equal(load(folder, "float64", stream=True).logits(IDS), wanted)
    quantized = load_quantized(folder)
    zeros = {name: np.zeros(shape) for name, shape in config.architecture().tensor_shapes().items()}
    stored = open_checkpoint(folder)
    kept = {name: stored.read(name).astype(np.float64) for name in stored.names if name in zeros}
    # Put into a model that has something else where the folder has codes.
    assert np.array_equal(quantized.attach(model.build(config, zeros | kept, "float64")).logits(IDS), wanted)


@pytest.mark.parametrize("kind", ["F16", "Q3_K", "TQ1_0"])
def test_the_embedded_model_is_the_same_file_again(tmp_path, kind):
    """All types are tried by tests/cli/test_gguf_types.py; here their counts and digests."""
    export(TINY, "gguf", tmp_path / "there", variant=kind.lower(), requantize=True)
    found = import_folder(tmp_path / "there", tmp_path / "folder")
    assert is_quantized(tmp_path / "folder") == (kind not in FLOATS)
    written = export(tmp_path / "folder", "gguf", tmp_path / "again")
    assert (written.variant, written.weights, written.losses) == (kind.lower(), 28, {})
    assert (tmp_path / "again" / "model.gguf").read_bytes() == (tmp_path / "there" / "model.gguf").read_bytes()
    if kind in CODED:
        block = BLOCK_TYPES[kind]
        assert written.bits_per_weight == 8 * block.nbytes / block.size
        assert len(found.weights) == 28
        weights = load_quantized(tmp_path / "folder").weights
        wanted = {name: to_coded(read_gguf(tmp_path / "there" / "model.gguf").read(name)) for name in ("blk.3.ffn_up.weight",)}
        assert weights["model.transformer.blocks.3.up_proj"].digest() == wanted["blk.3.ffn_up.weight"].digest()


PEERS = [name for name in RECORDED if name.endswith("q") and not name.endswith("deq") and name.split(".")[1] in CODED]


@pytest.mark.parametrize("name", PEERS)
def test_files_of_peers_bytes_come_back(tmp_path, name):
    """Blocks that gguf and ggml wrote, of nasty numbers too, in a model's matrices: negative scales, scales of 0, minima."""
    kind = name.split(".")[1]
    packed = finite_rows(RECORDED[name], kind)
    assert len(packed) >= 4
    path = tmp_path / "model.gguf"
    write_model(path, CONFIG, lambda name: kind, lambda kind, shape: peers_blocks(kind, packed, shape))
    found = import_folder(path, tmp_path / "folder")
    assert len(found.weights) == 9  # seven linears, embedding, head
    written = export(tmp_path / "folder", "gguf", tmp_path / "again")
    assert (written.variant, written.weights) == (kind.lower(), 7)
    assert same_tensors(path, tmp_path / "again" / "model.gguf")
    assert read_gguf(path).metadata.keys() == read_gguf(tmp_path / "again" / "model.gguf").metadata.keys()


def finite_rows(packed, kind):
    """Rows without infinities and NaN, which no codes are read with."""
    block = BLOCK_TYPES[kind]
    fields = block.unpack(packed.reshape(-1, block.nbytes))
    good = fields.d != 255 if kind == "MXFP4" else np.isfinite(fields.d)
    good = good if fields.m is None or kind == "MXFP4" else good & np.isfinite(fields.m)
    return packed.reshape(len(packed), -1)[good.reshape(len(packed), -1).all(axis=1)]


def test_a_mixture_that_llama_cpp_made(tmp_path):
    """Q4_K_M as it chose types and quantized: embedding in Q4_K, head and some matrices in Q6_K with scales of either sign."""
    path, config = DATA / "llama_q4_k_m.gguf", small_config(n_layers=2, n_kv_heads=1)
    found = import_folder(path, tmp_path / "folder")
    assert (len(found.weights), found.tables) == (16, ("model.transformer.wte", "model.transformer.ff_out"))
    runs_as_its_file_says(tmp_path / "folder", path, config)
    written = export(tmp_path / "folder", "gguf", tmp_path / "again")
    assert (written.variant, written.losses) == ("q4_k, q6_k", {})
    again = tmp_path / "again" / "model.gguf"
    theirs, ours = read_gguf(path), read_gguf(again)
    assert {name: theirs.read(name).digest() for name in theirs.tensors} == {name: ours.read(name).digest() for name in ours.tensors}
    assert dict(theirs.metadata) == dict(ours.metadata)


def kind_of_mixture(name):
    """As llama.cpp mixes: more bits for the head and some matrices, and here one linear of each float type as well."""
    named = {"token_embd": "Q4_K", "output": "Q6_K", "blk.0.attn_v": "Q6_K", "blk.0.ffn_down": "Q5_1", "blk.0.attn_k": "Q8_0"}
    named |= {"blk.0.attn_output": "F16", "blk.0.ffn_up": "BF16", "blk.0.ffn_gate": "F32"}
    return named.get(name.removesuffix(".weight"), "Q4_K")


@pytest.fixture
def mixture(tmp_path):
    write_model(tmp_path / "model.gguf", CONFIG, kind_of_mixture)
    import_folder(tmp_path / "model.gguf", tmp_path / "folder")
    return tmp_path / "model.gguf", tmp_path / "folder"


def test_a_mixture_comes_back_and_runs(mixture, tmp_path):
    path, folder = mixture
    runs_as_its_file_says(folder, path)
    written = export(folder, "gguf", tmp_path / "again")
    assert written.variant == "bf16, f16, f32, q4_k, q5_1, q6_k, q8_0"
    assert same_tensors(path, tmp_path / "again" / "model.gguf")
    found = load_quantized(folder)
    assert found.recipe.weights.method == "imported"
    assert set(found.recipe.skip) == {"attn_out", "up_proj", "ff_proj"}
    kinds = {name.rpartition(".")[2]: type(weight) for name, weight in found.weights.items()}
    assert kinds == {"wte": AffineTensor, "ff_out": AffineTensor, "q_proj": AffineTensor, "v_proj": AffineTensor, "k_proj": QTensor}
    stored = open_checkpoint(folder)
    names = [name.rpartition("q_proj.")[2] for name in stored.names if "q_proj" in name]
    assert names == ["codes", "minimum_codes", "minimum_outer", "scale_codes", "scale_outer"]
    assert found.weights["model.transformer.blocks.0.q_proj"].spec == AFFINE_FORMATS["q4_k"]


def test_what_most_linears_are_stands_in_the_file(mixture, tmp_path):
    export(mixture[1], "gguf", tmp_path / "again")
    assert read_gguf(tmp_path / "again" / "model.gguf").metadata["general.file_type"].value == 32  # one of each: the first by name
    write_model(tmp_path / "most.gguf", CONFIG, lambda name: "Q6_K" if name == "blk.0.attn_v.weight" else "Q5_K")
    import_folder(tmp_path / "most.gguf", tmp_path / "most")
    export(tmp_path / "most", "gguf", tmp_path / "most again")
    assert read_gguf(tmp_path / "most again" / "model.gguf").metadata["general.file_type"].value == 17


def test_inspect_shows_the_file_and_the_folder(mixture):
    path, folder = mixture
    theirs = {row.name: row for row in inspect(path).rows}
    ours = {row.name: row for row in inspect(folder).rows}
    names = {f"{a}.weight": b for a, b in tensor_names(CONFIG).items()}
    for name in matrices(CONFIG):
        row = ours.get(names[name], ours.get(f"{names[name]}.weight"))
        assert row.shape == theirs[name].shape
        assert (row.values, row.scales, row.zeros) == (theirs[name].values, theirs[name].scales, theirs[name].zeros)
        assert row.counts == theirs[name].counts or theirs[name].format in ("Q5_1", "Q6_K", "Q8_0")  # these do not use all codes
        assert sum(row.counts) == np.prod(row.shape)
    row = ours["model.transformer.blocks.0.q_proj"]
    held = load_quantized(folder).weights["model.transformer.blocks.0.q_proj"]
    assert row.format == "uint4 1x32 uint6 of float16 - uint6 of float16"
    assert row.counts == tuple(np.bincount(held.codes.ravel(), minlength=16))
    assert row.counts == theirs["blk.0.attn_q.weight"].counts
    scales = np.repeat(held.scale.outer.astype(np.float64), 8, axis=1) * held.scale.codes
    assert row.scales.high == np.float32(scales.max())
    minima = np.repeat(held.minimum.outer.astype(np.float64), 8, axis=1) * held.minimum.codes
    assert row.zeros.high == np.float32(minima.max())
    assert row.digest == held.digest()
    assert theirs["blk.0.attn_q.weight"].format == "Q4_K"


@pytest.mark.parametrize("kind", ["MXFP4", "Q5_0", "Q5_1", "TQ2_0"])
def test_scales_of_file_and_folder_are_the_same(tmp_path, kind):
    write_model(tmp_path / "model.gguf", CONFIG, lambda name: kind if name == "blk.0.attn_v.weight" else "F32")
    import_folder(tmp_path / "model.gguf", tmp_path / "folder")
    theirs = next(row for row in inspect(tmp_path / "model.gguf").rows if row.format == kind)
    ours = next(row for row in inspect(tmp_path / "folder").rows if row.name == "model.transformer.blocks.0.v_proj")
    if kind == "Q5_0":  # whose scales have a sign in the file, and a zero point in the folder
        assert ours.scales.high == max(abs(theirs.scales.low), theirs.scales.high)
    else:
        assert (ours.scales, ours.zeros) == (theirs.scales, theirs.zeros)


@pytest.mark.parametrize(
    ("layout", "says"),
    [
        ("gptq", "layout gptq cannot hold codes around 0"),
        ("awq", "layout awq cannot hold codes of 8 bits"),
        ("compressed-tensors", "layout compressed-tensors cannot hold blocks with minima (uint4 1x32 uint6 of float16 - uint6 of float16)"),
        ("bitsandbytes", "layout bitsandbytes cannot hold codes of int8"),
        ("mx", "layout mx cannot hold codes of int8"),
    ],
)
def test_other_layouts_say_what_they_cannot_hold(tmp_path, layout, says):
    write_model(tmp_path / "model.gguf", CONFIG, lambda name: "Q8_0" if name == "blk.0.attn_k.weight" else "Q4_K")
    import_folder(tmp_path / "model.gguf", tmp_path / "folder")
    with pytest.raises(InputError) as told:
        export(tmp_path / "folder", layout, tmp_path / "no")
    assert "\n" not in str(told.value)
    assert str(told.value).startswith("model.transformer.blocks.0.")
    assert "; --requantize rounds to what it can hold" in str(told.value)
    assert not (tmp_path / "no").exists()


def test_all_k_folders_name_minima_everywhere(tmp_path):
    write_model(tmp_path / "model.gguf", CONFIG, lambda name: "Q4_K")
    import_folder(tmp_path / "model.gguf", tmp_path / "folder")
    for layout in ("gptq", "awq", "compressed-tensors", "bitsandbytes", "mx"):
        with pytest.raises(InputError, match=rf"layout {layout} cannot hold blocks with minima \(uint4 1x32 uint6 of float16 - uint6"):
            export(tmp_path / "folder", layout, tmp_path / "no")
    written = export(tmp_path / "folder", "dequantized", tmp_path / "plain")
    assert not written.losses
    assert np.array_equal(load(tmp_path / "plain").logits(IDS), load(tmp_path / "folder").logits(IDS))
    for layout, variant in (("gptq", "v2"), ("compressed-tensors", ""), ("gguf", "q8_0")):
        written = export(tmp_path / "folder", layout, tmp_path / layout, variant=variant, requantize=True)
        assert set(written.losses) == {f"model.transformer.blocks.0.{name}" for name in LINEARS}
        assert all(0 < loss.noise_to_signal < 0.02 for loss in written.losses.values())
        assert (written.notes[-1:] == ("written as plain numbers: model.transformer.ff_out, model.transformer.wte",)) == (layout != "gguf")
    # The embedding of the exported folder is the numbers of the codes.
    name = "model.transformer.wte"
    assert np.array_equal(
        open_checkpoint(tmp_path / "gptq").read(f"{name}.weight"), load_quantized(tmp_path / "folder").weights[name].dequantize()
    )
    import_folder(tmp_path / "gptq", tmp_path / "back")
    assert load(tmp_path / "back") is not None


LINEARS = ("q_proj", "k_proj", "v_proj", "attn_out", "ff_proj", "up_proj", "ff_out")


def test_types_are_kept_and_others_requantized(mixture, tmp_path):
    """A variant leaves what has that type already as it is, and rounds the rest."""
    path, folder = mixture
    with pytest.raises(InputError, match=r"k_proj: Q4_K cannot hold"):
        export(folder, "gguf", tmp_path / "no", variant="q4_k")
    written = export(folder, "gguf", tmp_path / "new", variant="q4_k", requantize=True)
    assert set(written.losses) == {f"model.transformer.blocks.0.{name}" for name in ("k_proj", "v_proj", "ff_out")}
    assert written.variant == "f32, q4_k"  # what the folder has not quantized stays as it is
    kept, new = read_gguf(path), read_gguf(tmp_path / "new" / "model.gguf")
    assert new.read("blk.0.attn_q.weight").digest() == kept.read("blk.0.attn_q.weight").digest()
    assert new.tensors["token_embd.weight"].kind.name == "F32"


def test_the_other_ternary_type_is_chosen_by_its_name(tmp_path):
    write_model(tmp_path / "model.gguf", CONFIG, lambda name: "TQ1_0")
    import_folder(tmp_path / "model.gguf", tmp_path / "folder")
    entry = json.loads((tmp_path / "folder" / "quantization.json").read_text())["weights"]["model.transformer.blocks.0.q_proj"]
    assert entry["parameters"] == {"gguf_type": "TQ1_0"}
    written = export(tmp_path / "folder", "gguf", tmp_path / "two", variant="tq2_0")
    assert (written.variant, written.losses) == ("tq2_0", {})
    was, now = (read_gguf(path).read("blk.0.ffn_up.weight") for path in (tmp_path / "model.gguf", tmp_path / "two" / "model.gguf"))
    assert np.array_equal(was.dequantize(), now.dequantize())


def test_only_the_embedding_is_quantized(tmp_path):
    write_model(tmp_path / "model.gguf", CONFIG, lambda name: "Q5_K" if name == "token_embd.weight" else "BF16")
    import_folder(tmp_path / "model.gguf", tmp_path / "folder")
    runs_as_its_file_says(tmp_path / "folder", tmp_path / "model.gguf")
    export(tmp_path / "folder", "gguf", tmp_path / "again")
    assert same_tensors(tmp_path / "model.gguf", tmp_path / "again" / "model.gguf")


def test_a_tied_embedding_is_the_head_too(tmp_path):
    config = small_config(weight_tying=True)
    write_model(tmp_path / "model.gguf", config, lambda name: "Q6_K" if name == "token_embd.weight" else "Q5_0")
    found = import_folder(tmp_path / "model.gguf", tmp_path / "folder")
    assert found.tables == ("model.transformer.wte",)
    runs_as_its_file_says(tmp_path / "folder", tmp_path / "model.gguf", config)
    export(tmp_path / "folder", "gguf", tmp_path / "again")
    assert same_tensors(tmp_path / "model.gguf", tmp_path / "again" / "model.gguf")


def test_one_linear_of_a_kind_is_plain(tmp_path):
    config = small_config(n_layers=2)
    write_model(tmp_path / "model.gguf", config, lambda name: "F16" if name == "blk.1.attn_q.weight" else "Q4_0")
    import_folder(tmp_path / "model.gguf", tmp_path / "folder")
    assert load_quantized(tmp_path / "folder").recipe.skip == ("model.transformer.blocks.1.q_proj",)
    wanted = load_gguf(tmp_path / "model.gguf", products="plain", angles="plain").logits(IDS)
    assert np.array_equal(load(tmp_path / "folder", "float64").logits(IDS), wanted)


def test_sums_of_signs_are_inspected_and_named(tmp_path):
    """Another kind of weights that are no grid: no layout holds them, and inspecting shows their signs."""
    plan = recipe().replace(weights={"method": "quant_dllm", "bits": 2, "group_size": 16, "scheme": "asym_incl0"})
    _, quantized, folder = saved(tmp_path, plan, write_folder(tmp_path / "source", **WIDE))
    rows = {row.name: row for row in inspect(folder).rows}
    for name, weight in quantized.weights.items():
        assert rows[name].format == "signs 1x16 float16"
        assert rows[name].counts == tuple(np.bincount(weight.codes.ravel(), minlength=4))
        assert rows[name].scales.low == min(weight.row_scales.min(), weight.column_scales.min())
    with pytest.raises(InputError, match=r"layout compressed-tensors cannot hold sums of signs \(signs 1x16 float16\)"):
        export(folder, "compressed-tensors", tmp_path / "no", weights_only=True)
