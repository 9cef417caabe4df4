"""The MSE clip search of GPTQ's code beside the same loop in torch.

OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1 python -m benchmarks.clip_search [--quick]

The peer is the search as GPTQ's authors describe it, written down for torch: for each of 80 shrinkages of the rows' ranges the whole matrix
is quantized, its errors are raised to 2.4 and summed by rows, and rows that got better keep the new grid.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from benchmarks import measure
from refquant.core import fit_grid, spec
from refquant.errors import NumericalError

TITLE = "MSE clip search / the same loop in torch"
NEEDS = ("torch",)
ROWS = ("clip search, a scale a row",)

SPEC = spec("int4", scheme="asym_incl0", mse=True)
DISAGREEMENTS = 0.01
"""Share of rows that may choose another shrinkage: sums of float32 in another order decide near ties."""
OPERATIONS = 9
"""For each weight and shrinkage: divide, round, add, clip, subtract, multiply, subtract, raise to a power, sum."""


class TorchSearch:
    """Scales and zero points of the rows of a matrix."""

    def __init__(self, x: np.ndarray) -> None:
        self.torch = importlib.import_module("torch")
        self.x = self.torch.from_numpy(x)

    def __call__(self, levels: int = 15, steps: int = 100, share: float = 0.8, norm: float = 2.4) -> tuple[Any, Any]:
        torch, x = self.torch, self.x
        nothing = torch.zeros(len(x))
        low, high = torch.minimum(x.amin(1), nothing), torch.maximum(x.amax(1), nothing)
        scale = (high - low) / levels
        zero = torch.round(-low / scale)
        best = torch.full((len(x),), float("inf"))
        for step in range(int(share * steps)):
            shrunk_low, shrunk_high = (1 - step / steps) * low, (1 - step / steps) * high
            new_scale = (shrunk_high - shrunk_low) / levels
            new_zero = torch.round(-shrunk_low / new_scale)
            s, z = new_scale[:, None], new_zero[:, None]
            error = s * (torch.clamp(torch.round(x / s) + z, 0, levels) - z)
            error -= x
            error.abs_().pow_(norm)
            loss = error.sum(1)
            better = loss < best
            best[better], scale[better], zero[better] = loss[better], new_scale[better], new_zero[better]
        return scale, zero


def check(x: np.ndarray, peer: TorchSearch) -> float:
    """Share of rows whose scales differ; NumericalError if it is more than near ties explain."""
    grid, (scale, _) = fit_grid(x, SPEC), peer()
    parted = float(np.count_nonzero(grid.scale[:, 0] != scale.numpy()) / len(x))
    if parted > DISAGREEMENTS:
        raise NumericalError(
            f"{parted:.1%} of the rows have another scale than in torch; allowed before times are compared: {DISAGREEMENTS:.0%}"
        )
    return parted


def run(quick: bool) -> Iterator[measure.Result]:
    rows, columns = (64, 512) if quick else (4096, 4096)
    x = np.random.Generator(np.random.PCG64(0)).standard_normal((rows, columns), dtype=np.float32)
    peer = TorchSearch(x)
    parted = check(x, peer)
    timed = measure.alternate(ROWS[0], partial(fit_grid, x, SPEC), peer)
    yield measure.Result(
        name=ROWS[0],
        comparison=timed,
        limit=0.5,
        size=f"{rows} x {columns}, 80 shrinkages",
        note=f"{parted:.2%} of the rows chose another of nearly equal shrinkages",
        share=measure.roofline().share(timed.seconds, flops=float(OPERATIONS * 80 * x.size)),
    )


def main() -> None:
    measure.script(TITLE, NEEDS, ROWS, run)


if __name__ == "__main__":
    main()
