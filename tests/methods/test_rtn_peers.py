"""RTN against what other people's code answered, byte for byte (a zero's sign apart: ours is always +0).

Where a peer differs on purpose or by fault, the test says which inputs differ and that no others do.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file

from refquant.core import Grid, QuantSpec, Scheme, Tiling, decode, encode, fake_quantize, find_scheme, fit_grid, spec
from refquant.errors import InputError
from refquant.methods.grid.rtn import rtn
from refquant.numerics.arrays import Array

DATA = Path(__file__).parents[1] / "data" / "quant"


def peer(name: str) -> dict[str, Array]:
    return load_file(DATA / f"{name}.safetensors")


def cases(name: str, suffix: str, start: str = "") -> list[str]:
    found = sorted(key.removesuffix(suffix) for key in peer(name) if key.endswith(suffix) and key.startswith(start))
    assert found, f"no tensors ending in {suffix} in {name}"
    return found


def differing_rows(ours: Array, theirs: Array) -> list[int]:
    return np.flatnonzero((ours.reshape(len(ours), -1) != theirs.reshape(len(ours), -1)).any(axis=1)).tolist()


def assert_equal_grid(grid: Grid, scale: Array, zero: Array | None) -> None:
    assert np.array_equal(grid.scale.ravel(), scale.ravel())
    if grid.zero is not None:
        assert zero is not None
        assert np.array_equal(grid.zero.ravel(), zero.ravel())


@pytest.mark.parametrize("case", cases("gptq_rtn", ".Q"))
def test_gptq_quantizer(case: str) -> None:
    data = peer("gptq_rtn")
    _, bits, symmetric, mse = case.split(".")
    scheme = "sym_gptq_half_range" if symmetric == "sym1" else "asym_incl0"
    s = spec(f"int{bits[1:]}", scheme=scheme, mse=mse == "mse1")
    q = rtn(data["W"], s)
    assert_equal_grid(q.grid, data[f"{case}.scale"], data[f"{case}.zero"])
    assert np.array_equal(q.dequantize(), data[f"{case}.Q"])


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_gptq_symmetric_rows_without_negatives_are_where_we_differ(bits: int) -> None:
    # The authors' code keeps the lower end at 0 for such rows and halves their scale; sym_gptq takes the whole range.
    data = peer("gptq_rtn")
    q = rtn(data["W"], spec(f"int{bits}", scheme="sym_gptq"))
    without_negatives = np.flatnonzero((data["W"].min(axis=1) >= 0) & (data["W"].max(axis=1) > 0)).tolist()
    assert differing_rows(q.scale, data[f"rtn.b{bits}.sym1.mse0.scale"]) == without_negatives != []
    assert np.array_equal(q.scale[without_negatives, 0], data[f"rtn.b{bits}.sym1.mse0.scale"][without_negatives] * 2)


@pytest.mark.parametrize("case", cases("llm_awq_rtn", ".deq"))
def test_llm_awq(case: str) -> None:
    data = peer("llm_awq_rtn")
    _, bits, group = case.split(".")
    q = rtn(data["rtn.input"], spec(f"int{bits[1:]}", group_size=int(group[1:]), scheme="asym_minmax"))
    assert_equal_grid(q.grid, data[f"{case}.scale"], data[f"{case}.zero"])
    assert np.array_equal(q.dequantize(), data[f"{case}.deq"])


@pytest.mark.parametrize("case", cases("quarot_fake_quant", ".deq", "wq."))
def test_quarot_weights(case: str) -> None:
    data = peer("quarot_fake_quant")
    x = data["q.input"]
    _, bits, symmetric, mse = case.split(".")
    q = rtn(x, spec(f"int{bits[1:]}", scheme="sym_full" if symmetric == "sym1" else "asym_incl0", mse=mse == "mse1"))
    expected: list[int] = []
    if (symmetric, mse) == ("sym0", "mse0"):
        # QuaRot floors the width of an asymmetric range at 1e-5 unless it searches; asym_incl0, as GPTQ, does not.
        width = np.maximum(x.max(axis=1), 0) - np.minimum(x.min(axis=1), 0)
        expected = np.flatnonzero((width > 0) & (width < 1e-5)).tolist()
        assert expected == [7, 15]
    assert differing_rows(q.scale, data[f"{case}.scale"]) == expected
    assert differing_rows(q.dequantize(), data[f"{case}.deq"]) == expected
    if q.zero is None:
        assert not data[f"{case}.zero"].any()
    else:
        assert differing_rows(q.zero, data[f"{case}.zero"]) == expected


@pytest.mark.parametrize("case", cases("quarot_fake_quant", ".deq", "aq."))
def test_quarot_activations(case: str) -> None:
    data = peer("quarot_fake_quant")
    x, theirs = data["q.input"], data[f"{case}.deq"]
    _, bits, symmetric, group, ratio, *rest = case.split(".")
    s = spec(
        f"int{bits[1:]}",
        scheme="sym_full" if symmetric == "sym1" else "asym_incl0",
        empty="unit_scale" if symmetric == "sym1" else None,
        group_size=int(group[1:]),
        range_ratio=float(".".join([ratio.removeprefix("clip"), *rest])),
    )
    ours = fake_quantize(x, fit_grid(x, s), s)
    expected: list[int] = []
    if symmetric == "sym0" and group != "g-1":
        # Its grouped asymmetric ranges are not widened to hold 0: other numbers where a group has one sign, NaN where it is constant.
        groups = x.reshape(len(x), -1, int(group[1:]))
        expected = np.flatnonzero(((groups.min(axis=2) > 0) | (groups.max(axis=2) < 0)).any(axis=1)).tolist()
        assert np.isnan(theirs[[1, 2]]).all()
        assert np.isfinite(ours).all()
    assert differing_rows(ours, theirs) == expected


@pytest.mark.parametrize("scheme", ["sym_narrow", "sym_full"])
@pytest.mark.parametrize("case", cases("smoothquant_fake_quant", "", "fq.quantize"))
def test_smoothquant(case: str, scheme: str) -> None:
    # It does not clip; since |x| never exceeds its own maximum, neither the narrow nor the full codes ever clip.
    data = peer("smoothquant_fake_quant")
    function, bits = case.removeprefix("fq.").split(".")
    s = spec(f"int{bits[1:]}", scheme=scheme, granularity="tensor" if "per_tensor" in function else "channel")
    assert np.array_equal(rtn(data["fq.input"], s).dequantize(), data[case])


@pytest.mark.parametrize("case", cases("duquant_fake_quant", ".deq"))
def test_duquant(case: str) -> None:
    # It passes round(x / s) through float16, exact to 2048 steps; these ordinary activations stay far below. Its symmetric mode
    # (zero 2^(b-1) - 1, unsigned codes) is no scheme of ours.
    data = peer("duquant_fake_quant")
    q = rtn(data["x"], spec(f"int{case.split('.')[1][1:]}", scheme="asym_omni"))
    assert_equal_grid(q.grid, data[f"{case}.scale"], data[f"{case}.zero"])
    assert np.array_equal(q.dequantize(), data[f"{case}.deq"])


ONNX = replace(find_scheme("asym_incl0"), name="onnx_signed", signed=True)
ONNX_TILINGS = {"perchannel": Tiling.channel(), "pertensor": Tiling.tensor(), "block32": Tiling.group(32), "block128": Tiling.group(128)}


def given_grid(data: dict[str, Array], case: str, s: QuantSpec, shape: tuple[int, ...]) -> Grid:
    grid_shape = s.tiling.grid_shape(shape)
    zero = None if s.scheme.zero == "none" else data[f"{case}.zero"].reshape(grid_shape)
    if zero is not None and s.scheme.zero == "real":
        zero = zero.astype(np.float32)
    return Grid(scale=data[f"{case}.scale"].reshape(grid_shape), zero=zero)


@pytest.mark.parametrize(
    ("file", "case"),
    [(file, c) for file in ("onnxruntime_integer", "onnxruntime_blocks") for c in cases(file, ".q") if not c.startswith("ties")],
)
def test_onnxruntime(file: str, case: str) -> None:
    data = peer(file)
    granularity, name = case.split(".")
    s = spec(name, scheme="asym_incl0" if name.startswith("u") else ONNX, tiling=ONNX_TILINGS[granularity])
    x = data["input"][8:20] if granularity == "pertensor" else data["input"]
    grid = given_grid(data, case, s, x.shape)
    assert np.array_equal(encode(x, grid, s), data[f"{case}.q"])
    if f"{case}.deq" in data:
        assert np.array_equal(decode(data[f"{case}.q"], grid, s), data[f"{case}.deq"])


@pytest.mark.parametrize("case", cases("onnxruntime_integer", ".q", "ties"))
def test_onnxruntime_divides_at_exact_ties(case: str) -> None:
    data = peer("onnxruntime_integer")
    s = spec("int8", scheme=ONNX, tiling=Tiling.tensor())
    x = data[case.replace(".int8", ".x")].reshape(1, -1)
    grid = given_grid(data, case, s, x.shape)
    assert np.array_equal(encode(x, grid, s), data[f"{case}.q"])


@pytest.mark.parametrize("name", ["int4", "int8", "uint8"])
def test_onnxruntime_infinities(name: str) -> None:
    data = peer("onnxruntime_nonfinite")
    s = spec(name, scheme="asym_incl0" if name.startswith("u") else ONNX, tiling=Tiling.tensor())
    x, theirs = data["input"], data[f"nf.{name}.q"]
    grid = given_grid(data, f"nf.{name}", s, x.shape)
    numbers = ~np.isnan(x)
    assert np.isinf(x).any()
    assert np.array_equal(encode(x, grid, replace(s, nan="zero"))[numbers], theirs[numbers])
    # NaN becomes the lowest code there; we refuse it, or count it as the number 0.
    assert (theirs[~numbers] == s.format.lo).all()
    assert (encode(x, grid, replace(s, nan="zero"))[~numbers] == data[f"nf.{name}.zero"][0]).all()
    with pytest.raises(InputError, match="NaN at index"):
        encode(x, grid, s)


def torch_scheme(kind: str) -> Scheme:
    base = Scheme(name="torch", range="absmax", steps="levels", zero="none", empty="unit_scale", signed=True, reciprocal=True)
    if kind == "qint8.symmetric":
        return base
    range_ = "minmax_with_zero" if kind == "quint8.affine" else "absmax"
    # quantize_per_tensor and _per_channel add the zero point before rounding: round(x * (1/s) + z), our real zero point.
    return replace(base, range=range_, zero="real", signed=False)


def assert_differs_only_by_fusing(ours: Array, theirs: Array, x: Array, scale: np.float32, zero: int) -> None:
    """torch's per-tensor kernel computes x * (1/s) + z with one rounding (FMA), ours with two; float64 holds the product exactly."""
    reciprocal = np.float32(1) / scale
    fused = (x.astype(np.float64) * np.float64(reciprocal) + zero).astype(np.float32)
    assert np.array_equal(np.clip(np.rint(fused), 0, 255), theirs)
    places = ours != theirs
    assert (fused[places] != (x * reciprocal + np.float32(zero))[places]).all()
    assert places.mean() < 0.01


