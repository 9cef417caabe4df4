"""Which vectors kill which mutants."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from refquant.conformance.case import Case
from refquant.conformance.catalog import find_operation
from refquant.conformance.compare import compare
from refquant.conformance.mutants.catalog import all_mutants
from refquant.conformance.mutants.mutant import Mutant
from refquant.conformance.operation import Run
from refquant.numerics.arrays import Array


@dataclass(frozen=True, slots=True, kw_only=True)
class Kills:
    """What became of one mutant.

    `cases` are the ids of all cases that tell it from the right program, `by_flag` how many of them carry each flag, `matching` those that
    carry the mutant's own.
    """

    mutant: Mutant
    cases: tuple[str, ...]
    by_flag: Mapping[str, int]
    matching: tuple[str, ...]

    @property
    def survives(self) -> bool:
        """Whether no case with the mutant's flag kills it."""
        return not self.matching


def killers(run: Run, operation: str, cases: Iterable[Case]) -> list[Case]:
    """The cases that find fault with a program."""
    declared = find_operation(operation)
    return [case for case in cases if compare(declared, case, run(case.inputs, case.parameters))]


def coverage(cases: Mapping[str, Sequence[Case]], mutants: Iterable[Mutant] | None = None) -> list[Kills]:
    """Run mutants over the cases of their operations.

    Parameters
    ----------
    cases : mapping of str to sequence of Case
        By name of operation.
    mutants : iterable of Mutant, optional
        By default all.
    """
    found = []
    for mutant in all_mutants() if mutants is None else mutants:
        killed_by = killers(mutant.run, mutant.operation, cases.get(mutant.operation, ()))
        flags: dict[str, int] = {}
        for case in killed_by:
            for flag in case.flags:
                flags[flag] = flags.get(flag, 0) + 1
        found.append(
            Kills(
                mutant=mutant,
                cases=tuple(case.id for case in killed_by),
                by_flag=flags,
                matching=tuple(case.id for case in killed_by if mutant.flag in case.flags),
            )
        )
    return found


def culprits(case: Case, found: Mapping[str, Array]) -> list[Mutant]:
    """The mutants that give exactly the wrong outputs seen: "this is what half away from zero gives".

    Examples
    --------
    >>> from refquant.conformance.catalog import find_operation
    >>> ties = next(c for c in find_operation("rounding.half_even").cases() if c.slug == "f32-ties")
    >>> [m.name for m in culprits(ties, {"y": np.trunc(ties.inputs["x"])})]
    ['half_even-truncates']
    """
    same = []
    for mutant in all_mutants():
        if mutant.operation != case.operation:
            continue
        wrong = mutant.run(case.inputs, case.parameters)
        shared = [part for part in case.expected if part in found and part in wrong]
        if shared and all(_equal(np.asarray(found[part]), np.asarray(wrong[part])) for part in shared) and _is_wrong(case, wrong):
            same.append(mutant)
    return same


def _is_wrong(case: Case, outputs: Mapping[str, Array]) -> bool:
    """By the case's rules: within a bound, a wrong program can give what right ones give."""
    return bool(compare(find_operation(case.operation), case, outputs))


def _equal(a: Array, b: Array) -> bool:
    if a.shape != b.shape:
        return False
    number = a.dtype.kind not in "iub" and b.dtype.kind not in "iub"
    return bool(np.array_equal(a, b, equal_nan=number) and (not number or np.array_equal(np.signbit(a), np.signbit(b))))
