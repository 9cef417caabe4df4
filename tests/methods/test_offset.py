"""Offset grids against optimum-quanto and torchao's tinygemm, byte for byte."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from refquant.core import Tiling
from refquant.errors import InputError, NumericalError, UsageError
from refquant.methods.grid.offset import OffsetTensor, offset_rtn
from tests.methods.test_rtn_peers import cases, peer


def test_cases() -> None:
    assert len(cases("quanto", ".shift")) == 8


@pytest.mark.parametrize("case", [c for c in cases("quanto", ".shift") if c.endswith("max")])
def test_quanto(case: str) -> None:  # [OFFSET-1], [OFFSET-2]
    data = peer("quanto")
    name, group, _ = case.split(".")
    x = data["input"].reshape(-1, int(group[1:]))
    q = offset_rtn(x, int(name[3:]), Tiling.channel())
    assert np.array_equal(q.scale, data[f"{case}.scale"])
    assert np.array_equal(q.offset, data[f"{case}.shift"])
    assert np.array_equal(q.dequantize().reshape(-1), data[f"{case}.deq"].reshape(-1))
    equal = q.scale[:, 0] == 0  # finding: there it divides 0 by 0, and a NaN is cast to a code
    assert equal.any()
    assert np.array_equal(q.codes[~equal], data[f"{case}.q"][~equal])


@pytest.mark.parametrize("case", cases("quanto", ".shift"))
def test_quanto_tensors_decode(case: str) -> None:
    """Also those whose offsets its HQQ optimizer has moved."""
    data = peer("quanto")
    parts = {"codes": data[f"{case}.q"], "scale": data[f"{case}.scale"], "offset": data[f"{case}.shift"]}
    q = OffsetTensor(**parts, bits=int(case[3]), tiling=Tiling.channel(), anchor="lower")
    assert np.array_equal(q.dequantize().reshape(-1), data[f"{case}.deq"].reshape(-1))


@pytest.mark.parametrize("name", ["f32", "bf16"])
def test_tinygemm(name: str) -> None:
    data, case = peer("torchao_int"), f"tinygemm.{name}.g128"
    narrow = name == "bf16"
    x = data["input"].astype(ml_dtypes.bfloat16) if narrow else data["input"]
    q = offset_rtn(x, 4, Tiling.channel(), anchor="middle")
    for ours, part in ((q.scale, "scale"), (q.offset, "zero"), (q.dequantize(), "deq")):
        theirs = data[f"{case}.{part}"]
        assert np.array_equal(ours.ravel(), (theirs.view(ml_dtypes.bfloat16) if narrow else theirs).ravel()), part
    assert np.array_equal(q.codes, data[f"{case}.q"])


def test_bits() -> None:
    q = offset_rtn(np.ones((2, 64), np.float32), 4, Tiling.group(32))
    assert q.bits_per_weight == 6
    assert (q.dequantize() == 1).all()


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: offset_rtn(np.ones((1, 4)), 9, Tiling.channel()), UsageError, "9"),
        (lambda: offset_rtn(np.ones((1, 4)), 4, Tiling.channel(), anchor="upper"), UsageError, "upper"),
        (lambda: offset_rtn(np.array([[np.inf]]), 4, Tiling.channel()), InputError, "infinity"),
        (lambda: offset_rtn(np.ones((1, 4), int), 4, Tiling.channel()), InputError, "int64"),
    ],
)
def test_refusals(call, error, says) -> None:
    with pytest.raises(error, match=says):
        call()


@pytest.mark.parametrize("anchor", ["lower", "middle"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_numbers_near_the_largest_are_kept_or_refused(anchor: str, dtype: type) -> None:
    top = np.finfo(dtype).max
    rng = np.random.default_rng(5)
    refused = 0
    for bits in range(1, 9):
        for lo in (0, -top / 3, top / 2, top):
            x = np.array([[lo, top, top - rng.random() * top / 2]]).astype(dtype)
            try:
                numbers = offset_rtn(x, bits, Tiling.channel(), anchor=anchor).dequantize()
            except NumericalError:
                refused += 1
                continue
            assert np.isfinite(numbers).all()
    assert refused < 32
    with pytest.raises(NumericalError, match="wider"):
        offset_rtn(np.array([[-top, top]]), 4, Tiling.channel(), anchor=anchor)
