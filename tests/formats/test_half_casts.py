"""Casts of every finite float16 number, of integers, and of NaN: torch and ml_dtypes."""

from __future__ import annotations

import numpy as np
import pytest
from safetensors.numpy import load_file

from refquant.formats import decode, encode, find_format, table_of, to_patterns
from tests.formats.peers import DATA, peer

OVERFLOW = {
    "torch": {"float8_e4m3fn": "saturate", "float8_e5m2": "infinity"},
    "ml_dtypes": {"float8_e4m3fn": "nan", "float8_e5m2": "infinity", "float4_e2m1fn": "saturate"},
}
NAMES = {"float8_e4m3fn": "e4m3fn", "float8_e5m2": "e5m2", "float4_e2m1fn": "e2m1"}


@pytest.mark.parametrize(("program", "name"), [(program, name) for program, names in OVERFLOW.items() for name in names])
def test_every_finite_float16(program: str, name: str) -> None:
    data = peer(f"half_casts_{program}")
    half = next(array for key, array in data.items() if key.endswith("f16_all_finite")).view(np.float16)
    assert len(np.unique(half.view(np.uint16))) == 2 * 31 * 1024
    wanted = data[f"cast_h.{name}" if program == "torch" else f"{name}.cast_h"]
    for x in (half, half.astype(np.float32), half.astype(np.float64)):
        np.testing.assert_array_equal(encode(x, find_format(NAMES[name]), overflow=OVERFLOW[program][name]), wanted)


def test_float16_casts_of_torch() -> None:
    data = peer("half_casts_torch")
    ours = encode(data["cast.input"], find_format("binary16"), overflow="infinity")
    np.testing.assert_array_equal(ours, data["cast.float16"].view(np.uint16))


@pytest.mark.parametrize("name", ["e4m3fn", "e4m3fnuz", "e5m2", "e5m2fnuz"])
def test_tables_of_torch(name: str) -> None:
    wanted, ours = peer("torch_float8")[f"decode.float8_{name}"], decode(np.arange(256, dtype=np.uint8), find_format(name))
    np.testing.assert_array_equal(ours, wanted)
    assert (np.signbit(ours) == np.signbit(wanted))[~np.isnan(wanted)].all()


def test_table_of_torch_e8m0() -> None:
    np.testing.assert_array_equal(table_of(find_format("e8m0")), peer("torch_float8")["decode.float8_e8m0fnu"])


@pytest.mark.parametrize("name", ["int1", "int2", "int4", "uint1", "uint2", "uint4"])
def test_integers_wrap_in_ml_dtypes(name: str) -> None:
    """What a format does not hold keeps its low bits; what it holds has the pattern that ours has."""
    values, found = np.arange(-20, 40), peer("half_casts_ml_dtypes")[f"{name}.from_int"]
    fmt = find_format(name)
    inside = (values >= fmt.lo) & (values <= fmt.hi)
    np.testing.assert_array_equal(to_patterns(values[inside], fmt), found[inside])
    np.testing.assert_array_equal(values & ((1 << fmt.bits) - 1), found)


TORCH_NAN = {  # the overflow that the cast has, and the payloads of its NaN
    "bfloat16": ("infinity", {0xFFFF}),
    "float16": ("infinity", None),
    "float8_e4m3fn": ("saturate", {0x7F, 0xFF}),
    "float8_e5m2": ("infinity", {0x7F, 0xFF}),
    "float8_e4m3fnuz": ("nan", {0x80}),
}


@pytest.mark.parametrize("name", TORCH_NAN)
def test_special_numbers_of_torch(name: str) -> None:
    """Infinities and what overflows as here; of NaN, torch takes all bits set where IEEE 754 leaves the payload open, ours the highest."""
    data = load_file(DATA.parent / "quant" / "torch_native_nonfinite.safetensors")
    overflow, payloads = TORCH_NAN[name]
    x, wanted = data["input"], data[f"cast.{name}"]
    wanted = wanted.view(np.uint16) if wanted.dtype == np.float16 else wanted
    fmt = find_format({"float16": "binary16"}.get(name, name.removeprefix("float8_")))
    numbers = ~np.isnan(x)
    np.testing.assert_array_equal(encode(x, fmt, overflow=overflow, nan="nan")[numbers], wanted[numbers])
    assert np.isnan(decode(wanted[~numbers], fmt)).all()
    assert payloads is None or set(wanted[~numbers].tolist()) <= payloads


def test_special_numbers_of_torch_in_e8m0() -> None:
    """Finding: the magnitude is taken, and rounded to the nearest power; infinities and NaN are NaN."""
    data = load_file(DATA.parent / "quant" / "torch_native_nonfinite.safetensors")
    x, wanted, fmt = data["input"], data["cast.float8_e8m0fnu"], find_format("e8m0")
    finite = np.isfinite(x) & (np.abs(x) < 2.0**127)
    np.testing.assert_array_equal(encode(np.abs(x[finite]), fmt), wanted[finite])
    assert (wanted[~np.isfinite(x)] == 255).all()


def test_special_numbers_of_ml_dtypes_in_bfloat16() -> None:
    data = peer("ml_dtypes_nonfinite")
    ours = encode(data["input"], find_format("bfloat16"), overflow="infinity", nan="nan")
    np.testing.assert_array_equal(ours, data["bfloat16.cast"])
