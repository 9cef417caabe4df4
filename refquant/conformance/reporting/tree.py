"""A report as JSON values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from refquant.conformance.conform import Report, Verdict

FORMAT = 1
"""Version of the tree; it grows when a field changes its meaning or goes."""


def report_tree(report: Report, strict: bool = False) -> dict[str, Any]:
    """Everything in a report.

    Keys: ``format, ok, backend, root, counts, operations, not_offered, diagnoses, failures, skipped, strays, stale, streams``.
    """
    return {
        "format": FORMAT,
        "ok": report.ok(strict),
        "backend": report.backend,
        "root": report.root,
        "counts": counts(report.verdicts),
        "operations": {name: counts(report.of(name)) for name in report.operations()},
        "not_offered": list(report.missing),
        "diagnoses": {name: [asdict(diagnosis) for diagnosis in found] for name, found in report.diagnoses.items() if found},
        "failures": [_failure(verdict) for verdict in report.verdicts if verdict.status in ("differs", "trouble")],
        "skipped": {verdict.case.id: verdict.trouble for verdict in report.verdicts if verdict.status == "skipped"},
        "strays": list(report.strays),
        "stale": list(report.stale),
        "streams": [{"id": s.id, "ok": s.ok, "skipped": s.skipped, "told": str(s)} for s in report.streams],
    }


def counts(verdicts: tuple[Verdict, ...] | list[Verdict]) -> dict[str, int]:
    """How many cases there are of each fate."""
    found = {"cases": len(verdicts), "conforms": 0, "differs": 0, "trouble": 0, "expected": 0, "skipped": 0}
    for verdict in verdicts:
        found["expected" if verdict.expected is not None else verdict.status] += 1
    return found


def _failure(verdict: Verdict) -> dict[str, Any]:
    return {
        "case": verdict.case.id,
        "status": verdict.status,
        "expected": verdict.expected,
        "flags": list(verdict.case.flags),
        "trouble": verdict.trouble or None,
        "kind": verdict.kind or None,
        "mismatches": [plain(asdict(mismatch)) for mismatch in verdict.mismatches],
        "explanations": [plain(explanation.to_json()) for explanation in verdict.explanations],
    }


def plain(value: Any) -> Any:
    """JSON values; numbers that JSON does not have become texts.

    Examples
    --------
    >>> plain({"a": (1, float("inf"))})
    {'a': [1, 'inf']}
    """
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float) and abs(value) < float("inf"):
        return value
    return str(value)
