"""Whole folders out of and back from other layouts."""

from __future__ import annotations

import json
import shutil
import sys
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest

from refquant.apply.checkpoint import load, load_quantized
from refquant.apply.exporting import EXPORTERS, export, find_exporter
from refquant.apply.importing import IMPORTERS, Imported, find_importer, import_folder
from refquant.apply.inspecting import inspect
from refquant.apply.recipe import Recipe
from refquant.errors import InputError, UsageError
from refquant.storage import open_checkpoint, read_tensors, write_tensors
from tests.apply.folders import STATIC, saved
from tests.apply.tiny import write_folder

WIDE = {"d_model": 32, "mlp_hidden_size": 64, "n_kv_heads": 4}
PLAIN = Recipe(name="plain").replace(weights={"method": "rtn", "group_size": 16}, calibration={"states": "none"})
LAYOUTS = [("gptq", "v2"), ("awq", "gemm"), ("compressed-tensors", "pack-quantized"), ("compressed-tensors", "int-quantized")]


def quantized_folder(tmp_path, recipe=PLAIN, **changes):
    source = write_folder(tmp_path / "source", **(WIDE | changes))
    return saved(tmp_path, recipe, source)[1:]


def edit_config(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] |= changes
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(("layout", "variant"), LAYOUTS)
@pytest.mark.parametrize("skip", [(), ("ff_proj", "k_proj")])
def test_there_and_back(tmp_path, layout, variant, skip):
    quantized, folder = quantized_folder(tmp_path, PLAIN.replace(skip=skip))
    written = export(folder, layout, tmp_path / "other", variant=variant)
    assert written.losses == {}
    assert written.weights == len(quantized.weights)
    stored = open_checkpoint(tmp_path / "other")
    size = sum(entry[1].nbytes for name, entry in stored._entries.items() if name not in open_checkpoint(folder).names)
    assert written.bits_per_weight == Fraction(size * 8, sum(q.codes.size for q in quantized.weights.values()))
    assert json.loads((tmp_path / "other" / "config.json").read_text())["quantization_config"]["quant_method"] == layout
    found = import_folder(tmp_path / "other", tmp_path / "back")
    assert (found.layout, found.variant) == (layout, variant)
    back = load_quantized(tmp_path / "back")
    assert {name: q.digest() for name, q in back.weights.items()} == {name: q.digest() for name, q in quantized.weights.items()}
    assert set(back.recipe.skip) == set(skip)
    ids = np.arange(4, 16)[None]
    assert np.array_equal(load(tmp_path / "back").logits(ids), load(folder).logits(ids))
    assert (tmp_path / "back" / "tokenizer.json").read_bytes() == (folder / "tokenizer.json").read_bytes()


def test_activation_order_survives_gptq(tmp_path):
    recipe = Recipe(name="order").replace(weights={"group_size": 16, "act_order": True})
    quantized, folder = quantized_folder(tmp_path, recipe)
    assert all(q.permutation is not None for q in quantized.weights.values())
    export(folder, "gptq", tmp_path / "other", variant="v2")
    assert json.loads((tmp_path / "other" / "config.json").read_text())["quantization_config"]["desc_act"] is True
    import_folder(tmp_path / "other", tmp_path / "back")
    back = load_quantized(tmp_path / "back")
    assert all(np.array_equal(back.weights[name].dequantize(), q.dequantize()) for name, q in quantized.weights.items())
    for layout in ("awq", "compressed-tensors"):
        with pytest.raises(InputError, match=r"activation order.*--requantize"):
            export(folder, layout, tmp_path / layout)


def test_symmetric_weights(tmp_path):
    recipe = PLAIN.replace(weights={"scheme": "sym_gptq"})
    quantized, folder = quantized_folder(tmp_path, recipe)
    export(folder, "gptq", tmp_path / "v1")
    assert json.loads((tmp_path / "v1" / "config.json").read_text())["quantization_config"]["sym"] is True
    import_folder(tmp_path / "v1", tmp_path / "back")
    assert load_quantized(tmp_path / "back").weights["model.transformer.blocks.0.q_proj"].spec.scheme.name == "sym_gptq"
    # A file that says v1 and stores zero points as they are, as some do, is not read as if they were 9.
    edit_config(tmp_path / "v1", checkpoint_format="gptq_v2")
    with pytest.raises(InputError, match=r"zero point.* is 7; scheme sym_gptq has 8.*--variant v1"):
        import_folder(tmp_path / "v1", tmp_path / "wrong")
    import_folder(tmp_path / "v1", tmp_path / "right", variant="v1")
    right = load_quantized(tmp_path / "right")
    assert all(np.array_equal(right.weights[name].dequantize(), q.dequantize()) for name, q in quantized.weights.items())


