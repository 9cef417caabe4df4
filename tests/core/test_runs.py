"""Ranges of tiles that are runs in memory, found slab by slab, against Python's comparison; and when products are looked at."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refquant.core import Grid, Tiling, decode, spec
from refquant.core.fitting import tile_ranges
from refquant.errors import InputError, NumericalError

FOUND = spec("int4", scheme="asym_minmax")  # its ranges are as found


def ends(x, size):
    """Extremes of runs of `size` along the last axis, the last one perhaps short."""
    runs = [[row[start : start + size] for start in range(0, len(row), size)] for row in x.tolist()]
    return [[min(run) for run in row] for row in runs], [[max(run) for run in row] for row in runs]


@given(
    rows=st.integers(1, 6),
    columns=st.sampled_from([1, 4, 12, 32, 96]),
    size=st.sampled_from([1, 3, 4, 8, 32, None]),
    slab=st.sampled_from([1, 7, 64, 1 << 17]),
    order=st.sampled_from("CF"),
    dtype=st.sampled_from([np.float32, np.float64]),
    seed=st.integers(0, 99),
)
def test_ranges_are_those_of_a_loop(rows, columns, size, slab, order, dtype, seed):
    x = np.random.default_rng(seed).integers(-9, 10, (rows, columns)).astype(dtype, order=order)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("refquant.core.fitting.RANGE_SLAB", slab)
        lo, hi = tile_ranges(x, FOUND.with_tiling(Tiling((1, size))))
    assert lo.dtype == hi.dtype == dtype
    assert (lo.tolist(), hi.tolist()) == ends(x, size or columns)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("slab", [4, 1 << 17])
def test_what_is_not_finite_is_named_with_its_tile(monkeypatch, wrong, slab):
    monkeypatch.setattr("refquant.core.fitting.RANGE_SLAB", slab)
    x = np.zeros((3, 16), np.float32)
    x[1, 9] = wrong
    with pytest.raises(InputError, match=r"tile \(1, 2\) of an array of shape \(3, 16\)"):
        tile_ranges(x, FOUND.with_tiling(Tiling.group(4)))


@pytest.mark.parametrize(("shape", "extents", "length"), [((2, 3, 8), (1, 1, 4), 4), ((3, 8), (3, 8), None), ((3, 8), (1, 16), None)])
def test_runs_are_told_from_other_tiles(shape, extents, length):
    assert Tiling(extents).run_length(shape) == length


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int64])
def test_a_product_that_overflows_is_found_whatever_the_codes(dtype):
    s = spec("int8", scheme="sym_full", granularity="tensor")
    largest = float(np.finfo(np.float32).max)
    codes = np.array([[0, 1, 2]], dtype)
    decoded = decode(codes[:, :2], Grid(scale=np.array([[largest]], np.float32), zero=None), s)
    assert decoded.tolist() == [[0, largest]]
    with pytest.raises(NumericalError, match=r"code 2 at index \(0, 2\) times its scale overflows float32"):
        decode(codes, Grid(scale=np.array([[largest]], np.float32), zero=None), s)


def test_a_product_that_overflows_by_its_zero_point_is_found():
    s = spec("int8", scheme="asym_omni", granularity="tensor")
    grid = Grid(scale=np.array([[1e36]], np.float32), zero=np.array([[-10000]], np.int16))
    with pytest.raises(NumericalError, match=r"code 3 at index \(0, 0\)"):
        decode(np.array([[3]], np.uint8), grid, s)


def test_numbers_from_codes_are_new_and_codes_stay():
    codes = np.array([[1, -2]], np.int8)
    codes.flags.writeable = False
    values = decode(codes, Grid(scale=np.array([[0.5]], np.float32), zero=None), spec("int8", scheme="sym_full"))
    assert values.tolist() == [[0.5, -1.0]]
    assert values.flags.writeable
