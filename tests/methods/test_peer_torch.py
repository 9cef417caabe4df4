"""torch's observers with reduced range, signed affine codes and real zero points, byte for byte."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from refquant.core import Grid, decode, encode, fake_quantize, find_scheme, fit_grid, spec
from tests.methods.test_rtn_peers import assert_equal_grid, peer

SYMMETRIC, AFFINE = find_scheme("torch_symmetric"), find_scheme("torch_affine")
SCHEMES = {
    "qint8.symmetric": SYMMETRIC,
    "qint8.affine": replace(AFFINE, signed=True),
    "quint8.affine": AFFINE,
    "quint8.symmetric": replace(SYMMETRIC, zero="midpoint", signed=False),
}
ROWS = [3, 8, 12, 13]


def granularity(case: str) -> str:
    return "channel" if case.startswith("pc") else "tensor"


@pytest.mark.parametrize("kind", ["qint8.symmetric", "qint8.affine", "quint8.affine"])
@pytest.mark.parametrize("where", ["pc", "pt"])
def test_a_reduced_range_is_one_bit_less(where: str, kind: str) -> None:
    data, case = peer("torch_fake_quantize"), f"{where}.{kind}.reduce"
    grid = fit_grid(data["input"], spec("int7", scheme=SCHEMES[kind], granularity=granularity(where)))
    assert_equal_grid(grid, data[f"{case}.scale"], data[f"{case}.zero"])
    assert grid.zero is not None or not data[f"{case}.zero"].any()


@pytest.mark.parametrize("where", ["pc", "pt"])
def test_signed_affine_codes(where: str) -> None:
    data, case = peer("torch_fake_quantize"), f"{where}.qint8.affine"
    scheme = SCHEMES["qint8.affine"]
    grid = fit_grid(data["input"], spec("int8", scheme=scheme, granularity=granularity(where)))
    assert_equal_grid(grid, data[f"{case}.scale"], data[f"{case}.zero"])
    # quantize_per_tensor and _per_channel add the zero point before they round: a real one here.
    s = spec("int8", scheme=replace(scheme, zero="real"), granularity=granularity(where))
    assert grid.zero is not None
    added = Grid(scale=grid.scale, zero=grid.zero.astype(np.float32))
    assert np.array_equal(encode(data["input"], added, s), data[f"{case}.q"])
    assert np.array_equal(decode(data[f"{case}.q"], added, s), data[f"{case}.deq"])


@pytest.mark.parametrize("kind", SCHEMES)
def test_fake_quantization_of_channels(kind: str) -> None:
    """Here the zero point is added after rounding."""
    data = peer("torch_fake_quantize")
    s = spec("int8", scheme=SCHEMES[kind])
    grid = fit_grid(data["input"], s)
    assert np.array_equal(fake_quantize(data["input"], grid, s), data[f"pc.{kind}.fake"])


@pytest.mark.parametrize("bits", range(2, 9))
def test_fake_quantization_on_given_scales(bits: int) -> None:
    data = peer("torch_fake_quantize")
    s = spec(f"int{bits}", scheme=SYMMETRIC)
    grid = Grid(scale=data[f"fakepc.sym{bits}.scale"][:, None], zero=None)
    assert np.array_equal(fake_quantize(data["input"][ROWS], grid, s), data[f"fakepc.sym{bits}"])


@pytest.mark.parametrize("bits", range(2, 9))
def test_real_zero_points_are_decoded_with_one_rounding(bits: int) -> None:
    """Finding: ``(code - z) s`` is computed in float64 there, and rounded once; the codes are ours."""
    data, x = peer("torch_fake_quantize"), peer("torch_fake_quantize")["input"][ROWS]
    real = replace(AFFINE, name="torch_real", zero="real")
    s = spec(f"int{bits}", scheme=real)
    grid = Grid(scale=data[f"fakepc.sym{bits}.scale"][:, None], zero=data[f"fakepc.fzp{bits}.zero"][:, None])
    codes, theirs = encode(x, grid, s), data[f"fakepc.fzp{bits}"]
    assert np.array_equal(decode(codes, grid, s, np.dtype(np.float64)).astype(np.float32), theirs)
    assert (decode(codes, grid, s) != theirs).any() == (bits in (4, 5, 8))