def test_the_older_place_of_the_settings(tmp_path):
    quantized, folder = quantized_folder(tmp_path, PLAIN.replace(weights={"scheme": "sym_gptq"}))
    export(folder, "gptq", tmp_path / "old")
    config = json.loads((tmp_path / "old" / "config.json").read_text())
    block = config.pop("quantization_config")
    older = {"bits": block["bits"], "group_size": block["group_size"], "desc_act": False, "sym": True, "damp_percent": 0.01}
    (tmp_path / "old" / "config.json").write_text(json.dumps(config))
    (tmp_path / "old" / "quantize_config.json").write_text(json.dumps(older))
    assert import_folder(tmp_path / "old", tmp_path / "back").variant == "v1"
    back = load_quantized(tmp_path / "back")
    assert {name: q.digest() for name, q in back.weights.items()} == {name: q.digest() for name, q in quantized.weights.items()}
    assert inspect(tmp_path / "old").kind == "gptq folder (v1)"


def test_dequantized(tmp_path):
    quantized, folder = quantized_folder(tmp_path)
    written = export(folder, "dequantized", tmp_path / "plain")
    assert written.losses == {}
    tensors = read_tensors(tmp_path / "plain" / "model.safetensors")
    assert all(np.array_equal(tensors[f"{name}.weight"], q.dequantize()) for name, q in quantized.weights.items())
    ids = np.arange(4, 16)[None]
    assert np.array_equal(load(tmp_path / "plain").logits(ids), load(folder).logits(ids))
    with pytest.raises(InputError, match=r"bfloat16 cannot hold .*--requantize"):
        export(folder, "dequantized", tmp_path / "half", variant="bfloat16")
    lossy = export(folder, "dequantized", tmp_path / "half", variant="bfloat16", requantize=True)
    half = read_tensors(tmp_path / "half" / "model.safetensors")
    for name, loss in lossy.losses.items():
        change = np.abs(half[f"{name}.weight"].astype(np.float64) - quantized.weights[name].dequantize(np.dtype(np.float64)))
        assert loss.largest == change.max() > 0


def test_requantizing_says_what_it_cost(tmp_path):
    quantized, folder = quantized_folder(tmp_path, PLAIN.replace(weights={"scale_format": "float32"}))
    with pytest.raises(InputError, match=r"blocks\.0\.attn_out: layout awq cannot hold scales of float32.*--requantize"):
        export(folder, "awq", tmp_path / "awq")
    assert not (tmp_path / "awq").exists()
    written = export(folder, "awq", tmp_path / "awq", requantize=True)
    import_folder(tmp_path / "awq", tmp_path / "back")
    back = load_quantized(tmp_path / "back")
    assert set(written.losses) == set(quantized.weights)
    for name, q in quantized.weights.items():
        change = q.dequantize(np.dtype(np.float64)) - back.weights[name].dequantize(np.dtype(np.float64))
        assert written.losses[name].largest == np.abs(change).max()
        share = (change * change).sum() / (q.dequantize(np.dtype(np.float64)) ** 2).sum()
        assert written.losses[name].noise_to_signal == pytest.approx(share, rel=1e-12)


def test_a_full_precision_folder_is_requantized_or_refused(tmp_path):
    source = write_folder(tmp_path / "source", **WIDE)
    with pytest.raises(InputError, match="float32; it holds quantized ones"):
        export(source, "gptq", tmp_path / "new")
    assert export(source, "gptq", tmp_path / "new", variant="v2", requantize=True).losses


def test_what_no_layout_of_weights_holds(tmp_path):
    folder = quantized_folder(tmp_path, PLAIN.replace(**STATIC, calibration={"states": "rollout"}))[1]
    with pytest.raises(InputError, match="also quantizes activations, values; --weights-only"):
        export(folder, "awq", tmp_path / "new")
    assert export(folder, "awq", tmp_path / "new", weights_only=True).notes == ("left out: quantization of activations, values",)


def test_shapes_that_gptq_does_not_have(tmp_path):
    folder = quantized_folder(tmp_path, d_model=16, mlp_hidden_size=24)[1]
    with pytest.raises(InputError, match="16 rows; it holds multiples of 32"):
        export(folder, "gptq", tmp_path / "new", variant="v2")
    with pytest.raises(InputError, match="requantized or not"):
        export(folder, "gptq", tmp_path / "new", variant="v2", requantize=True)


