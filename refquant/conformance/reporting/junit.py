"""A report as JUnit XML, which CI systems show: one suite an operation, one test a case."""

from __future__ import annotations

import re
from xml.etree import ElementTree

from refquant.conformance.conform import Report, Verdict
from refquant.conformance.reporting.lines import case_lines, trouble_line
from refquant.conformance.reporting.tree import counts

_NO_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that XML 1.0 does not have, which a backend may say all the same."""


def junit_text(report: Report, strict: bool = False) -> str:
    """The document. What fails as expected is skipped with its reason; strays, streams and stale expectations have suites of their own.

    Parameters
    ----------
    report : Report
    strict : bool
        Stale expectations are failures.
    """
    root = ElementTree.Element("testsuites", {"name": "refquant conform"})
    for name in report.operations():
        verdicts = report.of(name)
        found = counts(verdicts)
        numbers = {"tests": found["cases"], "failures": found["differs"], "errors": found["trouble"]}
        numbers["skipped"] = found["skipped"] + found["expected"]
        suite = ElementTree.SubElement(root, "testsuite", {"name": name} | {key: str(value) for key, value in numbers.items()})
        for verdict in verdicts:
            _test(suite, report, verdict)
    others = [("streams", [(s.id, str(s), s.ok) for s in report.streams])]
    others += [("backend", [(f"stray-{i}", text, False) for i, text in enumerate(report.strays)])]
    others += [("expected", [(f"stale-{i}", text, not strict) for i, text in enumerate(report.stale)])]
    for name, entries in others:
        if entries:
            failed = sum(not ok for _, _, ok in entries)
            suite = ElementTree.SubElement(root, "testsuite", {"name": name, "tests": str(len(entries)), "failures": str(failed)})
            for slug, text, ok in entries:
                test = ElementTree.SubElement(suite, "testcase", {"classname": name, "name": slug})
                if not ok:
                    ElementTree.SubElement(test, "failure", {"message": _clean(text)})
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def _test(suite: ElementTree.Element, report: Report, verdict: Verdict) -> None:
    operation, _, slug = verdict.case.id.partition("/")
    test = ElementTree.SubElement(suite, "testcase", {"classname": operation, "name": slug})
    if verdict.expected is not None:
        ElementTree.SubElement(test, "skipped", {"message": _clean(f"fails as expected: {verdict.expected}")})
    elif verdict.status == "skipped":
        ElementTree.SubElement(test, "skipped", {"message": _clean(verdict.trouble)})
    elif verdict.status == "trouble":
        trouble = ElementTree.SubElement(test, "error", {"type": verdict.kind, "message": _clean(verdict.trouble)})
        trouble.text = _clean(trouble_line(report, verdict))
    elif verdict.status == "differs":
        first = verdict.mismatches[0]
        failure = ElementTree.SubElement(test, "failure", {"message": _clean(f"{first.part}: {first.why}")})
        failure.text = _clean("\n".join(case_lines(verdict.explanations)))


def _clean(text: str) -> str:
    return _NO_XML.sub("\ufffd", text)
