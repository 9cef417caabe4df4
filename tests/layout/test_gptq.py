"""The GPTQ layout against files' arrays made by GPTQModel and AutoGPTQ."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refquant.core import QTensor, spec
from refquant.errors import InputError, UsageError
from refquant.layout.gptq import canonical, pack, unpack, why_not
from tests.layout.tensors import equal, peer, random_tensor, same, schemes

PEER = peer("packing_gptq_awq")
MODEL = sorted(key.removesuffix(".qweight") for key in PEER if key.startswith("gptq.") and key.endswith(".qweight"))
AUTO = sorted(key.removesuffix(".qweight") for key in PEER if key.startswith("autogptq.") and key.endswith(".qweight"))


def parts_of(case, qzeros):
    return {name: PEER[f"{case}.{name}"] for name in ("qweight", "scales", "g_idx")} | {"qzeros": PEER[qzeros]}


def spec_of(case):
    _, bits, symmetric = case.split(".")[:3]
    return spec(f"int{bits[1:]}", group_size=64, scheme="sym_gptq" if symmetric == "sym1" else "asym_incl0", scale_format="float16")


def theirs(case):
    """The weight by their formula, from what they were given."""
    index = PEER[f"{case}.g_idx"]
    scale = PEER[f"{case}.scales"].T[:, index].astype(np.float32)
    return scale * (PEER[f"{case}.codes"].astype(np.float32) - PEER[f"{case}.zeros"][:, index])


def test_there_are_cases():
    assert len(MODEL) == 28
    assert len(AUTO) == 8


@pytest.mark.parametrize("version", ["v2", "v1_gptqmodel"])
@pytest.mark.parametrize("case", MODEL)
def test_gptqmodel(case, version):
    parts = parts_of(case, f"{case}.{version[:2]}.qzeros")
    q = unpack(parts, spec_of(case), version)
    assert np.array_equal(q.codes, PEER[f"{case}.codes"])
    assert np.array_equal(q.zero, PEER[f"{case}.zeros"])
    assert np.array_equal(q.dequantize(), theirs(case))
    packed = pack(q, version)
    assert all(equal(packed[name], parts[name]) for name in parts)


@pytest.mark.parametrize("case", AUTO)
def test_autogptq(case):
    parts = parts_of(case, f"{case}.qzeros")
    q = unpack(parts, spec_of(case), "v1")
    assert np.array_equal(q.codes, PEER[f"{case}.codes"])
    assert np.array_equal(q.zero, PEER[f"{case}.zeros"])
    packed = pack(q, "v1")
    assert all(equal(packed[name], parts[name]) for name in parts)


@pytest.mark.parametrize("case", [case for case in MODEL if "sym1" in case])
def test_without_zeros_of_0_the_two_v1_agree(case):
    q = unpack(parts_of(case, f"{case}.v2.qzeros"), spec_of(case), "v2")
    assert equal(pack(q, "v1")["qzeros"], PEER[f"{case}.v1.qzeros"])


def test_autogptq_loses_the_neighbours_of_a_zero_of_0():
    like = random_tensor((32, 128), group=64)
    q = replace(like, zero=PEER["autogptq.zero0.zeros"].astype(np.uint8))
    assert equal(pack(q, "v1_autogptq")["qzeros"], PEER["autogptq.zero0.qzeros"])
    read = unpack(pack(q, "v1_autogptq"), q.spec, "v1")
    assert not np.array_equal(read.zero, q.zero)
    assert read.zero.max() == 16, "a field of ones reads as 2^bits"
    assert equal(pack(read, "v1")["qzeros"], PEER["autogptq.zero0.qzeros"]), "what is in the file is written back all the same"


@given(
    st.sampled_from([2, 3, 4, 5, 6, 7, 8]),
    st.sampled_from([(32, 32), (64, 96), (32, 128)]),
    st.sampled_from([None, 16, 32, 48, 64]),
    schemes(),
    st.sampled_from(["float16", "bfloat16"]),
    st.booleans(),
    st.integers(0, 99),
)
def test_what_is_packed_comes_back(bits, shape, group, scheme, scale_format, order, seed):
    q = random_tensor(shape, bits, group, scheme, scale_format, order, seed)
    wanted = canonical(q)
    assert same(unpack(pack(q, "v2"), q.spec, "v2"), wanted)
    assert same(unpack(pack(q, "v1_gptqmodel"), q.spec, "v1_gptqmodel"), wanted)
    if q.zero is None or q.zero.min() > 0:
        assert same(unpack(pack(q, "v1"), q.spec, "v1"), wanted)
    else:
        assert "zero point 0" in why_not(q, "v1")
        with pytest.raises(InputError, match="v2 holds a zero point of 0"):
            pack(q, "v1")
    assert np.array_equal(wanted.dequantize(), q.dequantize())


REFUSED = {
    "rows": (random_tensor((33, 32)), ["33 rows", "32"]),
    "columns": (random_tensor((32, 40)), ["40 columns", "32"]),
    "empty": (random_tensor((0, 32)), ["0 rows"]),
    "width": (random_tensor((32, 32), bits=9), ["9 bits"]),
    "scales": (random_tensor((32, 32), scale_format="float32"), ["float32", "float16"]),
    "wide zeros": (random_tensor((32, 32), scheme="asym_omni", zeros=(-3, -3)), ["zero point -3"]),
    "tiles": (
        QTensor(
            codes=np.zeros((32, 32), np.uint8),
            scale=np.ones((1, 1), np.float16),
            zero=np.zeros((1, 1), np.uint8),
            spec=spec("int4", granularity="tensor", scale_format="float16"),
        ),
        ["(None, None)", "run of a row"],
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_layout_cannot_hold(name):
    q, says = REFUSED[name]
    with pytest.raises(InputError) as told:
        pack(q, "v2")
    assert all(part in str(told.value) for part in says), told.value


def damaged(**changes):
    q = random_tensor((32, 64), group=32)
    return {name: array for name, array in (pack(q, "v2") | changes).items() if array is not None}


DAMAGE = {
    "qweight missing": (damaged(qweight=None), ["qweight is missing"]),
    "qweight short": (damaged(qweight=np.zeros((7, 32), np.int32)), ["g_idx", "(56,)"]),
    "qweight of 64 bits": (damaged(qweight=np.zeros((8, 32), np.int64)), ["int64"]),
    "qweight a vector": (damaged(qweight=np.zeros(256, np.int32)), ["matrix"]),
    "qzeros of another shape": (damaged(qzeros=np.zeros((2, 5), np.int32)), ["qzeros (2, 5)"]),
    "scales of another shape": (damaged(scales=np.ones((3, 32), np.float16)), ["scales (3, 32)"]),
    "scales of integers": (damaged(scales=np.ones((2, 32), np.int32)), ["int32"]),
    "a scale of 0": (damaged(scales=np.zeros((2, 32), np.float16)), ["positive"]),
    "a NaN scale": (damaged(scales=np.full((2, 32), np.nan, np.float16)), ["finite", "nan"]),
    "g_idx outside": (damaged(g_idx=np.full(64, 9, np.int32)), ["g_idx", "9"]),
    "g_idx short": (damaged(g_idx=np.zeros(3, np.int32)), ["g_idx", "(64,)"]),
    "g_idx uneven": (damaged(g_idx=np.array([0] * 40 + [1] * 24, np.int32)), ["g_idx", "32 columns"]),
    "g_idx negative": (damaged(g_idx=np.array([-1] * 32 + [0] * 32, np.int32)), ["g_idx", "-1"]),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_arrays_that_do_not_fit(name):
    parts, says = DAMAGE[name]
    with pytest.raises(InputError) as told:
        unpack(parts, spec("int4", group_size=32), "v2")
    assert all(part in str(told.value) for part in says), told.value


def test_words_that_mean_nothing():
    q = random_tensor((32, 64))
    with pytest.raises(UsageError, match="v3"):
        pack(q, "v3")
    with pytest.raises(UsageError, match="cannot be read"):
        unpack(pack(q, "v2"), q.spec, "v1_autogptq")
    with pytest.raises(InputError, match="9 bits"):
        unpack(pack(q, "v2"), spec("int9"), "v2")
