"""A backend that is a folder: questions are written, anything answers them in its own time, answers are read.

``cases.jsonl`` holds the questions of the pipe, one a line; ``cases.safetensors`` the same inputs as
``id/part``, for whoever would rather load tensors. The answers stand in ``answers.jsonl``, the lines of the pipe (a hello among them is
allowed), or in ``answers.safetensors`` as ``id/part``.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from refquant.conformance.backends.protocol import object_of, question_line, read_outputs
from refquant.conformance.backends.session import BackendTrouble, NotOfferedError, Question, question_of
from refquant.conformance.case import Case
from refquant.conformance.catalog import OPERATIONS
from refquant.errors import InputError
from refquant.numerics.arrays import Array
from refquant.storage import new_directory, read_tensors, write_bytes, write_tensors, write_text

QUESTIONS, TENSORS = "cases.jsonl", "cases.safetensors"
ANSWERS, ANSWER_TENSORS = "answers.jsonl", "answers.safetensors"
README = """Questions of refquant's conformance run, one JSON object a line in cases.jsonl; inputs again as id/part in cases.safetensors.
Answer them in answers.jsonl, in any order, one line each,
  {"id": ID, "outputs": {PART: {"dtype": "uint8", "shape": [3, 40], "data": BASE64}}}    or "file": PATH for "data", relative to this folder
  {"id": ID, "skip": "why"}
or write the outputs as id/part into answers.safetensors; an id without outputs is then skipped. Then type the same command again.
"""


def write_questions(folder: Path, cases: Iterable[Case]) -> int:
    """Write a new folder of questions; returns how many.

    Raises
    ------
    InputError
        If the folder exists.
    """
    asked = [question_of(case) for case in cases]
    with new_directory(folder) as place:
        write_bytes(place / QUESTIONS, b"".join(question_line(question) for question in asked))
        tensors = {f"{question.id}/{part}": array for question in asked for part, array in question.inputs.items()}
        write_tensors(place / TENSORS, tensors, {"made_by": "refquant conform --files"})
        write_text(place / "README.txt", README)
    return len(asked)


class FilesBackend:
    """The answers in a folder.

    Parameters
    ----------
    folder : Path

    Raises
    ------
    InputError
        If the folder has no questions or no answers, or a line cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self.name, self.option = str(folder), f"--files {shlex.quote(str(folder))}"
        self.folder = folder
        if not (folder / QUESTIONS).is_file():
            raise InputError(f"{folder}: exists and has no {QUESTIONS}; name a new folder, or one that this command wrote")
        self.asked = [str(tree.get("id")) for _, tree in _lines(folder / QUESTIONS)]
        self._strays: list[str] = []
        self._answers: dict[str, dict[str, Any]] = {}
        self._tensors: dict[str, dict[str, Array]] = {}
        if (folder / ANSWERS).is_file():
            self._read_lines()
        elif (folder / ANSWER_TENSORS).is_file():
            for name, array in read_tensors(folder / ANSWER_TENSORS).items():
                owner, _, part = name.rpartition("/")
                self._tensors.setdefault(owner, {})[part] = array
        else:
            raise InputError(f"{folder}: has questions and no answers yet; {ANSWERS} or {ANSWER_TENSORS} is needed")
        answered = set(self._answers) | set(self._tensors)
        if unknown := sorted(answered - set(self.asked)):
            self._strays.append(f"{len(unknown)} answers to what {QUESTIONS} does not ask, first {unknown[0]!r}")
        having = {name.partition("/")[0] for name in answered}
        self.operations = tuple(name for name in OPERATIONS if name in having)
        if not self.operations:
            raise InputError(f"{folder}: none of the answers names a case; ids are such as {self.asked[0] if self.asked else '-'!r}")

    def _read_lines(self) -> None:
        for number, tree in _lines(self.folder / ANSWERS):
            name = tree.get("id")
            if name is None and "protocol" in tree:
                continue
            if not isinstance(name, str):
                raise InputError(f"{self.folder / ANSWERS}, line {number}: an answer without an id")
            if name in self._answers:
                self._strays.append(f"{ANSWERS}, line {number}: {name} is answered twice; the first answer counts")
                continue
            self._answers[name] = tree

    def answer(self, question: Question) -> Mapping[str, Array]:
        """Look the answer up."""
        if self._tensors:
            if question.id not in self._tensors:
                raise NotOfferedError(f"{ANSWER_TENSORS} has no tensor of it")
            return self._tensors[question.id]
        if question.id not in self._answers:
            raise BackendTrouble("unanswered", f"{ANSWERS} has no line with this id")
        return read_outputs(self._answers[question.id], self.folder)

    def close(self) -> None:
        """Nothing to end."""

    def strays(self) -> list[str]:
        """Answers to nothing, and second ones."""
        return list(self._strays)


def _lines(path: Path) -> list[tuple[int, dict[str, Any]]]:
    found = []
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        if line.strip():
            try:
                found.append((number, object_of(line)))
            except BackendTrouble as trouble:
                raise InputError(f"{path}, line {number}: {trouble}") from trouble
    return found
