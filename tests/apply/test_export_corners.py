"""Corners of other programs' layouts that were once written so that nobody could read them, or refused with a traceback."""

from __future__ import annotations

import json

import numpy as np
import pytest

from refquant.apply.checkpoint import load_quantized
from refquant.apply.exporting import export
from refquant.apply.importing import import_folder
from refquant.errors import InputError
from tests.apply.test_exporting import PLAIN, Q_PROJ, edit_tensors, quantized_folder


@pytest.mark.parametrize("variant", ["pack-quantized", "int-quantized"])
def test_one_bit_without_zero_points(tmp_path, variant):
    """Codes -1 and 0: exact where they are there, and never what something else is rounded to."""
    plan = PLAIN.replace(weights={"bits": 1, "scheme": "sym_gptq"})
    quantized, folder = quantized_folder(tmp_path, plan)
    assert not export(folder, "compressed-tensors", tmp_path / "other", variant=variant).losses
    import_folder(tmp_path / "other", tmp_path / "back")
    back = load_quantized(tmp_path / "back").weights
    assert {name: q.digest() for name, q in back.items()} == {name: q.digest() for name, q in quantized.weights.items()}
    (tmp_path / "signs").mkdir()
    signs = PLAIN.replace(weights={"format": "binary", "scale_format": "float16"})
    _, folder = quantized_folder(tmp_path / "signs", signs)
    written = export(folder, "compressed-tensors", tmp_path / "two", variant=variant, requantize=True)
    assert max(loss.noise_to_signal for loss in written.losses.values()) < 0.2
    import_folder(tmp_path / "two", tmp_path / "two back")
    assert {q.spec.format.bits for q in load_quantized(tmp_path / "two back").weights.values()} == {2}


@pytest.mark.parametrize("layout", ["gptq", "awq", "compressed-tensors"])
@pytest.mark.parametrize(
    ("weights", "tile"),
    [
        ({"format": "nf4", "group_size": 128, "scale_format": "float16"}, (1, 64)),
        ({"format": "e2m1", "group_size": -1, "scale_format": "float32"}, (1, None)),
    ],
)
def test_rows_of_one_group_are_requantized_like_wider_ones(tmp_path, layout, weights, tile):
    folder = quantized_folder(tmp_path, PLAIN.replace(weights=weights), d_model=64, mlp_hidden_size=128)[1]
    assert export(folder, layout, tmp_path / "other", requantize=True).losses
    import_folder(tmp_path / "other", tmp_path / "back")
    assert {q.spec.tiling.extents for q in load_quantized(tmp_path / "back").weights.values()} == {tile}


def test_an_infinite_scale_over_a_code_of_zero_is_refused_and_warns_of_nothing(tmp_path):
    plan = PLAIN.replace(weights={"format": "nvfp4", "group_size": 128, "scale_format": "float16"})
    folder = quantized_folder(tmp_path, plan)[1]
    export(folder, "mx", tmp_path / "other", variant="nvfp4")

    def damage(tensors):
        tensors[f"{Q_PROJ}.weight_scale_2"] = np.full_like(tensors[f"{Q_PROJ}.weight_scale_2"], np.inf)
        tensors[f"{Q_PROJ}.weight_scale"] = np.zeros_like(tensors[f"{Q_PROJ}.weight_scale"])

    edit_tensors(tmp_path / "other", damage)
    with pytest.raises(InputError, match=rf"{Q_PROJ}: "):
        import_folder(tmp_path / "other", tmp_path / "new")


def test_floats_whose_type_is_not_said(tmp_path):
    """Integers are what a missing type stands for; the message does not look it up again."""
    plan = PLAIN.replace(weights={"format": "e4m3fn", "group_size": -1, "scale_format": "float32"})
    folder = quantized_folder(tmp_path, plan)[1]
    export(folder, "compressed-tensors", tmp_path / "other", variant="float-quantized")
    config = json.loads((tmp_path / "other" / "config.json").read_text())
    del config["quantization_config"]["config_groups"]["group_0"]["weights"]["type"]
    (tmp_path / "other" / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="weights of type 'int' in format float-quantized; float is needed"):
        import_folder(tmp_path / "other", tmp_path / "new")