def test_names_that_do_not_exist(tmp_path):
    folder = quantized_folder(tmp_path)[1]
    with pytest.raises(UsageError, match="exl2"):
        export(folder, "exl2", tmp_path / "new")
    with pytest.raises(UsageError, match="exl2"):
        import_folder(folder, tmp_path / "new", layout="exl2")
    with pytest.raises(UsageError, match=r"v1, v2, not 'v3'"):
        export(folder, "gptq", tmp_path / "new", variant="v3")
    with pytest.raises(InputError, match="exists"):
        export(folder, "awq", folder)
    with pytest.raises(InputError, match="quantization_config"):
        import_folder(folder, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_every_layout_of_the_tables_is_there():
    assert all(callable(find_exporter(name)) for name in EXPORTERS)
    assert all(callable(find_importer(name)) for name in IMPORTERS)
    assert set(IMPORTERS) == set(EXPORTERS) - {"dequantized"}


def plain_importer(path, *, variant):
    """What an importer gives for a file in which nothing is quantized, as some files of containers are."""
    stored = open_checkpoint(path)
    tensors = {name: stored.read(name) for name in stored.names}
    config = json.loads((path / "config.json").read_text())
    return Imported(layout="plain", variant=variant, config=config, weights={}, untouched=tensors, digest="d" * 64)


def test_a_file_without_quantized_linears_becomes_a_plain_checkpoint(tmp_path, monkeypatch):
    source = write_folder(tmp_path / "source", **WIDE)
    monkeypatch.setitem(IMPORTERS, "plain", f"{__name__}:plain_importer")
    monkeypatch.setitem(sys.modules, __name__, sys.modules.get(__name__) or SimpleNamespace(plain_importer=plain_importer))
    import_folder(source, tmp_path / "new", layout="plain")
    ids = np.arange(4, 16)[None]
    assert np.array_equal(load(tmp_path / "new").logits(ids), load(source).logits(ids))


Q_PROJ = "model.transformer.blocks.0.q_proj"


def edit_tensors(folder, edit):
    tensors = read_tensors(folder / "model.safetensors")
    edit(tensors)
    write_tensors(folder / "model.safetensors", tensors)


DAMAGE = {
    "bits": (lambda f: edit_config(f, bits=5000), ["config.json", "bits is 5000"]),
    "bits of text": (lambda f: edit_config(f, bits="4"), ["bits is '4'", "int"]),
    "bits of truth": (lambda f: edit_config(f, bits=True), ["bits is True", "int"]),
    "other bits": (lambda f: edit_config(f, bits=8), ["attn_out", "do not fit"]),
    "group": (lambda f: edit_config(f, group_size=2**63), ["group_size", str(2**63)]),
    "no group": (lambda f: edit_config(f, group_size=0), ["group_size is 0"]),
    "other group": (lambda f: edit_config(f, group_size=8), ["do not fit"]),
    "method": (lambda f: edit_config(f, quant_method="exl2"), ["'exl2'", "gptq, awq"]),
    "format": (lambda f: edit_config(f, checkpoint_format="marlin"), ["marlin", "gptq_v2"]),
    "truncated": (lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:-9]), ["model.safetensors"]),
    "a part missing": (lambda f: edit_tensors(f, lambda t: t.pop(f"{Q_PROJ}.qzeros")), [Q_PROJ, "qzeros is missing"]),
    "a part short": (
        lambda f: edit_tensors(f, lambda t: t.update({f"{Q_PROJ}.scales": t[f"{Q_PROJ}.scales"][:1]})),
        [Q_PROJ, "scales (1, 32)"],
    ),
    "a scale of 0": (lambda f: edit_tensors(f, lambda t: t[f"{Q_PROJ}.scales"].fill(0)), [Q_PROJ, "positive"]),
    "no config": (lambda f: (f / "config.json").unlink(), ["config.json"]),
    "nothing quantized": (
        lambda f: edit_tensors(f, lambda t: [t.pop(name) for name in list(t) if name.endswith("qweight")]),
        ["no linear"],
    ),
    "one linear plain": (
        lambda f: edit_tensors(f, lambda t: t.update({f"{Q_PROJ}.weight": np.ones((32, 32), np.float32)}) or t.pop(f"{Q_PROJ}.qweight")),
        [Q_PROJ, "not quantized although"],
    ),
}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = quantized_folder(tmp_path_factory.mktemp("exported"))[1]
    export(folder, "gptq", folder.parent / "gptq", variant="v2")
    return folder.parent / "gptq"


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_folder(exported, tmp_path, name):
    folder = shutil.copytree(exported, tmp_path / "copy")
    damage, says = DAMAGE[name]
    damage(folder)
    with pytest.raises(InputError) as told:
        import_folder(folder, tmp_path / "new")
    assert all(part in str(told.value) for part in says), told.value
    assert "\n" not in str(told.value)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(("variant", "block"), [("nf4", ""), ("fp4", "@32"), ("nf4-nested", "@16"), ("fp4-nested", "")])
