"""GGUF's block types beside gguf's own NumPy: every type, F32, F16, BF16 and the IQ types aside, that gguf can quantize or dequantize.

OPENBLAS_NUM_THREADS=1 python -m benchmarks.gguf_types [--quick]

Nothing here calls BLAS, and neither side starts threads: it is one against one. Bytes and numbers are compared first.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from benchmarks import measure
from refquant.errors import NumericalError
from refquant.layout.gguf import BLOCK_TYPES, BlockType, GgufTensor, quantize
from refquant.numerics.arrays import Array

TITLE = "GGUF block types / gguf's NumPy"
NEEDS = ("gguf",)
ROWS = ("block types quantized", "block types dequantized")

LIMIT = 0.5
ASIDE = ("F32", "F16", "BF16", "F64", "I8", "I16", "I32", "I64")
COLUMNS = 4096
QUANTIZED_ONCE = 64
"""Rows that are quantized to a type which gguf only reads, and then repeated: fitting K types takes long."""


def done_by(peer: Any) -> Iterator[tuple[str, bool, bool]]:
    """Name of each type that is measured, and whether the peer quantizes and dequantizes it."""
    for kind in peer.GGMLQuantizationType:
        if kind.name in ASIDE or kind.name.startswith("IQ"):
            continue
        size, nbytes = peer.GGML_QUANT_SIZES[kind]
        able = []
        for call, given in (
            (peer.quants.quantize, np.zeros((1, size), np.float32)),
            (peer.quants.dequantize, np.zeros((1, nbytes), np.uint8)),
        ):
            try:
                call(given, kind)
            except NotImplementedError:
                able.append(False)
            else:
                able.append(True)
        if any(able):
            yield kind.name, able[0], able[1]


def few_rows(kind: BlockType, x: Array) -> GgufTensor:
    """A few rows of a type: quantized, or any bytes of one that refquant only reads."""
    if kind.quantize is not None:
        return quantize(x[:QUANTIZED_ONCE], kind)
    blocks = np.random.Generator(np.random.PCG64(1)).integers(0, 256, (QUANTIZED_ONCE * COLUMNS // kind.size, kind.nbytes), dtype=np.uint8)
    return GgufTensor(kind=kind, blocks=blocks, shape=(QUANTIZED_ONCE, COLUMNS))


def equal(name: str, ours: Array, theirs: Array) -> None:
    """NumericalError unless two arrays hold the same bytes."""
    if ours.tobytes() != theirs.tobytes():
        raise NumericalError(f"{name} differs from gguf's bytes: there is nothing to time")


def run(quick: bool) -> Iterator[measure.Result]:
    peer = importlib.import_module("gguf")
    rows = 64 if quick else 4096
    rounds = 3 if quick else 7
    x = np.random.Generator(np.random.PCG64(0)).standard_normal((rows, COLUMNS), dtype=np.float32)
    size = f"{rows} x {COLUMNS}, one thread"
    for name, writes, reads in done_by(peer):
        kind = peer.GGMLQuantizationType[name]
        if name not in BLOCK_TYPES:
            yield measure.Result(
                name=f"{name} dequantized", comparison=None, limit=LIMIT, size=size, note="a type that refquant does not read"
            )
            continue
        if writes:
            held = quantize(x, name)
            equal(name, held.blocks, peer.quants.quantize(x, kind))
            timed = measure.alternate(name, partial(quantize, x, name), partial(peer.quants.quantize, x, kind), rounds)
            share = measure.roofline().share(timed.seconds, traffic=x.nbytes + held.blocks.nbytes)
            yield measure.Result(name=f"{name} quantized", comparison=timed, limit=LIMIT, size=size, share=share, note="same bytes")
        else:
            few = few_rows(BLOCK_TYPES[name], x)
            held = GgufTensor(kind=few.kind, blocks=np.tile(few.blocks, (rows // QUANTIZED_ONCE, 1)), shape=x.shape)
        if reads:
            theirs = np.asarray(held.blocks).reshape(rows, -1)
            equal(name, held.dequantize(), peer.quants.dequantize(theirs, kind))
            timed = measure.alternate(name, held.dequantize, partial(peer.quants.dequantize, theirs, kind), rounds)
            share = measure.roofline().share(timed.seconds, traffic=x.nbytes + held.blocks.nbytes)
            yield measure.Result(name=f"{name} dequantized", comparison=timed, limit=LIMIT, size=size, share=share, note="same bytes")


def main() -> None:
    measure.script(TITLE, NEEDS, ROWS, run)


if __name__ == "__main__":
    main()
