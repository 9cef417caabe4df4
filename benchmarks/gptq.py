"""GPTQ from a given Hessian to codes beside llmcompressor's, which is torch on the CPU in float32.

OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1 python -m benchmarks.gptq [--quick]

Both get the same weight, Hessian and grid (groups of 128, int4 with zero points); the factorization is timed too. Rows with a limit compute
in float32, as the peer does; rows in float64, our default, stand beside them. Before times are compared, codes are: two runs may part only
where a decision of the float64 lane has a margin below rounding error, and behind such a decision the rest of its row may be another.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from benchmarks import measure
from refquant.core import Grid, fit_grid, spec
from refquant.errors import NumericalError
from refquant.methods.compensate.gptq import GptqTrace, gptq, gptq_trace
from refquant.numerics import FAST

TITLE = "GPTQ from a Hessian to codes / llmcompressor's, float32"
NEEDS = ("torch", "llmcompressor")

GROUP = 128
SPEC = spec("int4", group_size=GROUP, scheme="asym_incl0")
LIMIT = 0.5
MARGIN = 1e-2
"""Largest margin of a decision, in steps of its grid, at which a float32 run may decide otherwise than the float64 lane."""


@dataclass(frozen=True, slots=True)
class Size:
    """A weight, and what is asked of it."""

    rows: int
    columns: int
    act_order: bool
    double: bool = True

    @property
    def name(self) -> str:
        return f"GPTQ {self.rows}x{self.columns}{', act-order' if self.act_order else ''}"

    @property
    def flops(self) -> float:
        """Of one triangular factor, and of compensating each column for those before it."""
        return self.columns**3 / 3 + self.rows * self.columns**2


SIZES = (Size(4096, 4096, False), Size(1024, 1024, True), Size(4096, 11008, True, double=False))
QUICK = (Size(256, 256, False), Size(128, 256, True))
ROWS = tuple(name for size in SIZES for name in (size.name, *(("  in float64",) if size.double else ())))


@dataclass(frozen=True, slots=True)
class Layer:
    """What both are given."""

    weight: np.ndarray
    hessian: np.ndarray
    grid: Grid

    @classmethod
    def drawn(cls, size: Size) -> Layer:
        """Weights of a normal distribution, inputs of uneven size whose neighbours are correlated; half as many again tokens as columns."""
        rng = np.random.Generator(np.random.PCG64(0))
        weight = rng.standard_normal((size.rows, size.columns), dtype=np.float32) * np.float32(0.02)
        sizes = rng.permutation(np.geomspace(1, 30, size.columns)).astype(np.float32)
        x = rng.standard_normal((size.columns * 3 // 2, size.columns), dtype=np.float32) * sizes
        x[:, 1:] += x[:, :-1] / 2
        # float32 numbers, so that the peer is given the same
        return cls(weight, FAST.gram(x).astype(np.float64), fit_grid(weight, SPEC))


class Peer:
    """llmcompressor's `quantize_weight` on clones of its arguments, which it writes into."""

    def __init__(self, layer: Layer, act_order: bool) -> None:
        torch = importlib.import_module("torch")
        module = importlib.import_module("llmcompressor.modifiers.gptq.gptq_quantize")
        settings = importlib.import_module("compressed_tensors.quantization")
        self.quantize = module.quantize_weight
        order = "weight" if act_order else None
        self.arguments = settings.QuantizationArgs(
            num_bits=4, type="int", symmetric=False, strategy="group", group_size=GROUP, actorder=order
        )
        self.grid = layer.grid
        self.weight = torch.from_numpy(layer.weight)[None]
        self.hessian = torch.from_numpy(layer.hessian.astype(np.float32))[None]
        self.scale = torch.from_numpy(layer.grid.scale.copy())[None]
        self.zero = torch.from_numpy(zero_points(layer.grid) - np.int8(8))[None]

    def __call__(self) -> Any:
        values, _, fell_back = self.quantize(self.weight.clone(), self.hessian.clone(), self.scale, self.zero, None, self.arguments)
        if bool(fell_back.any()):
            raise NumericalError("the peer could not factor the Hessian, and rounded to nearest instead")
        return values

    def codes(self) -> np.ndarray:
        """Its codes, 0 to 15."""
        values = self().numpy()[0]
        scale, zero = (np.repeat(part, GROUP, axis=1)[:, : values.shape[1]] for part in (self.grid.scale, zero_points(self.grid)))
        return np.asarray(np.rint(values / scale) + zero).astype(np.uint8)


def zero_points(grid: Grid) -> np.ndarray:
    if grid.zero is None:
        raise NumericalError("the grid of an asymmetric scheme has zero points")
    return grid.zero.astype(np.int8)


def parted(trace: GptqTrace, codes: np.ndarray) -> tuple[int, float]:
    """In how many codes a run differs from the float64 lane, and the largest margin among the decisions at which a row parted from it.

    NumericalError if that margin is not rounding error.
    """
    differs = (trace.quantized.codes != codes)[:, trace.order]
    rows = np.flatnonzero(differs.any(axis=1))
    margin = float(trace.margins[rows, np.argmax(differs[rows], axis=1)].max(initial=0.0))
    if not margin <= MARGIN:
        raise NumericalError(f"codes differ where the float64 lane decided with a margin of {margin:.2g} steps; allowed is {MARGIN:g}")
    return int(np.count_nonzero(differs)), margin


def run(quick: bool) -> Iterator[measure.Result]:
    for size in QUICK if quick else SIZES:
        layer = Layer.drawn(size)
        ours = partial(gptq, layer.weight, layer.hessian, SPEC, act_order=size.act_order, grid=layer.grid)
        peer = Peer(layer, size.act_order)
        trace = gptq_trace(layer.weight, layer.hessian, SPEC, act_order=size.act_order, grid=layer.grid)
        notes = []
        for whose, codes in (("our", ours(working="float32").codes), ("the peer's", peer.codes())):
            count, margin = parted(trace, codes)
            notes.append(f"{whose} float32 codes differ from the float64 lane's in {count} of {codes.size}, margins up to {margin:.1e}")
        del trace
        yield row(size.name, size, partial(ours, working="float32"), peer, size.flops, "; ".join(notes), LIMIT)
        if size.double:
            yield row("  in float64", size, ours, peer, 2 * size.flops, "beside the peer's float32", None)


def row(
    name: str, size: Size, ours: Callable[[], Any], peer: Callable[[], Any], flops: float, note: str, limit: float | None
) -> measure.Result:
    timed = measure.alternate(name, ours, peer)
    share = measure.roofline().share(timed.seconds, flops=flops)
    return measure.Result(
        name=name, comparison=timed, limit=limit, size=f"{size.rows} x {size.columns}, groups of {GROUP}", note=note, share=share
    )


def main() -> None:
    measure.script(TITLE, NEEDS, ROWS, run)


if __name__ == "__main__":
    main()
