"""HQQ against hqq 0.2.8: without iterations the same bytes, with them the same codes but for ties and a stop on another sum."""

from __future__ import annotations

import numpy as np
import pytest

from refquant.core import spec
from refquant.errors import InputError, NumericalError, UsageError
from refquant.methods.grid.hqq import hqq
from refquant.numerics.arrays import Array
from tests.methods.test_rtn_peers import cases, peer

CASES = cases("hqq", ".q")


def grouped(case: str) -> tuple[Array, Array, dict[str, Array]]:
    """Its groups as rows: they run along the flat array, or stride over it (axis 0)."""
    data = peer("hqq")
    group, axis = int(case.split(".")[1][1:]), case.split(".")[2]
    x = data["input"].reshape(-1, group) if axis == "axis1" else data["input"].reshape(group, -1).T
    found = {part: data[f"{case}.{part}"] for part in ("scale", "zero", "q") if f"{case}.{part}" in data}
    back = {part: array if axis == "axis1" else array.T for part, array in found.items()}
    return np.ascontiguousarray(x), back["q"], back


@pytest.mark.parametrize("case", [c for c in CASES if ".opt0" in c])
def test_without_iterations(case: str) -> None:  # [HQQ-1], [HQQ-2]
    x, codes, parts = grouped(case)
    q = hqq(x, spec(f"uint{case[1]}"), iterations=0, round_zero=case.endswith("roundzero"))
    assert np.array_equal(q.codes, codes)
    assert np.array_equal(q.zero, parts["zero"])
    if "scale" in parts:
        assert np.array_equal(q.scale, parts["scale"])
    if f"{case}.deq" in peer("hqq"):
        theirs = peer("hqq")[f"{case}.deq"].reshape(-1)
        ours = q.dequantize() if "axis1" in case else q.dequantize().T
        assert np.array_equal(ours.reshape(-1), theirs)


@pytest.mark.parametrize("case", [c for c in CASES if ".opt1" in c])
def test_with_iterations(case: str) -> None:  # [HQQ-3], [HQQ-4]
    x, codes, parts = grouped(case)
    q = hqq(x, spec(f"uint{case[1]}"))
    assert np.array_equal(q.scale, parts["scale"])
    # Rows of halves and constants sit on ties, which another last bit of a power decides; what the zero points are for agrees.
    assert (q.codes != codes).mean() < 3e-3
    theirs = (codes.astype(np.float64) - parts["zero"]) * parts["scale"]
    if f"{case}.deq" in peer("hqq"):  # theirs decode to their numbers
        decoded = (codes.astype(np.float32) - parts["zero"]) * parts["scale"]
        assert np.array_equal((decoded if "axis1" in case else decoded.T).reshape(-1), peer("hqq")[f"{case}.deq"].reshape(-1))
    losses = [(np.abs(y - x) / (np.abs(x).max(axis=1, keepdims=True) + 1e-30)).mean() for y in (q.dequantize(), theirs)]
    assert abs(losses[0] - losses[1]) < 2e-2 * losses[1]


def test_the_robust_norm_falls() -> None:
    x = np.random.default_rng(0).laplace(size=(64, 64)) / 8
    norms = [(np.abs(hqq(x, spec("uint3"), iterations=n).dequantize() - x) ** 0.7).mean() for n in (0, 20)]
    assert norms[1] < 0.99 * norms[0]


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: hqq(np.ones((1, 4)), spec("int4", scheme="sym_full")), UsageError, "unsigned"),
        (lambda: hqq(np.ones((1, 4)), spec("uint4"), norm=0), UsageError, "norm"),
        (lambda: hqq(np.array([[np.nan, 1]]), spec("uint4")), InputError, "NaN"),
        (lambda: hqq(np.array([[-3e38, 3e38]], np.float32), spec("uint4")), NumericalError, "a range is wider than float32"),
        (lambda: hqq(np.full((1, 8), 3e38, np.float32), spec("uint4")), NumericalError, "a sum over a tile overflows float32"),
    ],
)
def test_refusals(call, error, says) -> None:
    with pytest.raises(error, match=says):
        call()
