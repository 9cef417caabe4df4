"""The golden vectors: ours by bytes, and made again by the oracle to the same bytes."""

import importlib.util
import json
import re
from pathlib import Path

import numpy as np
import pytest

import refquant as rq
from refquant.storage import digest, read_tensors

ROOT = Path(__file__).parents[2]
VECTORS = read_tensors(ROOT / "golden" / "uniform.safetensors")
CASES = sorted({name.rsplit(".", 1)[0] for name in VECTORS if name != "input"})


@pytest.mark.parametrize("case", CASES)
def test_rtn_gives_the_vectors_bytes(case):
    scheme, bits, tiling, stored = re.fullmatch(r"(\w+)\.b(\d)\.(\w+)\.(\w+)", case).groups()
    spec = rq.spec(f"int{bits}", group_size=16 if tiling == "g16" else None, scheme=scheme, scale_format=stored)
    found = rq.rtn(VECTORS["input"], spec)
    assert found.codes.tobytes() == VECTORS[f"{case}.codes"].tobytes()
    assert found.scale.tobytes() == VECTORS[f"{case}.scale"].tobytes()
    zero = np.zeros_like(VECTORS[f"{case}.zero"]) if found.zero is None else found.zero
    assert np.array_equal(zero, VECTORS[f"{case}.zero"])
    assert np.array_equal(found.dequantize(np.dtype(np.float32)), VECTORS[f"{case}.values"])


def test_the_oracle_makes_the_same_file_again(tmp_path):
    spec = importlib.util.spec_from_file_location("make_golden", ROOT / "tools" / "make_golden.py")
    maker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(maker)
    maker.make(tmp_path)
    for name in ("uniform.safetensors", "manifest.json"):
        assert (tmp_path / name).read_bytes() == (ROOT / "golden" / name).read_bytes()


def test_the_manifest_knows_the_file_and_a_reason_for_every_row():
    entry = json.loads((ROOT / "golden" / "manifest.json").read_text())["uniform.safetensors"]
    assert entry["sha256"] == digest((ROOT / "golden" / "uniform.safetensors").read_bytes())
    assert len(entry["rows"]) == len(VECTORS["input"])
    assert all(reason for reason in entry["rows"].values())
