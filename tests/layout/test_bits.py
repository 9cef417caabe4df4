"""Bit strings against one bit at a time in Python integers, and against what compressed-tensors packs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file

from refquant.errors import InputError, UsageError
from refquant.layout.bits import pack_nibbles, pack_stream, pack_words, unpack_nibbles, unpack_stream, unpack_words

DATA = Path(__file__).parents[1] / "data" / "layout"


def by_integer(codes, bits):
    """The definition: one large integer whose bits [i * bits, (i + 1) * bits) are element i."""
    total = sum(int(code) << (bits * place) for place, code in enumerate(codes))
    return list(total.to_bytes(-(-len(codes) * bits // 8), "little"))


streams = st.integers(1, 8).flatmap(lambda bits: st.tuples(st.just(bits), st.lists(st.integers(0, 2**bits - 1), max_size=70)))


@given(streams)
def test_a_stream_is_one_long_integer(stream):
    bits, codes = stream
    packed = pack_stream(np.array(codes, dtype=np.int64), bits)
    assert packed.dtype == np.uint8
    assert packed.tolist() == by_integer(codes, bits)
    assert unpack_stream(packed, bits, len(codes)).tolist() == codes
    words = pack_words(np.array(codes, dtype=np.int64), bits)
    assert words.view(np.uint8).tolist() == by_integer(codes, bits) + [0] * (-packed.size % 4)
    assert unpack_words(words, bits, len(codes)).tolist() == codes


@given(st.integers(1, 8), st.integers(0, 3), st.integers(0, 3), st.integers(0, 19), st.integers(0, 99))
def test_every_row_is_packed_by_itself(bits, outer, inner, count, seed):
    codes = np.random.default_rng(seed).integers(0, 2**bits, (outer, inner, count)).astype(np.uint8)
    packed = pack_stream(codes, bits)
    assert packed.shape == (outer, inner, -(-count * bits // 8))
    assert [[row.tolist() for row in block] for block in packed] == [[by_integer(row, bits) for row in block] for block in codes]
    assert np.array_equal(unpack_stream(packed, bits, count), codes)
    assert np.array_equal(unpack_words(pack_words(codes, bits), bits, count), codes)


@pytest.mark.parametrize("bits", range(1, 9))
def test_compressed_tensors_packs_alike(bits):
    peer = load_file(DATA / "compressed_tensors.safetensors")
    codes = peer[f"pack{bits}.values"].astype(np.int16) + 2 ** (bits - 1)
    assert np.array_equal(pack_words(codes, bits), peer[f"pack{bits}.dim1"])
    assert np.array_equal(pack_words(codes.T, bits).T, peer[f"pack{bits}.dim0"])


def test_nibbles():
    codes = np.array([[1, 2, 3, 4], [15, 0, 0, 15]])
    assert pack_nibbles(codes, "low").tolist() == [[0x21, 0x43], [0x0F, 0xF0]]
    assert pack_nibbles(codes, "high").tolist() == [[0x12, 0x34], [0xF0, 0x0F]]
    for first in ("low", "high"):
        assert unpack_nibbles(pack_nibbles(codes, first), first).tolist() == codes.tolist()


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: pack_stream(np.array([16]), 4), InputError, ["0..15", "16"]),
        (lambda: pack_stream(np.array([-1]), 4), InputError, ["-1"]),
        (lambda: pack_stream(np.array([0.5]), 4), InputError, ["float64"]),
        (lambda: pack_stream(np.array([1]), 9), UsageError, ["9"]),
        (lambda: pack_stream(np.array([1]), 0), UsageError, ["0"]),
        (lambda: unpack_stream(np.zeros(2, np.uint8), 4, 5), InputError, ["3 bytes", "found 2"]),
        (lambda: unpack_stream(np.zeros(2, np.uint8), 4, 2**62), InputError, ["found 2"]),
        (lambda: unpack_stream(np.array([0, 16], np.uint8), 4, 3), InputError, ["padding"]),
        (lambda: unpack_words(np.zeros(1, np.int64), 4, 8), InputError, ["int64"]),
        (lambda: unpack_words(np.array([1 << 30], np.int32), 4, 4), InputError, ["padding"]),
        (lambda: pack_nibbles(np.zeros(3, int), "low"), InputError, ["even"]),
        (lambda: pack_nibbles(np.zeros(4, int), "left"), UsageError, ["left"]),
    ],
)
def test_refusals(call, error, says):
    with pytest.raises(error) as told:
        call()
    assert all(part in str(told.value) for part in says)
