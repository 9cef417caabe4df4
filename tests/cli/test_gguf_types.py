"""GGUF files of every type as quantized folders, as typed: imported, inspected, run, exported again or refused."""

from __future__ import annotations

import pytest

import model
from refquant.layout.gguf import BLOCK_TYPES
from tests.apply.gguf_files import small_config, write_model

WITHOUT_CODES = [name for name in BLOCK_TYPES if name.startswith(("IQ", "NV"))]
TYPES = [name for name in BLOCK_TYPES if name not in WITHOUT_CODES]
Q = "model.transformer.blocks.2.up_proj"
FORMATS = {
    **{"F32": "float32", "F16": "float16", "BF16": "bfloat16", "MXFP4": "e2m1 1x32 e8m0"},
    **{"Q8_0": "int8 1x32 float16", "Q4_0": "uint4 1x32 float16", "Q5_0": "uint5 1x32 float16"},
    **{"Q4_1": "uint4 1x32 float16 - float16", "Q5_1": "uint5 1x32 float16 - float16"},
    **{"TQ1_0": "int2_narrow 1x256 float16", "TQ2_0": "int2_narrow 1x256 float16"},
    **{"Q2_K": "uint2 1x16 uint4 of float16 - uint4 of float16", "Q3_K": "int3 1x16 int6 of float16"},
    **{"Q4_K": "uint4 1x32 uint6 of float16 - uint6 of float16", "Q5_K": "uint5 1x32 uint6 of float16 - uint6 of float16"},
    **{"Q6_K": "int6 1x16 int8 of float16"},
}


@pytest.mark.parametrize("kind", TYPES)
def test_every_type_from_end_to_end(run, tmp_path, kind):
    here = tmp_path / "here"
    ran = run("export", model.embedded_directory(), "--to", "gguf", "--variant", kind.lower(), "--requantize", "--out", "file")
    assert ran.code == 0, ran.err
    ran = run("import", "file", "--out", "folder", "--format", "json")
    assert ran.code == 0, ran.err
    plain = kind in ("F32", "F16", "BF16")
    assert ran.json["weights"] == (0 if plain else 28)
    for place, name, shown in (("folder", f"{Q}.weight" if plain else Q, FORMATS[kind]), ("file/model.gguf", "blk.2.ffn_up.weight", kind)):
        ran = run("inspect", place, "--only", name, "--format", "json")
        assert ran.code == 0, ran.err
        assert [(row["name"], row["format"]) for row in ran.json["tensors"]] == [(name, shown)]
    ran = run("generate", "folder", "--prompt", "Q: reverse abc", "--gen-length", "4")
    assert ran.code == 0, ran.err
    ran = run("export", "folder", "--to", "gguf", "--out", "again")
    assert ran.code == 0, ran.err
    assert "exact: every number is the same" in ran.out
    assert (here / "again" / "model.gguf").read_bytes() == (here / "file" / "model.gguf").read_bytes()
    if kind not in ("Q8_0", "Q4_0", "Q5_0", "MXFP4") and not plain:
        ran = run("export", "folder", "--to", "compressed-tensors", "--out", "other")
        assert ran.code == 3
        assert ran.err.count("\n") == 1
        assert f"layout compressed-tensors cannot hold blocks {'with minima' if ' - ' in FORMATS[kind] else 'of scales'}" in ran.err
        assert f"({FORMATS[kind]}); --requantize rounds" in ran.err
        ran = run("export", "folder", "--to", "compressed-tensors", "--out", "other", "--requantize")
        assert ran.code == 0, ran.err
        assert "requantized 28 linears" in ran.out


LONG = ("IQ1_M", "IQ2_S", "IQ3_XXS", "IQ3_S")  # the searches of a whole model


@pytest.mark.parametrize("kind", [pytest.param(kind, marks=pytest.mark.slow) if kind in LONG else kind for kind in WITHOUT_CODES])
def test_types_without_codes_of_ours(run, kind):
    ran = run("export", model.embedded_directory(), "--to", "gguf", "--variant", kind.lower(), "--requantize", "--out", "file")
    if BLOCK_TYPES[kind].quantize is None:
        assert ran.code == 2
        assert f"not '{kind.lower()}'" in ran.err
        return
    assert ran.code == 0, ran.err
    assert "requantized 28 linears" in ran.out
    ran = run("inspect", "file/model.gguf", "--only", "blk.2.ffn_up.weight", "--format", "json")
    assert [row["format"] for row in ran.json["tensors"]] == [kind]
    ran = run("import", "file", "--out", "folder", "--variant", "dequantized")
    assert ran.code == 0, ran.err
    ran = run("generate", "folder", "--prompt", "Q: reverse abc", "--gen-length", "4")
    assert ran.code == 0, ran.err


def test_embedding_and_head_are_told(run, tmp_path):
    path = tmp_path / "here" / "m.gguf"
    write_model(path, small_config(), lambda name: "Q6_K")
    assert run("import", path, "--out", "folder").out == "folder: from gguf (as-is): 7 linears and wte and ff_out, 6.562 bits a weight\n"
    for layout in ("awq", "gptq"):
        ran = run("export", "folder", "--to", layout, "--requantize", "--out", layout)
        assert ran.code == 0, ran.err
        assert "written as plain numbers: model.transformer.ff_out, model.transformer.wte" in ran.out


def test_nothing_is_quantized_by_what_describes_a_folder(run, tmp_path):
    (tmp_path / "here" / "x.toml").write_text('name = "x"\nweights.method = "imported"\ncalibration.states = "none"\n')
    says = "weights of method 'imported' say what another program made; nothing can be quantized by such a recipe"
    for more in ([], ["--dry-run"], ["--stream"]):
        ran = run("quantize", "--recipe", "x.toml", "--out", "new", *more)
        assert (ran.code, ran.out, ran.err) == (2, "", f"refquant: {says}\n")
