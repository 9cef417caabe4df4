"""How cost grows with size: GPTQ, the forward pass and sampling; measured, fitted and drawn.

OPENBLAS_NUM_THREADS=1 python -m benchmarks.growth          measure, write docs/benchmarks/growth.json and growth.svg, and
                                                            the exponents into docs/benchmarks.md
python -m benchmarks.growth --smaller                       the same without the two largest sizes of each series
python -m benchmarks.growth --draw                          draw what was measured again

Times are processor time with one BLAS thread, the least of several runs, so that a busy machine changes them little. They are kept as
multiples of the smallest size's. The exponent is the slope of a least-squares line through the logarithms of the largest three sizes,
where what grows fastest has taken over as far as it will at these sizes.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import threadpoolctl

import model
from benchmarks.forward import Size, tensors
from benchmarks.measure import between, surroundings
from refquant.core import spec
from refquant.methods.compensate.gptq import gptq
from refquant.numerics import FAST
from refquant.report.study_plots import Canvas

FOLDER = Path(__file__).parents[1] / "docs" / "benchmarks"
BEGIN, END = "<!-- grown: python -m benchmarks.growth -->", "<!-- end of grown -->"
FITTED = 3
"""Largest sizes that the line goes through."""

Work = tuple[int, Callable[[], Any]]


def but_last(sizes: tuple[int, ...], dropped: int) -> tuple[int, ...]:
    return sizes[: len(sizes) - dropped]


def gptq_by_width(rng: np.random.Generator, dropped: int = 0) -> Iterator[Work]:
    """Quantize square matrices: int4, groups of 128, from a Hessian to codes."""
    for n in but_last((256, 512, 1024, 2048, 4096), dropped):
        x = rng.standard_normal((2 * n, n))
        h = FAST.gram(x)
        h[np.diag_indices(n)] += 0.01 * np.trace(h) / n
        yield n, partial(gptq, rng.standard_normal((n, n)), h, spec("int4", group_size=128))


def forward_by_width(rng: np.random.Generator, dropped: int = 0) -> Iterator[Work]:
    """Two layers over 1 x 256 tokens."""
    for width in but_last((128, 256, 512, 1024, 2048), dropped):
        yield width, forward(width, 256, rng)


def forward_by_length(rng: np.random.Generator, dropped: int = 0) -> Iterator[Work]:
    """Two layers of width 256 over one sequence."""
    for tokens in but_last((64, 128, 256, 512, 1024, 2048, 4096), dropped):
        yield tokens, forward(256, tokens, rng)


def forward(width: int, tokens: int, rng: np.random.Generator) -> Callable[[], Any]:
    size = Size(width, 2, 1, tokens, 1.0)
    return partial(model.build(size.config, tensors(size.config, rng)).logits, rng.integers(0, size.vocabulary, (1, tokens)))


def sampling_by_length(rng: np.random.Generator, dropped: int = 0) -> Iterator[Work]:
    """Generate so many tokens in as many steps after a prompt of 16, two layers of width 128."""
    size = Size(128, 2, 1, 16, 1.0)
    m = model.build(size.config, tensors(size.config, rng))
    prompt = rng.integers(4, size.vocabulary, (1, 16))
    for length in but_last((16, 32, 64, 128, 256, 512), dropped):
        yield length, partial(model.generate, m, prompt, gen_length=length, block_length=length, steps=length)


SERIES: dict[str, tuple[str, Callable[[np.random.Generator, int], Iterator[Work]]]] = {
    "GPTQ": ("width n of an n x n weight", gptq_by_width),
    "forward, by width": ("model width d, 256 tokens", forward_by_width),
    "forward, by length": ("tokens T, width 256", forward_by_length),
    "sampling": ("tokens generated, one a step", sampling_by_length),
}


def seconds(call: Callable[[], Any]) -> float:
    """Least processor time of up to five runs, of fewer where they are long; the first counts only if it is the only one."""
    found: list[float] = []
    while len(found) < 6 and sum(found) < 1:
        start = time.process_time()
        call()
        found.append(time.process_time() - start)
    return min(found[1:] or found)


def exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """Slope of the least-squares line through the logarithms of the last :data:`FITTED` points."""
    x, y = (np.log(np.array(values[-FITTED:], dtype=np.float64)) for values in (sizes, costs))
    x = x - x.mean()
    return float((x * y).sum() / (x * x).sum())


def measured(smaller: bool) -> dict[str, Any]:
    """Every series: sizes, and costs as multiples of the first."""
    series: dict[str, Any] = {}
    with threadpoolctl.threadpool_limits(1):
        for name, (_, works) in SERIES.items():
            pending = works(np.random.Generator(np.random.PCG64(0)), 2 if smaller else 0)
            points = [(size, seconds(call)) for size, call in pending]
            costs = [float(f"{cost / points[0][1]:.4g}") for _, cost in points]
            series[name] = {"sizes": [size for size, _ in points], "costs": costs}
            print(f"{name}: cost grows with exponent {exponent(series[name]['sizes'], costs):.2f}", flush=True)
        return {"measured on": surroundings(), "series": series}


def drawing(found: dict[str, Any]) -> str:
    """The plot as SVG, the same bytes for the same numbers and the same matplotlib."""
    canvas = Canvas(len(SERIES), height=3.6, share=False)
    for axis, (name, (label, _)) in zip(canvas.axes, SERIES.items(), strict=True):
        sizes, costs = (found["series"][name][key] for key in ("sizes", "costs"))
        slope = exponent(sizes, costs)
        middle = math.exp(np.log(sizes[-FITTED:]).mean()), math.exp(np.log(costs[-FITTED:]).mean())
        axis.loglog(sizes, costs, marker="o", markersize=4, color="C0")
        axis.loglog(
            sizes, [middle[1] * (size / middle[0]) ** slope for size in sizes], linestyle="--", color="C1", label=f"exponent {slope:.2f}"
        )
        axis.set_title(name)
        axis.set_xlabel(label)
        axis.set_xticks(sizes, [str(size) for size in sizes])
        axis.minorticks_off()
        axis.legend(loc="upper left")
    canvas.axes[0].set_ylabel("processor time, smallest size = 1")
    return canvas.svg()


def table(found: dict[str, Any]) -> list[str]:
    """Markdown: the range of sizes, and the exponent over the largest of them."""
    rows = ["| what | over | from | to | exponent |", "|---|---|---|---|---|"]
    for name, (label, _) in SERIES.items():
        sizes, costs = (found["series"][name][key] for key in ("sizes", "costs"))
        rows.append(f"| {name} | {label} | {sizes[0]} | {sizes[-1]} | {exponent(sizes, costs):.2f} |")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description="How cost grows with size.")
    parser.add_argument("--draw", action="store_true", help="draw again what was measured")
    parser.add_argument("--smaller", action="store_true", help="leave the two largest sizes of each series out")
    given = parser.parse_args()
    data, page = FOLDER / "growth.json", FOLDER.parent / "benchmarks.md"
    if not given.draw:
        data.write_text(json.dumps(measured(given.smaller), indent=1) + "\n", encoding="utf-8")
    found = json.loads(data.read_text(encoding="utf-8"))
    (FOLDER / "growth.svg").write_text(drawing(found), encoding="utf-8")
    page.write_text(between(page.read_text(encoding="utf-8"), BEGIN, END, table(found)), encoding="utf-8")


if __name__ == "__main__":
    main()
