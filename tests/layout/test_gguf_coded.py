"""Blocks as codes in the form that gives their bytes back: a grid where it can, and never other bytes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refquant.core import QTensor, Tiling, spec
from refquant.core.affine_spec import AffineSpec
from refquant.core.affine_tensor import AffineTensor
from refquant.errors import InputError
from refquant.formats import IntFormat
from refquant.layout.gguf import BLOCK_TYPES, GgufTensor, quantize
from refquant.layout.gguf.coded import CODED, from_coded, to_coded, types_that_hold, what_no_type_holds
from refquant.methods.grid.rtn import rtn


def blocks_of(kind, **fields):
    """Three blocks of zeros, the middle one with other bytes."""
    block = BLOCK_TYPES[kind]
    found = np.zeros((3, block.nbytes), np.uint8)
    found[[0, 2]] = quantize(np.linspace(-1, 1, block.size, dtype=np.float32), kind).blocks
    for place, value in fields["at"].items():
        found[1, place] = value
    return GgufTensor(kind=block, blocks=found, shape=(3, block.size))


def half(number):
    """A float16's two bytes, by their places."""
    low, high = np.float16(number).tobytes()
    return {0: low, 1: high}


@pytest.mark.parametrize(
    ("kind", "at", "grid"),
    [
        ("Q8_0", half(0.5) | {2: 200}, True),
        ("Q8_0", half(-0.5) | {2: 200}, False),
        ("Q8_0", half(0.0), True),
        ("Q8_0", half(-0.0), False),
        ("Q8_0", half(0.0) | {5: 1}, False),
        ("Q8_0", half(2.0**-24), False),
        ("Q8_0", half(2.0**-24) | {7: 1}, True),
        ("Q4_0", half(-0.5) | {2: 0x88}, True),
        ("Q4_0", half(0.0) | dict.fromkeys(range(2, 18), 0x88), True),
        ("Q4_0", half(-0.0) | dict.fromkeys(range(2, 18), 0x88), True),
        ("Q4_0", half(0.0), False),
        ("Q4_0", half(-(2.0**-24)) | dict.fromkeys(range(2, 18), 0x88), False),
        ("Q5_0", half(0.0), False),
        ("Q5_0", half(0.25), True),
        ("MXFP4", {0: 0}, True),
        ("MXFP4", {0: 254, 3: 0x88}, True),
    ],
)
def test_a_grid_where_it_gives_the_bytes_back(kind, at, grid):
    t = blocks_of(kind, at=at)
    found = to_coded(t)
    assert isinstance(found, QTensor) == grid
    assert from_coded(found).blocks.tobytes() == t.blocks.tobytes()
    assert types_that_hold(found) == [kind]
    assert np.array_equal(found.dequantize(), t.dequantize())


@given(st.sampled_from(CODED), st.integers(0, 2**32 - 1), st.integers(1, 4))
def test_random_bytes_come_back_or_are_refused(kind, seed, rows):
    block, rng = BLOCK_TYPES[kind], np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (rows * 2, block.nbytes), dtype=np.uint8)
    t = GgufTensor(kind=block, blocks=blocks, shape=(rows, 2 * block.size))
    try:
        found = to_coded(t)
    except InputError:
        return
    back = from_coded(found)
    assert (back.kind, back.shape, back.blocks.tobytes()) == (t.kind, t.shape, t.blocks.tobytes())
    if kind != "MXFP4":  # whose largest scales overflow, which a grid refuses to decode
        assert np.array_equal(found.dequantize(), t.dequantize())


@given(st.sampled_from(CODED), st.integers(0, 2**32 - 1), st.sampled_from([1e-9, 1e-4, 1.0, 1e4]))
def test_what_we_quantize_always_comes_back(kind, seed, size):
    rows = (np.random.default_rng(seed).standard_normal((3, 256)) * size).astype(np.float32)
    rows[1, :128] = 0
    t = quantize(rows, kind)
    assert from_coded(to_coded(t)).blocks.tobytes() == t.blocks.tobytes()


def test_refusals():
    with pytest.raises(InputError, match="F16 is no grid of one scale a group; its blocks have no integer codes; it can be read as"):
        to_coded(quantize(np.ones((1, 32)), "f16"))
    with pytest.raises(InputError, match=r"TQ1_0: block 1 has bytes that no encoder writes, and that would not come back"):
        to_coded(blocks_of("TQ1_0", at={0: 1, 52: 0, 53: 0x3C}))
    other = AffineSpec(format=IntFormat(bits=3, signed=False), tiling=Tiling((1, 8)), scales="float32")
    odd = AffineTensor(codes=np.zeros((1, 8), np.uint8), scale=np.ones((1, 1), np.float32), spec=other)
    assert what_no_type_holds(odd) == "blocks of uint3 in tiles (1, 8) on such scales"
    assert types_that_hold(odd) == []
    assert types_that_hold(rtn(np.eye(32), spec("int4", group_size=16))) == []
    assert what_no_type_holds(to_coded(quantize(np.ones((1, 256)), "q4_k"))) is None
