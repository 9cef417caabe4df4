"""Policies and borders: NaN, infinities, overflow, shapes, dtypes, grids that do not fit; expected values worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from refquant.core import SCHEMES, Grid, Scheme, Tiling, decode, encode, fake_quantize, find_scheme, fit_grid, spec
from refquant.errors import InputError, NumericalError
from refquant.methods.grid.rtn import rtn
from refquant.numerics.arrays import Array
from refquant.numerics.rounding import Rounding

TINY = float(np.finfo(np.float32).smallest_subnormal)
LARGEST = float(np.finfo(np.float32).max)


def f32(*values: float) -> Array:
    return np.array([values], dtype=np.float32)


def test_nan() -> None:
    x = f32(1.0, np.nan, -2.0)
    with pytest.raises(InputError, match=r"tile \(0, 0\) of an array of shape \(1, 3\) holds NaN"):
        rtn(x, spec("int4"))
    grid = fit_grid(f32(1.0, -2.0), spec("int4"))
    with pytest.raises(InputError, match=r"NaN at index \(0, 1\)"):
        encode(x, grid, spec("int4"))
    assert encode(x, grid, spec("int4", nan="zero")).tolist() == [[15, 10, 0]]
    # NaN counts as 0 in the range too: [2, 3] becomes [0, 3] for asym_minmax.
    q = rtn(f32(2.0, np.nan, 3.0), spec("int2", scheme="asym_minmax", nan="zero"))
    assert (q.scale.tolist(), q.codes.tolist()) == ([[1.0]], [[2, 0, 3]])


def test_errors_name_the_index_in_the_whole_array(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("refquant.core.coding.SLAB", 4)
    x, s = np.ones((6, 2), dtype=np.float32), spec("int4", scheme="sym_full", overflow="raise")
    grid = Grid(scale=np.ones((6, 1), dtype=np.float32), zero=None)
    x[5, 1] = 9
    with pytest.raises(NumericalError, match=r"code 9 at index \(5, 1\)"):
        encode(x, grid, s)
    x[5, 1] = np.nan
    with pytest.raises(InputError, match=r"NaN at index \(5, 1\)"):
        fake_quantize(x, grid, s)
    grid = Grid(scale=np.full((6, 1), LARGEST / 2, dtype=np.float32), zero=None)
    codes = np.zeros((6, 2), dtype=np.int8)
    codes[4, 1] = 3
    with pytest.raises(NumericalError, match=r"code 3 at index \(4, 1\)"):
        decode(codes, grid, s)


def test_infinities() -> None:
    s = spec("int4", scheme="sym_full")
    with pytest.raises(InputError, match="an infinity"):
        rtn(f32(np.inf, 1.0), s)
    with pytest.raises(InputError, match="an infinity"):
        rtn(f32(np.nan, -np.inf), replace(s, nan="zero"))
    grid = Grid(scale=f32(1.0), zero=None)
    assert encode(f32(np.inf, -np.inf), grid, s).tolist() == [[7, -8]]
    for overflow in ("wrap", "raise"):
        with pytest.raises(NumericalError, match=r"code inf at index \(0, 1\) lies outside int4"):
            encode(f32(0.0, np.inf), grid, replace(s, overflow=overflow))
    # A finite number over a tiny scale may have infinitely many steps.
    grid = Grid(scale=f32(1e-30), zero=None)
    assert encode(f32(1e30, -1e30), grid, s).tolist() == [[7, -8]]
    with pytest.raises(NumericalError):
        encode(f32(1e30), grid, replace(s, overflow="wrap"))


@pytest.mark.parametrize(("overflow", "codes"), [("saturate", [-8, 7, 7, -8]), ("wrap", [7, -8, 4, -4])])
def test_overflow_policies(overflow: str, codes: list[int]) -> None:
    grid = Grid(scale=f32(1.0), zero=None)
    assert (
        encode(f32(-9.0, 8.0, 100.0, -(2.0**70) - 100), grid, spec("int4", scheme="sym_full", overflow=overflow))[0, :3].tolist()
        == codes[:3]
    )  # type: ignore[arg-type]
    assert encode(f32(-100.0), grid, spec("int4", scheme="sym_full", overflow=overflow)).tolist() == [codes[3:]]  # type: ignore[arg-type]


def test_wrapping_is_exact_beyond_what_float32_can_count() -> None:
    # Above 2^24 float32 has even numbers only: 16777218 - lo would be rounded before its remainder is taken.
    s = spec("int4", scheme="sym_narrow", overflow="wrap")
    grid = Grid(scale=f32(1.0), zero=None)
    for code in (16777218, 16777222, -16777226, 2**30 + 128, -(2**40)):
        wrapped = (code + 7) % 15 - 7
        assert encode(f32(float(code)), grid, s).tolist() == [[wrapped]]


def test_padding_of_a_ragged_tail_is_no_error_to_the_search() -> None:
    # Under asym_omni the number 0, which pads the tail, may lie far from the grid; its error must not count.
    rng = np.random.Generator(np.random.PCG64(8))
    for _ in range(20):
        x = (2 + rng.standard_normal((1, 20)) / 3).astype(np.float32)
        s = spec("int3", scheme="asym_omni", group_size=16, mse=True)
        alone = rtn(x[:, 16:], s.with_tiling(Tiling.tensor()))
        assert rtn(x, s).scale[0, 1] == alone.scale[0, 0]
        assert np.array_equal(rtn(x, s).codes[:, 16:], alone.codes)


def test_clip_comes_before_cast() -> None:
    # Cast first, 300 would wrap to 44 in uint8 and -300 is undefined.
    grid = Grid(scale=f32(1.0), zero=np.array([[0]], dtype=np.uint8))
    assert encode(f32(300.0, -300.0, 3e9), grid, spec("int8")).tolist() == [[255, 0, 255]]
    assert encode(f32(40000.0, -40000.0), Grid(scale=f32(1.0), zero=None), spec("int16", scheme="sym_full")).tolist() == [[32767, -32768]]


def test_widest_and_narrowest_formats() -> None:
    q = rtn(np.array([[-1.0, 0.2, 1.0]]), spec("int16", scheme="sym_full"))
    assert q.codes.dtype == np.int16
    assert q.codes.tolist() == [[-32767, 6553, 32767]]
    q = rtn(f32(-1.0, 0.0, 1.0), spec("int16", scheme="asym_incl0"))
    assert q.codes.dtype == np.uint16
    assert q.codes.tolist()[0][0::2] == [0, 65535]
    q = rtn(f32(-1.0, 0.4, 2.0), spec("int1", scheme="asym_incl0"))
    assert (q.scale.tolist(), q.zero.tolist(), q.codes.tolist()) == ([[3.0]], [[0]], [[0, 0, 1]])  # type: ignore[union-attr]
    q = rtn(f32(-1.0, 1.0), spec("int1", scheme="sym_gptq"))
    assert (q.scale.tolist(), q.codes.tolist()) == ([[2.0]], [[1, 1]])


@pytest.mark.parametrize("shape", [(0, 0), (0, 5), (5, 0)])
@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.parametrize("mse", [False, True])
def test_empty_arrays(shape: tuple[int, int], name: str, mse: bool) -> None:
    for tiling in (Tiling.tensor(), Tiling.channel(), Tiling.group(3), Tiling.block(2, 2)):
        q = rtn(np.empty(shape, dtype=np.float32), spec("int4", scheme=name, tiling=tiling, mse=mse))
        assert q.scale.shape == tiling.grid_shape(shape)
        assert q.codes.shape == q.dequantize().shape == shape
        assert q.bits_per_weight == 0


def test_arrays_of_other_ranks() -> None:
    q = rtn(np.array(3.0), spec("int4", scheme="sym_narrow", tiling=Tiling(())))
    assert (q.codes.shape, int(q.codes), float(q.dequantize())) == ((), 7, 3.0)
    q = rtn(np.array([-7.0, 1.0, 2.0, 70.0, 10.0]), spec("int4", scheme="sym_narrow", tiling=Tiling((3,))))
    assert (q.scale.tolist(), q.codes.tolist()) == ([1.0, 10.0], [-7, 1, 2, 7, 1])
    x = np.arange(24.0).reshape(2, 3, 4) - 7
    q = rtn(x, spec("int8", scheme="sym_narrow", tiling=Tiling((1, None, 2))))
    assert q.scale.shape == (2, 1, 2)
    assert q.scale[1, 0, 1] == 16 / 127
    with pytest.raises(InputError, match="does not fit an array of shape"):
        rtn(np.arange(4.0), spec("int4"))


@pytest.mark.parametrize(
    "bad", [np.array([[1, 2]]), np.array([[1j]]), np.array([[True]]), np.array([["a"]]), np.array([[1.0]], dtype=">f4")]
)
def test_other_dtypes_are_refused(bad: Array) -> None:
    with pytest.raises(InputError, match="the weight has dtype"):
        rtn(bad, spec("int4"))


def test_a_grid_that_does_not_fit() -> None:
    x, s = f32(1.0, 2.0), spec("int4", scheme="asym_incl0")
    with pytest.raises(InputError, match="has a zero point"):
        encode(x, Grid(scale=f32(1.0), zero=None), s)
    with pytest.raises(InputError, match="has no zero point"):
        encode(x, Grid(scale=f32(1.0), zero=np.array([[1]])), spec("int4", scheme="sym_full"))
    with pytest.raises(InputError, match=r"a grid of shape \(1, 2\) does not fit"):
        encode(x, Grid(scale=f32(1.0, 1.0), zero=np.array([[1, 1]])), s)
    with pytest.raises(InputError, match="codes are integers, not float32"):
        decode(x, fit_grid(x, s), s)
    with pytest.raises(ValueError, match="float32 or float64, not float16"):
        decode(encode(x, fit_grid(x, s), s), fit_grid(x, s), s, dtype=np.dtype(np.float16))


@pytest.mark.parametrize("scale", [0.0, -1.0, np.nan, np.inf])
def test_scales_are_positive_and_finite(scale: float) -> None:
    with pytest.raises(InputError, match=r"positive and finite; found .* at tile \(0, 1\)"):
        Grid(scale=f32(1.0, scale), zero=None)


@pytest.mark.parametrize(
    ("scale", "zero", "message"),
    [
        (np.array([[1]]), None, "scales have dtype int64"),
        (f32(1.0), np.array([1]), "has the scale's shape"),
        (f32(1.0), np.array([[1 << 24]]), "lie within"),
        (f32(1.0), np.array([[-(2**63)]]), "lie within"),
        (f32(1.0), f32(np.nan), "zero points are finite"),
        (f32(1.0), np.array([[True]]), "integers or floats"),
    ],
)
def test_grids_that_are_none(scale: Array, zero: Array | None, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Grid(scale=scale, zero=zero)


def test_a_float64_scale_with_a_float32_array() -> None:
    s = spec("int4", scheme="sym_full")
    grid = Grid(scale=np.array([[1e-50]]), zero=None)
    with pytest.raises(NumericalError, match=r"scale 1e-50 of tile \(0, 0\) does not fit float32"):
        encode(f32(1.0), grid, s)
    assert encode(np.array([[3e-50]]), grid, s).tolist() == [[3]]


def test_a_reciprocal_that_overflows() -> None:
    reciprocal = replace(find_scheme("sym_full"), reciprocal=True, empty="unit_scale")
    with pytest.raises(NumericalError, match=r"the reciprocal of scale .* overflows float32"):
        rtn(f32(1e-39, 0.0), spec("int8", scheme=reciprocal))
    assert rtn(f32(1e-39, 0.0), spec("int8", scheme=replace(reciprocal, reciprocal=False))).codes.tolist() == [[127, 0]]


def test_a_real_zero_point() -> None:
    scheme = Scheme(name="hqq", range="minmax", steps="levels", zero="real", empty="span_floor", signed=False)
    q = rtn(np.array([[-0.25, 0.5, 1.25]]), spec("int2", scheme=scheme))
    assert (q.scale.tolist(), q.zero.tolist(), q.codes.tolist()) == ([[0.5]], [[0.5]], [[0, 2, 3]])  # type: ignore[union-attr]
    assert q.dequantize().tolist() == [[-0.25, 0.75, 1.25]]
    with pytest.raises(NumericalError, match=r"zero point .* of tile \(0, 0\) overflows float32"):
        rtn(f32(1e38, 1e38), spec("int4", scheme=scheme))


def test_quantizing_twice() -> None:
    # Fitting anew changes the grid: the scale of [-7.5, 7.5] is 1, that of what comes back 16/15.
    s = spec("int4", scheme="sym_gptq")
    once = rtn(f32(-7.5, 7.5), s)
    assert once.dequantize()[0].tolist() == [-8, 7]
    assert rtn(once.dequantize(), s).scale[0, 0] == np.float32(16) / np.float32(15)
    # trunc_half moves negative integers up by one, every time; floor loses what s k / s rounds away.
    s = spec("int4", scheme="sym_full", rounding=Rounding.TRUNC_HALF)
    assert encode(f32(-3.0, 3.0), Grid(scale=f32(1.0), zero=None), s).tolist() == [[-2, 3]]
    steps = np.arange(1.0, 128.0, dtype=np.float32).reshape(1, -1)
    scales = [np.float32(k / 97) for k in range(1, 97)]
    s = spec("int8", scheme="sym_full", rounding=Rounding.FLOOR)
    drifting = [not np.array_equal(encode(scale * steps, Grid(scale=scale.reshape(1, 1), zero=None), s), steps) for scale in scales]
    assert any(drifting)
    nearest = replace(s, rounding=Rounding.HALF_EVEN)
    assert all(np.array_equal(encode(scale * steps, Grid(scale=scale.reshape(1, 1), zero=None), nearest), steps) for scale in scales)


def test_a_huge_outlier_takes_the_whole_grid() -> None:
    q = rtn(f32(1e38, 1.0, -1.0), spec("int4", scheme="asym_incl0"))
    assert q.codes.tolist() == [[15, 0, 0]]
    q = rtn(f32(1e38, 1.0, -1.0), spec("int4", scheme="sym_narrow", group_size=1))
    assert q.codes.tolist() == [[7, 7, -7]]


def test_clip_search_near_overflow_keeps_the_first_of_equal_losses() -> None:
    # Every loss is infinite in float32, none is smaller than another: the whole range stays.
    x = np.array([[3e38, 1e38, -2.9e38, 2.2e38]], dtype=np.float32)
    plain = rtn(x, spec("int3", scheme="sym_full"))
    assert rtn(x, spec("int3", scheme="sym_full", mse=True)).scale == plain.scale
    # Every loss is 0 by underflow: likewise.
    x = np.array([[3e-30, 1e-30, -2.9e-30]], dtype=np.float32)
    scheme = replace(find_scheme("sym_full"), empty="unit_scale")
    assert rtn(x, spec("int3", scheme=scheme, mse=True)).scale == rtn(x, spec("int3", scheme=scheme)).scale
