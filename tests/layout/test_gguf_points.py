"""Types whose codes are points of a codebook or members of a table: bit by bit, and what a user can do with a file of them."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from refquant.apply.gguf_export import VARIANTS
from refquant.apply.gguf_import import gguf_file, read_gguf_model
from refquant.apply.gguf_llada import metadata
from refquant.apply.gguf_model import load_gguf
from refquant.errors import InputError
from refquant.layout.gguf import BLOCK_TYPES, GgufTensor, quantize, write_gguf
from refquant.layout.gguf.codebooks import codebook, with_parity
from refquant.layout.gguf.types import type_of_number
from tests.layout.tensors import peer
from tests.layout.test_gguf_products import CONFIG

RECORDED = peer("llada_gguf")
# gguf's numbers of them.
OF_TABLES = {
    **{"IQ1_S": 19, "IQ1_M": 29, "IQ2_XXS": 16, "IQ2_XS": 17, "IQ2_S": 22, "IQ3_XXS": 18, "IQ3_S": 21},
    **{"IQ4_NL": 20, "IQ4_XS": 23, "NVFP4": 40},
}
DIVIDING = [kind for kind in OF_TABLES if BLOCK_TYPES[kind].size <= 64]


def any_blocks(kind, shape):
    """Bytes of which none is a scale that overflows."""
    block = BLOCK_TYPES[kind]
    blocks = np.random.default_rng(3).integers(0, 256, (int(np.prod(shape)) // block.size, block.nbytes), dtype=np.uint8) & np.uint8(0x3B)
    return GgufTensor(kind=block, blocks=blocks, shape=shape)


def test_all_are_here():
    assert {name for name in BLOCK_TYPES if name.startswith(("IQ", "NV"))} == set(OF_TABLES)
    assert {kind: type_of_number(number).name for kind, number in OF_TABLES.items()} == {kind: kind for kind in OF_TABLES}


def test_those_that_need_no_importance_are_exported():
    assert {kind for kind in OF_TABLES if kind.lower() not in VARIANTS} == {"IQ1_S", "IQ2_XXS", "IQ2_XS"}


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


def test_a_file_is_inspected_and_runs(file):
    path, tensors, kind = file
    rows = {row.name: row for row in gguf_file(path).rows}
    row, tensor = rows["blk.1.ffn_up.weight"], tensors["blk.1.ffn_up.weight"]
    assert (row.format, row.stored_bits) == (kind, 8 * tensor.blocks.nbytes)
    assert row.values.high == tensor.dequantize().max()
    tokens = RECORDED["tokens"][None].astype(np.int64)
    plain, ggmls = load_gguf(path, products="plain").logits(tokens), load_gguf(path).logits(tokens)
    assert plain.shape == (1, 16, 48)
    assert 0 < np.abs(plain - ggmls).max() < 0.1 * np.abs(plain).max()  # activations are rounded in the second


def number(block, start, width):
    """Bits of a block, by Python's integers."""
    return int.from_bytes(bytes(block), "little") >> start & ((1 << width) - 1)


def even(seven):
    """Eight sign bits of seven: an even number of them is set."""
    return seven | (seven.bit_count() % 2) << 7


