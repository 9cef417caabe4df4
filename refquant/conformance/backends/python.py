"""A backend that is a Python object in this process."""

from __future__ import annotations

import shlex
import traceback
from collections.abc import Mapping
from types import TracebackType
from typing import Any

import numpy as np

from refquant.conformance.backend import load_backend
from refquant.conformance.backends.session import BackendTrouble, NotOfferedError, Question
from refquant.numerics.arrays import Array


class PythonBackend:
    """The operations of an object named ``package.module:object``; see :mod:`refquant.conformance.backend`.

    A function raises NotImplementedError where it does not have these parameters; anything else that it raises is recorded. Its inputs are
    read-only: a function that writes into them is told so. For something that may hang or take the process with it, put
    ``python -m refquant.conformance.backends.serve package.module:object`` behind a pipe.

    Parameters
    ----------
    name : str

    Raises
    ------
    UsageError
        If there is no such object, or it has no operation at all.

    Examples
    --------
    >>> PythonBackend("refquant.conformance.own:backend").operations[0]
    'rounding.half_even'
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.option = f"--backend {shlex.quote(name)}"
        self.runs = load_backend(name)
        self.operations = tuple(self.runs)

    def answer(self, question: Question) -> Mapping[str, Array]:
        """Call the function, and take what it returns as arrays."""
        try:
            found: Any = self.runs[question.operation](question.inputs, question.parameters)
        except NotImplementedError as error:
            raise NotOfferedError(str(error) or "not implemented") from error
        except (Exception, SystemExit) as error:
            raise BackendTrouble("raised", f"{type(error).__name__}: {error}{_place(error.__traceback__)}") from error
        if not isinstance(found, Mapping):
            raise BackendTrouble("garbage", f"the function returned {type(found).__name__}; a mapping of outputs by name is needed")
        try:
            return {str(part): np.asarray(array) for part, array in found.items()}
        except Exception as error:
            raise BackendTrouble("garbage", f"an output is no array: {type(error).__name__}: {error}") from error

    def close(self) -> None:
        """Nothing to end."""

    def strays(self) -> list[str]:
        """Nothing is said outside of a question."""
        return []


def _place(trace: TracebackType | None) -> str:
    """Where it was raised: the last line of the backend's own code."""
    frames = traceback.extract_tb(trace)
    if not frames:
        return ""
    return f" ({frames[-1].filename}, line {frames[-1].lineno}, in {frames[-1].name})"
