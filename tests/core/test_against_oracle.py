"""The array code against exact fractions rounded once an operation (refquant.oracle): scales, zero points, codes and values, to the bit."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refquant.core import ClipSearch, QuantSpec, decode, encode, find_scheme, fit_grid, spec
from refquant.errors import NumericalError
from refquant.numerics.arrays import Array
from refquant.numerics.casting import as_working
from refquant.numerics.rounding import Rounding, round_to_integer
from refquant.oracle.clip_search import search_clip
from refquant.oracle.ieee import BFLOAT16, BINARY16, BINARY32, BINARY64
from refquant.oracle.rational import row
from refquant.oracle.uniform import Uniform, UniformGrid
from tests.core.nasty import matrices

FORMATS = {"float16": BINARY16, "bfloat16": BFLOAT16, "float32": BINARY32, "float64": BINARY64}
ORACLE_NAMES = {"sym_gptq_half_range": "sym_gptq_compat"}
SCHEMES = ["asym_incl0", "asym_minmax", "asym_omni", "sym_full", "sym_narrow", "sym_gptq", "sym_gptq_half_range"]
ROUNDINGS = [Rounding.HALF_EVEN, Rounding.HALF_AWAY, Rounding.FLOOR, Rounding.CEIL]


def oracle_of(s: QuantSpec, working: str) -> Uniform:
    """The oracle's words for a spec."""
    return Uniform(
        ORACLE_NAMES.get(s.scheme.name, s.scheme.name),
        s.format.bits,
        rounded=FORMATS[working],
        scale_format=FORMATS[s.scale_format] if s.scale_format else None,
        rule=s.rounding.value,
        empty=s.scheme.empty if s.scheme.empty in ("unit_range", "floor", "unit_scale") else None,
        reciprocal=s.scheme.reciprocal,
    )


def assert_row_agrees(x: Array, s: QuantSpec, group: int) -> None:
    """Compare one row, group by group; overflow must be found by both."""
    working = as_working(x).dtype
    oracle = oracle_of(s, working.name)
    values = row(x[0].tolist())
    expected = []
    try:
        for start in range(0, len(values), group):
            expected.append(oracle.fit(values[start : start + group], s.range_ratio))
    except NumericalError:
        groups = [values[start : start + group] for start in range(0, len(values), group)]
        if s.scheme.range == "minmax" and any(zero_may_overflow(g, s, FORMATS[working.name].largest) for g in groups):
            return  # there the quotient becomes infinite and the zero point saturates: test_degenerate.py
        with pytest.raises(NumericalError):
            fit_grid(x, s)
        return
    grid = fit_grid(x, s)
    assert [Fraction(float(v)) for v in grid.scale[0]] == [g.scale for g in expected]
    lo, hi = s.format.lo, s.format.hi
    if grid.zero is None:
        assert all(g.zero == 0 for g in expected)
    elif s.scheme.zero == "integer":
        # A stored zero point is a code; only a coarsely rounded scale puts it outside (docs/degenerate.md).
        expected = [replace(g, zero=min(max(g.zero, lo), hi)) for g in expected]
    if grid.zero is not None:
        assert [int(v) for v in grid.zero[0]] == [g.zero for g in expected]
    if working == np.float32 and s.scale_format == "float64":
        s = replace(s, scale_format=None)  # a float32 scale kept as float64 is the same number
    compare_codes(x, s, values, oracle, expected, group)


def zero_may_overflow(values: list[Fraction], s: QuantSpec, largest: Fraction) -> bool:
    """Whether ``lo / s`` can exceed the working format although the range does not: a narrow range far from 0, a floored scale."""
    width = max(values) - min(values)
    return width <= largest and max(map(abs, values)) * 2**s.format.bits * 10**5 > largest


