"""Laws of coding and fitting, over schemes x widths x tilings x dtypes x roundings, on nasty numbers.

Everything runs with NumPy's floating-point warnings turned into errors, underflow included: whatever happens is meant to happen.
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from refquant.core import Grid, QuantSpec, Tiling, coding, decode, encode, fake_quantize, find_scheme, fit_grid, spec
from refquant.core.coding import real_codes
from refquant.core.margins import decision_margins
from refquant.errors import NumericalError
from refquant.methods.grid.rtn import rtn
from refquant.numerics.arrays import Array
from refquant.numerics.casting import as_working
from refquant.numerics.rounding import Rounding
from tests.core.nasty import matrices, numbers, schemes, specs

NEAREST = (Rounding.HALF_EVEN, Rounding.HALF_AWAY)
strict = np.errstate(all="raise")


def fitted(x: Array, s: QuantSpec) -> Grid:
    """The grid of `x`, or no example where a range or scale overflows (tests/core/test_degenerate.py has those)."""
    try:
        return fit_grid(x, s)
    except NumericalError:
        assume(False)
        raise


def coded(x: Array, s: QuantSpec) -> tuple[Grid, Array, Array]:
    """Grid, codes and fake-quantized numbers, or no example where something overflows."""
    grid = fitted(x, s)
    try:
        return grid, encode(x, grid, s), fake_quantize(x, grid, s)
    except NumericalError:
        assume(False)
        raise


@given(x=matrices(), s=specs())
@strict
def test_what_comes_out_is_in_its_place(x: Array, s: QuantSpec) -> None:
    grid, codes, values = coded(x, s)
    assert codes.dtype == s.format.dtype
    assert codes.shape == values.shape == x.shape
    assert grid.scale.shape == s.tiling.grid_shape(x.shape)
    assert grid.scale.dtype == (s.scale_format or as_working(x).dtype.name)
    assert (grid.scale > 0).all()
    assert not codes.size or s.format.lo <= int(codes.min()) <= int(codes.max()) <= s.format.hi
    if s.scheme.zero in ("integer", "midpoint"):
        assert grid.zero is not None
        assert not grid.zero.size or s.format.lo <= int(grid.zero.min()) <= int(grid.zero.max()) <= s.format.hi


@given(x=matrices(), s=specs())
@strict
def test_fake_quantize_is_decode_of_encode_to_the_byte(x: Array, s: QuantSpec) -> None:
    grid, codes, values = coded(x, s)
    assert decode(codes, grid, s, dtype=values.dtype).tobytes() == values.tobytes()
    assert not np.signbit(values[values == 0]).any(), "zeros are positive"


@given(x=matrices(), s=specs(overflow="saturate"))
@strict
def test_codes_on_the_same_grid_are_their_own_codes(x: Array, s: QuantSpec) -> None:
    # Rounding to nearest only: floor, ceil and trunc_half drift (test_degenerate.py shows it).
    s = replace(s, rounding=Rounding.HALF_EVEN if s.rounding not in NEAREST else s.rounding)
    grid, codes, values = coded(x, s)
    assert np.array_equal(encode(values, Grid(scale=grid.scale.astype(values.dtype), zero=grid.zero), s), codes)


@given(x=matrices(), s=specs(overflow="saturate"))
@strict
def test_between_the_end_codes_the_error_is_half_a_step(x: Array, s: QuantSpec) -> None:
    s = replace(s, rounding=Rounding.HALF_EVEN if s.rounding not in NEAREST else s.rounding)
    grid, codes, values = coded(x, s)
    scale, _ = grid.expanded(x.shape, s.tiling, values.dtype)
    scale = np.broadcast_to(scale, x.shape)
    # Relative errors of the quotient (two where the reciprocal is taken) and of the product.
    unit = Fraction(2) ** -(23 if values.dtype == np.float32 else 52) * 2
    for index in np.argwhere((codes > s.format.lo) & (codes < s.format.hi)):
        number, step, back = (Fraction(float(a[tuple(index)])) for a in (x, scale, values))
        assert abs(back - number) <= step / 2 + (abs(number) + abs(back)) * unit


@given(x=matrices(), s=specs(scheme=find_scheme("sym_narrow"), scale_format=None, range_ratio=1.0, mse=False))
@strict
def test_symmetric_codes_never_clip_ordinary_numbers(x: Array, s: QuantSpec) -> None:
    s = replace(s, rounding=Rounding.HALF_EVEN, overflow="raise")
    working = as_working(x)
    smallest_normal = np.finfo(working.dtype).smallest_normal
    assume(not working.size or float(np.abs(working).max(initial=0)) / (1 << 16) > smallest_normal or not working.any())
    # overflow="raise" is the assertion: no code leaves -hi .. hi (a subnormal scale can be rounded down by more, and then some do).
    grid = fitted(x, s)
    assume((grid.scale >= smallest_normal).all())
    encode(x, grid, s)


@given(x=matrices(), s=specs(overflow="saturate"))
@strict
def test_larger_numbers_of_a_tile_have_no_smaller_codes(x: Array, s: QuantSpec) -> None:
    s = replace(s, tiling=Tiling.tensor())
    _, codes, values = coded(x, s)
    order = np.argsort(as_working(x), axis=None, kind="stable")
    assert (np.diff(codes.ravel()[order].astype(int)) >= 0).all()
    assert (np.diff(values.ravel()[order]) >= 0).all()


@given(x=matrices(), s=specs(scheme=find_scheme("sym_narrow"), overflow="saturate"))
@strict
def test_symmetric_codes_change_sign_with_their_numbers(x: Array, s: QuantSpec) -> None:
    mirrored = {Rounding.FLOOR: Rounding.CEIL, Rounding.CEIL: Rounding.FLOOR}
    assume(s.rounding != Rounding.TRUNC_HALF)  # it is not symmetric, by definition
    grid, codes, _ = coded(x, s)
    opposite, negated, _ = coded(-x, replace(s, rounding=mirrored.get(s.rounding, s.rounding), clip_search=s.clip_search))
    if s.clip_search is None or s.rounding in NEAREST:
        assert np.array_equal(grid.scale, opposite.scale)
        assert np.array_equal(codes, -negated)


ORDINARY = st.one_of(st.integers(-64, 64).map(float), st.floats(-100, 100, width=16).filter(lambda v: v == 0 or abs(v) > 1e-4))
SCALABLE = ["asym_incl0", "sym_gptq", "sym_gptq_half_range", "sym_full", "sym_narrow"]


@given(x=matrices(("float32", "float64"), ORDINARY), power=st.integers(-40, 40), name=st.sampled_from(SCALABLE), data=st.data())
@strict
def test_powers_of_two_scale_the_scale_and_nothing_else(x: Array, power: int, name: str, data: st.DataObject) -> None:
    # Away from the floors: unit_range and unit_scale act on tiles of zeros alone, sym_* are given unit_scale for their floor.
    scheme = find_scheme(name)
    scheme = replace(scheme, empty="unit_scale") if scheme.empty == "floor" else scheme
    s = data.draw(specs(scheme=scheme, scale_format=None, mse=False))
    grid, codes, _ = coded(x, s)
    factor = x.dtype.type(2.0**power)
    larger, same, _ = coded(x * factor, s)
    empty = s.tiling.blocks(x, 0.0).astype(bool).any(axis=s.tiling.inner_axes) == 0
    assert np.array_equal(codes, same)
    assert np.array_equal(np.where(empty, grid.scale, grid.scale * factor), larger.scale)


@given(x=matrices(), s=specs(mse=False), data=st.data())
@strict
def test_rows_can_be_permuted(x: Array, s: QuantSpec, data: st.DataObject) -> None:
    s = replace(s, tiling=data.draw(st.sampled_from([Tiling.channel(), Tiling.group(4)])))
    order = data.draw(st.permutations(range(len(x))))
    _, codes, values = coded(x, s)
    _, moved_codes, moved_values = coded(x[order], s)
    assert np.array_equal(codes[order], moved_codes)
    assert np.array_equal(values[order], moved_values)


@given(x=matrices(), s=specs())
@strict
def test_a_tile_does_not_see_the_others(x: Array, s: QuantSpec) -> None:
    extents = [extent or max(length, 1) for extent, length in zip(s.tiling.extents, x.shape, strict=True)]
    # The fast lane's sum over a ragged tile depends in its last bits on how far it is padded.
    assume(s.clip_search is None or all(length % extent == 0 for length, extent in zip(x.shape, extents, strict=True)))
    grid, codes, values = coded(x, s)
    for tile in np.ndindex(grid.scale.shape):
        inside = tuple(slice(i * extent, (i + 1) * extent) for i, extent in zip(tile, extents, strict=True))
        alone, alone_codes, alone_values = coded(x[inside], replace(s, tiling=Tiling.tensor()))
        assert alone.scale[0, 0] == grid.scale[tile]
        assert np.array_equal(alone_codes, codes[inside])
        assert np.array_equal(alone_values, values[inside])


@given(x=matrices(), s=specs(overflow="saturate"))
@strict
def test_zero_stays_zero(x: Array, s: QuantSpec) -> None:
    # asym_omni alone lets its zero point leave the codes; then 0 is not on the grid.
    assume(s.scheme.name != "asym_omni")
    _, _, values = coded(x, s)
    assert (values[x == 0] == 0).all()


@given(x=matrices(), s=specs())
@strict
def test_inputs_are_not_written_and_their_layout_does_not_matter(x: Array, s: QuantSpec) -> None:
    before = x.tobytes()
    x.flags.writeable = False
    grid, codes, values = coded(x, s)
    assert x.tobytes() == before
    strided = np.empty((x.shape[0] * 2, x.shape[1] * 3), dtype=x.dtype)[::2, ::3]
    strided[...] = x
    for other in (np.asfortranarray(x), strided, x[::-1][::-1]):
        other_grid, other_codes, other_values = coded(other, s)
        assert np.array_equal(other_grid.scale, grid.scale)
        assert np.array_equal(other_codes, codes)
        assert np.array_equal(other_values, values)


@given(x=matrices(("float16", "bfloat16")), s=specs())
@strict
def test_narrow_inputs_are_computed_in_float32(x: Array, s: QuantSpec) -> None:
    grid, codes, values = coded(x, s)
    wide_grid, wide_codes, wide_values = coded(x.astype(np.float32), s)
    assert np.array_equal(grid.scale, wide_grid.scale)
    assert np.array_equal(codes, wide_codes)
    assert values.dtype == np.float32
    assert np.array_equal(values, wide_values)


@given(x=matrices(("float32", "float64")), s=specs(nan="zero"), data=st.data())
@strict
def test_nan_counts_as_zero_where_that_is_asked_for(x: Array, s: QuantSpec, data: st.DataObject) -> None:
    missing = data.draw(st.lists(st.integers(0, max(x.size - 1, 0)), max_size=4)) if x.size else []
    holes, zeros = x.copy(), x.copy()
    holes.flat[missing], zeros.flat[missing] = np.nan, 0
    grid, codes, _ = coded(holes, s)
    same_grid, same_codes, _ = coded(zeros, replace(s, nan="raise"))
    assert np.array_equal(grid.scale, same_grid.scale)
    assert np.array_equal(codes, same_codes)


@given(data=st.data(), scheme=schemes(), rounding=st.sampled_from(list(Rounding)))
@strict
def test_wrapping_counts_modulo_the_members(data: st.DataObject, scheme: object, rounding: Rounding) -> None:
    s = data.draw(specs(scheme=scheme, overflow="saturate", rounding=rounding, mse=False, scale_format=None, tiling=Tiling((None,))))
    exponent = data.draw(st.integers(-8, 8))
    zero = None if s.scheme.zero == "none" else np.array([data.draw(st.integers(s.format.lo, s.format.hi))])
    grid = Grid(scale=np.array([2.0**exponent]), zero=zero)
    steps = data.draw(st.integers(-(2**50), 2**50))
    code = encode(np.array([steps * 2.0**exponent]), grid, replace(s, overflow="wrap"))
    if rounding != Rounding.TRUNC_HALF or steps >= 0:
        wanted = steps + (0 if zero is None else int(zero[0]))
        assert (int(code[0]) - wanted) % len(s.format.members) == 0
    else:
        assert (int(code[0]) - (steps + 1) - (0 if zero is None else int(zero[0]))) % len(s.format.members) == 0


@given(x=matrices(("float32",)), s=specs(mse=False), value=numbers(np.dtype(np.float32)))
@strict
def test_raising_means_that_saturation_would_have_acted(x: Array, s: QuantSpec, value: float) -> None:
    grid = fitted(x, s)
    other = np.full_like(x, value)
    try:
        kept = encode(other, grid, replace(s, overflow="raise"))
    except NumericalError:
        return
    assert np.array_equal(kept, encode(other, grid, replace(s, overflow="saturate")))
    assert np.array_equal(kept, encode(other, grid, replace(s, overflow="wrap")))


@given(x=matrices(), s=specs(mse=False), slab=st.integers(1, 20))
@strict
def test_coding_in_slabs_changes_nothing(x: Array, s: QuantSpec, slab: int) -> None:
    _, codes, values = coded(x, s)
    whole = coding.SLAB
    try:
        coding.SLAB = slab
        grid, cut_codes, cut_values = coded(x, s)
        assert np.array_equal(cut_codes, codes)
        assert cut_values.tobytes() == values.tobytes()
        assert decode(codes, grid, s, dtype=values.dtype).tobytes() == values.tobytes()
    finally:
        coding.SLAB = whole


@pytest.mark.parametrize("rounding", Rounding)
@pytest.mark.parametrize("zero", [None, 0, 2, 3])
def test_margins_are_distances_to_another_code(rounding: Rounding, zero: int | None) -> None:
    fine = 64
    place = np.arange(-8 * fine, 8 * fine + 1) / fine
    s = spec("int3", scheme="sym_full" if zero is None else "sym_gptq", rounding=rounding, tiling=Tiling((None,)))
    offset = None if zero is None else np.float64(zero)
    codes = real_codes(place, np.float64(1), offset, s)
    margins = decision_margins(place, codes, np.float64(1), offset, s)
    for i in range(3 * fine, len(place) - 3 * fine, 7):
        other = np.flatnonzero(codes != codes[i])
        assert margins[i] == pytest.approx(np.abs(place[other] - place[i]).min(), abs=1 / fine)


@pytest.mark.parametrize("name", ["asym_incl0", "sym_gptq", "sym_narrow"])
def test_clip_search_never_loses_to_the_whole_range(name: str) -> None:
    rng = np.random.Generator(np.random.PCG64(3))
    x = rng.standard_t(3, (40, 64))
    losses = [np.abs(rtn(x, spec("int3", scheme=name, mse=mse)).dequantize() - x) ** 2.4 for mse in (False, True)]
    plain, searched = (loss.sum(axis=1) for loss in losses)
    assert (searched <= plain).all()
    assert (searched < plain * 0.9).any()


def test_slabs_of_the_clip_search_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.Generator(np.random.PCG64(4))
    x = rng.standard_normal((23, 30)).astype(np.float32)
    for tiling in (Tiling.group(7), Tiling.block(4, 10), Tiling.tensor(), Tiling.channel()):
        s = spec("int3", tiling=tiling, mse=True)
        whole = rtn(x, s).digest()
        for slab in (1, 100, 250):
            monkeypatch.setattr("refquant.core.clip_search.SLAB", slab)
            assert rtn(x, s).digest() == whole
        monkeypatch.undo()
