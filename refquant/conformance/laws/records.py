"""What came of checking a function: one record a law."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from refquant.conformance.laws.law import BrokenLawError
from refquant.errors import UsageError

Verdict = Literal["held", "broken", "expected failure", "expected failure but passed", "not applicable", "no such law"]
NEEDS_ATTENTION = ("broken", "expected failure but passed", "no such law")


@dataclass(frozen=True, slots=True, kw_only=True)
class LawRecord:
    """One law and one function.

    Parameters
    ----------
    law, statement : str
    verdict : str
        ``held``; ``broken``; ``expected failure`` (it was announced, with a reason, and did break); ``expected failure but passed`` (it
        was announced and did not); ``not applicable``; ``no such law`` (an announcement for a law that does not exist).
    reason : str
        Why a law does not apply, or why it was expected to break.
    calls : int
        Examples that were checked, those of shrinking included.
    found : str
        What the function did at the counterexample.
    counterexample : mapping, optional
        Its parts by name: arrays, and numbers such as a power or a cut.
    reproduction : str
        Python code that shows it again, for a function called ``f``.
    """

    law: str
    statement: str
    verdict: Verdict
    reason: str = ""
    calls: int = 0
    found: str = ""
    counterexample: Mapping[str, Any] | None = None
    reproduction: str = ""

    def lines(self) -> Iterator[str]:
        """Yield the record as text, the counterexample indented below."""
        tail = self.reason if self.verdict in ("not applicable", "no such law") else self.statement
        yield f"{self.verdict:<16} {self.law}: {tail}"
        if self.verdict.startswith("expected"):
            yield f"  announced: {self.reason}"
        if self.found:
            yield f"  {self.found}"
        for name, part in (self.counterexample or {}).items():
            shown = f"{part.dtype.name} {part.tolist()}" if hasattr(part, "tolist") else repr(part)
            yield f"  {name} = {shown}"


@dataclass(frozen=True, slots=True)
class LawReport:
    """All records of one function, in the order of the laws.

    Parameters
    ----------
    records : tuple of LawRecord
    """

    records: tuple[LawRecord, ...]

    def __iter__(self) -> Iterator[LawRecord]:
        return iter(self.records)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, law: str) -> LawRecord:
        """Return the record of a law by name; raises UsageError if there is none."""
        found = next((record for record in self.records if record.law == law), None)
        if found is None:
            raise UsageError(f"there is no record of {law!r}; there are {', '.join(r.law for r in self.records)}")
        return found

    def laws(self, verdict: Verdict) -> tuple[str, ...]:
        """Names of the laws with a verdict."""
        return tuple(record.law for record in self.records if record.verdict == verdict)

    @property
    def ok(self) -> bool:
        """Whether nothing broke that was not announced, and every announcement was right."""
        return not any(record.verdict in NEEDS_ATTENTION for record in self.records)

    def raise_if_broken(self) -> None:
        """Raise :class:`BrokenLawError` with the records that need attention, if there are any."""
        wrong = [line for record in self.records if record.verdict in NEEDS_ATTENTION for line in record.lines()]
        if wrong:
            raise BrokenLawError("\n".join(wrong))

    def __str__(self) -> str:
        return "\n".join(line for record in self.records for line in record.lines())
