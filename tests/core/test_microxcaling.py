"""What microxcaling does besides MX with even ties: other roundings, four-bit integers, flushed blocks, elements without a scale."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load_file

from refquant.core import QuantSpec, spec
from refquant.errors import InputError
from refquant.formats import decode, encode, find_format
from refquant.methods.grid.rtn import rtn
from refquant.numerics.arrays import Array
from tests.formats.peers import DATA, peer

BLOCKS = {
    "fp4_e2m1": "mxfp4",
    "fp6_e2m3": "mxfp6_e2m3",
    "fp6_e3m2": "mxfp6_e3m2",
    "fp8_e4m3": "mxfp8_e4m3",
    "fp8_e5m2": "mxfp8_e5m2",
    "int8": "mxint8",
    "int4": "mxint4",
}
ELEMENTS = {
    "bf16": "bfloat16",
    "fp4_e2m1": "e2m1",
    "fp6_e2m3": "e2m3",
    "fp6_e3m2": "e3m2",
    "fp8_e4m3": "e4m3fn",
    "fp8_e5m2": "e5m2",
}


def block_spec(element: str) -> QuantSpec:
    """MXINT4 is MXINT8 with elements of two fraction bits; the standard does not have it."""
    return replace(spec("mxint8"), format=find_format("int4_q2")) if element == "int4" else spec(BLOCKS[element])


def narrow(q) -> Array:
    """Finding: the lowest integer, -2, is never used there."""
    fmt, ours = q.spec.format, q.dequantize()
    if not fmt.name.startswith("int"):
        return ours
    lowest = 1 << (fmt.bits - 1)
    return np.where(q.codes == lowest, ours / np.float32(lowest) * np.float32(lowest - 1), ours)


def below_powers(x: Array) -> Array:
    """Elements of blocks in which the program's float32 logarithm takes some number for the power of two above it."""
    touched = np.frexp(np.abs(x))[0] == np.float32(1) - np.float32(2.0**-24)
    return np.repeat(touched.reshape(len(x), -1, 32).any(axis=-1), 32, axis=1)


@pytest.mark.parametrize("which", ["input", "edge", "subnormal"])
def test_four_bit_integers(which: str) -> None:
    data = peer("microxcaling_mx")
    kept = ~below_powers(data[which])
    ours = narrow(rtn(data[which], block_spec("int4")))
    assert kept.mean() > 0.6
    np.testing.assert_array_equal(ours[kept], data[f"int4.even.{which}"][kept])


@pytest.mark.parametrize(
    ("case", "rounding"),
    [
        *((f"{element}.nearest.{which}", "half_away") for element in ("fp4_e2m1", "fp8_e4m3") for which in ("input", "edge")),
        ("fp4_e2m1.floor.input", "trunc"),
    ],
)
def test_roundings(case: str, rounding: str) -> None:
    """Its nearest goes away from 0 on ties, its floor towards 0."""
    element, _, which = case.split(".")
    x, theirs = peer("microxcaling_mx")[which], peer("microxcaling_mx")[case]
    kept = ~below_powers(x)
    ours = rtn(x, replace(block_spec(element), rounding=rounding)).dequantize()
    np.testing.assert_array_equal(ours[kept], theirs[kept])
    even = rtn(x, block_spec(element)).dequantize()
    assert (even != theirs)[kept].any() == (case != "fp8_e4m3.nearest.edge"), "whether there are ties that tell"


@pytest.mark.parametrize("element", BLOCKS)
def test_flushed_blocks(element: str) -> None:
    """With subnormal flushing, a block whose largest number is subnormal in float32 is 0; no other number changes."""
    x, theirs = peer("microxcaling_elements")["subnormal"], peer("microxcaling_elements")[f"{element}.even.flushsub"]
    largest = np.repeat(np.abs(x.reshape(len(x), -1, 32)).max(axis=-1), 32, axis=1)
    ours = np.where(largest < 2.0**-126, 0, narrow(rtn(x, block_spec(element))))
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("element", ELEMENTS)
def test_elements_without_a_shared_scale(element: str) -> None:
    """As casts; finding: one ulp below half the smallest number its float32 logarithm says half, and the smallest is what comes out."""
    x, theirs = peer("microxcaling_elements")["input"], peer("microxcaling_elements")[f"elem.{element}.even"]
    fmt = find_format(ELEMENTS[element])
    ours = decode(encode(x, fmt), fmt)
    differ = ours != theirs
    assert differ.any() == (element in ("fp4_e2m1", "fp6_e2m3", "fp6_e3m2"))
    assert (np.frexp(np.abs(x[differ]))[0] == np.float32(1) - np.float32(2.0**-24)).all()
    assert (ours[differ] == 0).all()


@pytest.mark.parametrize("element", ["int4", "int8"])
def test_integer_blocks_with_nan_or_infinities(element: str) -> None:
    data = load_file(DATA.parent / "quant" / "mx_microxcaling_nonfinite.safetensors")
    x, theirs = data["input"].reshape(-1, 32), data[f"{element}.even"].reshape(-1, 32)
    good = np.isfinite(x).all(axis=1)
    np.testing.assert_array_equal(narrow(rtn(x[good], block_spec(element))), theirs[good])
    assert np.isnan(theirs[~good]).all()
    with pytest.raises(InputError, match=r"NaN|infinity"):
        rtn(x, block_spec(element))
