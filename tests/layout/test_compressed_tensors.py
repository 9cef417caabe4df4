"""The integer layouts of compressed-tensors against arrays made by its release 0.20."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refquant.core import spec
from refquant.errors import InputError, UsageError
from refquant.layout.compressed_tensors import pack, unpack
from tests.layout.tensors import equal, peer, random_tensor, same, schemes

PEER = peer("compressed_tensors")
CASES = sorted(key.removesuffix(".packed") for key in PEER if key.startswith("int") and key.endswith(".packed"))


def spec_of(case):
    name, symmetry, group, _ = case.split(".")
    scheme = "sym_full" if symmetry == "sym" else "asym_incl0"
    return spec(name, group_size=int(group[1:]) if group[0] == "g" else None, scheme=scheme, scale_format="float32")


def parts_of(case):
    names = {"packed": "weight_packed", "scale": "weight_scale", "zero_packed": "weight_zero_point"}
    found = {new: PEER[f"{case}.{old}"] for old, new in names.items() if f"{case}.{old}" in PEER}
    return found | {"weight_shape": np.array(PEER[f"{case}.q"].shape)}


def test_there_are_cases():
    assert len(CASES) == 18


@pytest.mark.parametrize("case", CASES)
def test_pack_quantized(case):
    parts, s = parts_of(case), spec_of(case)
    q = unpack(parts, s)
    half = 2 ** (s.format.bits - 1)
    theirs = PEER[f"{case}.q"].astype(int)
    assert np.array_equal(q.codes.astype(int) - (0 if s.format.signed else half), theirs)
    if q.zero is not None:
        assert np.array_equal(q.zero.astype(int) - half, PEER[f"{case}.zero"])
    if f"{case}.deq" in PEER:
        assert np.array_equal(q.dequantize(), PEER[f"{case}.deq"])
    packed = pack(q)
    assert all(equal(packed[name], parts[name]) for name in parts)


@pytest.mark.parametrize("case", [case for case in CASES if "int8" in case])
def test_int_quantized(case):
    s, symmetric = spec_of(case), ".sym." in case
    parts = {"weight": PEER[f"{case}.q"], "weight_scale": PEER[f"{case}.scale"]}
    parts |= {} if symmetric else {"weight_zero_point": PEER[f"{case}.zero"]}
    q = unpack(parts, s, "int-quantized")
    assert np.array_equal(q.dequantize(), unpack(parts_of(case), s).dequantize())
    packed = pack(q, "int-quantized")
    assert set(packed) == set(parts)
    assert all(equal(packed[name], parts[name]) for name in parts)


@given(
    st.sampled_from(["pack-quantized", "int-quantized"]),
    st.integers(1, 8),
    st.integers(1, 9),
    st.integers(1, 40),
    st.sampled_from([None, 1, 5, 8]),
    schemes(),
    st.sampled_from(["float16", "bfloat16", "float32"]),
    st.integers(0, 99),
)
def test_what_is_packed_comes_back(layout, bits, rows, columns, group, scheme, scale_format, seed):
    if scheme in ("sym_full", "sym_narrow") and bits == 1:
        return
    q = random_tensor((rows, columns), bits, group, scheme, scale_format, seed=seed)
    if group is not None and columns % group:
        with pytest.raises(InputError, match="whole groups"):
            pack(q, layout)
        return
    assert same(unpack(pack(q, layout), q.spec, layout), q)


def test_one_scale_a_tensor():
    like = random_tensor((6, 8), 8, scheme="sym_full", scale_format="float32")
    s = spec("int8", granularity="tensor", scheme="sym_full", scale_format="float32")
    q = type(like)(codes=like.codes, scale=np.array([[0.5]], np.float32), zero=None, spec=s)
    parts = pack(q, "int-quantized")
    assert parts["weight_scale"].shape == (1,)
    assert same(unpack(parts, s, "int-quantized"), q)
    with pytest.raises(InputError, match=r"\(None, None\)"):
        pack(q, "pack-quantized")


def test_older_files_with_g_idx_are_read():
    q = random_tensor((6, 32), group=8)
    order = np.random.default_rng(1).permutation(32)
    g_idx = np.empty(32, np.int32)
    g_idx[order] = np.arange(32) // 8
    read = unpack(pack(q) | {"weight_g_idx": g_idx}, q.spec)
    wide = read.scale[:, g_idx].astype(np.float32)
    assert np.array_equal(read.dequantize(), wide * (q.codes.astype(np.float32) - q.zero.astype(np.float32)[:, g_idx]))
    with pytest.raises(InputError, match="weight_g_idx"):
        pack(read)


REFUSED = {
    "width": (random_tensor((8, 32), bits=9), ["9 bits"]),
    "scales": (random_tensor((8, 32), scale_format="float64"), ["float64"]),
    "empty": (random_tensor((0, 32)), ["(0, 32)"]),
    "wide zeros": (random_tensor((8, 32), scheme="asym_omni", zeros=(16, 16)), ["zero point 16"]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_layout_cannot_hold(name):
    q, says = REFUSED[name]
    with pytest.raises(InputError) as told:
        pack(q)
    assert all(part in str(told.value) for part in says), told.value


def damaged(**changes):
    found = pack(random_tensor((32, 64), group=32)) | changes
    return {name: array for name, array in found.items() if array is not None}


DAMAGE = {
    "no shape": (damaged(weight_shape=None), ["weight_shape is missing"]),
    "no zero points": (damaged(weight_zero_point=None), ["weight_zero_point is missing"]),
    "a huge shape": (damaged(weight_shape=np.array([2**62, 2**62])), ["weight_packed", str(2**62)]),
    "a negative shape": (damaged(weight_shape=np.array([-1, 64])), ["-1"]),
    "three axes": (damaged(weight_shape=np.array([1, 2, 3])), ["two integers"]),
    "packed of bytes": (damaged(weight_packed=np.zeros((32, 8), np.uint8)), ["uint8"]),
    "packed short": (damaged(weight_packed=np.zeros((32, 7), np.int32)), ["(32, 7)"]),
    "scales of another shape": (damaged(weight_scale=np.ones((32, 3), np.float16)), ["(32, 3)"]),
    "scales of integers": (damaged(weight_scale=np.ones((32, 2), np.int8)), ["int8"]),
    "zero points of another shape": (damaged(weight_zero_point=np.zeros((5, 2), np.int32)), ["(5, 2)"]),
    "a negative scale": (damaged(weight_scale=np.full((32, 2), -1, np.float16)), ["positive", "-1"]),
    "g_idx short": (damaged(weight_g_idx=np.zeros(3, np.int32)), ["g_idx"]),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_arrays_that_do_not_fit(name):
    parts, says = DAMAGE[name]
    with pytest.raises(InputError) as told:
        unpack(parts, spec("int4", group_size=32))
    assert all(part in str(told.value) for part in says), told.value


def test_codes_outside_their_bits():
    parts = {"weight": np.full((2, 2), 9, np.int8), "weight_scale": np.ones((2, 1), np.float32)}
    with pytest.raises(InputError, match=r"-8\.\.7; found 9"):
        unpack(parts, spec("int4", scheme="sym_full"), "int-quantized")
    with pytest.raises(UsageError, match="marlin"):
        unpack(parts, spec("int4"), "marlin")
