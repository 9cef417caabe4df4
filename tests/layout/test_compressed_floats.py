"""The floating-point layouts of compressed-tensors against arrays made by its release 0.20."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refquant.core import Tiling, spec
from refquant.errors import InputError, UsageError
from refquant.formats import encode, find_format
from refquant.layout.compressed_floats import pack, unpack
from refquant.methods.grid.rtn import rtn
from tests.layout.tensors import equal, peer, random_tensor, same

PEER = peer("compressed_tensors")
E4M3 = ml_dtypes.float8_e4m3fn
SPECS = {
    "nvfp4-pack-quantized": "nvfp4_compressed_tensors",
    "mxfp4-pack-quantized": "mxfp4_even",
    "mxfp6-pack-quantized": "mxfp6_e2m3_even",
    "mxfp8-quantized": "mxfp8_e4m3_rceil",
    "float-quantized": "e4m3fn",
}
CASES = {
    "nvfp4-pack-quantized": "nvfp4",
    "mxfp4-pack-quantized": "mxfp4",
    "mxfp6-pack-quantized": "mxfp6",
    "mxfp8-quantized": "mxfp8",
    "float-quantized": "fp8.channel",
}


def theirs(layout, which):
    if layout == "nvfp4-pack-quantized":
        scale, outer = PEER[f"nvfp4.{which}.scale"].astype(E4M3), PEER[f"nvfp4.{which}.global_scale"]
        return {"weight_packed": PEER[f"nvfp4.{which}.packed"], "weight_scale": scale, "weight_global_scale": outer}
    if layout == "mxfp4-pack-quantized":
        return {"weight_packed": PEER[f"mxfp4.{which}.packed"], "weight_scale": PEER[f"mxfp4.{which}.scale_e8m0"]}
    if layout == "mxfp6-pack-quantized":  # its release has the numbers recorded, not the packed bytes: four codes in three bytes, by hand
        codes = encode(PEER[f"mxfp6.{which}.q_value"], find_format("e2m3")).astype(np.uint32).reshape(-1, 4)
        words = codes[:, 0] | codes[:, 1] << 6 | codes[:, 2] << 12 | codes[:, 3] << 18
        packed = np.stack([words & 255, words >> 8 & 255, words >> 16], axis=1).astype(np.uint8)
        return {"weight_packed": packed.reshape(-1, 192), "weight_scale": PEER[f"mxfp6.{which}.scale_e8m0"]}
    if layout == "mxfp8-quantized":
        return {"weight": PEER[f"mxfp8.{which}.q_value"].astype(E4M3), "weight_scale": PEER[f"mxfp8.{which}.scale_e8m0"]}
    return {"weight": PEER[f"fp8.channel.{which}.q_value"].astype(E4M3), "weight_scale": PEER[f"fp8.channel.{which}.scale"]}


@pytest.mark.parametrize("which", ["input", "edge"])
@pytest.mark.parametrize("layout", SPECS)
def test_their_arrays(layout, which):
    parts, s = theirs(layout, which), spec(SPECS[layout])
    q = unpack(parts, s, layout)
    packed = pack(q, layout)
    assert set(packed) == set(parts)
    assert all(equal(packed[name], parts[name]) for name in parts)
    case = CASES[layout]
    if f"{case}.{which}.deq" in PEER:
        assert np.array_equal(q.dequantize(), PEER[f"{case}.{which}.deq"])
    elif layout in ("float-quantized", "mxfp6-pack-quantized", "mxfp8-quantized"):
        if layout != "float-quantized":
            assert np.array_equal(q.dequantize(), PEER[f"{case}.{which}.q_value"] * np.repeat(PEER[f"{case}.{which}.scale"], 32, axis=1))
            return
        assert np.array_equal(q.dequantize(), PEER[f"{case}.{which}.q_value"] * PEER[f"{case}.{which}.scale"])


@given(st.sampled_from(sorted(SPECS)), st.integers(1, 4), st.integers(1, 4), st.integers(0, 99))
def test_what_is_packed_comes_back(layout, rows, blocks, seed):
    s = spec("e4m3fn", scale_format="float16") if layout == "float-quantized" else spec(SPECS[layout])
    x = np.random.default_rng(seed).standard_normal((rows, 32 * blocks)).astype(np.float32)
    q = rtn(x, s)
    assert same(unpack(pack(q, layout), s, layout), q)


def test_one_scale_a_tensor():
    s = spec("e4m3fn", scale_format="float32", granularity="tensor")
    q = rtn(np.linspace(-1, 1, 12).reshape(3, 4), s)
    parts = pack(q, "float-quantized")
    assert parts["weight_scale"].shape == (1,)
    assert same(unpack(parts, s, "float-quantized"), q)


REFUSED = {
    "integers": (lambda: random_tensor((8, 64)), "nvfp4-pack-quantized", ["uint4", "e2m1"]),
    "a factor": (lambda: rtn(np.eye(16), spec("nvfp4")), "nvfp4-pack-quantized", ["multiplies", "divided"]),
    "other scales": (lambda: rtn(np.eye(16), spec("nvfp4")), "mxfp4-pack-quantized", ["blocks of 32"]),
    "ragged": (lambda: rtn(np.eye(24), spec("nvfp4_compressed_tensors")), "nvfp4-pack-quantized", ["24 columns", "16"]),
    "wide scales": (lambda: rtn(np.eye(24), spec("e4m3fn")), "float-quantized", ["float64"]),
    "groups": (lambda: rtn(np.eye(24), spec("e4m3fn", tiling=Tiling.group(8), scale_format="float16")), "float-quantized", ["(1, 8)"]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_layout_cannot_hold(name):
    make, layout, says = REFUSED[name]
    with pytest.raises(InputError) as told:
        pack(make(), layout)
    assert all(part in str(told.value) for part in says), told.value


NVFP4, FP8 = "nvfp4-pack-quantized", "float-quantized"
DAMAGE = {
    "no tensor scale": (NVFP4, {"weight_global_scale": None}, ["weight_global_scale is missing"]),
    "two tensor scales": (NVFP4, {"weight_global_scale": np.ones(2, np.float32)}, ["(2,)"]),
    "a tensor scale of 0": (NVFP4, {"weight_global_scale": np.zeros(1, np.float32)}, []),
    "scales of another shape": (NVFP4, {"weight_scale": np.ones((22, 3), E4M3)}, ["(22, 3)"]),
    "scales of bytes": (NVFP4, {"weight_scale": np.ones((22, 16), np.uint8)}, ["uint8"]),
    "a NaN scale": (NVFP4, {"weight_scale": np.full((22, 16), np.nan, E4M3)}, []),
    "packed words": (NVFP4, {"weight_packed": np.ones((22, 32), np.int32)}, ["int32"]),
    "packed flat": (NVFP4, {"weight_packed": np.ones(2816, np.uint8)}, ["matrix"]),
    "a NaN weight": (FP8, {"weight": np.full((22, 256), np.nan, E4M3)}, []),
    "weights of float": (FP8, {"weight": np.ones((22, 256), np.float32)}, ["float32", "float8"]),
    "scales of another number": (FP8, {"weight_scale": np.ones((21, 1), np.float32)}, ["(21, 1)"]),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_arrays_that_do_not_fit(name):
    layout, changes, says = DAMAGE[name]
    parts = {part: array for part, array in (theirs(layout, "input") | changes).items() if array is not None}
    with pytest.raises(InputError) as told:
        unpack(parts, spec(SPECS[layout]), layout)
    assert all(part in str(told.value) for part in says), told.value
    assert "\n" not in str(told.value)


def test_a_layout_that_does_not_exist():
    with pytest.raises(UsageError, match="mxfp9"):
        unpack({}, spec("mxfp4"), "mxfp9")
