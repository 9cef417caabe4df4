"""RTN to 4 bits in groups of 128, and back: beside a copy of the weights, gguf's NumPy Q4_0, and torchao's int4.

OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1 python -m benchmarks.rtn [--quick]

Bandwidth is bytes of float32 weights a second; that of a copy is measured by `np.copyto` from the same array into one that was written to
before, in the same rounds. So "10 % of a copy's bandwidth" is ten times the copy's time, in which the copy reads and writes every
weight. Quantizing makes new arrays of codes and scales, memory included; dequantizing beside a copy writes, as the copy does, into an
array that is there. Beside gguf and torchao both sides make new ones. NumPy and we take one thread; torch as many as
`OMP_NUM_THREADS` says.
"""

from __future__ import annotations

import importlib
import statistics
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

from benchmarks import measure
from refquant.core import QTensor, spec
from refquant.errors import NumericalError
from refquant.methods.grid.rtn import rtn
from refquant.numerics.arrays import Array

TITLE = "RTN, 4 bits, groups of 128 / a copy, gguf's Q4_0, torchao's int4"
NEEDS: tuple[str, ...] = ()
ROWS = ("RTN",)

GROUP = 128
OF_A_COPY = {"symmetric": ("sym_full", 0.10), "asymmetric": ("asym_incl0", 0.05)}
DEQUANTIZED = 0.30
OF_GGUF = 0.5
OF_TORCHAO = 1.0
COLUMNS = 4096

Call = Callable[[], Any]


def row(name: str, ours: Call, peer: Call, limit: float, x: Array, rounds: int, note: str = "") -> measure.Result:
    """Time a pair of calls on `x`; what has to be moved is the weights once, and a byte for each code."""
    timed = measure.alternate(name, ours, peer, rounds)
    share = measure.roofline().share(timed.seconds, traffic=x.nbytes + x.size)
    return measure.Result(name=name, comparison=timed, limit=limit, size=f"{x.size >> 20} Mi weights", share=share, note=note)


def beside_copy(name: str, ours: Call, least: float, x: Array, rounds: int) -> measure.Result:
    """A row whose limit is a share of a copy's bandwidth."""
    target = np.zeros_like(x)  # of zeros, not empty: its memory is there before the first round
    timed = measure.alternate(name, ours, partial(np.copyto, target, x), rounds)
    reached = statistics.median(1 / ratio for ratio in timed.ratios)
    rates = f"{x.nbytes / timed.seconds / 1e9:.2f} GB/s, {reached:.1%} of the copy's {x.nbytes / statistics.median(timed.peer) / 1e9:.2f}"
    share = measure.roofline().share(timed.seconds, traffic=x.nbytes + x.size)
    note = f"{rates}; at least {least:.0%}"
    return measure.Result(name=name, comparison=timed, limit=1 / least, size=f"{x.size >> 20} Mi weights", share=share, note=note)


def gguf_rows(x: Array, q: QTensor, rounds: int) -> Iterator[measure.Result]:
    names = ("RTN symmetric / gguf Q4_0", "dequantization / gguf Q4_0")
    if measure.missing(("gguf",)):
        yield from (measure.not_run(name, ("gguf",), OF_GGUF) for name in names)
        return
    peer = importlib.import_module("gguf")
    kind = peer.GGMLQuantizationType.Q4_0
    blocks = peer.quants.quantize(x, kind)
    note = "gguf's groups are of 32, on float16 scales"
    yield row(names[0], partial(rtn, x, q.spec), partial(peer.quants.quantize, x, kind), OF_GGUF, x, rounds, note)
    yield row(names[1], q.dequantize, partial(peer.quants.dequantize, blocks, kind), OF_GGUF, x, rounds, note)


def torchao_rows(x: Array, rounds: int) -> Iterator[measure.Result]:
    kinds = {"symmetric": "torchao_symmetric", "asymmetric": "torchao_asymmetric"}
    names = [f"{what} {kind} / torchao int4" for kind in kinds for what in ("RTN", "dequantization")]
    if absent := measure.missing(("torch", "torchao")):
        yield from (measure.not_run(name, absent, OF_TORCHAO) for name in names)
        return
    torch = importlib.import_module("torch")
    torchao = importlib.import_module("torchao.quantization.quant_primitives")
    weights, block = torch.from_numpy(x), (1, GROUP)
    for kind, scheme in kinds.items():
        chosen = spec("int4", group_size=GROUP, scheme=scheme)
        mapping = getattr(torchao.MappingType, kind.upper())

        def quantized(mapping: Any = mapping) -> tuple[Any, Any, Any]:
            scale, zero = torchao.choose_qparams_affine(weights, mapping, block, torch.int8, -8, 7)
            return torchao.quantize_affine(weights, block, scale, zero, torch.int8, -8, 7), scale, zero

        q, (codes, scale, zero) = rtn(x, chosen), quantized()
        different = int(np.count_nonzero(q.codes != codes.numpy()))
        if different:
            raise NumericalError(f"{different} of {x.size} codes differ from torchao's: there is nothing to time")
        note = f"same codes; torch has {torch.get_num_threads()} threads, NumPy one"
        yield row(f"RTN {kind} / torchao int4", partial(rtn, x, chosen), quantized, OF_TORCHAO, x, rounds, note)
        back = partial(torchao.dequantize_affine, codes, block, scale, zero, torch.int8, -8, 7)
        yield row(f"dequantization {kind} / torchao int4", q.dequantize, back, OF_TORCHAO, x, rounds, note)


def run(quick: bool) -> Iterator[measure.Result]:
    rows, rounds = (64, 3) if quick else (16384, 7)
    x = np.random.Generator(np.random.PCG64(0)).standard_normal((rows, COLUMNS), dtype=np.float32)
    for kind, (scheme, least) in OF_A_COPY.items():
        chosen = spec("int4", group_size=GROUP, scheme=scheme)
        yield beside_copy(f"RTN {kind} / copy", partial(rtn, x, chosen), least, x, rounds)
        back = partial(rtn(x, chosen).dequantize, out=np.zeros_like(x))
        yield beside_copy(f"dequantization {kind} / copy", back, DEQUANTIZED, x, rounds)
    yield from gguf_rows(x, rtn(x, spec("int4", group_size=GROUP, scheme="sym_full")), rounds)
    yield from torchao_rows(x, rounds)


def main() -> None:
    measure.script(TITLE, NEEDS, ROWS, run)


if __name__ == "__main__":
    main()
