"""The Hessian of a stream of tokens beside torch's `X.T @ X` on all of them at once.

OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1 python -m benchmarks.hessian [--quick]

Ours sees the tokens batch by batch, as calibration does, counts them, checks that they are finite, keeps the largest magnitudes, and gives
a float64 matrix that is symmetric to the bit. The peer multiplies two matrices that lie in memory.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

from benchmarks import measure
from refquant.core import RunningStats
from refquant.errors import NumericalError

TITLE = "Hessian of a stream of tokens / torch's X.T @ X"
NEEDS = ("torch",)
ROWS = ("Hessian, products in float32 / float32", "Hessian, products in float64 / float64", "  products in float64 / float32")

BATCH = 2048
TOLERANCE = {"float32": 1e-5, "float64": 1e-12}
"""Largest difference from float64 products, relative to the largest entry."""


def streamed(x: np.ndarray, working: str) -> np.ndarray:
    """The Hessian of tokens that come in batches."""
    running = RunningStats(x.shape[1], working=working)
    for start in range(0, len(x), BATCH):
        running.add(x[start : start + BATCH])
    return running.stats().hessian


def run(quick: bool) -> Iterator[measure.Result]:
    tokens, features = (2048, 256) if quick else (16384, 4096)
    x = np.random.Generator(np.random.PCG64(0)).standard_normal((tokens, features), dtype=np.float32)
    torch = importlib.import_module("torch")
    narrow = torch.from_numpy(x)
    wide = narrow.double()
    expected = product(wide).numpy()
    for working, limit in TOLERANCE.items():
        distance = float(np.max(np.abs(streamed(x, working) - expected)) / np.max(expected))
        if not distance <= limit:
            raise NumericalError(f"the Hessian in {working} differs from torch's float64 by {distance:.1e} of its largest entry")
    del expected
    size, flops = f"{tokens} x {features}, in batches of {BATCH}", float(tokens) * features**2
    yield row(ROWS[0], partial(streamed, x, "float32"), partial(product, narrow), flops, 0.75, size)
    yield row(ROWS[1], partial(streamed, x, "float64"), partial(product, wide), 2 * flops, 0.75, size)
    yield row(ROWS[2], partial(streamed, x, "float64"), partial(product, narrow), 2 * flops, None, size)


def product(x: Any) -> Any:
    """The peer."""
    return x.T @ x


def row(name: str, ours: Callable[[], Any], peer: Callable[[], Any], flops: float, limit: float | None, size: str) -> measure.Result:
    timed = measure.alternate(name, ours, peer)
    share = measure.roofline().share(timed.seconds, flops=flops)
    return measure.Result(name=name, comparison=timed, limit=limit, size=size, share=share)


def main() -> None:
    measure.script(TITLE, NEEDS, ROWS, run)


if __name__ == "__main__":
    main()
