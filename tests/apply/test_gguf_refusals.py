"""What no codes stand for in GGUF files, and what nothing is quantized by: told in one line, and nothing is left."""

from __future__ import annotations

import numpy as np
import pytest

import model
from refquant.apply.importing import import_folder
from refquant.apply.quantize import quantize_model
from refquant.apply.recipe import Recipe
from refquant.errors import InputError, UsageError
from refquant.layout.gguf import BLOCK_TYPES, GgufTensor
from refquant.storage import open_checkpoint
from tests.apply.gguf_files import small_config, write_model

CONFIG = small_config()


def odd(kind, **fields):
    """Blocks of a type with one odd one among them."""

    def make(name, shape):
        block = BLOCK_TYPES[kind]
        count = shape[0] * shape[1] // block.size
        blocks = np.tile(np.arange(block.nbytes, dtype=np.uint8) * 0, (count, 1))
        for place, byte in fields["bytes"].items():
            blocks[3, place] = byte
        return GgufTensor(kind=block, blocks=blocks, shape=shape)

    return make


@pytest.mark.parametrize(
    ("kind", "bytes_", "says"),
    [
        ("Q8_0", {0: 0, 1: 0x7C}, "a scale is not finite"),
        ("Q4_1", {2: 0, 3: 0x7E}, "a minimum is not finite"),
        ("Q4_K", {0: 0, 1: 0xFC}, "not finite"),
        ("TQ1_0", {0: 1, 53: 0x3C}, "bytes that no encoder writes"),
        ("TQ2_0", {0: 3, 65: 0x3C}, "codes of int2_narrow lie in"),
        ("MXFP4", {0: 255}, "scale byte 255"),
    ],
)  # fmt: skip
def test_bytes_that_no_codes_stand_for(tmp_path, kind, bytes_, says):
    path = tmp_path / "model.gguf"
    write_model(path, CONFIG, lambda name: kind if name == "blk.0.ffn_up.weight" else "F32", odd(kind, bytes=bytes_))
    with pytest.raises(InputError, match=rf"model.gguf: blk.0.ffn_up: .*{says}.*; --variant dequantized makes") as told:
        import_folder(path, tmp_path / "folder")
    assert "\n" not in str(told.value)
    assert not (tmp_path / "folder").exists()


def test_types_that_are_only_read_are_named_before_anything_is(tmp_path):
    path = tmp_path / "model.gguf"
    write_model(path, CONFIG, lambda name: "IQ4_NL" if name == "token_embd.weight" else "F32", odd("IQ4_NL", bytes={}))
    with pytest.raises(InputError, match=r"token_embd: IQ4_NL is no grid .* no integer codes; --variant dequantized"):
        import_folder(path, tmp_path / "folder")
    import_folder(path, tmp_path / "numbers", variant="dequantized")
    assert not open_checkpoint(tmp_path / "numbers").read("model.transformer.wte.weight").any()


def test_nothing_is_quantized_by_a_recipe_of_imported_weights():
    plan = Recipe(name="x").replace(weights={"method": "imported"}, calibration={"states": "none"})
    with pytest.raises(UsageError, match="say what another program made; nothing can be quantized by such a recipe"):
        quantize_model(model.embedded(), plan, ())
    with pytest.raises(UsageError, match="have a spec of their own; leave out bits"):
        plan.replace(weights={"bits": 3})
    assert Recipe.from_toml(plan.to_toml()) == plan
