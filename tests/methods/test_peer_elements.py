"""What other programs make of floats, tables and special numbers, and where they part from us."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from refquant.core import encode as code
from refquant.core import find_scheme, fit_grid, spec
from refquant.errors import InputError
from refquant.formats import Codebook, MemberRounding, decode, encode, find_format
from refquant.methods.grid.rtn import rtn
from refquant.numerics.arrays import Array
from tests.formats.peers import nibbles
from tests.methods.test_rtn_peers import assert_equal_grid, cases, differing_rows, peer

EPSILON = np.float32(2.0**-23)


def nearest(x: Array, name: str) -> Array:
    fmt = find_format(name)
    return decode(encode(x, fmt), fmt)


def grouped(case: str) -> tuple[Array, Array, Array]:
    data, group = peer("nncf"), int(case.split(".g")[1])
    x = data["input"].reshape(22, -1, 128 if group < 0 else group)
    return x, data[f"{case}.scale"].reshape(22, -1, 1), data[f"{case}.q"].reshape(x.shape)


@pytest.mark.parametrize("case", ["fp4.g128", "fp4.g32", "nf4.g128", "nf4.g32", "fp8_e4m3.g-1"])
def test_nncf_floats(case: str) -> None:
    """Scales are at least 2^-23. Finding: what becomes 8 bits goes through float16, and rounds twice."""
    x, scale, numbers = grouped(case)
    name = {"fp4": "e2m1", "nf4": "nf4", "fp8_e4m3": "e4m3fn"}[case.split(".")[0]]
    ours = rtn(peer("nncf")["input"], spec(find_format(name), group_size=x.shape[2])).scale
    assert np.array_equal(np.maximum(np.where(np.abs(x).max(axis=2) == 0, 0, ours), EPSILON), scale[..., 0])
    steps = x / scale
    twice = name == "e4m3fn"
    assert np.array_equal(nearest(steps.astype(np.float16) if twice else steps, name), numbers)
    assert (nearest(steps, name) != numbers).any() == twice


@pytest.mark.parametrize("case", ["mxfp4.g32", "mxfp8_e4m3.g32"])
def test_nncf_microscaling(case: str) -> None:
    """The scale rule is ours called ``rceil``, with scales of at least 2^-23."""
    x, scale, numbers = grouped(case)
    q = rtn(peer("nncf")["input"], spec(f"{case.removesuffix('.g32')}_rceil"))
    assert np.array_equal(np.maximum(q.scale, EPSILON), scale[..., 0])
    element = "e2m1" if "fp4" in case else "e4m3fn"
    steps = x / scale
    assert np.array_equal(nearest(steps if element == "e2m1" else steps.astype(np.float16), element), numbers)


@pytest.mark.parametrize("case", ["nvfp4.g128", "nvfp4.g32"])
def test_nncf_nvfp4_divides_by_scales_that_are_not_rounded(case: str) -> None:
    """Finding: elements are divided by the scale before it became e4m3, and read with the one after."""
    x, scale, numbers = grouped(case)
    whole = np.abs(x).max() / np.float32(448 * 6)
    raw = np.abs(x).max(axis=2, keepdims=True) / np.float32(6)
    assert np.array_equal(nearest(raw / whole, "e4m3fn"), scale)
    read = scale * whole
    assert (nearest(np.divide(x, read, out=np.zeros_like(x), where=read > 0), "e2m1") != numbers).mean() > 0.01
    kept = scale[..., 0] > 0
    assert np.array_equal(nearest(x / np.where(raw == 0, 1, raw), "e2m1")[kept], numbers[kept])


@pytest.mark.parametrize(
    ("case", "name"), [("mxfp4", "mxfp4"), ("mxfp4_rceil", "mxfp4_rceil"), ("mxfp8", "mxfp8_e4m3"), ("nvfp4", "nvfp4")]
)
def test_auto_round_blocks(case: str, name: str) -> None:
    """Its exponents come from a log2 in float32 (row 12 holds floats just below powers of two); its NVFP4 divides in another order."""
    data = peer("autoround")
    q = rtn(data["input"], spec(name))
    differing = differing_rows(q.dequantize(), data[f"{case}.deq"])
    assert differing == ([9] if case == "nvfp4" else [12])
    block = q.spec.tiling.extents[1]
    largest = np.abs(data["input"].reshape(22, -1, block)).max(axis=2)
    stored = data[f"{case}.scale"].reshape(largest.shape)
    if case == "nvfp4":  # members of e4m3; what is below them is 0 there, and the smallest here
        assert q.coded is not None
        lost = largest < 1e-11
        assert (stored[lost] == 0).all()
        assert np.array_equal(stored[~lost], decode(q.coded.codes, find_format("e4m3fn"))[~lost])
    else:  # exponents; blocks of zeros have that of the largest element, less one binade
        ours = np.where(largest == 0, {"mxfp4": -1, "mxfp4_rceil": 1, "mxfp8": -7}[case], np.log2(q.scale))
        apart = ours != stored
        assert (np.frexp(largest[apart])[0] == np.float32(1) - np.float32(2.0**-24)).all()
        assert apart.sum() == (case != "mxfp4_rceil")


@pytest.mark.parametrize(
    ("case", "members"),
    [("fp4_e2m1_bnb", (0, 0.0625, 2, 3, 4, 6, 8, 12)), ("nf4", None)],
)
def test_neural_compressor_tables(case: str, members: tuple[float, ...] | None) -> None:
    data = peer("neural_compressor")
    if members is None:
        q = rtn(data["input"], spec("nf4", group_size=32))
    else:  # bitsandbytes' FP4 times 12: the scale is absmax / 12 and ties go down
        values = tuple(sorted({float(sign * value) for value in members for sign in (1, -1)}))
        book = Codebook(name="nc", bits=4, table=values, ties=MemberRounding.HALF_DOWN)
        q = rtn(data["input"], spec(book, group_size=32))
    assert np.array_equal(q.dequantize(), data[f"{case}.g32.deq"])


def test_neural_compressor_calls_e2m1_what_is_none() -> None:
    """Finding: its smallest number is 0.0625, where e2m1 has 0.5. A table of sixths, with middles in float32, gives its bytes."""
    data, magnitudes = peer("neural_compressor"), (0, 0.0625, 1, 1.5, 2, 3, 4, 6)
    table = tuple(sorted({float(sign * np.float32(value / 6)) for value in magnitudes for sign in (1, -1)}))
    book = Codebook(name="nc", bits=4, table=table, ties=MemberRounding.HALF_DOWN, midpoints="float32")
    q = rtn(data["input"], spec(book, group_size=32, scheme="absmax_reciprocal"))
    assert np.array_equal(q.dequantize(), data["fp4_e2m1.g32.deq"])
    assert differing_rows(rtn(data["input"], spec(find_format("e2m1"), group_size=32)).dequantize(), data["fp4_e2m1.g32.deq"])


@pytest.mark.parametrize("granularity", ["tensor", "channel"])
@pytest.mark.parametrize("narrow", [0, 1])
@pytest.mark.parametrize("bits", [4, 8])
def test_modelopt_integers_round_twice(bits: int, narrow: int, granularity: str) -> None:
    """It multiplies with ``hi / absmax`` and divides by it: our numbers to one rounding, codes apart only on ties; zero if tiny."""
    data = peer("modelopt")
    x, theirs = data["input"], data[f"int{bits}.narrow{narrow}.{granularity}"]
    q = rtn(x, spec(f"int{bits}", scheme="sym_narrow" if narrow else "sym_full", granularity=granularity))
    top = np.abs(x).max(axis=1, keepdims=True) if granularity == "channel" else np.abs(x).max(keepdims=True)
    multiplier = np.float32(q.spec.format.hi) / np.where(top == 0, np.float32(1), top)
    codes = np.clip(np.rint(x * multiplier), q.spec.format.lo, q.spec.format.hi)
    assert np.array_equal(np.where(top <= 2.0**-24, 0, codes / multiplier), theirs)
    usual = np.broadcast_to(top > 1e-4, x.shape)
    assert (q.codes != codes)[usual].mean() < 0.01
    same = usual & (q.codes == codes)
    np.testing.assert_allclose(q.dequantize()[same], theirs[same], rtol=3e-7)


def test_modelopt_packs_offset_nibbles() -> None:
    """int4: codes plus 8, the even column in the high half; its scale is a multiplier, and infinite for zeros."""
    data, scale = peer("modelopt"), peer("modelopt_nan_cases")["int4.g128.scale"]
    assert np.isinf(scale[0, 0])
    codes = np.clip(np.rint(data["input"][1:] * scale[1:]), -8, 7).astype(np.int64) + 8
    assert np.array_equal((codes[:, 0::2] << 4) | codes[:, 1::2], data["int4.g128.q"][1:])
    top = np.abs(data["input"][1:]).max(axis=1, keepdims=True)
    assert np.array_equal(np.float32(1) / top * np.float32(7), scale[1:])


def test_quanto_rows() -> None:
    data, lost = peer("quanto"), peer("quanto_nan_cases")
    q = rtn(data["input"], spec("int8", scheme=replace(find_scheme("sym_narrow"), empty="unit_scale")))
    assert differing_rows(q.scale, data["int8.scale"]) == [0]
    assert data["int8.scale"][0] == 0  # finding: a row of zeros has scale 0; ours is 1, the numbers are the same
    assert np.array_equal(q.codes, data["int8.q"])
    assert np.array_equal(q.dequantize(), data["int8.deq"])
    for name, element in (("e4m3", "e4m3fn"), ("e5m2", "e5m2")):
        q = rtn(data["input"], spec(find_format(element)))
        assert differing_rows(q.scale, data[f"{name}.scale"]) == [0]
        assert np.isnan(lost[f"{name}.deq"][0]).all()  # finding: and in float8, 0 / 0
        assert np.array_equal(q.codes[1:] & 127, data[f"{name}.q"][1:] & 127)
        assert np.array_equal(q.dequantize()[1:], lost[f"{name}.deq"][1:])


@pytest.mark.parametrize("bits", [4, 6, 8])
def test_duquant_symmetric(bits: int) -> None:
    data, case = peer("duquant_symmetric"), f"fq.b{bits}.sym1"
    q = rtn(data["x"], spec(f"int{bits}", scheme="duquant_symmetric"))
    assert_equal_grid(q.grid, data[f"{case}.scale"], data[f"{case}.zero"])
    assert np.array_equal(q.dequantize(), data[f"{case}.deq"])


def test_dynamic_quantize_linear() -> None:
    data = peer("onnxruntime_floats")
    q = rtn(data["input"], spec("uint8", scheme="asym_incl0"))
    # A row of zeros: scale 1 and zero point 0 there, [-1, 1] here; the numbers are the same.
    assert differing_rows(q.scale, data["dynamic.scale"][:, None]) == [0]
    assert differing_rows(q.zero, data["dynamic.zero"][:, None]) == [0]
    assert differing_rows(q.codes, data["dynamic.q"]) == [0]


@pytest.mark.parametrize("name", ["e4m3fn", "e4m3fnuz", "e5m2", "e5m2fnuz"])
def test_onnxruntime_float8(name: str) -> None:
    data, case = peer("onnxruntime_floats"), f"perchannel.float8{name}"
    assert np.array_equal(nearest(data["input"] / data[f"{case}.scale"][:, None], name), data[f"{case}.q"])


@pytest.mark.parametrize("name", ["e4m3fn", "e5m2"])
def test_onnxruntime_float8_saturates_infinities(name: str) -> None:
    """NaN stays NaN, and what is too large becomes the largest number."""
    data = peer("onnxruntime_float8_nonfinite")
    fmt, case = find_format(name), f"nf.float8{name}"
    with np.errstate(over="ignore"):
        steps = data["input"] / data[f"{case}.scale"]
    assert np.isinf(steps).any()
    np.testing.assert_array_equal(decode(encode(steps, fmt, overflow="saturate", nan="nan"), fmt), data[f"{case}.q"])


def test_float4_of_the_onnx_evaluator() -> None:
    """Rows whose scale it does not store for us are those that became 0 (tiny numbers: its scales have a floor)."""
    data = peer("onnxruntime_floats")
    numbers, read = data["perchannel.float4e2m1.ref_q"], data["perchannel.float4e2m1.ref_deq"]
    kept = numbers.any(axis=1)
    assert np.flatnonzero(~kept).tolist() == [0, 7, 15]
    scale = np.abs(data["input"][kept]).max(axis=1, keepdims=True) / np.float32(6)
    ours = nearest(data["input"][kept] / scale, "e2m1")
    assert np.array_equal(ours, numbers[kept])
    assert np.array_equal(ours * scale, read[kept])


def test_infinities_of_torch_saturate_and_nan_takes_an_end() -> None:
    data = peer("torch_native_nonfinite")
    x = data["input"]
    s = spec("int8", scheme=replace(find_scheme("torch_affine"), zero="integer_first"), granularity="tensor", nan="zero")
    ends = {"quint8": (0, 255), "qint8": (-128, 127)}
    for name, (lo, hi) in ends.items():
        q = replace(s, scheme=replace(s.scheme, signed=lo < 0), format=find_format("uint8" if lo == 0 else "int8"))
        grid = replace(fit_grid(np.ones((1, 1), np.float32), q), scale=np.float32([[0.05]]), zero=np.array([[3]], q.format.dtype))
        numbers = ~np.isnan(x)
        assert np.array_equal(code(x, grid, q)[numbers], data[f"qpt.{name}"][numbers])
        assert (data[f"qpt.{name}"][~numbers] == hi).all()  # finding: NaN is the highest code; fake_quantize makes it the lowest
    assert len(np.unique(data["fake"][np.isnan(x)])) == 1
    assert data["fake"][np.isnan(x)][0] == data["fake"].min()


@pytest.mark.parametrize("case", cases("mx_torchao_nonfinite", ".scale"))
def test_blocks_with_nan_or_infinities_in_torchao(case: str) -> None:
    """NaN makes the scale NaN (255); an infinity is taken for the largest power. We refuse both; their neighbours are untouched."""
    data = peer("mx_torchao_nonfinite")
    element, rule = case.split(".")
    name = {"e2m1": "mxfp4", "e2m3": "mxfp6_e2m3", "e3m2": "mxfp6_e3m2", "e4m3": "mxfp8_e4m3", "e5m2": "mxfp8_e5m2"}[element]
    s, x, scale = spec(name if rule == "floor" else f"{name}_{rule}"), data["input"].reshape(-1, 32), data[f"{case}.scale"].ravel()
    good = np.isfinite(x).all(axis=1)
    q = rtn(x[good], s)
    assert q.coded is not None
    assert np.array_equal(q.coded.codes.ravel(), scale[good])
    raw = data[f"{case}.q"]
    theirs = nibbles(raw, high_first=False).reshape(-1, 32) if element == "e2m1" else raw.reshape(-1, 32)
    assert np.array_equal(q.codes, theirs[good])
    infinite = np.isinf(x) & ~np.isnan(x).any(axis=1, keepdims=True)
    ends = encode(np.array([-1e30, 1e30], dtype=np.float32), q.spec.format)
    assert (theirs[infinite] == ends[(x[infinite] > 0).astype(int)]).all()
    assert (decode(theirs, q.spec.format)[infinite.any(axis=1)[:, None] & ~infinite] == 0).all()
    assert ((scale == 255) == np.isnan(x).any(axis=1)).all()
    with pytest.raises(InputError, match=r"NaN|infinity"):
        rtn(x, s)


@pytest.mark.parametrize("element", ["fp8_e4m3", "fp8_e5m2", "fp6_e2m3", "fp6_e3m2", "fp4_e2m1"])
def test_blocks_with_nan_or_infinities_in_microxcaling(element: str) -> None:
    """All of such a block is NaN there."""
    data = peer("mx_microxcaling_nonfinite")
    x, theirs = data["input"].reshape(-1, 32), data[f"{element}.even"].reshape(-1, 32)
    good, name = np.isfinite(x).all(axis=1), "mxfp4" if element.startswith("fp4") else f"mx{element}"
    assert np.array_equal(rtn(x[good], spec(name)).dequantize(), theirs[good])
    assert np.isnan(theirs[~good]).all()