@pytest.mark.parametrize("granularity", ["pc", "pt"])
@pytest.mark.parametrize("kind", ["qint8.symmetric", "quint8.affine", "quint8.symmetric"])
def test_torch_quantize(kind: str, granularity: str) -> None:
    data = peer("torch_quantize")
    case = f"{granularity}.{kind}"
    s = spec("int8", scheme=torch_scheme(kind), granularity="channel" if granularity == "pc" else "tensor")
    grid = given_grid(data, case, s, data["input"].shape)
    codes = encode(data["input"], grid, s)
    if granularity == "pt" and kind.startswith("quint8"):
        assert_differs_only_by_fusing(codes, data[f"{case}.q"], data["input"], data[f"{case}.scale"][0], data[f"{case}.zero"][0])
    else:
        assert np.array_equal(codes, data[f"{case}.q"])
    assert np.array_equal(decode(data[f"{case}.q"], grid, s), data[f"{case}.deq"])


@pytest.mark.parametrize("kind", ["qint8.symmetric", "quint8.affine", "quint8.symmetric"])
def test_torch_observers(kind: str) -> None:
    # Scales are at least 2^-23 there: rows 0 (zeros), 7 and 15 (tiny).
    data = peer("torch_quantize")
    zero = {"qint8.symmetric": "none", "quint8.affine": "integer", "quint8.symmetric": "midpoint"}[kind]
    s = spec("int8", scheme=replace(torch_scheme(kind), zero=zero))
    grid, tiny = fit_grid(data["input"], s), [0, 7, 15]
    assert differing_rows(grid.scale, data[f"pc.{kind}.scale"]) == tiny
    assert (data[f"pc.{kind}.scale"][tiny] == 2.0**-23).all()
    if grid.zero is not None:
        assert set(differing_rows(grid.zero, data[f"pc.{kind}.zero"])) <= set(tiny)