def compare_codes(x: Array, s: QuantSpec, values: list[Fraction], oracle: Uniform, grids: list[UniformGrid], group: int) -> None:
    grid = fit_grid(x, s)
    try:
        codes = encode(x, grid, s)
    except NumericalError:
        assert s.scheme.reciprocal
        return  # test_degenerate.py
    try:
        wanted = [oracle.encode(value, grids[index // group]) for index, value in enumerate(values)]
    except NumericalError:
        assert s.scheme.reciprocal, "the oracle does not saturate a product with the reciprocal; the array code does"
        return
    assert codes[0].tolist() == wanted
    numbers: list[float] = []
    try:
        numbers = [float(oracle.decode(code, grids[index // group])) for index, code in enumerate(wanted)]
    except NumericalError:
        with pytest.raises(NumericalError):
            decode(codes, grid, s, dtype=as_working(x).dtype)
        return
    assert decode(codes, grid, s, dtype=as_working(x).dtype)[0].tolist() == numbers


@pytest.mark.parametrize("name", SCHEMES)
@given(data=st.data())
def test_every_scheme(name: str, data: st.DataObject) -> None:
    x = data.draw(matrices().filter(lambda m: m.size > 0))[:1]
    group = data.draw(st.sampled_from([2, 3, 4, 100]))
    bits = data.draw(st.sampled_from([2, 3, 4, 4, 5, 8, 8, 12, 16]))
    scheme = find_scheme(name)
    if scheme.range != "minmax":
        scheme = replace(scheme, empty=data.draw(st.sampled_from([scheme.empty, scheme.empty, "unit_scale"])))
    s = spec(
        f"int{bits}",
        scheme=replace(scheme, reciprocal=data.draw(st.booleans())),
        group_size=group,
        scale_format=data.draw(st.sampled_from([None, None, *FORMATS])),
        range_ratio=data.draw(st.sampled_from([1.0, 0.9, 0.37])),
        rounding=data.draw(st.sampled_from(ROUNDINGS)),
    )
    if s.scale_format == "float64" and x.dtype != np.float64:
        s = replace(s, scale_format="float32")
    assert_row_agrees(x, s, group)


@pytest.mark.parametrize("scale_format", [None, "float16"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", SCHEMES)
def test_many_ordinary_rows(name: str, dtype: type, scale_format: str | None) -> None:
    rng = np.random.Generator(np.random.PCG64(11))
    x = (rng.standard_normal((6, 70)) * np.exp2(rng.integers(-6, 6, (6, 1)))).astype(dtype)
    x[3] = np.rint(x[3] * 4) / 2  # ties
    for bits in (3, 4, 8):
        for i in range(len(x)):
            assert_row_agrees(x[i : i + 1], spec(f"int{bits}", scheme=name, group_size=32, scale_format=scale_format), 32)


@given(x=matrices(("float32", "float64")))
def test_trunc_half_rounds_its_sum_too(x: Array) -> None:
    # The oracle's trunc_half is exact; here the addition is rounded once, as in C.
    rounded = FORMATS[x.dtype.name]
    finite = x[np.abs(x) < np.finfo(x.dtype).max]
    wanted = [float(math.trunc(rounded(Fraction(float(v)) + Fraction(1, 2)))) for v in finite]
    assert round_to_integer(finite, Rounding.TRUNC_HALF).tolist() == wanted


@pytest.mark.parametrize("name", ["asym_incl0", "asym_minmax", "sym_gptq", "sym_full", "sym_narrow"])
def test_clip_search_takes_the_oracles_step(name: str) -> None:
    rng = np.random.Generator(np.random.PCG64(12))
    x = rng.standard_t(2, (4, 10)).astype(np.float32)
    s = spec("int3", scheme=name, mse=ClipSearch(steps=20))
    grid, compared = fit_grid(x, s), 0
    for i, values in enumerate(x):
        found = search_clip(row(values.tolist()), oracle_of(s, "float32"), steps=16, divisions=20)
        if found.margin is None or found.margin > 1e-5:  # else the float32 sums may fall either way
            assert Fraction(float(grid.scale[i, 0])) == found.grid.scale
            assert found.index == 0 or found.shrink < 1
            compared += 1
    assert compared >= 3
