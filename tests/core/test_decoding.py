"""Decoding into an array that is there, and differences of codes and zero points at the ends of what a byte holds."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from refquant.core import Grid, QTensor, decode, spec
from refquant.errors import UsageError
from refquant.methods.grid.rtn import rtn


@pytest.mark.parametrize("width", ["int2", "int4", "int8"])
@pytest.mark.parametrize("zeros", [(0, 0), (127, 128), (-128, 127), (-129, 3), (255, 255), (-1000, 1000)])
def test_differences_are_exact_wherever_zero_points_lie(width: str, zeros: tuple[int, int]) -> None:
    chosen = spec(width, group_size=4, scheme="asym_incl0")
    lo, hi = chosen.integers.lo, chosen.integers.hi
    codes = np.array([[lo, hi, lo + 1, hi - 1, lo, hi, lo, hi]], dtype=chosen.format.dtype)
    scale, zero = np.array([[0.3, 1.7]], np.float32), np.array([zeros])
    found = decode(codes, Grid(scale=scale, zero=zero), chosen)
    for column, value in enumerate(found[0]):
        tile = column // 4
        exact = Fraction(float(scale[0, tile])) * (int(codes[0, column]) - zeros[tile])
        nearest = np.float32(float(exact))  # of 24 bits times at most 11: float64 holds it
        assert value == nearest
        assert not (value == 0 and np.signbit(value))


@pytest.mark.parametrize("scheme", ["sym_full", "asym_incl0", "asym_omni"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_an_array_that_is_there_gets_the_same_numbers(scheme: str, dtype: type) -> None:
    x = np.random.default_rng(3).standard_normal((40, 4096)).astype(np.float32)  # more than is decoded at a time
    q = rtn(x, spec("int4", group_size=128, scheme=scheme))
    out = np.full(x.shape, np.nan, dtype)
    assert q.dequantize(out=out) is out
    assert out.tobytes() == q.dequantize(np.dtype(dtype)).tobytes()


def test_a_permuted_tensor_goes_there_too() -> None:
    q = rtn(np.arange(16.0).reshape(2, 8), spec("int4", group_size=4))
    order = np.array([3, 1, 4, 0, 5, 7, 2, 6])
    permuted = QTensor(codes=q.codes, scale=q.scale, zero=q.zero, spec=q.spec, permutation=order, origin=q.origin)
    out = np.zeros((2, 8), np.float32)
    assert permuted.dequantize(out=out) is out
    tiles = np.argsort(order) // 4
    by_hand = [[float(q.scale[r, tiles[c]]) * (int(q.codes[r, c]) - int(q.zero[r, tiles[c]])) for c in range(8)] for r in range(2)]
    np.testing.assert_allclose(out, by_hand, rtol=1e-6)


@pytest.mark.parametrize("out", [np.zeros((2, 7), np.float32), np.zeros((2, 8), np.float16)], ids=["shape", "dtype"])
def test_an_array_that_does_not_fit_is_refused(out: np.ndarray) -> None:
    q = rtn(np.ones((2, 8), np.float32), spec("int4"))
    with pytest.raises(UsageError, match=r"decode"):
        q.dequantize(out=out)
    with pytest.raises(UsageError, match="decode into float64"):
        q.dequantize(np.dtype(np.float64), out=np.zeros((2, 8), np.float32))
