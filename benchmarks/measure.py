"""Time two things alternately, and say what they ran on.

A ratio of medians of separate runs changes with whatever else the machine does. Here both things run in turn, each round gives one ratio,
and what is reported is the median of those with its spread; what slows a round down slows both.
"""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import threadpoolctl

from refquant.conformance.settings import active_simd


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Seconds of every round of both things."""

    name: str
    ours: tuple[float, ...]
    peer: tuple[float, ...]

    @property
    def ratios(self) -> tuple[float, ...]:
        return tuple(a / b for a, b in zip(self.ours, self.peer, strict=True))

    @property
    def ratio(self) -> float:
        return statistics.median(self.ratios)

    def line(self, limit: float | None = None) -> str:
        """One line: median ratio, spread, median times, and whether a limit is kept."""
        verdict = "" if limit is None else f"  (limit {limit:g}: {'kept' if self.ratio <= limit else 'MISSED'})"
        times = f"{statistics.median(self.ours) * 1e3:9.2f} ms against {statistics.median(self.peer) * 1e3:9.2f} ms"
        return f"{self.name:44} {self.ratio:6.2f}x  [{min(self.ratios):.2f}, {max(self.ratios):.2f}]  {times}{verdict}"


def alternate(name: str, ours: Callable[[], Any], peer: Callable[[], Any], rounds: int = 7) -> Comparison:
    """Time `ours` and `peer` in turn, after one round that is not counted; which of them begins alternates too."""
    seconds: dict[str, list[float]] = {"ours": [], "peer": []}
    calls = [("ours", ours), ("peer", peer)]
    for number in range(-1, rounds):
        for which, call in calls if number % 2 else reversed(calls):
            start = time.perf_counter()
            call()
            if number >= 0:
                seconds[which].append(time.perf_counter() - start)
    return Comparison(name=name, ours=tuple(seconds["ours"]), peer=tuple(seconds["peer"]))


def surroundings() -> str:
    """What decides speed here: processor count, load, Python, NumPy, its SIMD levels, and each BLAS with kernel and threads."""
    blas = "; ".join(
        f"{pool.get('internal_api')} {pool.get('version')} {pool.get('architecture')} x{pool['num_threads']}"
        for pool in threadpoolctl.threadpool_info()
        if pool["user_api"] == "blas"
    )
    load = f"{os.getloadavg()[0]:.2f}" if hasattr(os, "getloadavg") else "unknown"
    variables = " ".join(f"{k}={v}" for k, v in sorted(os.environ.items()) if k.startswith(("OPENBLAS_", "OMP_", "NPY_"))) or "none"
    return (
        f"{platform.machine()}, {os.cpu_count()} processors, load {load}; Python {platform.python_version()}, NumPy {np.__version__} "
        f"({' '.join(active_simd()) or 'no SIMD'}); BLAS: {blas}; variables: {variables}"
    )
