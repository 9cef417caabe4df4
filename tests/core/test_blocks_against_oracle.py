"""Block formats against the oracle's fractions, on random numbers of every size."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refquant.core import spec
from refquant.formats import encode, find_format
from refquant.methods.grid.rtn import rtn
from refquant.oracle.blocks import quantize_mx, quantize_two_level
from refquant.oracle.ieee import BINARY32, BINARY64

MX = {"mxfp8_e4m3": "e4m3fn", "mxfp8_e5m2": "e5m2", "mxfp6_e2m3": "e2m3", "mxfp6_e3m2": "e3m2", "mxfp4": "e2m1", "mxint8": "int8_q6"}


@st.composite
def arrays(draw, width: int, rows: int) -> np.ndarray:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    x = rng.standard_normal((rows, width)) * np.exp2(rng.integers(-20, 20, (rows, 1)))
    kind = draw(st.sampled_from(["plain", "few mantissa bits", "zeros"]))
    if kind == "few mantissa bits":  # maxima at powers of two, ties
        m, e = np.frexp(x)
        x = np.ldexp(np.round(m * 16) / 16, e)
    if kind == "zeros":
        x[draw(st.integers(0, rows - 1))] = 0
    return x.astype(draw(st.sampled_from([np.float32, np.float64])))


def fractions(row) -> list[Fraction]:
    return [Fraction(float(v)) for v in row]


@pytest.mark.parametrize("name", MX)
@given(x=arrays(32, 2), rule=st.sampled_from(["floor", "even", "ceil", "rceil"]))
def test_mx(name, x, rule) -> None:
    if name == "mxint8" and rule == "even":
        return
    q = rtn(x, spec(name if rule == "floor" else f"{name}_{rule}"))
    for row, codes, scale in zip(x, q.codes, q.scale, strict=True):
        wanted = quantize_mx(fractions(row), find_format(MX[name]), rule, BINARY32 if x.dtype == np.float32 else BINARY64)
        assert codes.tolist() == wanted.codes
        assert Fraction(float(scale[0])) == wanted.scale


@given(x=arrays(16, 4))
def test_nvfp4(x) -> None:
    x = x.astype(np.float32)
    q = rtn(x, spec("nvfp4"))
    wanted = quantize_two_level([fractions(row) for row in x], find_format("e2m1"), find_format("e4m3fn"), BINARY32)
    for codes, scale, values, block in zip(q.codes, q.scale, q.dequantize(), wanted, strict=True):
        assert Fraction(float(scale[0])) == block.scale
        assert codes.tolist() == block.codes
        assert fractions(values) == block.values


def test_a_division_is_not_a_product_with_the_reciprocal() -> None:
    """Block scales at the ties of e4m3 and one ulp beside them: there the last bit of the quotient decides."""
    largest = np.float32(3.3)
    outer = largest / np.float32(2688)
    ties = np.array([(1 + (2 * k + 1) / 16) * 2.0**e for k in range(8) for e in range(-4, 7)])
    near = (ties * float(outer) * 6).astype(np.float32)
    tops = np.concatenate([[largest], near, np.nextafter(near, np.float32(0)), np.nextafter(near, np.float32(np.inf))])
    x = np.zeros((len(tops), 16), dtype=np.float32)
    x[:, 0] = tops
    raw = tops / np.float32(6)
    e4m3 = find_format("e4m3fn")
    assert (encode(raw / outer, e4m3) != encode(raw * (1 / outer), e4m3)).sum() > 10  # it matters here
    q = rtn(x, spec("nvfp4"))
    wanted = quantize_two_level([fractions(row) for row in x], find_format("e2m1"), e4m3, BINARY32)
    assert [Fraction(float(s)) for s in q.scale[:, 0]] == [block.scale for block in wanted]
