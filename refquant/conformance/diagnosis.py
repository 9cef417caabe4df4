"""Which known mistake gives the answers seen: "this is what half away from zero gives"."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from refquant.conformance.case import Case
from refquant.conformance.compare import compare, differences
from refquant.conformance.mutants.catalog import all_mutants
from refquant.conformance.mutants.mutant import Mutant
from refquant.conformance.operation import Arrays, Operation
from refquant.conformance.rules import Rule
from refquant.numerics.arrays import Array


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """How well one mutant explains a backend's wrong answers to an operation.

    Parameters
    ----------
    mutant : str
    what : str
        The mistake.
    explains, wrong : int
        Cases in which it gives exactly the answers seen, of so many wrong ones.
    elsewhere_right : bool
        Whether it explains all of them and is right wherever the backend is.
    """

    mutant: str
    what: str
    explains: int
    wrong: int
    elsewhere_right: bool

    def __str__(self) -> str:
        how = f"gives exactly the wrong answers of {self.explains} of {self.wrong} cases"
        return f"{self.mutant} ({self.what}) {how}{', and is right wherever yours is' if self.elsewhere_right else ''}"


def diagnose(
    operation: Operation, wrong: Sequence[tuple[Case, Arrays]], right: Sequence[Case]
) -> tuple[tuple[Diagnosis, ...], dict[str, tuple[Mutant, ...]]]:
    """The mutants that explain wrong answers, best first, and by id of the case those that give its answer exactly.

    Parameters
    ----------
    operation : Operation
    wrong : sequence of (Case, outputs)
    right : sequence of Case
        Those that the backend answered rightly.

    Examples
    --------
    >>> from refquant.conformance.catalog import find_operation
    >>> floor = find_operation("rounding.floor")
    >>> cases = list(floor.cases())
    >>> outputs = [(case, {"y": np.trunc(case.inputs["x"])}) for case in cases]
    >>> wrong = [(case, y) for case, y in outputs if compare(floor, case, y)]
    >>> [d.mutant for d in diagnose(floor, wrong, [])[0]]
    ['floor-truncates']
    """
    mutants = [mutant for mutant in all_mutants() if mutant.operation == operation.name]
    by_case: dict[str, list[Mutant]] = {case.id: [] for case, _ in wrong}
    counts: dict[str, int] = {}
    for mutant in mutants:
        for case, outputs in wrong:
            if gives(mutant, operation, case, outputs):
                by_case[case.id].append(mutant)
                counts[mutant.name] = counts.get(mutant.name, 0) + 1
    found = []
    for mutant in mutants:
        explains = counts.get(mutant.name, 0)
        if explains:
            everywhere = explains == len(wrong) and all(
                not compare(operation, case, mutant.run(case.inputs, case.parameters)) for case in right
            )
            found.append(Diagnosis(mutant=mutant.name, what=mutant.what, explains=explains, wrong=len(wrong), elsewhere_right=everywhere))
    found.sort(key=lambda d: (-d.explains, not d.elsewhere_right))  # stable: then the order of the catalogue
    return tuple(found), {name: tuple(names) for name, names in by_case.items()}


def gives(mutant: Mutant, operation: Operation, case: Case, outputs: Arrays) -> bool:
    """Whether a mutant is wrong on a case and gives the outputs seen: the same codes, other parts within the bound of their rule."""
    wrong = mutant.run(case.inputs, case.parameters)
    shared = [part for part in case.expected if part in outputs and part in wrong]
    alike = all(_alike(np.asarray(wrong[part]), np.asarray(outputs[part]), case.rule(part)) for part in shared)
    return bool(shared) and alike and bool(compare(operation, case, {**case.expected, **wrong}))


def _alike(a: Array, b: Array, rule: Rule) -> bool:
    if a.shape != b.shape or (a.dtype.kind in "iub") != (b.dtype.kind in "iub") or b.dtype.kind not in "iubfV":
        return False
    if a.dtype != b.dtype:
        wide = np.promote_types(a.dtype, b.dtype) if a.dtype.kind != "V" and b.dtype.kind != "V" else np.dtype(np.float64)
        a, b = a.astype(wide), b.astype(wide)
    return not differences(a, b, rule)[0].any()


def same_elements(case: Case, part: str, outputs: Mapping[str, Array]) -> tuple[Mutant, ...]:
    """Mutants that give the value seen wherever one part differs, though not the whole answer: a hint where several things are wrong."""
    expected, found = case.expected[part], np.asarray(outputs[part])
    if found.shape != expected.shape:
        return ()
    away = np.asarray(found != expected)
    hints = []
    for mutant in all_mutants():
        if mutant.operation == case.operation and away.any():
            given = np.asarray(mutant.run(case.inputs, case.parameters).get(part))
            if given.shape == found.shape and np.array_equal(given[away], found[away]):
                hints.append(mutant)
    return tuple(hints)
