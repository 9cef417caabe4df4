"""Block formats against the programs that made them: codes, scales and numbers, byte for byte; where they part, exactly where."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from refquant.core import QTensor, QuantSpec, spec
from refquant.core.block_formats import BLOCK_FORMATS
from refquant.errors import InputError, UsageError
from refquant.formats import decode, find_format
from refquant.methods.grid.rtn import rtn
from tests.formats.peers import nibbles, peer

MX = {"e2m1": "mxfp4", "e4m3": "mxfp8_e4m3", "e5m2": "mxfp8_e5m2", "e2m3": "mxfp6_e2m3", "e3m2": "mxfp6_e3m2"}


@pytest.mark.parametrize("rule", ["floor", "ceil", "even", "rceil"])
@pytest.mark.parametrize("element", MX)
@pytest.mark.parametrize("which", ["input", "edge", "subnormal"])
def test_mx_is_that_of_torchao(element, rule, which) -> None:
    data, key = peer("torchao_mx"), f"{element}.{rule}.{which}"
    if f"{key}.q" not in data:
        pytest.skip("not recorded")
    how = spec(MX[element] if rule == "floor" else f"{MX[element]}_{rule}")
    assert how.scales is not None
    q = rtn(data[which], replace(how, scales=replace(how.scales, coded_by="normal")))
    codes = nibbles(data[f"{key}.q"], high_first=False) if element == "e2m1" else data[f"{key}.q"]
    same = np.ones(q.scale.shape, dtype=bool)
    if key == "e2m1.rceil.edge":
        # finding: ceil(log2(a / 6)) in float32 loses what a is above 6 * 2^k, unless k is small
        largest = np.abs(data[which].reshape(12, 8, 32)).max(axis=-1)
        same = q.coded.codes == data[f"{key}.scale"]
        assert (np.frexp(largest[~same])[0] == np.frexp(np.nextafter(np.float32(6), np.float32(7)))[0]).all()
        assert (~same).sum() == 6
    np.testing.assert_array_equal(q.coded.codes[same], data[f"{key}.scale"][same])
    if rule == "rceil" and which == "subnormal":  # finding: it multiplies by 1 instead of 2^127 where the stored scale is 2^-127
        least = q.coded.codes == 0
        assert (decode(codes, q.spec.format)[np.repeat(least, 32, axis=1)] == 0).all()
        same &= ~least
    wide = np.repeat(same, 32, axis=1)
    np.testing.assert_array_equal(q.codes[wide], codes[wide])
    if f"{key}.deq" in data:
        assert q.dequantize().tobytes() == data[f"{key}.deq"].tobytes()


def test_the_smallest_mx_scale_of_torchao_is_read_otherwise_than_it_was_written() -> None:
    """Finding: it divides by 2^-126 where it stores 2^-127, so such blocks decode to half of what they were. Ours decode to themselves."""
    x = peer("torchao_mx")["subnormal"]
    q = rtn(x, spec("mxfp8_e4m3"))
    rows = q.coded.codes[:, 0] == 0
    error = np.abs(q.dequantize().astype(np.float64) - x)[rows]
    # Half of the spacing of e4m3 at each number, and of its subnormal numbers, in units of 2^-127, and of float32's own.
    allowed = np.maximum(np.abs(x[rows].astype(np.float64)) / 16, 2.0**-10 * 2.0**-127) + 2.0**-150
    assert (error <= allowed).all()
    theirs = rtn(x, replace(spec("mxfp8_e4m3"), scales=replace(spec("mxfp8_e4m3").scales, coded_by="normal")))
    assert (np.abs(theirs.dequantize().astype(np.float64) - x)[rows] > allowed).any()


@pytest.mark.parametrize(
    ("element", "name"),
    [
        ("fp4_e2m1", "mxfp4"),
        ("fp6_e2m3", "mxfp6_e2m3"),
        ("fp6_e3m2", "mxfp6_e3m2"),
        ("fp8_e4m3", "mxfp8_e4m3"),
        ("fp8_e5m2", "mxfp8_e5m2"),
        ("int8", "mxint8"),
    ],
)
@pytest.mark.parametrize("which", ["input", "edge", "subnormal"])
def test_mx_is_that_of_microxcaling(element, name, which) -> None:
    """Finding: its float32 log2 rounds a maximum (or an element) one ulp below 2^k up to it; all other blocks agree."""
    x = peer("microxcaling_mx")[which]
    q, theirs = rtn(x, spec(name)), peer("microxcaling_mx")[f"{element}.even.{which}"]
    ours = q.dequantize()
    if element == "int8":  # finding: it never uses -2, the lowest of two's complement (the standard leaves that open)
        ours = np.where(q.codes == 128, ours / np.float32(128) * np.float32(127), ours)
    below_power = np.frexp(np.abs(x))[0] == np.float32(1) - np.float32(2.0**-24)
    blocks = x.reshape(len(x), -1, 32)
    touched = np.repeat(below_power.reshape(blocks.shape).any(axis=-1), 32, axis=1)
    np.testing.assert_array_equal(ours[~touched], theirs[~touched])


@pytest.mark.parametrize("which", ["input", "edge"])
@pytest.mark.parametrize(("levels", "name"), [("1level", "nvfp4_1level"), ("2level", "nvfp4_torchao")])
def test_nvfp4_is_that_of_torchao(which, levels, name) -> None:
    data, key = peer("torchao_mx"), f"nvfp4.{levels}.{which}"
    q = rtn(data[which], spec(name))
    np.testing.assert_array_equal(q.coded.codes, data[f"{key}.scale_e4m3"])
    np.testing.assert_array_equal(q.codes, nibbles(data[f"{key}.q"], high_first=False))
    if levels == "2level":
        assert q.coded.outer.tobytes() == data[f"{key}.per_tensor_scale"].tobytes()
        assert q.dequantize().tobytes() == data[f"{key}.deq"].tobytes()


def test_nvfp4_is_that_of_modelopt() -> None:
    data = peer("modelopt_fp4")
    q = rtn(data["input"], spec("nvfp4"))
    np.testing.assert_array_equal(q.coded.codes, data["nvfp4.scale_e4m3"])
    assert q.coded.outer.tobytes() == data["nvfp4.scale2"].tobytes()
    np.testing.assert_array_equal(q.dequantize(), data["nvfp4.deq"])
    theirs = nibbles(data["nvfp4.q"], high_first=False)
    differ = q.codes != theirs
    assert (decode(q.codes, q.spec.format)[differ] == 0).all()  # finding: it writes +0 for -0
    assert (theirs[differ] == 0).all()


def test_mxfp4_of_modelopt_is_rceil_with_ties_towards_zero() -> None:
    data = peer("modelopt_fp4")
    q = rtn(data["input"], replace(spec("mxfp4_rceil"), rounding="half_zero"))
    np.testing.assert_array_equal(q.coded.codes.reshape(-1), data["mxfp4.scale_e8m0"].reshape(-1))
    theirs = nibbles(data["mxfp4.q"], high_first=False)
    fmt = find_format("e2m1")
    np.testing.assert_array_equal(decode(q.codes, fmt), decode(theirs, fmt))
    assert (theirs[data["input"] == 0] == 8).all()  # finding: zeros are -0


@pytest.mark.parametrize("which", ["input", "edge"])
def test_fp4_blocks_are_those_of_compressed_tensors(which) -> None:
    data = peer("layout/compressed_tensors")
    q = rtn(data[which], spec("nvfp4_compressed_tensors"))
    assert q.coded.outer.tobytes() == data[f"nvfp4.{which}.global_scale"].tobytes()
    np.testing.assert_array_equal(decode(q.coded.codes, find_format("e4m3fn")), data[f"nvfp4.{which}.scale"])
    np.testing.assert_array_equal(decode(q.codes, q.spec.format), data[f"nvfp4.{which}.q_value"])
    if which == "input":
        np.testing.assert_array_equal(q.dequantize(), data["nvfp4.input.deq"])
    for name, key in (("mxfp4_even", "mxfp4"), ("mxfp6_e2m3_even", "mxfp6")):
        q = rtn(data[which], spec(name))
        np.testing.assert_array_equal(q.coded.codes, data[f"{key}.{which}.scale_e8m0"])
        np.testing.assert_array_equal(decode(q.codes, q.spec.format), data[f"{key}.{which}.q_value"])


@pytest.mark.parametrize("which", ["input", "edge"])
def test_mxfp8_of_compressed_tensors_leaves_the_top_number_unused(which) -> None:
    """Finding: a maximum of exactly 448 * 2^k gets twice the scale that it needs; everything else is rceil."""
    data = peer("layout/compressed_tensors")
    x, q = data[which], rtn(data[which], spec("mxfp8_e4m3_rceil"))
    largest = np.abs(x.reshape(len(x), -1, 32)).max(axis=-1)
    exact = (np.frexp(largest)[0] == 0.875) & (largest > 0)
    np.testing.assert_array_equal(q.coded.codes + exact, data[f"mxfp8.{which}.scale_e8m0"])
    wide = np.repeat(~exact, 32, axis=1)
    np.testing.assert_array_equal(decode(q.codes, q.spec.format)[wide], data[f"mxfp8.{which}.q_value"][wide])


@pytest.mark.parametrize("name", ["nf4", "fp4"])
def test_4bit_blocks_are_those_of_bitsandbytes(name) -> None:
    data = peer("layout/bitsandbytes")
    q = rtn(data["input"], spec(name))
    theirs = nibbles(data[f"{name}.b64.packed"], high_first=True).reshape(q.shape)
    np.testing.assert_array_equal(q.codes, theirs)
    absmax = data[f"{name}.b64.absmax"].reshape(q.scale.shape)
    np.testing.assert_array_equal(np.where(absmax == 0, 1, absmax), q.scale)  # a tile of zeros has scale 1 here, 0 there
    np.testing.assert_array_equal(q.dequantize(), data[f"{name}.b64.deq"])

    q = rtn(data["input"], spec(f"{name}_double"))
    key = f"{name}.b64.double"
    np.testing.assert_array_equal(q.codes, theirs)
    np.testing.assert_array_equal(q.coded.codes.reshape(-1), data[f"{key}.absmax_q"])
    assert q.coded.outer.tobytes() == data[f"{key}.absmax2"].tobytes()
    assert q.coded.offset.tobytes() == data[f"{key}.offset"].tobytes()
    np.testing.assert_array_equal(q.dequantize(), data[f"{key}.deq"])


def test_a_ragged_flat_tensor_is_that_of_bitsandbytes() -> None:
    data = peer("layout/bitsandbytes")
    x = data["odd.input"]
    q = rtn(x[None], spec("nf4"))
    theirs = nibbles(data["odd.nf4.packed"], high_first=True)[: len(x)]
    np.testing.assert_array_equal(q.codes[0], theirs)
    np.testing.assert_array_equal(q.dequantize()[0], data["odd.nf4.deq"])


@pytest.mark.parametrize(
    ("name", "bits"),
    [
        ("mxfp4", Fraction(17, 4)),
        ("mxfp8_e4m3", Fraction(33, 4)),
        ("mxfp6_e2m3", Fraction(25, 4)),
        ("mxint8", Fraction(33, 4)),
        ("nvfp4", Fraction(9, 2) + Fraction(32, 512 * 4)),
        ("nf4", 4 + Fraction(32, 64)),
        ("nf4_double", 4 + Fraction(8, 64) + Fraction(64, 512 * 4)),
        ("q6_k_grid", Fraction(210 * 8, 256)),  # the bytes of llama.cpp's blocks
        ("q3_k_grid", Fraction(110 * 8, 256)),
    ],
)
def test_bits_are_counted_with_the_scales_of_the_scales(name, bits) -> None:
    q = rtn(np.random.default_rng(0).standard_normal((4, 512)).astype(np.float32), spec(name))
    assert q.bits_per_weight == bits


@pytest.mark.parametrize("name", BLOCK_FORMATS)
def test_every_block_format_survives_its_parts(name) -> None:
    x = np.random.default_rng(1).standard_normal((3, 512)).astype(np.float32)
    how = spec(name)
    assert QuantSpec.from_json(how.to_json()) == how
    q = rtn(x, how)
    again = QTensor.from_parts(q.parts(), QuantSpec.from_json(how.to_json()), q.origin)
    assert again.digest() == q.digest()
    assert again.dequantize().tobytes() == q.dequantize().tobytes()
    # The widest gap between members, and what saturates under MX's floor (2 becomes 1.75): codes and scales belong together.
    members = np.unique(decode(np.array(list(_codes(how))), how.format, np.float64))
    members = members[np.isfinite(members)]
    gap = np.diff(members).max() / members.max()
    largest = np.repeat(np.abs(x.reshape(3, -1, how.tiling.extents[1])).max(axis=-1), how.tiling.extents[1], axis=1)
    assert (np.abs(q.dequantize() - x) <= largest * (gap * 1.01 + 0.13)).all()


def _codes(how):
    fmt = how.format
    return range(int(fmt.lo), int(fmt.hi) + 1) if fmt.name.startswith("int") and "_" not in fmt.name else range(1 << fmt.bits)


def test_blocks_of_another_size_have_a_name() -> None:
    assert spec("nf4@128") == spec("nf4", group_size=128) != spec("nf4")
    assert spec("fp4_double@64") == spec("fp4_double")


def test_damaged_parts_are_refused() -> None:
    q = rtn(np.random.default_rng(1).standard_normal((3, 64)), spec("nvfp4"))
    parts = q.parts()
    with pytest.raises(InputError, match="lacks scale_codes"):
        QTensor.from_parts({"codes": parts["codes"]}, q.spec, q.origin)
    with pytest.raises(InputError, match="outer"):
        QTensor.from_parts(parts | {"scale_outer": np.ones(3, np.float32)}, q.spec, q.origin)
    with pytest.raises(InputError, match="codes of e2m1 lie in"):
        QTensor.from_parts(parts | {"codes": parts["codes"] + np.uint8(9)}, q.spec, q.origin)
    with pytest.raises(InputError, match="not what their codes stand for"):
        QTensor(codes=q.codes, scale=q.scale * 2, zero=None, spec=q.spec, coded=q.coded)


def test_what_block_formats_do_not_take_is_said() -> None:
    for arguments, message in (
        ({"format": "mxfp4", "group_size": 64}, "blocks of 32"),
        ({"format": "mxfp4", "scheme": "absmax"}, "brings its own scheme"),
        ({"format": "e4m3fn", "scheme": "asym_incl0"}, "takes 'absmax'"),
        ({"format": "e4m3fn", "overflow": "wrap"}, "only integers wrap"),
        ({"format": "nvfp4", "mse": True}, "not searched"),
        ({"format": "mxfp4@16"}, "blocks of 32, and no others"),
        ({"format": "nf4@0"}, "1 to 9999999 elements, not '0'"),
        ({"format": "nf4@"}, "not ''"),
        ({"format": "int4", "scheme": "absmax_reciprocal", "rounding": "half_zero"}, "unknown rounding"),
    ):
        with pytest.raises(UsageError, match=message):
            spec(**arguments)
    with pytest.raises(UsageError, match="e4m3fn is not an integer format"):
        _ = spec("e4m3fn").integers
