"""Hold a backend against the vectors, and explain whatever is wrong with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal, get_args

from refquant.conformance.backends.session import Backend, BackendTrouble, NotOfferedError, question_of
from refquant.conformance.case import Case
from refquant.conformance.catalog import OPERATIONS, find_operation
from refquant.conformance.compare import Mismatch, compare
from refquant.conformance.diagnosis import Diagnosis, diagnose
from refquant.conformance.explain import Explanation, explain, reproducing
from refquant.conformance.failures import Entry
from refquant.conformance.flags import FLAGS
from refquant.conformance.folder import MANIFEST, read_vectors
from refquant.conformance.operation import Arrays, Level, Operation
from refquant.conformance.stream_run import StreamVerdict, run_streams
from refquant.errors import UsageError
from refquant.numerics.arrays import Array
from refquant.storage import read_json

Status = Literal["conforms", "differs", "trouble", "skipped"]
LEVELS: tuple[str, ...] = get_args(Level)


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which cases are asked. Empty means all; `operations` and `cases` are patterns with ``*`` and ``?``, any of which may match.

    Raises
    ------
    UsageError
        If a level or flag is unknown, or a pattern matches no operation.

    Examples
    --------
    >>> Selection(operations=("rounding.*",)).takes_operation("rounding.floor")
    True
    """

    levels: tuple[str, ...] = ()
    operations: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    cases: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for what, names, known in (("level", self.levels, LEVELS), ("flag", self.flags, tuple(FLAGS))):
            for name in names:
                if name not in known:
                    raise UsageError(f"unknown {what} {name!r}; known are {', '.join(known)}")
        for pattern in self.operations:
            if not any(fnmatchcase(name, pattern) for name in OPERATIONS):
                raise UsageError(f"no operation is called {pattern!r}; known are {', '.join(OPERATIONS)}")

    def takes_operation(self, name: str) -> bool:
        """Whether cases of an operation may be among them."""
        named = not self.operations or any(fnmatchcase(name, pattern) for pattern in self.operations)
        return named and (not self.levels or find_operation(name).level in self.levels)

    def takes(self, case: Case) -> bool:
        """Whether a case of such an operation is among them."""
        named = not self.cases or any(fnmatchcase(case.id, pattern) for pattern in self.cases)
        return named and (not self.flags or any(flag in self.flags for flag in case.flags))


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What became of one case. `trouble` says why there is no answer, or why it was skipped; `expected` why the failure is expected."""

    case: Case
    status: Status
    mismatches: tuple[Mismatch, ...] = ()
    explanations: tuple[Explanation, ...] = ()
    trouble: str = ""
    kind: str = ""
    expected: str | None = None
    unjudged: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether it conforms, is skipped, or fails as expected."""
        return self.status in ("conforms", "skipped") or self.expected is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A run. `stale` are the entries of expected failures that have outlived their reason, one line each."""

    backend: str
    option: str
    root: str
    verdicts: tuple[Verdict, ...]
    missing: tuple[str, ...]
    diagnoses: Mapping[str, tuple[Diagnosis, ...]]
    strays: tuple[str, ...] = ()
    stale: tuple[str, ...] = ()
    streams: tuple[StreamVerdict, ...] = field(default=())

    def ok(self, strict: bool = False) -> bool:
        """Whether everything that was asked conforms; with `strict`, no expectation may be stale."""
        fine = all(verdict.ok for verdict in self.verdicts) and all(stream.ok for stream in self.streams)
        return fine and not self.strays and not (strict and self.stale)

    def of(self, operation: str) -> list[Verdict]:
        """The verdicts of one operation."""
        return [verdict for verdict in self.verdicts if verdict.case.operation == operation]

    def operations(self) -> list[str]:
        """Names of the operations that were asked, in the order of the catalogue."""
        asked = {verdict.case.operation for verdict in self.verdicts}
        return [name for name in OPERATIONS if name in asked]


def chosen_cases(folder: Path, selection: Selection, among: Sequence[str] | None = None) -> Iterator[tuple[Operation, list[Case]]]:
    """Operations with their selected cases, in the order of the catalogue; `among` limits them to some ids."""
    allowed = None if among is None else set(among)
    for name in OPERATIONS:
        if selection.takes_operation(name) and (folder / f"{name}.json").is_file():
            every = read_vectors(folder, name).cases.values()
            cases = [case for case in every if selection.takes(case) and (allowed is None or case.id in allowed)]
            if cases:
                yield find_operation(name), cases


def conform(
    backend: Backend,
    folder: Path,
    selection: Selection | None = None,
    *,
    expected: Sequence[Entry] = (),
    allow_missing: bool = False,
    streams: bool = False,
    most: int = 3,
    among: Sequence[str] | None = None,
    tell: Callable[[str, int, int], object] = lambda what, done, total: None,
) -> Report:
    """Ask a backend every selected case that it has, and close it.

    Parameters
    ----------
    backend : Backend
    folder : Path
        Of vectors.
    selection : Selection, optional
    expected : sequence of Entry
        Failures that are expected.
    allow_missing : bool
        Outputs that the backend does not give are not judged, instead of wrong; for kernels that give codes and no intermediates.
    streams : bool
        Run the accumulated digests too.
    most : int
        So many wrong cases of an operation are explained in full; all are counted and diagnosed.
    among : sequence of str, optional
        Only these ids.
    tell : callable
        ``tell(what, done, total)`` is called on the way.

    Raises
    ------
    UsageError
        If nothing is asked: no selected case belongs to an operation that the backend has.

    Examples
    --------
    >>> from refquant.conformance.backends.python import PythonBackend
    >>> from refquant.conformance.locate import golden_directory
    >>> report = conform(PythonBackend("refquant.conformance.own:backend"), golden_directory(), Selection(operations=("rounding.*",)))
    >>> len(report.verdicts), report.ok()
    (60, True)
    """
    selection = selection or Selection()
    try:
        chosen = list(chosen_cases(folder, selection, among))
        offered = [(operation, cases) for operation, cases in chosen if operation.name in backend.operations]
        if not offered:
            asked = ", ".join(operation.name for operation, _ in chosen) or "nothing"
            raise UsageError(f"nothing to ask: selected is {asked}; {backend.name} has {', '.join(backend.operations)}")
        verdicts: list[Verdict] = []
        diagnoses = {}
        for place, (operation, cases) in enumerate(offered):
            tell(operation.name, place, len(offered))
            found, diagnoses[operation.name] = _judge(backend, operation, cases, expected, allow_missing, most)
            verdicts += found
        asked_streams = [operation for operation, _ in offered] if streams else []
        ran = tuple(run_streams(backend, folder, asked_streams, tell))
    finally:
        backend.close()
    return Report(
        backend=backend.name,
        option=backend.option,
        root=str(read_json(folder / MANIFEST)["root"]),
        verdicts=tuple(verdicts),
        missing=tuple(operation.name for operation, _ in chosen if operation.name not in backend.operations),
        diagnoses=diagnoses,
        strays=tuple(backend.strays()),
        stale=tuple(_stale(expected, verdicts, folder)),
        streams=ran,
    )


def ask(backend: Backend, operation: Operation, case: Case, allow_missing: bool = False) -> tuple[Verdict, Arrays]:
    """Ask one case and compare; the verdict is not explained yet."""
    try:
        outputs = backend.answer(question_of(case))
    except NotOfferedError as reason:
        return Verdict(case=case, status="skipped", trouble=str(reason)), {}
    except BackendTrouble as trouble:
        return Verdict(case=case, status="trouble", trouble=str(trouble), kind=trouble.kind), {}
    absent: tuple[str, ...] = ()
    judged: dict[str, Array] = dict(outputs)
    if allow_missing and any(part in outputs for part in case.expected):
        absent = tuple(part for part in case.expected if part not in outputs)
        judged |= {part: case.expected[part] for part in absent}
    mismatches = tuple(mismatch for mismatch in compare(operation, case, judged) if mismatch.part not in absent)
    status: Status = "differs" if mismatches else "conforms"
    return Verdict(case=case, status=status, mismatches=mismatches, unjudged=absent), outputs


def _judge(
    backend: Backend, operation: Operation, cases: Sequence[Case], expected: Sequence[Entry], allow_missing: bool, most: int
) -> tuple[list[Verdict], tuple[Diagnosis, ...]]:
    asked = [ask(backend, operation, case, allow_missing) for case in cases]
    wrong = [(verdict.case, outputs) for verdict, outputs in asked if verdict.status == "differs"]
    right = [verdict.case for verdict, _ in asked if verdict.status == "conforms"]
    diagnoses, mutants = diagnose(operation, wrong, right)
    told = 0
    verdicts = []
    for verdict, outputs in asked:
        case = verdict.case
        if not verdict.ok:
            names = [mutant.name for mutant in mutants.get(case.id, ())]
            parts = [mismatch.part for mismatch in verdict.mismatches]
            reason = next((entry.reason for entry in expected if entry.covers(case.id, parts, names)), None)
            explanations: tuple[Explanation, ...] = ()
            if verdict.mismatches and reason is None and told < most:
                told += 1
                explanations = tuple(explain(operation, case, verdict.mismatches, outputs, mutants[case.id], backend.option))
            verdict = Verdict(
                case=case,
                status=verdict.status,
                mismatches=verdict.mismatches,
                explanations=explanations,
                trouble=verdict.trouble,
                kind=verdict.kind,
                expected=reason,
                unjudged=verdict.unjudged,
            )
        verdicts.append(verdict)
    return verdicts, diagnoses


def _stale(entries: Sequence[Entry], verdicts: Sequence[Verdict], folder: Path) -> Iterator[str]:
    """What has outlived its reason. Entries for cases that were not asked this time are left alone."""
    if not entries:
        return
    every = list(read_json(folder / MANIFEST)["hashes"])
    for entry in entries:
        meant = [verdict for verdict in verdicts if entry.matches(verdict.case.id) and verdict.status != "skipped"]
        failing = [verdict for verdict in meant if verdict.status != "conforms"]
        told = f"expected failure {entry.case!r} ({entry.reason})"
        if not any(entry.matches(name) for name in every):
            yield f"{told}: matches no case"
        elif meant and not failing:
            yield f"{told}: {'its case conforms' if len(meant) == 1 else f'all of its {len(meant)} cases conform'} now"
        elif len(failing) < len(meant):
            conforming = next(verdict for verdict in meant if verdict.status == "conforms")
            yield f"{told}: {len(meant) - len(failing)} of its {len(meant)} cases conform, first {conforming.case.id}; narrow it down"


def reproduction(report: Report, verdict: Verdict) -> str:
    """The command that asks just this case again."""
    return reproducing(report.option, verdict.case.id)
