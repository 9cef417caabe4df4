"""Every outcome that a formula alone does not decide, with expected values worked out by hand; docs/degenerate.md is held to the code."""

from __future__ import annotations

from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest

from refquant.core import SCHEMES, Grid, decode, fake_quantize, find_scheme, spec
from refquant.errors import NumericalError
from refquant.methods.grid.rtn import rtn
from refquant.numerics.arrays import Array
from tests.core.degenerate_page import PAGE, page

TINY = float(np.finfo(np.float32).smallest_subnormal)
LARGEST = float(np.finfo(np.float32).max)


def f32(*values: float) -> Array:
    return np.array([values], dtype=np.float32)


def test_the_page_tells_what_the_code_does() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run python -m tests.core.degenerate_page and read the difference"


@pytest.mark.parametrize(
    ("name", "scale", "zero", "code"),
    [
        ("asym_incl0", 2 / 15, 7, 7),  # [-1, 1]: -lo/s = 7.4999995 in float32
        ("asym_minmax", 1e-5 / 15, 0, 0),
        ("asym_omni", 1e-5, 0, 0),
        ("sym_full", 1e-5 / 7, None, 0),
        ("sym_narrow", 1e-5 / 7, None, 0),
        ("sym_gptq", 2 / 15, 8, 8),
        ("sym_gptq_half_range", 2 / 15, 8, 8),
    ],
)
def test_all_zero(name: str, scale: float, zero: int | None, code: int) -> None:
    q = rtn(f32(0.0, -0.0), spec("int4", scheme=name))
    assert q.scale[0, 0] == pytest.approx(scale, rel=1e-6)
    assert (None if q.zero is None else int(q.zero[0, 0])) == zero
    assert q.codes.tolist() == [[code, code]]
    assert q.dequantize().tobytes() == f32(0.0, 0.0).tobytes(), "both are +0"


@pytest.mark.parametrize("name", ["sym_full", "sym_narrow", "asym_minmax"])
def test_scale_one_for_all_zero_tiles_on_request(name: str) -> None:
    q = rtn(np.array([[0.0, 0.0], [7.0, 0.0]], dtype=np.float32), spec("int4", scheme=name, empty="unit_scale"))
    assert q.scale[0, 0] == 1
    assert q.scale[1, 0] == np.float32(7) / np.float32(7 if name.startswith("sym") else 15)


def test_equal_numbers_of_one_sign() -> None:
    q = rtn(f32(3.0, 3.0), spec("int4", scheme="asym_incl0"))
    assert (q.scale.tolist(), q.zero.tolist(), q.codes.tolist()) == ([[0.20000000298023224]], [[0]], [[15, 15]])  # type: ignore[union-attr]
    # asym_minmax: width 0 becomes 1e-5, the zero point is clipped to 0, and the tile shrinks to nothing.
    q = rtn(f32(3.0, 3.0), spec("int4", scheme="asym_minmax"))
    assert (q.zero.tolist(), q.codes.tolist()) == ([[0]], [[15, 15]])  # type: ignore[union-attr]
    assert (q.dequantize() < 1.1e-5).all()
    # The quotient -1e38 / 6.7e-7 is infinite in float32; the zero point saturates.
    q = rtn(f32(1e38, 1e38), spec("int4", scheme="asym_minmax"))
    assert q.zero.tolist() == [[0]]  # type: ignore[union-attr]
    q = rtn(f32(-1e38, -1e38), spec("int4", scheme="asym_minmax"))
    assert q.zero.tolist() == [[15]]  # type: ignore[union-attr]
    q = rtn(f32(-1e38, -1e38), spec("int4", scheme="asym_omni"))
    assert q.zero.tolist() == [[10_000]]  # type: ignore[union-attr]


def test_omni_scales_stay_between_their_limits() -> None:
    for top, scale, value in ((1e6, 1e4, 150_000.0), (3.0, 0.2, 3.0), (1e-6, 1e-5, 0.0)):
        q = rtn(np.array([[0.0, top]]), spec("int4", scheme="asym_omni"))
        assert float(q.scale[0, 0]) == scale
        assert q.dequantize()[0, 1] == pytest.approx(value)


def test_subnormal_ranges_are_not_flushed() -> None:
    # 30 units over 15 steps: a scale of 2 units, every even number of units is exact.
    x = np.array([[-10, 0, 2, 20]], dtype=np.float32) * np.float32(TINY)
    q = rtn(x, spec("int4", scheme="asym_incl0"))
    assert q.scale[0, 0] == 2 * TINY
    assert q.codes.tolist() == [[0, 5, 6, 15]]
    assert q.dequantize().tobytes() == x.tobytes()
    # 5 units over 15 steps round to a scale of 0, which becomes 1 unit: everything is exact again.
    x = np.array([[-2, 1, 3]], dtype=np.float32) * np.float32(TINY)
    q = rtn(x, spec("int4", scheme="asym_incl0"))
    assert q.scale[0, 0] == TINY
    assert q.codes.tolist() == [[0, 3, 5]]
    # 20 units over 15 steps round down to 1 unit: the zero point 20 does not fit the codes and is clipped to 15.
    q = rtn(np.array([[-20, 0]], dtype=np.float32) * np.float32(TINY), spec("int4", scheme="asym_incl0"))
    assert (q.zero.tolist(), q.codes.tolist()) == ([[15]], [[0, 15]])  # type: ignore[union-attr]


