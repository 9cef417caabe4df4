"""What a mutant is."""

from __future__ import annotations

from dataclasses import dataclass

from refquant.conformance.flags import FLAGS
from refquant.conformance.operation import Run
from refquant.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """A wrong implementation.

    Parameters
    ----------
    name : str
        Permanent; reports say "this is what NAME gives".
    operation : str
        What it implements.
    flag : str
        Of the cases that must kill it: why those exist.
    what : str
        The mistake, as one would tell its author.
    run : callable
        ``run(inputs, parameters)`` returns the outputs by name, as a backend does.
    """

    name: str
    operation: str
    flag: str
    what: str
    run: Run

    def __post_init__(self) -> None:
        if self.flag not in FLAGS:
            raise UsageError(f"mutant {self.name}: unknown flag {self.flag!r}; known are {', '.join(FLAGS)}")