@pytest.mark.parametrize("i", range(9))
def test_torch_multiplies_by_the_reciprocal_at_exact_ties(i: int) -> None:
    data = peer("torch_quantize")
    x, scale = data[f"ties.{i}.x"].reshape(1, -1), data["ties.scales"][i].reshape(1, 1)
    signed = torch_scheme("qint8.symmetric")
    unsigned = replace(torch_scheme("quint8.affine"), zero="integer")
    adding_first = replace(unsigned, zero="real")

    def grid(zero: NDArray[np.generic] | None) -> Grid:
        return Grid(scale=scale, zero=zero)

    s = spec("int8", scheme=signed, granularity="tensor")
    assert np.array_equal(encode(x, grid(None), s)[0], data[f"ties.{i}.qint8"])
    divided = encode(x, grid(None), spec("int8", scheme=replace(signed, reciprocal=False), granularity="tensor"))
    assert (i in (3, 5, 6, 7)) == (not np.array_equal(divided[0], data[f"ties.{i}.qint8"])), "dividing shows for these scales only"
    s = spec("int8", scheme=adding_first, granularity="tensor")
    codes = encode(x, grid(np.array([[3.0]], dtype=np.float32)), s)[0]
    assert_differs_only_by_fusing(codes, data[f"ties.{i}.quint8_zp3"], x[0], scale[0, 0], 3)
    # fake_quantize, unlike quantize_per_tensor, rounds before it adds the zero point.
    s = spec("int4", scheme=signed, granularity="tensor")
    assert np.array_equal(fake_quantize(x, grid(None), s)[0], data[f"ties.{i}.fake_-8_7"])
    s = spec("int4", scheme=unsigned, granularity="tensor")
    assert np.array_equal(fake_quantize(x, grid(np.array([[7]])), s)[0], data[f"ties.{i}.fake_0_15_zp7"])


