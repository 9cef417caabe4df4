"""Every importer of tensors on damaged parts: one clear line or a tensor, never another exception, never much memory."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refquant.core import QTensor, spec
from refquant.errors import RefquantError
from refquant.layout import awq, bitsandbytes, compressed_floats, compressed_tensors, gptq, matmul_nbits, mx
from refquant.methods.grid.rtn import rtn
from tests.layout.tensors import random_tensor

INTEGERS = random_tensor((64, 64), 4, 32)
SYMMETRIC = random_tensor((64, 64), 4, 32, "sym_gptq")
X = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)
NVFP4, MXFP4 = rtn(X, spec("nvfp4_compressed_tensors")), rtn(X, spec("mxfp4_even"))
NF4 = [rtn(X, bitsandbytes.block_spec("nf4", 64, nested)) for nested in (False, True)]
IMPORTERS = {
    "gptq": (gptq.pack(SYMMETRIC), lambda parts: gptq.unpack(parts, SYMMETRIC.spec)),
    "awq": (awq.pack(INTEGERS), lambda parts: awq.unpack(parts, INTEGERS.spec)),
    "compressed-tensors": (compressed_tensors.pack(INTEGERS), lambda parts: compressed_tensors.unpack(parts, INTEGERS.spec)),
    "compressed-tensors nvfp4": (
        compressed_floats.pack(NVFP4, "nvfp4-pack-quantized"),
        lambda parts: compressed_floats.unpack(parts, NVFP4.spec, "nvfp4-pack-quantized"),
    ),
    "bitsandbytes": (bitsandbytes.pack(NF4[0]), bitsandbytes.unpack),
    "bitsandbytes, nested": (bitsandbytes.pack(NF4[1]), bitsandbytes.unpack),
    "mx": (mx.pack(MXFP4), lambda parts: mx.unpack(parts, MXFP4.spec)),
    "MatMulNBits": (
        matmul_nbits.pack(INTEGERS),
        lambda parts: matmul_nbits.unpack(parts, matmul_nbits.attributes(INTEGERS), like=INTEGERS.spec),
    ),
}
DAMAGE = {
    "missing": lambda array: None,
    "one element less": lambda array: array.reshape(-1)[:-1],
    "one row less": lambda array: array[:-1],
    "empty": lambda array: array.reshape(-1)[:0],
    "a scalar": lambda array: array.reshape(-1)[0].reshape(()),
    "another axis": lambda array: array[None],
    "float64": lambda array: array.astype(np.float64),
    "int16": lambda array: array.astype(np.float32).astype(np.int16),
    "booleans": lambda array: array.astype(bool),
    "text": lambda array: np.full(array.shape, "x"),
    "the largest integers": lambda array: np.full(array.shape, np.iinfo(array.dtype).max if array.dtype.kind in "iu" else 1, array.dtype),
    "all bits": lambda array: np.frombuffer(b"\xff" * array.nbytes, np.uint8).view(array.dtype).reshape(array.shape),
    "shapes of 2^62": lambda array: np.full(array.shape, 2**62, np.int64),
}


def read(name, parts):
    tracemalloc.start()
    try:
        found = IMPORTERS[name][1](parts)
    except RefquantError as error:
        found = error
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 4 << 20
    if isinstance(found, RefquantError):
        assert "\n" not in str(found)
        assert 10 < len(str(found)) < 400
        return found
    assert isinstance(found, QTensor)
    assert found.shape == (64, 64)
    return found


@pytest.mark.parametrize("name", IMPORTERS)
def test_whole_parts_are_read(name):
    assert isinstance(read(name, IMPORTERS[name][0]), QTensor)


@pytest.mark.filterwarnings("ignore:invalid value encountered in cast")
@pytest.mark.parametrize("name", IMPORTERS)
@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_parts(name, damage):
    whole = IMPORTERS[name][0]
    for part in whole:
        found = DAMAGE[damage](np.asarray(whole[part]))
        told = read(name, {key: array for key, array in (whole | {part: found}).items() if array is not None})
        if damage in ("empty", "text"):
            assert isinstance(told, RefquantError), part


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(IMPORTERS)), st.data())
def test_flipped_bytes(name, data):
    whole = IMPORTERS[name][0]
    part = data.draw(st.sampled_from(sorted(whole)))
    raw = bytearray(np.ascontiguousarray(whole[part]).tobytes())
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    array = np.asarray(whole[part])
    read(name, whole | {part: np.frombuffer(bytes(raw), np.uint8).view(array.dtype).reshape(array.shape)})