def test_bitsandbytes_there_and_back(tmp_path, variant, block):
    name = variant.replace("-nested", "_double") + block
    recipe = Recipe(name="blocks").replace(
        weights={"method": "rtn", "format": name}, calibration={"states": "none"}, skip=("ff_out", "ff_proj", "up_proj")
    )
    quantized, folder = quantized_folder(tmp_path, recipe, d_model=64)
    assert export(folder, "bitsandbytes", tmp_path / "bnb", variant=variant).losses == {}
    assert import_folder(tmp_path / "bnb", tmp_path / "back").variant == variant
    back = load_quantized(tmp_path / "back")
    assert back.recipe.weights.format == name
    for linear, q in quantized.weights.items():
        assert np.array_equal(back.weights[linear].codes, q.codes)
        assert np.array_equal(back.weights[linear].dequantize(), q.dequantize(np.dtype(np.float32)))
    ids = np.arange(4, 16)[None]
    assert np.array_equal(load(tmp_path / "back").logits(ids), load(folder).logits(ids))
    with pytest.raises(InputError, match=f"--variant {variant} does"):
        export(folder, "bitsandbytes", tmp_path / "other", variant="nf4" if variant != "nf4" else "fp4")


@pytest.mark.parametrize("variant", ["mxint8", "mxfp8_e5m2_rceil", "mxfp6_e3m2", "mxfp4_ceil", "nvfp4", "nvfp4_torchao", "nvfp4_1level"])
def test_mx_there_and_back(tmp_path, variant):
    recipe = Recipe(name="mx").replace(weights={"method": "rtn", "format": variant}, calibration={"states": "none"}, skip=("q_proj",))
    quantized, folder = quantized_folder(tmp_path, recipe)
    assert export(folder, "mx", tmp_path / "mx", variant=variant).losses == {}
    assert json.loads((tmp_path / "mx" / "config.json").read_text())["quantization_config"]["format"] == variant
    assert import_folder(tmp_path / "mx", tmp_path / "back").variant == variant
    back = load_quantized(tmp_path / "back")
    assert {name: q.digest() for name, q in back.weights.items()} == {name: q.digest() for name, q in quantized.weights.items()}
    other = "mxfp8_e4m3"
    with pytest.raises(InputError, match=f"another format than {other}; --variant {variant} does.*--requantize"):
        export(folder, "mx", tmp_path / "other", variant=other)
    edit_config(tmp_path / "mx", format="mxfp5")
    with pytest.raises(InputError, match="format is 'mxfp5'; mxfp8_e4m3"):
        import_folder(tmp_path / "mx", tmp_path / "again")


def test_bitsandbytes_of_full_precision(tmp_path):
    source = write_folder(tmp_path / "source", **(WIDE | {"d_model": 64}))
    written = export(source, "bitsandbytes", tmp_path / "bnb", variant="fp4-nested", requantize=True)
    assert len(written.losses) == written.weights


@pytest.mark.parametrize(
    ("variant", "weights"),
    [
        ("float-quantized", {"format": "e4m3fn", "group_size": -1, "scale_format": "float32"}),
        ("nvfp4-pack-quantized", {"format": "nvfp4_compressed_tensors"}),
        ("mxfp4-pack-quantized", {"format": "mxfp4_even"}),
        ("mxfp6-pack-quantized", {"format": "mxfp6_e2m3_even"}),
        ("mxfp8-quantized", {"format": "mxfp8_e4m3_rceil"}),
    ],
)
def test_floating_point_there_and_back(tmp_path, variant, weights):
    recipe = Recipe(name="floats").replace(weights={"method": "rtn"} | weights, calibration={"states": "none"})
    quantized, folder = quantized_folder(tmp_path, recipe)
    assert export(folder, "compressed-tensors", tmp_path / "ct", variant=variant).losses == {}
    assert import_folder(tmp_path / "ct", tmp_path / "back").variant == variant
    back = load_quantized(tmp_path / "back")
    assert {name: q.digest() for name, q in back.weights.items()} == {name: q.digest() for name, q in quantized.weights.items()}
    source = write_folder(tmp_path / "another", **WIDE)
    assert export(source, "compressed-tensors", tmp_path / "lossy", variant=variant, requantize=True).losses