@pytest.mark.parametrize("case", cases("../layout/compressed_tensors", ".input.q"))
def test_compressed_tensors(case: str) -> None:
    data = peer("../layout/compressed_tensors")
    name, symmetry, granularity = case.split(".")
    bits = int(name.removeprefix("int"))
    group = 128 if granularity == "g128" else None
    # absmax / 7.5 with signed codes; asymmetric codes are ours less 2^(b-1). The all-zero row has scale 2^-23 there.
    symmetric = Scheme(name="compressed_tensors", range="absmax", steps="levels", zero="none", empty="unit_scale", signed=True)
    s = spec(name, group_size=group, scheme=symmetric if symmetry == "sym" else "asym_incl0")
    grid = fit_grid(data["input"], s)
    assert differing_rows(grid.scale, data[f"{case}.input.scale"]) == [0]
    middle = 0 if symmetry == "sym" else 1 << (bits - 1)
    if grid.zero is not None:
        assert differing_rows(grid.zero.astype(int) - middle, data[f"{case}.input.zero"]) == [0]
        # It adds the zero point before rounding, which moves exact ties (row 4): our real zero point.
        s = replace(s, scheme=replace(s.scheme, zero="real"))
        grid = Grid(scale=data[f"{case}.input.scale"], zero=data[f"{case}.input.zero"].astype(np.float32) + np.float32(middle))
    codes = encode(data["input"], grid, s).astype(int) - middle
    assert np.array_equal(codes, data[f"{case}.input.q"])
