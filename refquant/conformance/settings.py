"""Run a function in a process of its own under other settings of BLAS and NumPy, and find out whether they took hold.

Threads, kernels and SIMD levels are chosen when NumPy is loaded, so they can be varied between processes only. A variable that means
nothing to a build is ignored without a word (OpenBLAS) or with a warning (NumPy): the child therefore looks at what it really runs with,
and a setting that this machine cannot give is told apart from one that changed nothing.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import threadpoolctl

from refquant.errors import NumericalError, UsageError

ALIASES = {"katmai": "prescott"}
"""OpenBLAS built without its oldest kernels takes Prescott's for all of them, and calls it by the first name in its list."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What is asked of a process; None leaves a thing as it is.

    Parameters
    ----------
    name : str
    blas_threads : int, optional
    blas_kernel : str, optional
        Of OpenBLAS: ``"Haswell"``, ``"SkylakeX"``, ``"Zen"``, ``"Prescott"``, ``"Nehalem"``.
    simd : bool
        False switches off every instruction set that NumPy chooses at run time.
    numpy : str, optional
        How the version of NumPy begins: ``"2.0."``.
    python : str, optional
        The interpreter to run; with it come its own NumPy, BLAS and other packages, and from here the packages `refquant` and `model` only.
    """

    name: str
    blas_threads: int | None = None
    blas_kernel: str | None = None
    simd: bool = True
    numpy: str | None = None
    python: str | None = None

    def variables(self, dispatch: Sequence[str] | None = None) -> dict[str, str]:
        """Environment variables that ask for it; `dispatch` are the SIMD levels that the child's NumPy chooses from, by default ours.

        Examples
        --------
        >>> Setting(name="two threads", blas_threads=2).variables()
        {'OPENBLAS_NUM_THREADS': '2'}
        """
        found = {}
        if self.blas_threads is not None:
            found["OPENBLAS_NUM_THREADS"] = str(self.blas_threads)
        if self.blas_kernel is not None:
            found["OPENBLAS_CORETYPE"] = self.blas_kernel
        if not self.simd:
            found["NPY_DISABLE_CPU_FEATURES"] = " ".join(active_simd() if dispatch is None else dispatch)
        return found

    def missing(self, seen: Surroundings) -> str | None:
        """What of it a process did not get, in words; None if it got all."""
        if self.blas_threads is not None and set(seen.blas_threads) != {self.blas_threads}:
            return f"{self.blas_threads} BLAS threads were asked for; BLAS runs with {list(seen.blas_threads) or 'an unknown number'}"
        kernels = {ALIASES.get(kernel.lower(), kernel.lower()) for kernel in seen.blas_kernels}
        if self.blas_kernel is not None and kernels != {self.blas_kernel.lower()}:
            return f"the BLAS kernel {self.blas_kernel} was asked for; BLAS runs with {list(seen.blas_kernels) or 'an unknown one'}"
        if self.numpy is not None and not f"{seen.numpy}.".startswith(self.numpy):
            return f"NumPy {self.numpy} was asked for; it is {seen.numpy}"
        if not self.simd and seen.simd:
            return f"NumPy's SIMD levels were to be off; still on: {', '.join(seen.simd)}"
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What a process runs with.

    Parameters
    ----------
    numpy, python : str
        Versions.
    blas_threads : tuple of int
        One for each BLAS that is loaded: NumPy and SciPy bring their own.
    blas_kernels : tuple of str
    simd : tuple of str
        Instruction sets that NumPy chose at run time.
    """

    numpy: str
    python: str
    blas_threads: tuple[int, ...]
    blas_kernels: tuple[str, ...]
    simd: tuple[str, ...]

    @classmethod
    def here(cls) -> Surroundings:
        """Look at this process."""
        pools = [pool for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas"]
        return cls(
            numpy=np.__version__,
            python=sys.version.split()[0],
            blas_threads=tuple(pool["num_threads"] for pool in pools),
            blas_kernels=tuple(pool.get("architecture") or "" for pool in pools),
            simd=tuple(active_simd()),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a process gave.

    Parameters
    ----------
    setting : Setting
    result : str
        What the function returned, such as a digest.
    surroundings : Surroundings
    missing : str or None
        What of the setting this machine cannot give; None if it took hold.
    """

    setting: Setting
    result: str
    surroundings: Surroundings
    missing: str | None


def active_simd() -> list[str]:
    """Names of the instruction sets that NumPy uses beyond what it was compiled for, from its own list: they differ between releases."""
    umath: Any = np._core._multiarray_umath  # type: ignore[attr-defined]
    return [name for name in umath.__cpu_dispatch__ if umath.__cpu_features__.get(name)]


def active_simd_names() -> str:
    """:func:`active_simd` as one string, for a child to return."""
    return " ".join(active_simd())


def run_under(setting: Setting, function: str, arguments: Sequence[str] = (), timeout: float = 600) -> Outcome:
    """Call a function in a new process.

    Parameters
    ----------
    setting : Setting
    function : str
        ``"module:name"`` of a function of strings that returns a string; the child finds modules where this process does.
    arguments : sequence of str
    timeout : float
        Seconds.

    Raises
    ------
    NumericalError
        If the process fails, or takes too long; with the end of what it wrote to stderr.
    UsageError
        If there is no such interpreter.

    Examples
    --------
    >>> outcome = run_under(Setting(name="one thread", blas_threads=1), "os.path:basename", ["folder/file"])
    >>> outcome.result, outcome.missing
    ('file', None)
    """
    with _importable(setting) as path:
        environment = os.environ | {"PYTHONPATH": path}
        interpreter = setting.python or sys.executable
        environment |= setting.variables(_their_simd(interpreter, environment) if setting.python and not setting.simd else None)
        words = [interpreter, "-m", "refquant.conformance.settings", function, *arguments]
        try:
            done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=timeout, check=False)
        except subprocess.TimeoutExpired as error:
            raise NumericalError(f"{function} under the setting {setting.name!r} took longer than {timeout:g} seconds") from error
        except OSError as error:
            raise UsageError(f"the interpreter {interpreter} cannot be run: {error}") from error
    if done.returncode:
        tail = " | ".join(done.stderr.strip().splitlines()[-3:])
        raise NumericalError(f"{function} under the setting {setting.name!r} failed with exit code {done.returncode}: {tail}")
    found = json.loads(done.stdout.splitlines()[-1])
    seen: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in found["surroundings"].items()}
    surroundings = Surroundings(**seen)
    return Outcome(setting=setting, result=found["result"], surroundings=surroundings, missing=setting.missing(surroundings))


@contextmanager
def _importable(setting: Setting) -> Iterator[str]:
    """The search path of the child: ours; or, of another interpreter, a folder with our packages and nothing beside them."""
    if setting.python is None:
        yield os.pathsep.join(entry or os.getcwd() for entry in sys.path)
        return
    ours = Path(__file__).parents[2]
    with tempfile.TemporaryDirectory(prefix="refquant-") as folder:
        for name in ("refquant", "model", "golden"):  # the vectors stand beside the packages in a checkout, and inside in a wheel
            if (ours / name).is_dir():
                (Path(folder) / name).symlink_to(ours / name, target_is_directory=True)
        yield folder


def _their_simd(interpreter: str, environment: dict[str, str]) -> list[str]:
    """What :func:`active_simd` gives in another interpreter, whose NumPy may call its levels otherwise."""
    words = [interpreter, "-c", "from refquant.conformance.settings import active_simd_names; print(active_simd_names())"]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise NumericalError(f"{interpreter} cannot tell its SIMD levels: {done.stderr.strip().splitlines()[-1:]}")
    return done.stdout.split()


def _child(words: Sequence[str]) -> None:
    """Call ``module:name`` with strings, and write result and surroundings as the last line of stdout."""
    home, _, name = words[0].partition(":")
    result = getattr(importlib.import_module(home), name)(*words[1:])
    seen = Surroundings.here()  # after the call, when every BLAS that it takes is loaded
    surroundings = {field: getattr(seen, field) for field in ("numpy", "python", "blas_threads", "blas_kernels", "simd")}
    print(json.dumps({"result": result, "surroundings": surroundings}))


if __name__ == "__main__":
    _child(sys.argv[1:])
