"""The bitsandbytes layout against arrays made by its release 0.50.2 on CPU."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refquant.core import QTensor, spec
from refquant.errors import InputError
from refquant.layout.bitsandbytes import STATE, block_spec, pack, unpack
from refquant.methods.grid.rtn import rtn
from tests.layout.tensors import equal, peer, random_tensor, same

PEER = peer("bitsandbytes")


def state_bytes(**state):
    return np.frombuffer(json.dumps(state).encode(), np.uint8)


def theirs(kind, block, shape, packed, nested=None):
    """A linear as bitsandbytes' ``QuantState.as_dict(packed=True)`` names its parts, with their order of keys."""
    parts = {"weight": PEER[packed][:, None], "weight.quant_map": PEER[f"code.{kind}"]}
    state = {"quant_type": kind, "blocksize": block, "dtype": "float32", "shape": list(shape)}
    if nested is None:
        parts["weight.absmax"] = PEER[packed.replace("packed", "absmax")]
    else:
        state |= {"nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": float(PEER[f"{nested}.offset"][0])}
        parts["weight.absmax"] = PEER[f"{nested}.absmax_q"]
        parts["weight.nested_absmax"] = PEER[f"{nested}.absmax2"]
        parts["weight.nested_quant_map"] = PEER["code.dynamic_signed"]
    return parts | {STATE + kind: state_bytes(**state)}


@pytest.mark.parametrize("block", [32, 64, 128, 256])
@pytest.mark.parametrize("kind", ["nf4", "fp4"])
def test_their_arrays(kind, block):
    parts = theirs(kind, block, (22, 256), f"{kind}.b{block}.packed")
    q = unpack(parts)
    if block == 64:
        assert np.array_equal(q.dequantize(), PEER[f"{kind}.b64.deq"])
    packed = pack(q)
    assert set(packed) == set(parts)
    assert all(equal(packed[name], parts[name]) for name in parts)


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
def test_nested(kind):
    parts = theirs(kind, 64, (22, 256), f"{kind}.b64.double.packed", f"{kind}.b64.double")
    q = unpack(parts)
    assert np.array_equal(q.dequantize(), PEER[f"{kind}.b64.double.deq"])
    packed = pack(q)
    assert set(packed) == set(parts)
    assert all(equal(packed[name], parts[name]) for name in parts)


def test_an_odd_length_with_a_ragged_block():
    parts = theirs("nf4", 64, (1037,), "odd.nf4.packed")
    q = unpack(parts)
    assert np.array_equal(q.dequantize(), PEER["odd.nf4.deq"])
    assert all(equal(array, parts[name]) for name, array in pack(q).items())


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
def test_our_quantization_is_theirs(kind):
    q = rtn(PEER["input"], block_spec(kind, 64, nested=False))
    assert all(equal(array, theirs(kind, 64, (22, 256), f"{kind}.b64.packed")[name]) for name, array in pack(q).items())
    q = rtn(PEER["input"], block_spec(kind, 64, nested=True))
    wanted = theirs(kind, 64, (22, 256), f"{kind}.b64.double.packed", f"{kind}.b64.double")
    assert all(equal(array, wanted[name]) for name, array in pack(q).items())


@given(
    st.sampled_from(["nf4", "fp4"]), st.integers(1, 5), st.integers(1, 4), st.sampled_from([1, 3, 64]), st.booleans(), st.integers(0, 99)
)
def test_what_is_packed_comes_back(kind, rows, blocks, block, nested, seed):
    x = np.random.default_rng(seed).standard_normal((rows, blocks * block)).astype(np.float32)
    x[:, :block] *= seed % 2
    q = rtn(x, block_spec(kind, block, nested))
    assert same(unpack(pack(q)), q)


