"""The whole table of speed, as ratios: ``python -m benchmarks [--quick] [--only NAME] [--threads N] [--strict] [--write]``.

Each script runs in a process of its own, one after the other, with the same number of threads for us and the peers. A row whose peer is
not installed is listed as not run, with how to get it. `--strict` exits with 1 for such a row or a limit that is missed; a script that
fails exits with 1 in any case.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks import measure

TABLE = ("gptq", "hessian", "forward", "rtn", "gguf_types", "clip_search", "hadamard", "startup")
"""The scripts of the table, in its order."""

APART = ("ordered",)
"""Scripts that run only where they are named."""

VARIABLES = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
HEAD = ("| what | size | ours / peer | least to most | at most | of the roofline | |", "|---|---|---|---|---|---|---|")
PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"
BEGIN, END = "<!-- measured: python -m benchmarks --write -->", "<!-- end of measured -->"


def lines_of(name: str, quick: bool, threads: int) -> Iterator[str]:
    """The lines of JSON that a script prints in a process of its own; CalledProcessError if it fails."""
    command = [sys.executable, "-m", f"benchmarks.{name}", "--json", *(["--quick"] if quick else [])]
    environment = {**os.environ, **dict.fromkeys(VARIABLES, str(threads))}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as child:
        if child.stdout is not None:
            for line in child.stdout:
                if line.startswith("{"):
                    yield line
                else:  # a peer that speaks of itself
                    print(line, end="", file=sys.stderr)
    if child.returncode:
        raise subprocess.CalledProcessError(child.returncode, command)


class Table:
    """What the scripts said: shown as it comes, kept for the page."""

    def __init__(self) -> None:
        self.results: list[measure.Result] = []
        self.failed: list[str] = []
        self._sections: dict[str, list[str]] = {}
        self._where: dict[str, str] = {}

    def add(self, name: str, line: str) -> None:
        """Take in a line of JSON from a script."""
        fields = json.loads(line)
        if "title" in fields:
            print(f"\n== {name}: {fields['title']}", flush=True)
            self._sections[name] = [heading(name, fields["title"])]
        elif "surroundings" in fields:
            print(f"   {fields['surroundings']}")
            self._where[name] = f"* {name}: {fields['surroundings'].partition('; roofline')[0]}"
        else:
            self.results.append(measure.from_json(line))
            self._sections[name].append(table_row(self.results[-1]))
            print(self.results[-1].line(), flush=True)

    def page(self, before: list[str]) -> list[str]:
        """Markdown: the rows, and what they ran on; of scripts that did not run now, or not to their end, what the page said before."""
        sections, where = kept(before)
        for name in self._sections.keys() - set(self.failed):
            sections[name], where[name] = self._sections[name], self._where[name]
        names = [name for name in TABLE if name in sections]
        rows = [line for name in names for line in sections[name]]
        return [*HEAD, *rows, "", *(where[name] for name in names if name in where)]


def heading(name: str, title: str) -> str:
    """The row that begins a script's."""
    return f"| **{title}** (`{name}`) | | | | | | |"


def kept(page: list[str]) -> tuple[dict[str, list[str]], dict[str, str]]:
    """The rows of each script on a page, and what they ran on."""
    sections: dict[str, list[str]] = {}
    where: dict[str, str] = {}
    name = ""
    for line in page:
        if begun := re.fullmatch(r"\| \*\*.*\*\* \(`(\w+)`\) \|[ |]*", line):
            name = begun[1]
            sections[name] = [line]
        elif line.startswith("| ") and name:
            sections[name].append(line)
        elif ran := re.match(r"\* (\w+): ", line):
            where[ran[1]] = line
    return sections, where


def table_row(result: measure.Result) -> str:
    """A row of the page: ratios, never times, which belong to one machine on one day."""
    if result.comparison is None:
        return f"| {result.name.strip()} | {result.size} | not run | | | | {result.note} |"
    scale, unit = (1e3, " ms more") if result.more else (1, "")
    middle, low, high = (f"{f(result.values) * scale:.2f}" for f in (statistics.median, min, max))
    limit = "" if result.limit is None else f"{result.limit * scale:g}{unit}, {result.verdict}"
    share = "" if result.share is None else f"{result.share:.0%}"
    return f"| {result.name.strip()} | {result.size} | {middle}{unit} | {low} to {high} | {limit} | {share} | {result.note} |"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Speed as ratios to peers, on this machine.")
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that everything runs; limits mean nothing then")
    parser.add_argument("--only", action="append", choices=[*TABLE, *APART], help="one script; may be repeated")
    parser.add_argument("--threads", type=int, default=1, help="of BLAS, torch and OpenMP, ours and the peers'; 1 by default")
    parser.add_argument("--strict", action="store_true", help="exit with 1 if a limit is missed or a row was not run")
    parser.add_argument(
        "--write", action="store_true", help=f"put the rows into {PAGE.relative_to(PAGE.parents[1])}; with --only, the others stay"
    )
    given = parser.parse_args()
    if given.write and given.quick:
        parser.error("--write is for what is measured at full size; it does not take --quick")
    table, start = Table(), time.perf_counter()
    for name in given.only or TABLE:
        began = time.perf_counter()
        try:
            for line in lines_of(name, given.quick, given.threads):
                table.add(name, line)
        except subprocess.CalledProcessError as error:
            table.failed.append(name)
            print(f"{name} FAILED with exit code {error.returncode}; what it said stands above")
        print(f"   {time.perf_counter() - began:.0f} s", flush=True)
    if given.write:
        page = PAGE.read_text(encoding="utf-8")
        before = page.partition(BEGIN)[2].partition(END)[0].splitlines()
        PAGE.write_text(measure.between(page, BEGIN, END, table.page(before)), encoding="utf-8")
    return summary(table, time.perf_counter() - start, given.strict)


def summary(table: Table, seconds: float, strict: bool) -> int:
    """Print what was kept, missed and not run; the exit code."""
    counts = {verdict: [row.name.strip() for row in table.results if row.verdict == verdict] for verdict in ("kept", "MISSED", "not run")}
    print("\n" + "; ".join(f"{verdict}: {len(names)}" for verdict, names in counts.items()) + f"; {seconds:.0f} s")
    for verdict in ("MISSED", "not run"):
        for name in counts[verdict]:
            print(f"  {verdict}: {name}")
    return int(bool(table.failed) or (strict and bool(counts["MISSED"] or counts["not run"])))


if __name__ == "__main__":
    sys.exit(main())
