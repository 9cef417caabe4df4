"""Casts and tables of ml_dtypes, gfloat and torch: the same wherever they define the same thing, and the differences by name."""

from __future__ import annotations

import numpy as np
import pytest

from refquant.formats import decode, encode, find_format, table_of
from tests.formats.peers import peer

ML_DTYPES = {
    "float8_e4m3fn": "e4m3fn",
    "float8_e5m2": "e5m2",
    "float8_e4m3": "e4m3",
    "float8_e3m4": "e3m4",
    "float8_e4m3fnuz": "e4m3fnuz",
    "float8_e5m2fnuz": "e5m2fnuz",
    "float8_e4m3b11fnuz": "e4m3b11fnuz",
    "float6_e2m3fn": "e2m3",
    "float6_e3m2fn": "e3m2",
    "float4_e2m1fn": "e2m1",
    "float8_e8m0fnu": "e8m0",
}
GFLOAT = {
    "bf16": "bfloat16",
    "f16": "binary16",
    "e4m3": "e4m3fn",
    "e5m2": "e5m2",
    "e2m1": "e2m1",
    "e2m3": "e2m3",
    "e3m2": "e3m2",
    "int8": "int8_q6",
}
DIRECTIONS = {
    "TowardZero": "trunc",
    "TowardNegative": "floor",
    "TowardPositive": "ceil",
    "TiesToEven": "half_even",
    "TiesToAway": "half_away",
}


def cast(x, fmt):
    """As a cast does: to infinity or NaN where the format has one."""
    has_nan = getattr(fmt, "nan_code", None) is not None
    overflow = "infinity" if getattr(fmt, "infinities", False) else "nan" if has_nan else "saturate"
    return encode(x, fmt, overflow=overflow, nan="nan" if has_nan else "zero")


@pytest.mark.parametrize("theirs", ML_DTYPES)
def test_tables_are_those_of_ml_dtypes(theirs: str) -> None:
    wanted, ours = peer("ml_dtypes_casts")[f"{theirs}.decode"], table_of(find_format(ML_DTYPES[theirs]))
    np.testing.assert_array_equal(ours, wanted)
    numbers = ~np.isnan(wanted)
    np.testing.assert_array_equal(np.signbit(ours[numbers]), np.signbit(wanted[numbers]))


@pytest.mark.parametrize("theirs", [*ML_DTYPES, "bfloat16"])
def test_float32_casts_are_those_of_ml_dtypes(theirs: str) -> None:
    data, fmt = peer("ml_dtypes_casts"), find_format(ML_DTYPES.get(theirs, theirs))
    for what in ("input", f"{theirs}.f32_mid"):
        if what not in data:
            continue
        x, wanted = data[what], data[f"{theirs}.cast" if what == "input" else f"{what}_cast"]
        if theirs == "float8_e8m0fnu":  # finding: it sends every float32 number between 2^-127 and 2^-126 up, whatever is nearer
            subnormal = (x > 2.0**-127) & (x < 2.0**-126)
            assert (wanted[subnormal] == 1).all()
            assert (cast(x, fmt)[subnormal] != 1).any()
            x, wanted = x[~subnormal], wanted[~subnormal]
        np.testing.assert_array_equal(cast(x, fmt), wanted)


@pytest.mark.parametrize("theirs", ML_DTYPES)
def test_float64_casts_of_ml_dtypes_round_twice(theirs: str) -> None:
    """Finding: float64 goes through float32 there, so what lies beside a tie is rounded as the tie."""
    data, fmt = peer("ml_dtypes_casts"), find_format(ML_DTYPES[theirs])
    x, wanted = data[f"{theirs}.f64_mid"], data[f"{theirs}.f64_mid_cast"]
    ours, twice = cast(x, fmt), cast(x.astype(np.float32), fmt)
    if theirs == "float8_e8m0fnu":
        kept = ~((x > 2.0**-127) & (x < 2.0**-126))
        ours, twice, wanted = ours[kept], twice[kept], wanted[kept]
    np.testing.assert_array_equal(twice, wanted)
    assert 0.3 < (ours != wanted).mean() < 0.5  # two of five numbers about a tie are its float64 neighbours


