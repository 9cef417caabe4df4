"""What a backend can be asked to do: one named operation with named inputs and outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, get_args

from refquant.conformance.case import Case
from refquant.conformance.reanchor import Reanchored
from refquant.conformance.streams import Stream
from refquant.errors import UsageError
from refquant.numerics import Arithmetic
from refquant.numerics.arrays import Array

Level = Literal["formats", "codes", "scales", "methods", "model", "end_to_end"]
Arrays = Mapping[str, Array]
Parameters = Mapping[str, Any]
Run = Callable[[Arrays, Parameters], Mapping[str, Array]]
"""The shape of every implementation: ours, a backend's, a mutant's."""
Reanchor = Callable[[Case, Arrays], Reanchored]
"""Given a case and a backend's outputs: what its own past demands of it."""


class Reference(Protocol):
    """Our own implementation; the arithmetic is an argument, so that the ordered lane can be asked for."""

    def __call__(self, inputs: Arrays, parameters: Parameters, *, arithmetic: Arithmetic = ...) -> dict[str, Array]:
        """Return every output by name."""
        ...


@dataclass(frozen=True, slots=True)
class Part:
    """An input or output: its name, meaning, dtype and shape in words."""

    name: str
    meaning: str
    dtype: str
    shape: str


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter: its name and what values it takes."""

    name: str
    meaning: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """An operation and its vectors.

    Parameters
    ----------
    name : str
        Dotted; permanent.
    level : {"formats", "codes", "scales", "methods", "model", "end_to_end"}
        What a backend must have for it.
    doc : str
        The definition, complete enough to implement it.
    inputs, outputs : tuple of Part
    parameters : tuple of Parameter
        Every case gives all of them.
    reference : Reference
        Our implementation.
    cases : callable
        Yields the cases; their expected values never come from `reference` in the arithmetic that backends use.
    reanchor : callable, optional
        For methods that feed errors back; see :mod:`refquant.conformance.compare`.
    streams : tuple of Stream
        Accumulated digests over very many inputs.
    """

    name: str
    level: Level
    doc: str
    inputs: tuple[Part, ...]
    outputs: tuple[Part, ...]
    parameters: tuple[Parameter, ...] = ()
    reference: Reference
    cases: Callable[[], Iterator[Case]]
    reanchor: Reanchor | None = None
    streams: tuple[Stream, ...] = field(default=())

    def __post_init__(self) -> None:
        if self.level not in get_args(Level):
            raise UsageError(f"operation {self.name}: unknown level {self.level!r}; known are {', '.join(get_args(Level))}")

    def faults(self, case: Case) -> list[str]:
        """What a case has that the operation does not declare, or lacks."""
        found = []
        declared = (("inputs", self.inputs, case.inputs), ("outputs", self.outputs, case.expected))
        for what, parts, arrays in declared:
            if {part.name for part in parts} != set(arrays):
                found.append(f"{what} {sorted(arrays)}, declared are {sorted(part.name for part in parts)}")
        if {parameter.name for parameter in self.parameters} != set(case.parameters):
            found.append(f"parameters {sorted(case.parameters)}, declared are {sorted(p.name for p in self.parameters)}")
        if case.operation != self.name:
            found.append(f"it belongs to {case.operation}")
        return found

    def to_json(self) -> dict[str, Any]:
        """The declaration as JSON values."""
        parts = {"inputs": self.inputs, "outputs": self.outputs}
        described = {
            what: [{"name": p.name, "meaning": p.meaning, "dtype": p.dtype, "shape": p.shape} for p in all_of_them]
            for what, all_of_them in parts.items()
        }
        parameters = [{"name": p.name, "meaning": p.meaning} for p in self.parameters]
        return {"name": self.name, "level": self.level, "doc": self.doc, **described, "parameters": parameters}