@given(st.integers(1, 200), st.sampled_from([1, 3, 64]), st.integers(0, 99))
def test_vectors_of_every_length_come_back(length, block, seed):
    q = rtn(np.random.default_rng(seed).standard_normal(length).astype(np.float32), block_spec("nf4", block, nested=False, ndim=1))
    assert same(unpack(pack(q)), q)


def test_wide_scales_that_are_narrow_numbers():
    x = np.random.default_rng(3).standard_normal((4, 64)).astype(np.float32)
    wide, narrow = rtn(x.astype(np.float64), spec("nf4")), rtn(x, spec("nf4"))
    assert wide.scale.dtype == np.float64
    assert same(unpack(pack(wide)), narrow)


def ragged():
    s = spec("nf4", group_size=64)
    return QTensor(codes=np.zeros((3, 65), np.uint8), scale=np.ones((3, 2), np.float32), zero=None, spec=s)


REFUSED = {
    "integers": (lambda: random_tensor((8, 64)), ["uint4", "nf4 and fp4"]),
    "ragged rows": (ragged, ["65 columns in blocks of 64"]),
    "wide scales": (lambda: rtn(np.full((1, 64), 0.1), spec("nf4")), ["float64", "float32"]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_layout_cannot_hold(name):
    make, says = REFUSED[name]
    with pytest.raises(InputError) as told:
        pack(make())
    assert all(part in str(told.value) for part in says), told.value


GOOD = {"quant_type": "nf4", "blocksize": 64, "dtype": "float32", "shape": [22, 256]}
DAMAGE = {
    "no state": ({STATE + "nf4": None}, ["quant_state", "missing"]),
    "no absmax": ({"weight.absmax": None}, ["absmax is missing"]),
    "state is no JSON": ({STATE + "nf4": np.frombuffer(b"{", np.uint8)}, ["quant state", "JSON"]),
    "state is endless": ({STATE + "nf4": np.full(5000, 32, np.uint8)}, ["4096"]),
    "state of numbers": ({STATE + "nf4": np.zeros(4, np.float32)}, ["float32"]),
    "type": ({STATE + "nf4": state_bytes(**GOOD | {"quant_type": "fp4"})}, ["'fp4'", "nf4"]),
    "block of 0": ({STATE + "nf4": state_bytes(**GOOD | {"blocksize": 0})}, ["blocks of 0"]),
    "block of text": ({STATE + "nf4": state_bytes(**GOOD | {"blocksize": "64"})}, ["blocksize", "'64'"]),
    "a huge shape": ({STATE + "nf4": state_bytes(**GOOD | {"shape": [2**62, 2**62]})}, ["do not fit"]),
    "a negative shape": ({STATE + "nf4": state_bytes(**GOOD | {"shape": [-22, 256]})}, ["[-22, 256]"]),
    "other blocks": ({STATE + "nf4": state_bytes(**GOOD | {"blocksize": 128})}, ["do not fit"]),
    "weight short": ({"weight": np.zeros((9, 1), np.uint8)}, ["(9, 1)"]),
    "another table": ({"weight.quant_map": np.zeros(16, np.float32)}, ["table of nf4"]),
    "absmax of 0": ({"weight.absmax": np.zeros(88, np.float32)}, ["absmax is 0"]),
    "absmax NaN": ({"weight.absmax": np.full(88, np.nan, np.float32)}, ["finite", "nan"]),
    "absmax coded": ({"weight.absmax": np.zeros(88, np.uint8)}, ["uint8"]),
    "nested without offset": (
        {"weight.nested_absmax": np.ones(1, np.float32), "weight.nested_quant_map": PEER["code.dynamic_signed"]},
        ["nested_blocksize"],
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_arrays_that_do_not_fit(name):
    changes, says = DAMAGE[name]
    parts = theirs("nf4", 64, (22, 256), "nf4.b64.packed") | changes
    with pytest.raises(InputError) as told:
        unpack({part: array for part, array in parts.items() if array is not None})
    assert all(part in str(told.value) for part in says), told.value
    assert "\n" not in str(told.value)
