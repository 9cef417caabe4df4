"""The matrix of hashes: one digest of the golden set and one of a quantized model while one factor at a time is varied.

Each row is a process of its own. A setting that did not take hold in it is told, and its digests count for nothing: OpenBLAS ignores a
kernel that it does not have without a word, and NumPy an unknown SIMD level with a warning.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from refquant.conformance.folder import MANIFEST
from refquant.conformance.locate import golden_directory
from refquant.conformance.settings import Setting, Surroundings, active_simd, run_under
from refquant.errors import NumericalError, UsageError
from refquant.storage import read_json

KERNELS = ("Haswell", "SkylakeX", "Zen", "Prescott", "Nehalem")
OLDEST, NEWEST = "2.0.", ""
TIMEOUT = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One process of the matrix.

    Parameters
    ----------
    setting : Setting
    workers : int
        Processes that make vectors and threads that evaluate, at a time.
    made : str, optional
        A NumPy to be installed by pip into an environment made for this row: ``"2.0.*"``; ``""`` for the newest.
    """

    setting: Setting
    workers: int = 1
    made: str | None = None

    @property
    def name(self) -> str:
        """What `--only` and `--skip` call it."""
        return self.setting.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What became of a row: two digests, or the reason why there are none that count."""

    name: str
    golden: str = ""
    quantized: str = ""
    surroundings: Surroundings | None = None
    missing: str = ""
    seconds: float = 0.0

    @property
    def counts(self) -> bool:
        """Whether the setting took hold."""
        return not self.missing


@dataclass(frozen=True, slots=True, kw_only=True)
class Matrix:
    """All rows, and the published root hash."""

    results: tuple[Result, ...]
    published: str

    @property
    def ok(self) -> bool:
        """Whether rows count, and all that do have the published root and one digest of the quantized model."""
        counting = [result for result in self.results if result.counts]
        return bool(counting) and {r.golden for r in counting} == {self.published} and len({r.quantized for r in counting}) == 1


def all_rows(pythons: Sequence[str] = ()) -> list[Row]:
    """Every row there is.

    Parameters
    ----------
    pythons : sequence of str
        Interpreters with all that refquant needs, in the place of the environments that pip would make for the oldest and newest NumPy.

    Examples
    --------
    >>> [row.name for row in all_rows()][:3]
    ['plain', 'kernel-haswell', 'kernel-skylakex']
    """
    workers = max(2, os.cpu_count() or 1)
    rows = [Row(setting=Setting(name="plain"))]
    rows += [Row(setting=Setting(name=f"kernel-{kernel.lower()}", blas_kernel=kernel, blas_threads=1)) for kernel in KERNELS]
    rows += [Row(setting=Setting(name=f"threads-{count}", blas_threads=count)) for count in (1, 2)]
    rows += [Row(setting=Setting(name="simd-off", simd=False)), Row(setting=Setting(name="workers"), workers=workers)]
    if pythons:
        return rows + [Row(setting=Setting(name=f"python-{number}", python=path)) for number, path in enumerate(pythons, 1)]
    made = (("numpy-oldest", OLDEST), ("numpy-newest", NEWEST))
    return rows + [Row(setting=Setting(name=name, numpy=version or None), made=f"{version}*" if version else "") for name, version in made]


def choose(rows: Sequence[Row], only: Sequence[str], skip: Sequence[str]) -> list[Row]:
    """The rows that are asked for.

    Raises
    ------
    UsageError
        If a name is of no row, or none is left.
    """
    names = [row.name for row in rows]
    if unknown := sorted({*only, *skip} - set(names)):
        raise UsageError(f"the matrix has no row {unknown[0]!r}; its rows are {', '.join(names)}")
    chosen = [row for row in rows if (not only or row.name in only) and row.name not in skip]
    if not chosen:
        raise UsageError("--only and --skip leave no row")
    return chosen


def run_matrix(rows: Sequence[Row], tell: Callable[[Result], object], function: str = "refquant.conformance.digests:both") -> Matrix:
    """Run rows one after the other; `tell` hears of each when it is done. `function` gives the digests of a row as JSON."""
    published = str(read_json(golden_directory() / MANIFEST)["root"])
    results = []
    for row in rows:
        results.append(_run(row, function))
        tell(results[-1])
    return Matrix(results=tuple(results), published=published)


def _run(row: Row, function: str) -> Result:
    started = time.monotonic()
    if not row.setting.simd and not active_simd():
        return Result(name=row.name, missing="NumPy chooses no SIMD level at run time on this machine")
    with ExitStack() as stack:
        setting = row.setting
        if row.made is not None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="refquant-")))
            python, why = make_environment(folder, row.made)
            if why:
                return Result(name=row.name, missing=why)
            setting = replace(setting, python=str(python))
        try:
            outcome = run_under(setting, function, [str(row.workers)], TIMEOUT)
        except NumericalError as error:
            # A row that breaks is a finding of its own: it counts, and its digests are nobody's.
            return Result(name=row.name, golden=str(error), quantized="", seconds=time.monotonic() - started)
    found = json.loads(outcome.result)
    return Result(
        name=row.name,
        golden=found["golden"],
        quantized=found["quantized"],
        surroundings=outcome.surroundings,
        missing=outcome.missing or "",
        seconds=time.monotonic() - started,
    )


def make_environment(folder: Path, numpy: str) -> tuple[Path, str]:
    """Make a virtual environment with a NumPy and all that refquant needs, by pip.

    Parameters
    ----------
    folder : Path
    numpy : str
        A version as pip takes it, such as ``"2.0.*"``; empty for the newest that this Python can have.

    Returns
    -------
    (Path, str)
        The interpreter; and why there is none, if there is none.
    """
    python = folder / "bin" / "python"
    wanted = [f"numpy=={numpy}" if numpy else "numpy", *needed_packages()]
    for words in ([sys.executable, "-m", "venv", str(folder)], [str(python), "-m", "pip", "install", "--quiet", *wanted]):
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
            return python, f"no environment with NumPy {numpy or '(newest)'} could be made: {last}"
    return python, ""


def needed_packages() -> Iterator[str]:
    """What refquant needs beside NumPy to make vectors, as pip takes it, in the versions that run here.

    Examples
    --------
    >>> any(line.startswith("mpmath") for line in needed_packages()), any(line.startswith("numpy=") for line in needed_packages())
    (True, False)
    """
    for line in importlib.metadata.requires("refquant") or ():
        requirement, _, condition = line.partition(";")
        name = re.split(r"[^A-Za-z0-9_.-]", requirement.strip())[0]
        if name.lower() != "numpy" and not condition.strip():
            yield f"{name}=={importlib.metadata.version(name)}"
    yield f"mpmath=={importlib.metadata.version('mpmath')}"  # it only makes vectors, so no plain installation brings it
