"""Why a mismatch is one: the element in every form, what went into it, what it lay between, and whose mistake gives it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from refquant.conformance.case import Case
from refquant.conformance.compare import Mismatch, ulps_apart
from refquant.conformance.diagnosis import same_elements
from refquant.conformance.lookup import Number, Surroundings, number, surroundings
from refquant.conformance.mutants.mutant import Mutant
from refquant.conformance.operation import Operation
from refquant.conformance.stages import first_stage, in_order
from refquant.numerics.arrays import Array

MOST_ULPS = 1 << 20
"""Beyond that, a count of representable numbers tells nobody anything."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """Everything that is known of one mismatch.

    Parameters
    ----------
    case, part, index, why, rule, count
        As of :class:`~refquant.conformance.compare.Mismatch`.
    values : tuple of Number
        What was expected and found.
    apart : str
        How far they are from each other.
    around : Surroundings
        Inputs, neighbours and the exact place between them.
    margin : float, optional
        The vector's decision margin there, in steps; or, where the rows go their own way, by how many steps the code misses.
    mutants : tuple of str
        ``name: what is wrong``, of those that give exactly this answer to the whole case.
    hints : tuple of str
        Where there are none: those that give these values wherever this part differs.
    stage : str
        Which step of the computation departed first.
    reproduce : str
        The command that asks just this case.
    """

    case: str
    part: str
    index: tuple[int, ...] | None
    why: str
    rule: str
    count: int
    values: tuple[Number, ...]
    apart: str
    around: Surroundings
    margin: float | None
    mutants: tuple[str, ...]
    hints: tuple[str, ...]
    stage: str
    reproduce: str

    def to_json(self) -> dict[str, Any]:
        """The explanation as JSON values."""
        tree = asdict(self)
        tree["index"] = None if self.index is None else list(self.index)
        return tree


def reproducing(option: str, case: str) -> str:
    """The command that asks a backend one case.

    Examples
    --------
    >>> reproducing("--pipe './kernel'", "rounding.floor/f32-ties")
    "refquant conform --pipe './kernel' --case rounding.floor/f32-ties"
    """
    return f"refquant conform {option} --case {shlex.quote(case)}"


def explain(
    operation: Operation,
    case: Case,
    mismatches: Sequence[Mismatch],
    outputs: Mapping[str, Array],
    mutants: Sequence[Mutant],
    option: str,
) -> list[Explanation]:
    """Explain all mismatches of one case, in the order in which its parts are computed.

    Parameters
    ----------
    operation : Operation
    case : Case
    mismatches : sequence of Mismatch
        Of :func:`~refquant.conformance.compare.compare`.
    outputs : mapping of str to ndarray
        What the backend gave.
    mutants : sequence of Mutant
        Those that give this answer (:func:`~refquant.conformance.diagnosis.diagnose`).
    option : str
        What reaches the backend on the command line.

    Examples
    --------
    >>> from refquant.conformance.catalog import find_operation
    >>> from refquant.conformance.compare import compare
    >>> even = find_operation("rounding.half_even")
    >>> case = next(c for c in even.cases() if c.slug == "f32-ties")
    >>> up = {"y": np.floor(case.inputs["x"] + np.float32(0.5))}
    >>> why = explain(even, case, compare(even, case, up), up, [], "--backend mine:it")[0]
    >>> why.index, [v.decimal for v in why.values], why.around.inputs[0].exact, why.hints[1]
    ((1,), ['-8.0', '-7.0'], '-15/2', 'half_even-floor_plus_half: floor(x + 0.5): ties go up')
    """
    stage = first_stage(operation, case, mismatches, outputs)
    names = tuple(_told(mutant) for mutant in mutants)
    found = []
    for mismatch in in_order(operation, mismatches):
        index, part = mismatch.index, mismatch.part
        values, apart, around = _whole(mismatch), "", Surroundings()
        hints: tuple[str, ...] = ()
        if index is not None:
            pair = case.expected[part][index], np.asarray(outputs[part])[index]
            values, apart = (number("expected", pair[0]), number("found", pair[1])), distance(*pair)
            around = surroundings(case, part, index)
            hints = () if names else tuple(_told(mutant) for mutant in same_elements(case, part, outputs))
        found.append(
            Explanation(
                case=case.id,
                part=part,
                index=index,
                why=mismatch.why,
                rule=mismatch.rule,
                count=mismatch.count,
                values=values,
                apart=apart,
                around=around,
                margin=_margin(case, mismatch, around),
                mutants=names,
                hints=hints,
                stage=stage,
                reproduce=reproducing(option, case.id),
            )
        )
    return found


def _told(mutant: Mutant) -> str:
    return f"{mutant.name}: {mutant.what}"


def _whole(mismatch: Mismatch) -> tuple[Number, ...]:
    return () if mismatch.found is None else (Number("found", str(mismatch.found), "", ""),)


def _margin(case: Case, mismatch: Mismatch, around: Surroundings) -> float | None:
    if mismatch.margin is not None:
        return mismatch.margin
    if mismatch.index is not None and mismatch.part in case.margins:
        return float(case.margins[mismatch.part][mismatch.index])
    return around.margin


def distance(expected: Any, found: Any) -> str:
    """How far two numbers are from each other, in words.

    Examples
    --------
    >>> distance(np.int8(3), np.int8(5)), distance(np.float32(1), np.float32(1.0000001)), distance(np.float32(0), np.float32(-0.0))
    ('2 too large', '1 ulp too large', 'the sign of zero differs')
    """
    if np.asarray(expected).dtype.kind in "iub":
        apart = int(found) - int(expected)
        return f"{abs(apart)} too {'large' if apart > 0 else 'small'}" if apart else ""
    if not (np.isfinite(expected) and np.isfinite(found)):
        return "one is no finite number"
    if expected == found:
        return "the sign of zero differs"
    dtype = np.asarray(expected).dtype
    ulps = int(ulps_apart(np.asarray([expected]), np.asarray([found]).astype(dtype))[0])
    away = f"{ulps} ulp" if ulps <= MOST_ULPS else f"{abs(float(found) - float(expected)):.6g}"
    return f"{away} too {'large' if found > expected else 'small'}"
