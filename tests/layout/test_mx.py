"""MX and NVFP4 tensors of torchao and modelopt: read, their numbers, and the same bytes again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file

from refquant.core import spec
from refquant.errors import InputError, UsageError
from refquant.layout import mx
from refquant.methods.grid.rtn import rtn
from tests.layout.tensors import same

DATA = Path(__file__).parents[1] / "data" / "formats"
TORCHAO, MODELOPT = load_file(DATA / "torchao_mx.safetensors"), load_file(DATA / "modelopt_fp4.safetensors")
NAMES = {"e4m3": "mxfp8_e4m3", "e5m2": "mxfp8_e5m2", "e2m3": "mxfp6_e2m3", "e3m2": "mxfp6_e3m2", "e2m1": "mxfp4"}
ALL = ["mxfp8_e4m3", "mxfp8_e5m2", "mxfp6_e2m3", "mxfp6_e3m2", "mxfp4", "mxint8", "nvfp4", "nvfp4_compressed_tensors", "nvfp4_1level"]


def check(parts, wanted, values):
    q = mx.unpack(parts, wanted)
    assert np.array_equal(q.dequantize(), values)
    found = mx.pack(q)
    assert found.keys() == parts.keys()
    assert all(np.asarray(found[name]).tobytes() == parts[name].tobytes() for name in parts)


@pytest.mark.parametrize("element", NAMES)
def test_torchaos_mx(element):
    key = f"{element}.floor.input"
    check({"weight": TORCHAO[f"{key}.q"], "weight_scale": TORCHAO[f"{key}.scale"]}, spec(NAMES[element]), TORCHAO[f"{key}.deq"])


def test_torchaos_nvfp4():
    key = "nvfp4.2level.input"
    parts = {"weight": "q", "weight_scale": "scale_e4m3", "weight_scale_2": "per_tensor_scale"}
    check({ours: TORCHAO[f"{key}.{theirs}"] for ours, theirs in parts.items()}, spec("nvfp4_torchao"), TORCHAO[f"{key}.deq"])


def test_modelopts_nvfp4():
    parts = {"weight": "q", "weight_scale": "scale_e4m3", "weight_scale_2": "scale2"}
    check({ours: MODELOPT[f"nvfp4.{theirs}"] for ours, theirs in parts.items()}, spec("nvfp4"), MODELOPT["nvfp4.deq"])


@given(st.sampled_from(ALL), st.integers(1, 4), st.integers(1, 70), st.sampled_from(["bytes", "dense"]), st.integers(0, 2**32 - 1))
def test_every_shape_comes_back(name, rows, columns, sixes, seed):
    q = rtn(np.random.default_rng(seed).standard_normal((rows, columns)).astype(np.float32), spec(name))
    assert same(mx.unpack(mx.pack(q, sixes), q.spec, sixes, columns), q)


def test_six_bits_by_hand():
    q = rtn(np.array([[0.125, 0.25, 0.375, 7.5]], np.float32), spec("mxfp6_e2m3"))
    assert q.codes.tolist() == [[1, 2, 3, 31]]
    word = 1 | 2 << 6 | 3 << 12 | 31 << 18
    assert mx.pack(q, "dense")["weight"].tolist() == [list(word.to_bytes(3, "little"))]
    assert mx.pack(q)["weight"].tolist() == [[1, 2, 3, 31]]


def test_int8_is_twos_complement():
    q = rtn(np.array([[1.0, -1.0, -0.015625]], np.float32), spec("mxint8"))
    assert mx.pack(q)["weight"].view(np.int8).tolist() == [[64, -64, -1]]


def test_refusals():
    q = rtn(np.ones((2, 33), np.float32), spec("mxfp4"))
    parts = mx.pack(q)
    with pytest.raises(InputError, match="34 codes"):
        mx.unpack(parts | {"weight": parts["weight"][:, :3]}, q.spec, columns=34)
    whole = rtn(np.ones((2, 33), np.float32), spec("mxfp8_e4m3"))
    with pytest.raises(InputError, match="32 codes of 8 bits are 32 bytes; weight has 33"):
        mx.unpack(mx.pack(whole), whole.spec, columns=32)
    with pytest.raises(InputError, match="weight_scale is missing"):
        mx.unpack({"weight": parts["weight"]}, q.spec)
    with pytest.raises(InputError, match="weight_scale_2 is missing"):
        mx.unpack(parts, spec("nvfp4"))
    with pytest.raises(InputError, match="bytes along at least one axis"):
        mx.unpack(parts | {"weight_scale": parts["weight_scale"].astype(np.float32)}, q.spec)
    with pytest.raises(InputError, match="need scales of shape"):
        mx.unpack(parts | {"weight_scale": parts["weight_scale"][:, :1]}, q.spec)
    with pytest.raises(UsageError, match="'bytes' or 'dense'"):
        mx.pack(q, "wide")
    with pytest.raises(InputError, match="cannot hold scales of plain numbers"):
        mx.unpack(parts, replace(q.spec, scales=None))
    with pytest.raises(InputError, match="cannot hold codes of nf4"):
        mx.pack(rtn(np.ones((1, 64), np.float32), spec("nf4")))
