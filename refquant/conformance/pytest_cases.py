"""What the pytest plugin collects: loaded only when a backend is named."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest

from refquant.conformance.backends.pipe import PipeBackend
from refquant.conformance.backends.python import PythonBackend
from refquant.conformance.backends.session import Backend
from refquant.conformance.case import Case
from refquant.conformance.conform import Selection, Verdict, ask, chosen_cases
from refquant.conformance.diagnosis import diagnose
from refquant.conformance.explain import explain, reproducing
from refquant.conformance.failures import Entry, read_expected
from refquant.conformance.locate import golden_directory
from refquant.conformance.operation import Arrays, Operation
from refquant.conformance.reporting.lines import case_lines
from refquant.errors import RefquantError


class WrongAnswerError(Exception):
    """A case does not conform; the message is the explanation."""


class VectorsFile(pytest.File):
    """All selected cases of the operations that the backend has."""

    backend: Backend

    def collect(self) -> Iterable[pytest.Item]:
        """Start the backend and make an item of each case."""
        option = self.config.getoption
        try:
            selection = Selection(
                levels=tuple(option("--refquant-level")),
                operations=tuple(option("--refquant-operation")),
                flags=tuple(option("--refquant-flag")),
            )
            expected = read_expected(Path(option("--refquant-expected"))) if option("--refquant-expected") else ()
            chosen = list(chosen_cases(golden_directory(), selection))
            self.backend = reach(option("--refquant-backend"), option("--refquant-pipe"), option("--refquant-timeout"))
        except RefquantError as error:
            raise self.CollectError(str(error)) from error
        self.session.config.add_cleanup(self.backend.close)
        for operation, cases in chosen:
            if operation.name in self.backend.operations:
                for case in cases:
                    yield CaseItem.from_parent(self, name=case.id, operation=operation, case=case, expected=expected)


def reach(backend: str | None, pipe: str | None, timeout: float) -> Backend:
    """The backend that the options name.

    Raises
    ------
    pytest.UsageError
        If they name two.
    """
    if backend and pipe:
        raise pytest.UsageError("name one implementation: --refquant-backend or --refquant-pipe")
    return PythonBackend(backend) if backend else PipeBackend(pipe or "", timeout)


class CaseItem(pytest.Item):
    """One case. It fails with its explanation; it is skipped where the backend does not have these parameters."""

    def __init__(self, *, operation: Operation, case: Case, expected: Sequence[Entry], **kwargs: object) -> None:
        super().__init__(**kwargs)  # type: ignore[arg-type]
        self.operation, self.case, self.expected = operation, case, expected

    def runtest(self) -> None:
        """Ask, compare, explain."""
        backend = self.parent.backend  # type: ignore[union-attr]
        verdict, outputs = ask(backend, self.operation, self.case, bool(self.config.getoption("--refquant-allow-missing")))
        if verdict.status == "skipped":
            pytest.skip(verdict.trouble)
        entries = [entry for entry in self.expected if entry.matches(self.case.id)]
        if verdict.status == "conforms":
            if entries and self.config.getini("xfail_strict"):
                raise WrongAnswerError(f"conforms, and is expected to fail: {entries[0].reason}")
            return
        told, names = self._told(verdict, outputs)
        parts = [mismatch.part for mismatch in verdict.mismatches]
        reason = next((entry.reason for entry in entries if entry.covers(self.case.id, parts, names)), None)
        if reason is not None:
            pytest.xfail(reason)
        raise WrongAnswerError(told)

    def _told(self, verdict: Verdict, outputs: Arrays) -> tuple[str, list[str]]:
        option: str = self.parent.backend.option  # type: ignore[union-attr]
        if verdict.status == "trouble":
            return f"{self.case.id}: {verdict.kind}: {verdict.trouble}\n    {reproducing(option, self.case.id)}", []
        mutants = diagnose(self.operation, [(self.case, outputs)], [])[1][self.case.id]
        explanations = explain(self.operation, self.case, verdict.mismatches, outputs, mutants, option)
        return "\n".join(case_lines(explanations)), [mutant.name for mutant in mutants]

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: object = None) -> str:
        """The explanation alone; a fault of ours with its traceback."""
        if isinstance(excinfo.value, WrongAnswerError):
            return str(excinfo.value)
        return str(excinfo.getrepr(style="long"))

    def reportinfo(self) -> tuple[Path, int, str]:
        """Named by its id."""
        return self.path, 0, self.case.id
