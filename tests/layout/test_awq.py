"""The AWQ layouts against AutoAWQ's packing (by GPTQModel) and llm-awq's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refquant.core import spec
from refquant.errors import InputError
from refquant.layout.awq import pack, pack_interleaved, unpack, unpack_interleaved
from tests.layout.tensors import equal, peer, random_tensor, same, schemes

PEER = peer("packing_gptq_awq")


def test_gemm():
    parts = {name: PEER[f"awq_gemm.{name}"] for name in ("qweight", "qzeros", "scales")}
    q = unpack(parts, spec("int4", group_size=64))
    assert np.array_equal(q.codes, PEER["awq_gemm.codes"])
    assert np.array_equal(q.zero, PEER["awq_gemm.zeros"])
    assert np.array_equal(q.scale, PEER["awq_gemm.scales"].T)
    packed = pack(q)
    assert all(equal(packed[name], parts[name]) for name in parts)


def test_interleaved():
    data = peer("awq_interleaved")
    assert equal(pack_interleaved(data["pack.int"]), data["pack.interleaved_i16"])
    assert np.array_equal(unpack_interleaved(data["pack.interleaved_i16"]), data["pack.int"])


@given(st.integers(1, 3), st.integers(1, 3), st.integers(0, 99))
def test_interleaved_comes_back(quarters, blocks, seed):
    codes = np.random.default_rng(seed).integers(0, 16, (4 * quarters, 64 * blocks)).astype(np.uint8)
    assert np.array_equal(unpack_interleaved(pack_interleaved(codes)), codes)


@given(
    st.sampled_from([(8, 32), (24, 96), (16, 7)]),
    st.sampled_from([None, 1, 7, 16, 32]),
    schemes(),
    st.sampled_from(["float16", "bfloat16"]),
    st.integers(0, 99),
)
def test_what_is_packed_comes_back(shape, group, scheme, scale_format, seed):
    q = random_tensor(shape, 4, group, scheme, scale_format, seed=seed)
    if group is not None and shape[1] % group:
        with pytest.raises(InputError, match="whole groups"):
            pack(q)
        return
    assert same(unpack(pack(q), q.spec), q)


REFUSED = {
    "rows": (random_tensor((12, 32)), ["12 rows", "8"]),
    "width": (random_tensor((8, 32), bits=3), ["3 bits"]),
    "order": (random_tensor((8, 32), group=16, order=True), ["activation order"]),
    "scales": (random_tensor((8, 32), scale_format="float32"), ["float32"]),
    "ragged": (random_tensor((8, 33), group=16), ["33 columns", "16"]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_layout_cannot_hold(name):
    q, says = REFUSED[name]
    with pytest.raises(InputError) as told:
        pack(q)
    assert all(part in str(told.value) for part in says), told.value


def damaged(**changes):
    return {name: array for name, array in (pack(random_tensor((32, 64), group=32)) | changes).items() if array is not None}


DAMAGE = {
    "scales missing": (damaged(scales=None), ["scales is missing"]),
    "qweight of bytes": (damaged(qweight=np.zeros((64, 4), np.uint8)), ["uint8"]),
    "qweight a vector": (damaged(qweight=np.zeros(256, np.int32)), ["matrices"]),
    "qzeros of another shape": (damaged(qzeros=np.zeros((2, 5), np.int32)), ["qzeros (2, 5)"]),
    "scales of another shape": (damaged(scales=np.ones((2, 31), np.float16)), ["scales (2, 31)"]),
    "an infinite scale": (damaged(scales=np.full((2, 32), np.inf, np.float16)), ["finite"]),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_arrays_that_do_not_fit(name):
    parts, says = DAMAGE[name]
    with pytest.raises(InputError) as told:
        unpack(parts, spec("int4", group_size=32))
    assert all(part in str(told.value) for part in says), told.value


@pytest.mark.parametrize("shape", [(3, 64), (4, 32), (0, 64), (64,)])
def test_interleaving_refuses(shape):
    with pytest.raises(InputError, match="multiples of 4 rows"):
        pack_interleaved(np.zeros(shape, np.uint8))
    with pytest.raises(InputError, match="int16 matrix"):
        unpack_interleaved(np.zeros(shape, np.uint8))
