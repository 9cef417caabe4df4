"""What inspecting says of files and folders, against what was put into them."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from refquant.apply.checkpoint import load_quantized
from refquant.apply.exporting import export
from refquant.apply.inspecting import INSPECTORS, Range, inspect, plain_row
from refquant.errors import InputError
from refquant.storage import open_checkpoint, write_tensors
from tests.apply.folders import saved
from tests.apply.test_exporting import PLAIN, WIDE
from tests.apply.tiny import write_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    here = tmp_path_factory.mktemp("inspected")
    out = saved(here, PLAIN, write_folder(here / "source", **WIDE))[2]
    export(out, "gptq", here / "gptq", variant="v2")
    export(out, "compressed-tensors", here / "ct")
    return out


@pytest.mark.parametrize("other", ["out", "gptq", "ct"])
def test_a_quantized_folder_and_its_exports(folder, other):
    place = folder.parent / other
    rows = {row.name: row for row in inspect(place).rows}
    quantized = load_quantized(folder).weights
    assert {name for name, row in rows.items() if row.scales is not None} == set(quantized)
    for name, q in quantized.items():
        row, values = rows[name], q.dequantize()
        assert row.shape == q.shape
        assert row.format == "uint4 1x16 float16"
        assert (row.values.low, row.values.high) == (values.min(), values.max())
        assert (row.scales.low, row.scales.high) == (q.scale.min(), q.scale.max())
        assert (row.zeros.low, row.zeros.high) == (q.zero.min(), q.zero.max())
        assert row.counts == tuple((q.codes == code).sum() for code in range(16))
        assert row.digest == q.digest()
    stored = open_checkpoint(place)
    assert sum(row.stored_bits for row in rows.values()) == 8 * sum(stored.read(name).nbytes for name in stored.names)


def test_a_file_by_itself_and_in_its_folder(folder, tmp_path):
    (tmp_path / "alone.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    alone = {row.name: row for row in inspect(tmp_path / "alone.safetensors").rows}
    assert set(alone) == set(open_checkpoint(folder).names)
    assert all(row.scales is None for row in alone.values())
    assert inspect(folder / "model.safetensors").kind == inspect(folder).kind == "quantized folder"
    assert inspect(folder.parent / "source").kind == "checkpoint folder"


def test_numbers_of_every_kind(tmp_path):
    tensors = {
        "nan": np.array([np.nan, 1, np.inf, -3], np.float32),
        "none": np.zeros((0, 3), np.int8),
        "all nan": np.full(2, np.nan, np.float16),
        "same": np.full(7, 5, np.uint8),
        "scalar": np.array(2.5),
        "wide": np.array([-1.7e308, 0, 1.7e308]),
        "truth": np.array([True, False]),
        "ramp": np.arange(160, dtype=np.int32),
    }
    write_tensors(tmp_path / "a.safetensors", tensors)
    rows = {row.name: row for row in inspect(tmp_path / "a.safetensors").rows}
    assert rows["nan"].values == Range(low=-3.0, high=1.0, not_finite=2)
    assert sum(rows["nan"].counts) == 2
    assert (rows["none"].values.low, rows["none"].bits_per_weight, rows["none"].counts) == (None, 0, ())
    assert rows["all nan"].values == Range(low=None, high=None, not_finite=2)
    assert rows["same"].counts == (7,)
    assert rows["scalar"].shape == ()
    assert [n for n in rows["wide"].counts if n] == [1, 1, 1]
    assert rows["ramp"].counts == (10,) * 16
    assert rows["ramp"].bits_per_weight == 32


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("a.safetensors", b"\xff" * 100, "header length"),
        ("a.safetensors", (2**63).to_bytes(8, "little") + b"{}", str(2**63)),
        ("a.safetensors", b"", "0 bytes"),
        ("a.bin", b"x", ".safetensors"),
    ],
)
def test_files_that_are_none(tmp_path, name, data, says):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError) as told:
        list(inspect(tmp_path / name).rows)
    assert says in str(told.value)
    assert "\n" not in str(told.value)


def test_nowhere(tmp_path):
    with pytest.raises(InputError, match="nowhere"):
        inspect(tmp_path / "nowhere.safetensors")
    assert all(suffix.startswith(".") for suffix in INSPECTORS)


@pytest.mark.parametrize(("bits", "pattern"), [("bfloat16", 0x7F81), ("float32", 0x7F800001), ("float16", 0x7C01)])
def test_signalling_nan_is_counted_and_warns_of_nothing(bits, pattern):
    kind = np.dtype(bits) if bits != "bfloat16" else np.dtype(ml_dtypes.bfloat16)
    row = plain_row("x", np.array([pattern, 0], dtype=f"u{kind.itemsize}").view(kind))
    assert (row.values.low, row.values.high, row.values.not_finite) == (0, 0, 1)
