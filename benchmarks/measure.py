"""Time two things alternately, and say what they ran on.

A ratio of medians of separate runs changes with whatever else the machine does. Here both things run in turn, each round gives one ratio,
and what is reported is the median of those with its spread; what slows a round down slows both.

A script of this folder is a module with

    TITLE: str                                   what it measures, a heading of the table
    NEEDS: tuple[str, ...]                       modules without which none of its rows can run
    ROWS: tuple[str, ...]                        names of its rows, so that they are listed where a need is missing
    def run(quick: bool) -> Iterator[Result]     the rows, one by one; `quick` is for seeing that it works
    def main() -> None                           measure.script(TITLE, NEEDS, ROWS, run)

and a name in the table of `benchmarks/__main__.py`. A row whose own peer is missing, while others of the script run, is `not_run(...)`.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import importlib.util
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
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

    @property
    def seconds(self) -> float:
        """Median time of ours."""
        return statistics.median(self.ours)

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One row of the table; it can be sent as JSON.

    `limit` bounds the ratio of times, or with `more=True` the seconds that ours takes more (median of the rounds' differences).
    `share` is that of the roofline, see :meth:`Roofline.share`; `note` says what a reader needs to know, such as what stands between.
    Without a comparison the row was not run, and `note` says why.
    """

    name: str
    comparison: Comparison | None
    limit: float | None = None
    size: str = ""
    note: str = ""
    share: float | None = None
    more: bool = False

    @property
    def values(self) -> tuple[float, ...]:
        """What is held to the limit, of every round."""
        if self.comparison is None:
            return ()
        return (
            tuple(a - b for a, b in zip(self.comparison.ours, self.comparison.peer, strict=True)) if self.more else self.comparison.ratios
        )

    @property
    def verdict(self) -> str:
        """`kept`, `MISSED` or `not run`; nothing where there is no limit."""
        if self.comparison is None:
            return "not run"
        if self.limit is None:
            return ""
        return "kept" if statistics.median(self.values) <= self.limit else "MISSED"

    def line(self) -> str:
        """Median and spread, the limit and whether it is kept, both times, the share of the roofline, the size, the note."""
        if self.comparison is None:
            return f"{self.name:44} not run: {self.note}"
        scale, unit = (1e3, " ms") if self.more else (1, "x")
        middle, *ends = (f"{value * scale:.2f}" for value in (statistics.median(self.values), min(self.values), max(self.values)))
        limit = "" if self.limit is None else f"  (limit {self.limit * scale:g}{unit}: {self.verdict})"
        ours, peer = (statistics.median(seconds) * 1e3 for seconds in (self.comparison.ours, self.comparison.peer))
        share = "" if self.share is None else f"  {self.share:.0%} of the roofline"
        rest = "".join(f"  {text}" for text in (self.size, self.note) if text)
        return f"{self.name:44} {middle:>7}{unit} [{', '.join(ends)}]{limit}  {ours:.2f} ms against {peer:.2f} ms{share}{rest}"

    def json(self) -> str:
        """One line that :func:`from_json` reads."""
        return json.dumps(dataclasses.asdict(self))


def from_json(text: str) -> Result:
    """The result that a script with `--json` printed."""
    fields = json.loads(text)
    pair = fields.pop("comparison")
    if pair is not None:
        pair = Comparison(name=pair["name"], ours=tuple(pair["ours"]), peer=tuple(pair["peer"]))
    return Result(comparison=pair, **fields)


PEERS = {
    "torch": "pip install torch --index-url https://download.pytorch.org/whl/cpu",
    "torchao": "pip install torch --index-url https://download.pytorch.org/whl/cpu && pip install torchao",
    "llmcompressor": "pip install torch --index-url https://download.pytorch.org/whl/cpu && pip install llmcompressor",
    "gguf": "pip install gguf",
}
"""How to get what the rows are held against."""


def missing(needs: Sequence[str]) -> tuple[str, ...]:
    """Those of some modules that cannot be imported here."""
    return tuple(need for need in needs if importlib.util.find_spec(need) is None)


def not_run(name: str, needs: Sequence[str], limit: float | None = None, size: str = "") -> Result:
    """A row whose peer is not here."""
    how = "; ".join(f"{need} is not installed ({PEERS.get(need, f'pip install {need}')})" for need in needs)
    return Result(name=name, comparison=None, limit=limit, size=size, note=how)


