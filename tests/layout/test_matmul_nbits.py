"""MatMulNBits against what onnxruntime 1.31.1 took and computed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refquant.core import spec
from refquant.errors import InputError
from refquant.layout.matmul_nbits import attributes, pack, unpack, why_not
from refquant.methods.grid.rtn import rtn
from tests.layout.tensors import equal, peer, random_tensor, same, schemes

PEER = peer("matmul_nbits")
CASES = sorted(key.removesuffix(".packed") for key in PEER if key.endswith(".packed") and ".zero" not in key)


def test_cases():
    assert len(CASES) == 12


@pytest.mark.parametrize("case", CASES)
def test_their_bytes(case):
    bits, size = (int(part.lstrip("bs")) for part in case.split(".")[1:3])
    rows, columns = PEER[f"{case}.q"].shape
    parts = {"B": PEER[f"{case}.packed"], "scales": PEER[f"{case}.scale"]}
    if f"{case}.zero_packed" in PEER:
        parts["zero_points"] = PEER[f"{case}.zero_packed"]
    q = unpack(parts, {"K": columns, "N": rows, "bits": bits, "block_size": size})
    assert np.array_equal(q.codes, PEER[f"{case}.q"])
    if "zero_points" in parts:
        assert np.array_equal(q.zero, PEER[f"{case}.zero"])
    ours = pack(q)
    assert set(ours) == set(parts)
    assert all(equal(ours[name], parts[name]) for name in parts)
    # What it made of these bytes: a float product, or one with activations rounded to int8 (accuracy level 4).
    wanted = PEER[f"{case}.A"].astype(np.float64) @ q.dequantize().astype(np.float64).T
    tolerance = 1e-6 if case.endswith("acc0") else 2e-2
    assert np.abs(PEER[f"{case}.Y"] - wanted).max() < tolerance * np.abs(wanted).max()


@given(
    st.integers(1, 5),
    st.integers(1, 70),
    st.sampled_from([2, 4, 8]),
    st.sampled_from([16, 32, None]),
    schemes(),
    st.sampled_from(["float32", "float16", "bfloat16"]),
    st.integers(0, 99),
)
def test_what_is_packed_comes_back(rows, columns, bits, group, scheme, scale_format, seed):
    q = random_tensor((rows, columns), bits, group, scheme, scale_format, seed=seed)
    assert why_not(q) is None
    assert same(unpack(pack(q), attributes(q), like=q.spec), q)


def good():
    q = random_tensor((2, 40), 4, 32, "asym_incl0")
    return pack(q), attributes(q)


def broken(change):
    parts, node = good()
    change(parts, node)
    return lambda: unpack(parts, node)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (broken(lambda parts, node: parts.pop("scales")), "scales is missing"),
        (broken(lambda parts, node: node.update(K=2**63)), "2\\^31"),
        (broken(lambda parts, node: node.update(N=2**31 - 1, K=2**31 - 1)), "needed"),
        (broken(lambda parts, node: node.update(bits=3)), "2, 4 or 8"),
        (broken(lambda parts, node: node.update(block_size=24)), "powers of two"),
        (broken(lambda parts, node: node.pop("N")), "found None"),
        (broken(lambda parts, node: parts.update(B=parts["B"][:, :, :-1])), "needed"),
        (broken(lambda parts, node: parts.update(B=parts["B"] | np.uint8(0xFF))), "behind column 40"),
        (broken(lambda parts, node: parts.update(scales=parts["scales"].astype(np.float64))), "float64"),
        (broken(lambda parts, node: parts.update(scales=-parts["scales"])), "positive"),
        (lambda: pack(rtn(np.eye(32, dtype=np.float32), spec("int3", group_size=16))), "3 bits"),
        (lambda: pack(random_tensor((2, 64), 4, 32, order=True)), "activation order"),
    ],
)
def test_refusals(call, says):
    with pytest.raises(InputError, match=says):
        call()
