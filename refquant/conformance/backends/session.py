"""What a backend is asked, and the ways in which it can fail to answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from refquant.conformance.case import Case
from refquant.errors import RefquantError
from refquant.numerics.arrays import Array

Trouble = Literal["raised", "timeout", "crashed", "garbage", "unanswered", "given up"]


class BackendTrouble(RefquantError):
    """A backend did not answer: it raised, hung, died or wrote what is no answer.

    Parameters
    ----------
    kind : {"raised", "timeout", "crashed", "garbage", "unanswered", "given up"}
    message : str
        One line.
    """

    def __init__(self, kind: Trouble, message: str) -> None:
        super().__init__(" ".join(message.split()))
        self.kind = kind


class NotOfferedError(RefquantError):
    """A backend has the operation, but not with these parameters; the message says which. The case is skipped, and counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One call of an operation; `id` is what the answer must name."""

    id: str
    operation: str
    parameters: Mapping[str, Any]
    inputs: Mapping[str, Array]


def question_of(case: Case) -> Question:
    """What a backend is told of a case: everything but what must come out."""
    return Question(id=case.id, operation=case.operation, parameters=case.parameters, inputs=case.inputs)


class Backend(Protocol):
    """Somebody's implementation, wherever it runs.

    `name` is for reports, `option` is what reaches it again on the command line. `operations` are those that it has.
    """

    name: str
    option: str
    operations: tuple[str, ...]

    def answer(self, question: Question) -> Mapping[str, Array]:
        """Outputs by name; raises BackendTrouble or NotOfferedError."""
        ...

    def close(self) -> None:
        """End it."""
        ...

    def strays(self) -> list[str]:
        """What went wrong outside of any question, one line each; complete once it is closed."""
        ...
