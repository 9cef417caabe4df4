"""Calling the function under test: which arrays of an example it takes, and everything it gave back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np

from refquant.conformance.laws.answer import Answer, ask
from refquant.conformance.laws.law import Example, Subject
from refquant.numerics.arrays import Array

# The arrays of an example that a function of each kind is called with; the first is the one that is quantized.
ARGUMENTS: dict[str, tuple[str, ...]] = {
    "quantizer": ("x",),
    "weight_method": ("weight", "hessian"),
    "statistics": ("x",),
    "packing": ("codes",),
    "rewrite": ("weight", "x"),
}


def arguments(subject: Subject, example: Example) -> tuple[Array, ...]:
    """The arrays that the function is called with."""
    return tuple(example[name] for name in ARGUMENTS[subject.kind])


def main_array(subject: Subject, example: Example) -> Array:
    """The array whose elements the answer stands for."""
    return arguments(subject, example)[0]


def answer_for(subject: Subject, example: Example, main: Array | None = None) -> Answer:
    """The function's answer to an example, or to the example with another first array."""
    first, *rest = arguments(subject, example)
    return ask(subject, first if main is None else main, *rest)


def arrays_of(found: Any) -> Iterator[Array]:
    """Yield every array in whatever a function gave back, in a fixed order.

    Examples
    --------
    >>> [a.tolist() for a in arrays_of({"b": np.ones(1), "a": (2.0, np.zeros(2))})]
    [2.0, [0.0, 0.0], [1.0]]
    """
    if isinstance(found, np.ndarray | np.generic | float | int | bytes | str):
        yield np.asarray(found)
    elif isinstance(found, Mapping):
        for name in sorted(found):
            yield from arrays_of(found[name])
    elif isinstance(found, tuple | list):
        for part in found:
            yield from arrays_of(part)
    elif is_dataclass(found):
        for entry in fields(found):
            yield from arrays_of(getattr(found, entry.name))
    elif hasattr(found, "dequantize"):
        yield np.asarray(found.dequantize())
    elif hasattr(found, "__dict__"):
        yield from arrays_of(vars(found))
