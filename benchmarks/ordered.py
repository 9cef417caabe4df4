"""What the same bits everywhere cost: the ordered lane beside the fast one.

OPENBLAS_NUM_THREADS=1 python -m benchmarks.ordered [--quick]

It is not in the whole table: `python -m benchmarks --only ordered`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import scipy.linalg  # noqa: F401  (its BLAS belongs to what is reported)

import model
from benchmarks import measure
from benchmarks.measure import Comparison, alternate
from refquant.core import spec
from refquant.methods.compensate.gptq import gptq
from refquant.numerics import FAST, ORDERED, Arithmetic
from refquant.numerics.exact_product import product

TITLE = "The ordered lane / the fast one"
NEEDS: tuple[str, ...] = ()
ROWS: tuple[str, ...] = ()

Rows = Iterator[tuple[Comparison, float | None]]
"""What was compared, and the ratio it is held to, if there is one."""


def lanes(name: str, call: Callable[[Arithmetic], Any], rounds: int) -> Comparison:
    return alternate(name, partial(call, ORDERED), partial(call, FAST), rounds)


def products(n: int, rounds: int, rng: np.random.Generator) -> Rows:
    a, b = rng.standard_normal((n, n)), rng.standard_normal((n, n))
    for slices, limit in ((2, 5.0), (3, 10.0)):
        yield alternate(f"product {n}^3, {slices} slices / dgemm", partial(product, a, b, slices), partial(np.matmul, a, b), rounds), limit
    x, w = a[:800, :256].astype(np.float32), b[:256, :768].astype(np.float32)
    yield lanes("float32 linear 800x256x768 / sgemm", lambda lane: lane.matmul(x, w), rounds), None


def factors(n: int, rounds: int, rng: np.random.Generator) -> Rows:
    x = rng.standard_normal((2 * n, n)) * np.geomspace(1, 100, n)
    h = FAST.gram(x)
    h[np.diag_indices(n)] += 0.01 * np.diagonal(h).mean()
    lower = FAST.cholesky(h)
    w = rng.standard_normal((n, n))
    grid = spec("int4", group_size=128)
    yield lanes(f"Gram matrix of [{2 * n}, {n}] / dsyrk", lambda lane: lane.gram(x), rounds), None
    yield lanes(f"Cholesky {n} / dpotrf", lambda lane: lane.cholesky(h), rounds), None
    yield lanes(f"triangular inverse {n} / dtrtri", lambda lane: lane.inverse_lower(lower), rounds), None
    yield lanes(f"GPTQ {n}x{n}, int4, groups of 128", lambda lane: gptq(w, h, grid, arithmetic=lane), rounds), 6.0


def functions(rounds: int, rng: np.random.Generator) -> Rows:
    x = np.abs(rng.standard_normal((1024, 1024)).astype(np.float32))
    for name in ("exp", "log", "sin", "erf"):
        yield lanes(f"{name}, 2^20 float32", lambda lane, name=name: getattr(lane, name)(x), rounds), None
    yield lanes("sums of rows, 2^20 float32", lambda lane: lane.sum(x, axis=1), rounds), None


def forward(rounds: int) -> Rows:
    ids = np.arange(8 * 100, dtype=np.int64).reshape(8, 100) % 1000
    models = {lane.name: model.embedded(arithmetic=lane) for lane in (FAST, ORDERED)}
    yield lanes("embedded model, logits of 8 x 100 tokens", lambda lane: models[lane.name].logits(ids), rounds), None


def run(quick: bool) -> Iterator[measure.Result]:
    size, rounds = (32, 1) if quick else (2048, 7)
    rng = np.random.Generator(np.random.PCG64(0))
    for group in (products(size, rounds, rng), factors(size, rounds, rng), functions(rounds, rng), forward(rounds)):
        for comparison, limit in group:
            yield measure.Result(name=comparison.name, comparison=comparison, limit=limit)


def main() -> None:
    measure.script(TITLE, NEEDS, ROWS, run)


if __name__ == "__main__":
    main()
