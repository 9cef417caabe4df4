"""Looking for an example that breaks a law, and for the smallest of its kind."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import hypothesis
import numpy as np
from hypothesis import HealthCheck, Phase, Verbosity, given, settings
from hypothesis.errors import Flaky, Unsatisfiable

from refquant.conformance.laws.examples import law_examples
from refquant.conformance.laws.law import BrokenLawError, Law, NotApplicableError, Subject, UnreadableAnswerError


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a search ended with.

    Parameters
    ----------
    calls : int
        Examples that were checked, those of shrinking included.
    failure : str, optional
        What was found at the counterexample.
    example : mapping, optional
        The counterexample.
    not_applicable : str, optional
        Why the law turned out not to apply.
    """

    calls: int
    failure: str | None = None
    example: Mapping[str, Any] | None = None
    not_applicable: str | None = None


class _Findings:
    """Takes whatever a stranger's function raises as a finding: ``with findings: ...``; what the user did wrong goes on."""

    def __init__(self) -> None:
        self.error: BaseException | None = None

    def __enter__(self) -> _Findings:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> bool:
        self.error = error
        return isinstance(error, Exception) and not isinstance(error, UnreadableAnswerError)


def search(law: Law, subject: Subject, *, examples: int, seed: int, refusals: tuple[type[Exception], ...]) -> Found:
    """Check a law on examples, and shrink the first that breaks it.

    Parameters
    ----------
    law : Law
    subject : Subject
    examples : int
        How many are drawn.
    seed : int
        The same seed draws the same examples under the same version of hypothesis.
    refusals : tuple of exception types
        An example on which the function raises one of these does not count.
    """
    calls = 0
    last: Mapping[str, Any] | None = None

    @settings(
        max_examples=examples,
        database=None,
        derandomize=True,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, Phase.shrink),
        report_multiple_bugs=False,
        verbosity=Verbosity.quiet,
        print_blob=False,
    )
    @hypothesis.seed(seed)
    @given(law_examples(law, subject))
    def run(example: Mapping[str, Any]) -> None:
        nonlocal calls, last
        calls, last = calls + 1, example
        with np.errstate(all="ignore"):  # whether the function lets warnings out is its own affair
            try:
                law.check(subject, example)
            except (BrokenLawError, NotApplicableError, UnreadableAnswerError):
                raise
            except refusals:
                hypothesis.reject()

    findings = _Findings()
    with warnings.catch_warnings(), findings:
        warnings.simplefilter("ignore")
        run()
    match findings.error:
        case None:
            return Found(calls=calls)
        case NotApplicableError() as error:
            return Found(calls=calls, not_applicable=str(error))
        case Unsatisfiable():
            return Found(calls=calls, not_applicable="the function refused every example")
        case Flaky() as error:
            return Found(calls=calls, failure=f"the law broke once and held when it was tried again: {_first_line(error)}", example=last)
        case error:
            said = str(error) if isinstance(error, BrokenLawError) else f"{type(error).__name__}: {_first_line(error)}"
            return Found(calls=calls, failure=said, example=last)


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [""])[0]
