"""Types that are only read: what a user can do with a file of them, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from refquant.apply.gguf_export import VARIANTS
from refquant.apply.gguf_import import gguf_file, read_gguf_model
from refquant.apply.gguf_llada import metadata
from refquant.apply.gguf_model import load_gguf
from refquant.errors import InputError, UsageError
from refquant.layout.gguf import BLOCK_TYPES, GgufTensor, quantize, write_gguf
from refquant.layout.gguf.products import GgmlLinear
from refquant.layout.gguf.types import type_of_number
from tests.layout.tensors import peer
from tests.layout.test_gguf_products import CONFIG

RECORDED = peer("llada_gguf")
ONLY_READ = {"IQ4_NL": 20, "IQ4_XS": 23, "NVFP4": 40}  # and gguf's numbers of them
DIVIDING = [kind for kind in ONLY_READ if BLOCK_TYPES[kind].size <= 64]


def any_blocks(kind, shape):
    """Bytes of which none is a scale that overflows."""
    block = BLOCK_TYPES[kind]
    blocks = np.random.default_rng(3).integers(0, 256, (int(np.prod(shape)) // block.size, block.nbytes), dtype=np.uint8) & np.uint8(0x3B)
    return GgufTensor(kind=block, blocks=blocks, shape=shape)


def test_all_are_here():
    assert {name for name, kind in BLOCK_TYPES.items() if kind.quantize is None} == set(ONLY_READ)


@pytest.mark.parametrize("kind", ONLY_READ)
def test_nothing_is_quantized_to_them(kind):
    assert type_of_number(ONLY_READ[kind]) is BLOCK_TYPES[kind]
    with pytest.raises(UsageError, match=f"{kind} is only read"):
        quantize(np.ones((2, 256), np.float32), kind)
    with pytest.raises(UsageError, match=f"{kind} is only read, as plain numbers"):
        GgmlLinear(any_blocks(kind, (1, 256)))
    assert kind.lower() not in VARIANTS


@pytest.fixture(params=DIVIDING)
def file(request, tmp_path):
    """A model whose matrices are of a type, and its tensors."""
    tensors = {}
    for name, array in RECORDED.items():
        if name.startswith("w."):
            kind = request.param if array.ndim == 2 and array.shape[1] % BLOCK_TYPES[request.param].size == 0 else "F32"
            tensors[name.removeprefix("w.")] = quantize(array, kind) if kind == "F32" else any_blocks(kind, array.shape)
    path = tmp_path / "model.gguf"
    write_gguf(path, metadata(CONFIG, {}, 0)[0], tensors)
    return path, tensors, request.param


def test_a_file_becomes_a_checkpoint_of_its_numbers(file):
    path, tensors, kind = file
    found = read_gguf_model(path, variant="dequantized")
    name = "model.transformer.blocks.1.up_proj.weight"
    assert tensors["blk.1.ffn_up.weight"].kind.name == kind
    assert found.untouched[name].tobytes() == tensors["blk.1.ffn_up.weight"].dequantize().tobytes()
    with pytest.raises(InputError, match=f"{kind} is no grid of one scale a group; .* --variant dequantized"):
        read_gguf_model(path, variant="as-is")


def test_a_file_is_inspected_and_runs_as_plain_numbers(file):
    path, tensors, kind = file
    rows = {row.name: row for row in gguf_file(path).rows}
    row, tensor = rows["blk.1.ffn_up.weight"], tensors["blk.1.ffn_up.weight"]
    assert (row.format, row.stored_bits) == (kind, 8 * tensor.blocks.nbytes)
    assert row.values.high == tensor.dequantize().max()
    tokens = RECORDED["tokens"][None].astype(np.int64)
    assert load_gguf(path, products="plain").logits(tokens).shape == (1, 16, 48)
    with pytest.raises(UsageError, match=f"{kind} is only read, as plain numbers"):
        load_gguf(path)