@pytest.mark.parametrize("theirs", ML_DTYPES)
def test_special_numbers_are_those_of_ml_dtypes(theirs: str) -> None:
    data, fmt = peer("ml_dtypes_nonfinite"), find_format(ML_DTYPES[theirs])
    x, wanted = data["input"], data[f"{theirs}.cast"]
    if fmt.nan == "none":  # finding: NaN becomes -0, -NaN becomes 0; ours is refused, or counts as 0
        missing = np.isnan(x)
        assert (wanted[missing] == np.where(np.signbit(x[missing]), 0, fmt.sign_bit)).all()
        x, wanted = x[~np.isnan(x)], wanted[~np.isnan(x)]
    np.testing.assert_array_equal(cast(x, fmt), wanted)


@pytest.mark.parametrize("theirs", GFLOAT)
def test_roundings_are_those_of_gfloat(theirs: str) -> None:
    data, fmt = peer("gfloat_round"), find_format(GFLOAT[theirs])
    x, tried = data["input"], 0
    for direction, mode in DIRECTIONS.items():
        for kind in ("sat", "nosat"):
            wanted = data.get(f"{theirs}.{direction}.{kind}")
            if wanted is None:
                continue
            overflow = (
                "infinity" if getattr(fmt, "infinities", False) else "nan" if getattr(fmt, "nan_code", None) is not None else "saturate"
            )
            ours = decode(encode(x, fmt, mode, overflow="saturate" if kind == "sat" else overflow), fmt)
            np.testing.assert_array_equal(ours, wanted, err_msg=f"{direction} {kind}")
            if theirs != "int8":
                np.testing.assert_array_equal(np.signbit(ours), np.signbit(wanted))
            tried += 1
    assert tried >= 6
    if f"{theirs}.decode" in data:
        np.testing.assert_array_equal(table_of(fmt), data[f"{theirs}.decode"])


@pytest.mark.parametrize(
    ("theirs", "overflow"),
    [
        ("float8_e4m3fn", "saturate"),
        ("float8_e5m2", "infinity"),
        ("float8_e4m3fnuz", "nan"),
        ("float8_e5m2fnuz", "nan"),
        ("bfloat16", "infinity"),
    ],
)
def test_casts_are_those_of_torch(theirs: str, overflow: str) -> None:
    """torch saturates e4m3fn (finding: older versions and ml_dtypes give NaN above 464) and overflows in the others."""
    data = peer("torch_float8")
    fmt = find_format(ML_DTYPES.get(theirs, theirs))
    np.testing.assert_array_equal(encode(data["cast.input"], fmt, overflow=overflow, nan="nan"), data[f"cast.{theirs}"])


def test_torch_casts_magnitudes_to_e8m0() -> None:
    """Finding: torch ignores the sign and sends 0 to the smallest power; ours and ml_dtypes' are NaN, or the smallest when saturating."""
    data, fmt = peer("torch_float8"), find_format("e8m0")
    x, wanted = data["cast.input"], data["cast.float8_e8m0fnu"]
    ordinary = ~((np.abs(x) > 2.0**-127) & (np.abs(x) < 2.0**-126)) & (np.abs(x) < 2.0**127)
    np.testing.assert_array_equal(encode(np.abs(x), fmt)[ordinary], wanted[ordinary])
    assert (cast(x[x < 0], fmt) == 255).all()
    assert (wanted[(x < 0) & ordinary] != 255).all()


@pytest.mark.parametrize(
    ("ours", "theirs"), [("nf4", "nf4"), ("fp4", "fp4"), ("dynamic8", "dynamic_signed"), ("udynamic8", "dynamic_unsigned")]
)
def test_tables_are_those_of_bitsandbytes(ours: str, theirs: str) -> None:
    np.testing.assert_array_equal(table_of(find_format(ours)), peer("layout/bitsandbytes")[f"code.{theirs}"])


def test_every_number_of_a_grid_to_e2m1_is_that_of_compressed_tensors() -> None:
    data = peer("layout/compressed_tensors")
    e2m1 = find_format("e2m1")
    np.testing.assert_array_equal(decode(encode(data["cast_fp4.x"], e2m1), e2m1), data["cast_fp4.y"])
