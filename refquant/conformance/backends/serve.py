"""A Python object behind the pipe: ``python -m refquant.conformance.backends.serve package.module:object``.

For backends that may hang or take their process with them, and as an example of the other side of the protocol.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, BinaryIO

from refquant.conformance.backends.protocol import PROTOCOL, array_tree, object_of, read_array
from refquant.conformance.backends.python import PythonBackend
from refquant.conformance.backends.session import BackendTrouble, NotOfferedError, Question
from refquant.errors import RefquantError
from refquant.storage import canonical_json


def answer_line(backend: PythonBackend, line: bytes) -> dict[str, Any]:
    """The answer to one question, as JSON values."""
    asked = object_of(line)
    inputs = {part: read_array(tree, part, Path()) for part, tree in asked["inputs"].items()}
    question = Question(id=asked["id"], operation=asked["operation"], parameters=asked["parameters"], inputs=inputs)
    try:
        outputs = backend.answer(question)
        return {"id": question.id, "outputs": {part: array_tree(array) for part, array in outputs.items()}}
    except NotOfferedError as reason:
        return {"id": question.id, "skip": str(reason)}
    except BackendTrouble as trouble:
        return {"id": question.id, "error": str(trouble)}


def serve(name: str, questions: BinaryIO, answers: BinaryIO) -> None:
    """Say hello, and answer until the questions end.

    Examples
    --------
    >>> import io
    >>> said = io.BytesIO()
    >>> serve("refquant.conformance.mutants.rounding:RIGHT", io.BytesIO(), said)
    >>> said.getvalue()[:30]
    b'{"name":"refquant.conformance.'
    """
    backend = PythonBackend(name)
    hello = {"protocol": PROTOCOL, "operations": list(backend.operations), "name": name}
    answers.write(canonical_json(hello).encode() + b"\n")
    answers.flush()
    for line in questions:
        answers.write(canonical_json(answer_line(backend, line)).encode() + b"\n")
        answers.flush()


def main() -> int:
    """Serve the object that the command line names, with what it prints sent to stderr."""
    if len(sys.argv) != 2:
        print("usage: python -m refquant.conformance.backends.serve package.module:object", file=sys.stderr)
        return 2
    answers, sys.stdout = sys.stdout.buffer, sys.stderr
    sys.path.insert(0, "")
    try:
        serve(sys.argv[1], sys.stdin.buffer, answers)
    except RefquantError as error:
        print(f"refquant: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
