"""The clip search without temporary arrays against the one with them: the same bytes; and against the search written down in loops."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refquant.core import ClipSearch, Grid, Tiling, clip_search, fit_grid, grid_from_range, spec
from refquant.core.fitting import tile_ranges
from refquant.numerics import FAST, ORDERED


def numbers(seed, shape, dtype):
    rng = np.random.default_rng(seed)
    x = rng.standard_t(3, shape).astype(dtype)
    x[rng.random(shape) < 0.1] = 0
    return x


def same(a: Grid, b: Grid) -> bool:
    zeros = (a.zero is None) == (b.zero is None) and (
        a.zero is None or (a.zero.tobytes() == b.zero.tobytes() and a.zero.dtype == b.zero.dtype)
    )
    return zeros and a.scale.tobytes() == b.scale.tobytes() and a.scale.dtype == b.scale.dtype


@settings(max_examples=40)
@given(
    seed=st.integers(0, 2**32),
    scheme=st.sampled_from(["asym_incl0", "asym_minmax", "sym_full", "sym_narrow", "sym_gptq"]),
    tiling=st.sampled_from([Tiling.group(7), Tiling.block(4, 10), Tiling.tensor(), Tiling.channel()]),
    dtype=st.sampled_from(["float32", "float64"]),
    stored=st.sampled_from([None, "float16"]),
    lane=st.sampled_from([FAST, ORDERED]),
    slab=st.sampled_from([1, 60, 1 << 16]),
)
def test_in_place_is_the_same_byte_for_byte(seed, scheme, tiling, dtype, stored, lane, slab):
    x = numbers(seed, (9, 23), dtype)
    how = spec("int3", scheme=scheme, tiling=tiling, scale_format=stored)
    how = dataclasses.replace(how, clip_search=ClipSearch(steps=8))
    assert clip_search._is_common(how)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clip_search, "SLAB", slab)
        found = fit_grid(x, how, lane)
        patch.setattr(clip_search, "_is_common", lambda _: False)
        assert same(found, fit_grid(x, how, lane))


@pytest.mark.parametrize("scheme", ["asym_incl0", "sym_full"])
@pytest.mark.parametrize("rounding", ["half_even", "half_away", "floor"])
def test_it_is_the_search_in_loops(scheme, rounding):
    """One tile after the other, one shrinkage after the other; errors in float64 from codes that loops round."""
    x = numbers(5, (6, 31), "float64")
    search = ClipSearch(steps=20, max_shrink=0.7, norm=2.0)
    how = spec("int3", scheme=scheme, tiling=Tiling.group(8), rounding=rounding)
    lo, hi = tile_ranges(x, how)
    found = clip_search.search_clip(x, lo, hi, how, search, FAST)
    integer = {"half_even": round, "half_away": lambda v: int(np.copysign(np.floor(abs(v) + 0.5), v)), "floor": lambda v: int(np.floor(v))}[
        rounding
    ]
    for row in range(6):
        for tile in range(4):
            best, wanted = np.inf, None
            for i in range(14):
                grid = grid_from_range(lo[row, tile, None] * (1 - i / 20), hi[row, tile, None] * (1 - i / 20), how)
                scale, zero = float(grid.scale[0]), 0 if grid.zero is None else int(grid.zero[0])
                loss = 0.0
                for value in x[row, 8 * tile : 8 * tile + 8]:
                    code = min(max(integer(value / scale) + zero, how.format.lo), how.format.hi)
                    loss += (scale * (code - zero) - value) ** 2
                if loss < best * (1 - 1e-12):
                    best, wanted = loss, (scale, zero)
            assert wanted == (float(found.scale[row, tile]), 0 if found.zero is None else int(found.zero[row, tile]))


def test_of_equal_losses_the_widest_range_wins():
    """All zeros: every shrinkage is exact."""
    how = spec("int4", scheme="asym_incl0", tiling=Tiling.channel(), mse=True)
    whole = spec("int4", scheme="asym_incl0", tiling=Tiling.channel())
    assert same(fit_grid(np.zeros((3, 8)), how), fit_grid(np.zeros((3, 8)), whole))


def test_a_loss_that_overflows_never_wins():
    x = np.array([[3e38, -3e38, 1e30], [1.0, 2.0, 3.0]], dtype=np.float32) / 2
    how = spec("int4", scheme="sym_full", tiling=Tiling.channel(), mse=True)
    whole = spec("int4", scheme="sym_full", tiling=Tiling.channel())
    assert fit_grid(x, how).scale[0, 0] == fit_grid(x, whole).scale[0, 0]


def test_powers_go_where_they_are_told():
    for lane in (FAST, ORDERED):
        x = np.array([1.0, 4.0])
        out = np.empty(2)
        assert lane.power(x, 0.5, out=out) is out
        assert out.tolist() == [1.0, 2.0]
        assert x.tolist() == [1.0, 4.0]
        lane.power(x, 0.5, out=x)
        assert x.tolist() == [1.0, 2.0]


def test_numbers_without_axes_and_arrays_without_numbers():
    how = spec("int4", tiling=Tiling(()), mse=True)
    row = spec("int4", tiling=Tiling.tensor(1), mse=True)
    grid = fit_grid(np.array(0.7), how)
    assert grid.scale.shape == ()
    assert grid.scale == fit_grid(np.array([0.7]), row).scale[0]
    for shape in ((0, 5), (5, 0)):
        assert fit_grid(np.empty(shape), spec("int4", group_size=2, mse=True)).scale.shape == Tiling.group(2).grid_shape(shape)
