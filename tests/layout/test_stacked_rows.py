"""hqq's, quanto's and QuaRot's packings against what they packed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refquant.errors import InputError, UsageError
from refquant.layout.stacked_rows import pack_int4, pack_rows, unpack_int4, unpack_rows
from tests.layout.tensors import equal, peer

PEER = peer("stacked_rows")
CASES = sorted(key.removesuffix(".packed") for key in PEER if key.endswith(".packed") and not key.startswith("quarot"))
# hqq drops the last four of 44 rows at 1 bit.
DROPPED = "hqq.b1.g64.axis1.opt0"


def bits_of(case):
    return int(case.split(".")[1].removeprefix("int").removeprefix("b"))


@pytest.mark.parametrize("case", CASES)
def test_their_bytes(case):
    program, codes, packed = case.split(".")[0], PEER[f"{case}.q"], PEER[f"{case}.packed"]
    if case == DROPPED:
        with pytest.raises(InputError, match="multiples of 8 rows at 1 bits; found 44"):
            pack_rows(codes, 1, program)
        codes = codes[:40]
    assert equal(pack_rows(codes, bits_of(case), program), packed)
    assert np.array_equal(unpack_rows(packed, bits_of(case), program, len(codes)), codes)


def test_there_are_cases():
    assert len(CASES) == 18
    assert DROPPED in CASES


def test_quarot():
    assert equal(pack_int4(PEER["quarot.pack_i4.int"]), PEER["quarot.pack_i4.packed"])
    assert np.array_equal(unpack_int4(PEER["quarot.pack_i4.packed"]), PEER["quarot.pack_i4.int"])


@given(
    st.sampled_from([("hqq", 1), ("hqq", 2), ("hqq", 3), ("hqq", 4), ("hqq", 8), ("quanto", 2), ("quanto", 4)]),
    st.integers(0, 25),
    st.integers(1, 4),
    st.integers(0, 99),
)
def test_what_is_packed_comes_back(kind, rows, columns, seed):
    program, bits = kind
    codes = np.random.default_rng(seed).integers(0, 2**bits, (rows, columns))
    if program == "hqq" and bits != 3 and rows % (8 // bits):
        with pytest.raises(InputError, match="multiples"):
            pack_rows(codes, bits, program)
        return
    assert np.array_equal(unpack_rows(pack_rows(codes, bits, program), bits, program, rows), codes)


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: pack_rows(np.zeros((8, 1), int), 5, "hqq"), UsageError, "5"),
        (lambda: pack_rows(np.zeros((8, 1), int), 4, "gptq"), UsageError, "gptq"),
        (lambda: pack_rows(np.zeros(8, int), 4, "hqq"), InputError, "matrix"),
        (lambda: pack_rows(np.full((8, 1), 16), 4, "hqq"), InputError, "16"),
        (lambda: unpack_rows(np.zeros((2, 1), np.uint8), 4, "hqq", 2**62), InputError, str(2**62)),
        (lambda: unpack_rows(np.zeros((2, 1), np.int8), 4, "hqq", 4), InputError, "int8"),
        (lambda: unpack_rows(np.full((1, 1), 255, np.uint8), 2, "quanto", 3), InputError, "padding"),
        (lambda: unpack_rows(np.full((1, 1), -1, np.int32), 3, "hqq", 10), InputError, "padding"),
    ],
)
def test_refusals(call, error, says):
    with pytest.raises(error) as told:
        call()
    assert says in str(told.value)
