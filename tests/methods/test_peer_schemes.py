"""Each scheme of a single program against what that program answered, byte for byte (a zero's sign apart: ours is always +0)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from refquant.core import Grid, QTensor, decode, encode, find_scheme, fit_grid, spec
from refquant.core.scheme import PEER_SCHEMES
from refquant.methods.grid.rtn import rtn
from tests.methods.test_rtn_peers import assert_equal_grid, cases, differing_rows, peer

TORCHAO = {
    "symmetric": {"int": "torchao_symmetric", "uint": "torchao_midpoint"},
    "asymmetric": {"int": "torchao_asymmetric", "uint": replace(find_scheme("torchao_asymmetric"), signed=False)},
    "symmetric_no_clipping_err": {
        "int": "torchao_no_clipping",
        "uint": replace(find_scheme("torchao_no_clipping"), signed=False, zero="midpoint"),
    },
}


def group_of(case: str) -> int:
    """The group of a name such as ``asym.b4.g32.f16``; -1 means whole rows."""
    return next(int(part[1:]) for part in case.split(".") if part[0] == "g" and part[1:].lstrip("-").isdigit())


@pytest.mark.parametrize("case", [c for c in cases("torchao_int", ".q") if not c.startswith("tinygemm")])
def test_torchao(case: str) -> None:
    data = peer("torchao_int")
    kind, name, _ = case.split(".")
    q = rtn(data["input"], spec(name, group_size=group_of(case), scheme=TORCHAO[kind][name.rstrip("0123456789")]))
    assert_equal_grid(q.grid, data[f"{case}.scale"], data[f"{case}.zero"])
    assert np.array_equal(q.codes, data[f"{case}.q"])
    if f"{case}.deq" in data:
        assert np.array_equal(q.dequantize(), data[f"{case}.deq"])


@pytest.mark.parametrize("case", cases("brevitas", ".deq"))
def test_brevitas(case: str) -> None:
    data = peer("brevitas")
    kind, bits, narrow = case.split(".")
    schemes = {"int0": "brevitas_full", "int1": "brevitas_narrow", "uint0": "brevitas_asymmetric", "uint1": "brevitas_asymmetric_narrow"}
    scheme = schemes[kind.split("_")[0] + narrow[-1]]
    q = rtn(data["input"], spec(f"int{bits[1:]}", scheme=scheme, granularity="tensor" if "tensor" in kind else "channel"))
    assert_equal_grid(q.grid, data[f"{case}.scale"], data[f"{case}.zero"])
    assert np.array_equal(q.dequantize(), data[f"{case}.deq"])


@pytest.mark.parametrize("case", [c for c in cases("autoround", ".deq") if c.startswith(("sym", "asym"))])
def test_auto_round(case: str) -> None:
    data = peer("autoround")
    kind, bits, _, stored = case.split(".")
    scheme = {"sym": "auto_round_symmetric", "asym": "auto_round_asymmetric", "sym_gptq": "auto_round_gptq"}[kind]
    s = spec(f"int{bits[1:]}", group_size=group_of(case), scheme=scheme, scale_format="float16" if stored == "f16" else None)
    q = rtn(data["input"], s)
    assert np.array_equal(q.scale.ravel(), data[f"{case}.scale"].ravel())
    assert q.zero is not None
    assert np.array_equal(q.zero.ravel(), np.broadcast_to(data[f"{case}.zero"].ravel(), q.zero.size))
    assert np.array_equal(q.dequantize(), data[f"{case}.deq"])
    assert (q.scale < 0).any() == (kind == "sym")


@pytest.mark.parametrize("case", [c for c in cases("nncf", ".q") if c.startswith("int")])
def test_nncf_integers(case: str) -> None:
    data = peer("nncf")
    scheme = "nncf_symmetric" if "_sym" in case else "nncf_asymmetric"
    q = rtn(data["input"], spec(f"int{case[3]}", group_size=group_of(case), scheme=scheme))
    assert_equal_grid(q.grid, data[f"{case}.scale"], data.get(f"{case}.zero"))
    assert np.array_equal(q.codes.ravel(), data[f"{case}.q"].ravel())


@pytest.mark.parametrize("case", [c for c in cases("neural_compressor", ".q") if c.startswith(("sym", "asym"))])
def test_neural_compressor(case: str) -> None:
    data = peer("neural_compressor")
    kind, bits, _, full = case.split(".")
    scheme = "asym_incl0" if kind == "asym" else f"neural_compressor_{'full_range' if full == 'full1' else 'symmetric'}"
    q = rtn(data["input"], spec(f"int{bits[1:]}", group_size=group_of(case), scheme=scheme))
    assert_equal_grid(q.grid, data[f"{case}.scale"], data.get(f"{case}.zero"))
    assert np.array_equal(q.codes, data[f"{case}.q"])


@pytest.mark.parametrize("case", cases("../layout/compressed_tensors", ".input.q"))
def test_compressed_tensors(case: str) -> None:
    data = peer("../layout/compressed_tensors")
    name, symmetry, granularity = case.split(".")
    scheme = f"compressed_tensors_{symmetry}metric"
    q = rtn(data["input"], spec(name, group_size=128 if granularity == "g128" else None, scheme=scheme))
    assert_equal_grid(q.grid, data[f"{case}.input.scale"], data[f"{case}.input.zero"])
    assert np.array_equal(q.codes, data[f"{case}.input.q"])
    if f"{case}.input.deq" in data:
        assert np.array_equal(q.dequantize(), data[f"{case}.input.deq"])


@pytest.mark.parametrize("kind", ["qint8.symmetric", "quint8.affine"])
@pytest.mark.parametrize("granularity", ["pc", "pt"])
def test_torch_observers(kind: str, granularity: str) -> None:
    data, case = peer("torch_quantize"), f"{granularity}.{kind}"
    scheme = "torch_symmetric" if kind == "qint8.symmetric" else "torch_affine"
    grid = fit_grid(data["input"], spec("int8", scheme=scheme, granularity="channel" if granularity == "pc" else "tensor"))
    assert_equal_grid(grid, data[f"{case}.scale"], data[f"{case}.zero"])


def test_every_scheme_quantizes_and_comes_back_from_its_parts() -> None:
    x = peer("torchao_int")["input"]
    for name in PEER_SCHEMES:
        s = spec("int4", group_size=32, scheme=name)
        q = rtn(x, s)
        again = QTensor.from_parts(q.parts(), type(s).from_json(s.to_json()), q.origin)
        assert again.digest() == q.digest()
        assert np.array_equal(encode(q.dequantize(), q.grid, s), q.codes)


def test_negative_scales_are_refused_where_no_scheme_asks_for_them() -> None:
    from refquant.errors import InputError

    with pytest.raises(InputError, match="positive and finite"):
        Grid(scale=np.array([-1.0]), zero=None)
    grid = Grid(scale=np.array([[-0.5]]), zero=None, signed=True)
    s = spec("int4", scheme="nncf_symmetric")
    assert decode(np.array([[-8, 7]]), grid, s).tolist() == [[4.0, -3.5]]
    assert differing_rows(fit_grid(np.array([[4.0, -1.0]]), s).scale, np.array([[-0.5]])) == []