@pytest.mark.parametrize("name", [name for name in SCHEMES if name not in ("sym_full", "sym_narrow", "sym_gptq_half_range")])
def test_a_range_beyond_float32_names_its_tile(name: str) -> None:
    x = np.array([[1.0, -1.0], [3e38, -3e38]], dtype=np.float32)
    with pytest.raises(NumericalError, match=r"-3e\+38 \.\. 3e\+38 of tile \(1, 0\) is wider than float32"):
        rtn(x, spec("int4", scheme=name))
    assert np.isfinite(rtn(x.astype(np.float64), spec("int4", scheme=name)).dequantize()).all()


def test_half_the_levels_need_no_width() -> None:
    q = rtn(f32(LARGEST, -LARGEST), spec("int4", scheme="sym_narrow"))
    assert q.codes.tolist() == [[7, -7]]


def test_a_product_beyond_float32_is_refused_and_fits_float64() -> None:
    s = spec("int8", scheme="sym_narrow")
    grid = Grid(scale=f32(LARGEST / 126), zero=None)
    codes = np.array([[-127, 1]], dtype=np.int8)
    with pytest.raises(NumericalError, match=r"code -127 at index \(0, 0\) times its scale overflows float32; decode it to float64"):
        decode(codes, grid, s)
    assert decode(codes, grid, s, dtype=np.dtype(np.float64))[0, 0] == -127 * float(grid.scale[0, 0])
    with pytest.raises(NumericalError, match="overflows float32"):
        fake_quantize(f32(-LARGEST, 0.0), Grid(scale=f32(LARGEST / 7.4), zero=None), spec("int4", scheme="sym_full", rounding="floor"))


def test_scales_that_do_not_fit_float16() -> None:
    s = spec("int4", scheme="sym_narrow", scale_format="float16")
    x = np.array([[7.0, 1.0], [70000.0 * 7, 1.0]], dtype=np.float32)
    with pytest.raises(NumericalError, match=r"scale 70000 of tile \(1, 0\) exceeds the largest float16 number 65504"):
        rtn(x, s)
    # 65519.996 is the last number that rounds to 65504; half-way and above is an overflow.
    below = float(np.nextafter(np.float32(65520), np.float32(0)))
    assert rtn(f32(below * 7, 0.0), s).scale[0, 0] in (65504,)
    with pytest.raises(NumericalError):
        rtn(f32(65520.0 * 7, 0.0), s)
    # 2^-24 is the smallest float16; 2^-25 is a tie and goes to 0, which then becomes 2^-24 again.
    for scale in (2.0**-25, 2.0**-30, 2.0**-24):
        q = rtn(f32(scale * 7, 0.0), spec("int4", scheme=replace(find_scheme("sym_narrow"), empty="unit_scale"), scale_format="float16"))
        assert q.scale.dtype == np.float16
        assert float(q.scale[0, 0]) == 2.0**-24
        assert q.codes.tolist() == [[round(scale * 7 * 2**24), 0]]


def test_a_float32_tile_with_float64_scales_divides_in_float32() -> None:
    # A third of the smallest float32 is 0 there; as a float64 scale it must still be a float32 number.
    q = rtn(np.array([[TINY, 0.0]], dtype=np.float32), spec("int2", scheme="asym_incl0", scale_format="float64"))
    assert (q.scale.dtype, float(q.scale[0, 0]), q.codes.tolist()) == (np.float64, TINY, [[1, 0]])


def test_bfloat16_scales_round_to_even_and_overflow_to_an_error() -> None:
    s = spec("int4", scheme="sym_narrow", scale_format="bfloat16")
    # 1 + 2^-8 lies half-way between bfloat16 numbers 1 and 1 + 2^-7.
    assert rtn(f32(7 * (1 + 2.0**-8), 0.0), s).scale.tolist() == [[1.0]]
    assert rtn(f32(7 * (1 + 3 * 2.0**-8), 0.0), s).scale.tolist() == [[1 + 2 * 2.0**-7]]
    with pytest.raises(NumericalError, match="bfloat16"):
        rtn(np.array([[LARGEST * 7.0, 0.0]]), s)


def test_the_stored_scale_makes_the_codes() -> None:
    # The scale 0.1 is 0.0999755859375 in float16; -1.5 / 0.0999755859375 + 15 would differ from -1.5 / 0.1 for 14.5 steps.
    x = f32(-0.5 * 0.1, 1.45)
    q = rtn(x, spec("int4", scheme="asym_incl0", scale_format="float16"))
    assert float(q.scale[0, 0]) == 0.0999755859375
    exact = rtn(x, spec("int4", scheme="asym_incl0"))
    assert exact.zero.tolist() == [[0]]  # type: ignore[union-attr]
    assert q.zero.tolist() == [[1]], "-lo / s = 0.50012 rounds to 1"  # type: ignore[union-attr]


@pytest.mark.parametrize(("scale_format", "bits"), [("bfloat16", 8), ("float16", 11)])
def test_when_a_stored_scale_pushes_the_zero_point_out(scale_format: str, bits: int) -> None:
    def unclipped(width: int) -> int:
        """The largest zero point over scales that are rounded down as far as it goes."""
        steps = (1 << width) - 1
        ends = steps * (1 + (np.arange(4096) / 4096))
        scale = (ends / steps).astype(ml_dtypes.bfloat16 if scale_format == "bfloat16" else np.float16).astype(np.float64)
        return int(np.rint(ends / scale).max())

    assert unclipped(bits - 1) == (1 << (bits - 1)) - 1
    assert unclipped(bits) == 1 << bits
    end = -(1 + 2.0 ** -(8 if scale_format == "bfloat16" else 11)) * ((1 << bits) - 1)
    q = rtn(np.array([[end, 0.0]]), spec(f"int{bits}", scheme="asym_incl0", scale_format=scale_format))
    assert q.zero.tolist() == [[(1 << bits) - 1]]  # type: ignore[union-attr]
    assert q.codes.tolist() == [[0, (1 << bits) - 1]]