@dataclass(frozen=True, slots=True, kw_only=True)
class Roofline:
    """What this process can do at most, as NumPy does it: rates of large float32 products and of copying."""

    flops: float  # a second, in a product 2048^3 of float32
    traffic: float  # bytes read plus bytes written a second, in a copy of 128 MiB

    def line(self) -> str:
        return f"{self.flops / 1e9:.1f} Gflop/s (sgemm 2048^3), {self.traffic / 1e9:.2f} GB/s (copy, read + written)"

    def share(self, seconds: float, flops: float = 0.0, traffic: float = 0.0) -> float:
        """How much of `seconds` the arithmetic or the memory would need at those rates, whichever needs more.

        `flops` are float32 additions and multiplications that are needed (a float64 one counts twice), `traffic` the bytes that have to
        be read plus those that have to be written: arguments and results once each, and nothing that lies between.
        """
        return max(flops / self.flops, traffic / self.traffic) / seconds


@functools.cache
def roofline() -> Roofline:
    """Measure the roofline, once a process: the best of seven rounds each."""
    n = 2048
    rng = np.random.Generator(np.random.PCG64(0))
    a, b = rng.standard_normal((2, n, n), dtype=np.float32)
    product = np.empty_like(a)
    source, target = np.ones((2, 1 << 25), dtype=np.float32)
    return Roofline(
        flops=2 * n**3 / _best(lambda: np.matmul(a, b, out=product)),
        traffic=2 * source.nbytes / _best(lambda: np.copyto(target, source)),
    )


def _best(call: Callable[[], Any], rounds: int = 7) -> float:
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def between(page: str, begin: str, end: str, lines: Sequence[str]) -> str:
    """A page with other lines between two markers; ValueError if they are not there."""
    before, after = page.index(begin) + len(begin), page.index(end)
    return page[:before] + "\n" + "\n".join(lines) + "\n" + page[after:]


def script(title: str, needs: Sequence[str], rows: Sequence[str], run: Callable[[bool], Iterator[Result]]) -> None:
    """The command line of one script: title, rows and surroundings, or with `--json` each of them as a line of JSON."""
    parser = argparse.ArgumentParser(description=title)
    parser.add_argument("--quick", action="store_true", help="small sizes and few rounds, to see that it runs; limits mean nothing then")
    parser.add_argument("--json", action="store_true", help="a line of JSON each: the title, the rows, the surroundings")
    given = parser.parse_args()
    absent = missing(needs)
    results = (not_run(name, absent) for name in rows or (title,)) if absent else run(given.quick)
    print(json.dumps({"title": title}) if given.json else title, flush=True)
    for result in results:
        if given.quick:  # no limit is meant for small sizes
            result = dataclasses.replace(result, limit=None)
        print(result.json() if given.json else result.line(), flush=True)
    where = surroundings()  # last, when every library is loaded
    if roofline.cache_info().currsize:  # a row asked for it
        where += f"; roofline: {roofline().line()}"
    print(json.dumps({"surroundings": where}) if given.json else where)


def surroundings() -> str:
    """What decides speed here: processor count, load, Python, NumPy, its SIMD levels, and each BLAS with kernel and threads."""
    blas = "; ".join(
        f"{pool.get('internal_api')} {pool.get('version')} {pool.get('architecture')} x{pool['num_threads']}"
        for pool in threadpoolctl.threadpool_info()
        if pool["user_api"] == "blas"
    )
    if "torch" in sys.modules:  # its MKL shows in no list of loaded libraries
        torch = sys.modules["torch"]
        blas += f"; torch {torch.__version__} x{torch.get_num_threads()}"
    load = f"{os.getloadavg()[0]:.2f}" if hasattr(os, "getloadavg") else "unknown"
    variables = " ".join(f"{k}={v}" for k, v in sorted(os.environ.items()) if k.startswith(("OPENBLAS_", "OMP_", "MKL_", "NPY_"))) or "none"
    return (
        f"{platform.machine()}, {os.cpu_count()} processors, load {load}; Python {platform.python_version()}, NumPy {np.__version__} "
        f"({' '.join(active_simd()) or 'no SIMD'}); BLAS: {blas}; variables: {variables}"
    )