# Of each type with points of magnitudes: the book, element's place and signs of eight, scale, and what 2 scale + 1 is over.
MAGNITUDES = {
    "IQ2_XXS": (
        lambda b, i: number(b, 16 + 64 * (i // 32) + 8 * (i % 32 // 8), 8),
        lambda b, i: even(number(b, 48 + 64 * (i // 32) + 7 * (i % 32 // 8), 7)),
        lambda b, i: number(b, 76 + 64 * (i // 32), 4),
        8,
    ),
    "IQ2_XS": (
        lambda b, i: number(b, 16 + 16 * (i // 8), 9),
        lambda b, i: even(number(b, 25 + 16 * (i // 8), 7)),
        lambda b, i: number(b, 528 + 4 * (i // 16), 4),
        8,
    ),
    "IQ2_S": (
        lambda b, i: int(b[2 + i // 8]) + 256 * number(b, 528 + 2 * (i // 8), 2),
        lambda b, i: int(b[34 + i // 8]),
        lambda b, i: number(b, 592 + 4 * (i // 16), 4),
        8,
    ),
    "IQ3_XXS": (
        lambda b, i: int(b[2 + i // 4]),
        lambda b, i: even(number(b, 528 + 32 * (i // 32) + 7 * (i % 32 // 8), 7)),
        lambda b, i: number(b, 556 + 32 * (i // 32), 4),
        4,
    ),
    "IQ3_S": (
        lambda b, i: int(b[2 + i // 4]) + 256 * number(b, 528 + i // 4, 1),
        lambda b, i: int(b[74 + i // 8]),
        lambda b, i: number(b, 848 + 4 * (i // 32), 4),
        1,
    ),
}


@pytest.mark.parametrize("kind", MAGNITUDES)
def test_points_of_magnitudes_bit_by_bit(kind):
    place, signs, scale, over = MAGNITUDES[kind]
    points, width = codebook(kind).points, codebook(kind).points.shape[1]
    blocks = np.random.default_rng(4).integers(0, 256, (2, BLOCK_TYPES[kind].nbytes), dtype=np.uint8)
    blocks[:, :2] = np.array([0.375, -2.5], "<f2").view(np.uint8).reshape(2, 2)
    found = GgufTensor(kind=BLOCK_TYPES[kind], blocks=blocks, shape=(512,)).dequantize().reshape(2, 256)
    for block, d, row in zip(blocks, (Fraction(3, 8), Fraction(-5, 2)), found, strict=True):
        for i in range(256):
            sign = -1 if signs(block, i) >> (i % 8) & 1 else 1
            wanted = d * (2 * scale(block, i) + 1) * sign * int(points[place(block, i), i % width]) / over
            assert Fraction(float(row[i])) == wanted, i


@pytest.mark.parametrize("kind", ["IQ1_S", "IQ1_M"])
def test_moved_points_bit_by_bit(kind):
    points = codebook("IQ1_S").points
    blocks = np.random.default_rng(5).integers(0, 256, (2, BLOCK_TYPES[kind].nbytes), dtype=np.uint8)
    if kind == "IQ1_S":
        blocks[:, :2] = np.array([0.375, -2.5], "<f2").view(np.uint8).reshape(2, 2)
    else:  # d is the highest nibbles of four uint16
        for block, d in zip(blocks, np.array([0.375, -2.5], "<f2").view("<u2"), strict=True):
            block[49::2] = [int(byte) & 15 | (int(d) >> 4 * k & 15) << 4 for k, byte in enumerate(block[49::2])]
    found = GgufTensor(kind=BLOCK_TYPES[kind], blocks=blocks, shape=(512,)).dequantize().reshape(2, 256)
    for block, d, row in zip(blocks, (Fraction(3, 8), Fraction(-5, 2)), found, strict=True):
        for i in range(256):
            if kind == "IQ1_S":
                word = number(block, 272 + 16 * (i // 32), 16)
                upper, scale, minus = word >> 3 * (i % 32 // 8) & 7, word >> 12 & 7, word >> 15
                lower = int(block[2 + i // 8])
            else:
                half = number(block, 256 + 4 * (i // 8), 4)
                upper, minus, lower = half & 7, half >> 3, int(block[i // 8])
                scale = number(block, 384 + 16 * (i // 64) + 3 * (i % 64 // 16), 3)
            point = int(points[lower + 256 * upper, i % 8])
            assert Fraction(float(row[i])) == d * (2 * scale + 1) * (point + Fraction(-1 if minus else 1, 8)), i


@pytest.mark.parametrize(
    ("name", "shape", "coordinates"),
    [
        ("IQ1_S", (2048, 8), [-1, 0, 1]),
        ("IQ2_XXS", (256, 8), [8, 25, 43]),
        ("IQ2_XS", (512, 8), [8, 25, 43]),
        ("IQ2_S", (1024, 8), [8, 25, 43]),
        ("IQ3_XXS", (256, 4), [4, 12, 20, 28, 36, 44, 52, 62]),
        ("IQ3_S", (512, 4), [1, 3, 5, 7, 9, 11, 13, 15]),
    ],
)
def test_codebooks(name, shape, coordinates):
    book = codebook(name)
    assert book.points.shape == shape
    assert np.unique(book.points).tolist() == coordinates
    assert len(np.unique(book.points, axis=0)) == shape[0]
    places = np.random.default_rng(0).permutation(shape[0]).reshape(4, -1)
    assert np.array_equal(book.find(book.take(places)), places)
    with pytest.raises(InputError, match="no point of the codebook"):
        book.find(np.full((1, shape[1]), 99, np.int8))


def test_a_damaged_codebook_is_refused(monkeypatch):
    monkeypatch.setattr("refquant.layout.gguf.codebooks.SHA256", "0" * 64)
    with pytest.raises(InputError, match="is damaged"):
        codebook.__wrapped__("IQ3_S")


def test_signs_are_even_in_number():
    found = with_parity(np.arange(128, dtype=np.uint8))
    assert found.tolist() == [even(seven) for seven in range(128)]
