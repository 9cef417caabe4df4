"""The scripts of RTN and of GGUF's types: which rows there are, that bytes are compared first, and what a share of a copy is."""

from __future__ import annotations

import sys
from enum import Enum
from types import ModuleType

import numpy as np
import pytest

from benchmarks import gguf_types, measure, rtn
from refquant.core import spec
from refquant.errors import NumericalError
from refquant.layout.gguf import GgufTensor, find_block_type, quantize
from refquant.methods.grid import rtn as method


class Kind(Enum):
    F32 = 0
    Q4_0 = 2
    Q8_0 = 8
    Q4_K = 12
    IQ4_NL = 20
    NVFP4 = 40
    Q1_0 = 41


SIZES = {kind: (256, 36 if kind is Kind.Q1_0 else 256) for kind in Kind} | {
    kind: (find_block_type(kind.name).size, find_block_type(kind.name).nbytes) for kind in (Kind.Q4_0, Kind.Q8_0, Kind.Q4_K, Kind.NVFP4)
}


def stand_in(spoil=None):
    """A module with gguf's functions, made of ours: Q4_K and NVFP4 are only read, Q8_0 only written, and Q1_0 is none of ours."""
    peer = ModuleType("gguf")
    peer.GGMLQuantizationType, peer.GGML_QUANT_SIZES, peer.quants = Kind, SIZES, ModuleType("quants")

    def write(x, kind):
        if kind in (Kind.Q4_K, Kind.NVFP4, Kind.Q1_0):
            raise NotImplementedError
        found = quantize(x, kind.name).blocks.reshape(len(x), -1)
        return found + np.uint8(kind is spoil)

    def read(packed, kind):
        if kind is Kind.Q8_0:
            raise NotImplementedError
        if kind is Kind.Q1_0:
            return np.zeros((1, 64), np.float32)
        block = find_block_type(kind.name)
        shape = (len(packed), packed.shape[1] // block.nbytes * block.size)
        return GgufTensor(kind=block, blocks=packed.reshape(-1, block.nbytes), shape=shape).dequantize()

    peer.quants.quantize, peer.quants.dequantize = write, read
    return peer


@pytest.fixture
def roofline(monkeypatch):
    monkeypatch.setattr(measure, "roofline", lambda: measure.Roofline(flops=1e9, traffic=1e9))


def test_rows_are_what_the_peer_can_do(monkeypatch, roofline):
    monkeypatch.setitem(sys.modules, "gguf", stand_in())
    found = {row.name: row.verdict for row in gguf_types.run(quick=True)}
    names = ["Q4_0 quantized", "Q4_0 dequantized", "Q8_0 quantized", "Q4_K dequantized", "NVFP4 dequantized", "Q1_0 dequantized"]
    assert list(found) == names
    assert found.pop("Q1_0 dequantized") == "not run"
    assert set(found.values()) <= {"kept", "MISSED"}


@pytest.mark.parametrize("kind", [Kind.Q4_0, Kind.Q8_0])
def test_bytes_that_differ_are_not_timed(monkeypatch, roofline, kind):
    monkeypatch.setitem(sys.modules, "gguf", stand_in(spoil=kind))
    with pytest.raises(NumericalError, match=f"{kind.name} differs from gguf's bytes"):
        list(gguf_types.run(quick=True))


def test_a_share_of_a_copy_is_its_time_over_ours(monkeypatch, roofline):
    def timed(name, ours, peer, rounds):
        ours(), peer()
        return measure.Comparison(name=name, ours=(1.0, 1.0, 4.0), peer=(0.5, 0.25, 1.0))

    monkeypatch.setattr(measure, "alternate", timed)
    x = np.ones((2, 1 << 20), np.float32)
    found = rtn.beside_copy("n", lambda: None, 0.25, x, 3)
    assert found.verdict == "kept"  # ratios 2, 4 and 4
    assert "25.0% of the copy's" in found.note
    assert found.size == "2 Mi weights"
    assert rtn.beside_copy("n", lambda: None, 0.26, x, 3).verdict == "MISSED"


def test_rows_without_their_peers_say_how_to_get_them(monkeypatch, roofline):
    monkeypatch.setattr(measure, "missing", tuple)
    rows = list(rtn.run(quick=True))
    assert [row.verdict for row in rows[4:]] == ["not run"] * 6
    assert all("pip install" in row.note for row in rows[4:])
    assert {row.name for row in rows[:4]} == {f"{what} {kind} / copy" for what in ("RTN", "dequantization") for kind in rtn.OF_A_COPY}


def test_the_weights_that_are_timed_reach_every_code():
    x = np.random.Generator(np.random.PCG64(0)).standard_normal((64, rtn.COLUMNS), dtype=np.float32)
    for scheme, _ in rtn.OF_A_COPY.values():
        q = method.rtn(x, spec("int4", group_size=rtn.GROUP, scheme=scheme))
        assert len(np.unique(q.codes)) >= 15
