"""A backend that is a command: questions go to its standard input, answers come from its standard output.

Whatever the command does becomes one record of the case during which it happened: silence (after a time limit), death, a line that is no
answer. It is then started anew for the next case, so that one bad case does not hide the others. Lines that answer nothing (somebody's
debugging) are counted and reported once, while the answer is still waited for.
"""

from __future__ import annotations

import shlex
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from refquant.conformance.backends.process import END, Child, SilenceError
from refquant.conformance.backends.protocol import MAX_LINE, Hello, clipped, object_of, question_line, read_hello, read_outputs
from refquant.conformance.backends.session import BackendTrouble, Question
from refquant.errors import InputError, UsageError
from refquant.numerics.arrays import Array

MOST_TIMEOUTS = 3
MOST_DEATHS = 25
"""In a row; then the command is given up, and the cases left are recorded as not asked."""
GRACE = 5.0
"""Seconds that the command may take to end after its input did."""
SETTLING = 1.0
"""Seconds between the end of its output and its own end."""


class PipeBackend:
    """A command that speaks :mod:`refquant.conformance.backends.protocol`.

    Parameters
    ----------
    command : str
        Cut into words as a shell does; no shell runs it.
    timeout : float
        Seconds for the hello and for each answer.

    Raises
    ------
    UsageError
        If the command cannot be started.
    InputError
        If it does not say hello.
    """

    def __init__(self, command: str, timeout: float = 60.0) -> None:
        try:
            self.words = shlex.split(command)
        except ValueError as error:
            raise UsageError(f"the command {command!r} cannot be cut into words: {error}") from error
        if not self.words:
            raise UsageError("the command behind --pipe is empty")
        if not timeout > 0:
            raise UsageError(f"a time limit is a positive number of seconds, not {timeout!r}")
        self.option, self.timeout = f"--pipe {shlex.quote(command)}", timeout
        self._child: Child | None = None
        self._timeouts = self._deaths = 0
        self._stray_lines: list[str] = []
        self._endings: list[str] = []
        self._arrays = tempfile.TemporaryDirectory(prefix="refquant-")
        try:
            hello = self._start()
        except BaseException:
            self.close()
            raise
        self.name, self.operations = hello.name, hello.operations

    def _start(self) -> Hello:
        self._child = Child(self.words)
        where = self.words[0]
        try:
            line = self._child.receive(time.monotonic() + self.timeout)
        except SilenceError as error:
            raise InputError(f"{where}: no hello within {self.timeout:g} seconds") from error
        if line is END:
            self._child.stop(SETTLING)
            raise InputError(f"{where}: no hello: the command {self._child.ending()}")
        hello = read_hello(line, where)
        self._inline = hello.arrays == "base64"
        return hello

    def answer(self, question: Question) -> Mapping[str, Array]:
        """Ask, wait, read."""
        if self._timeouts >= MOST_TIMEOUTS or self._deaths >= MOST_DEATHS:
            what = f"timed out {MOST_TIMEOUTS} times" if self._timeouts >= MOST_TIMEOUTS else f"failed {MOST_DEATHS} times"
            raise BackendTrouble("given up", f"not asked: the command {what} in a row")
        folder = Path(self._arrays.name)
        try:
            child = self._running()
            child.send(question_line(question, None if self._inline else folder))
            tree = self._await(child, question.id)
            self._timeouts = self._deaths = 0
            return read_outputs(tree, Path())
        except BackendTrouble as trouble:
            if trouble.kind in ("timeout", "crashed", "garbage"):
                self._timeouts += trouble.kind == "timeout"
                self._deaths += trouble.kind != "timeout"
                self._drop()
            raise
        finally:
            for file in folder.iterdir():
                file.unlink()

    def _running(self) -> Child:
        if self._child is None:
            try:
                self._start()
            except (InputError, UsageError) as error:
                raise BackendTrouble("crashed", f"started anew after a failure, it did not come back: {error}") from error
        if self._child is None:
            raise BackendTrouble("crashed", "the command is not running")
        return self._child

    def _await(self, child: Child, asked: str) -> dict[str, object]:
        deadline = time.monotonic() + self.timeout
        while True:
            try:
                line = child.receive(deadline)
            except SilenceError as error:
                raise BackendTrouble("timeout", f"no answer within {self.timeout:g} seconds") from error
            if line is END:
                child.stop(SETTLING)
                raise BackendTrouble("crashed", f"the command {child.ending()}, without an answer")
            if len(line) >= MAX_LINE:
                raise BackendTrouble("garbage", f"a line of more than {MAX_LINE} bytes")
            if not line.endswith(b"\n"):
                child.stop(SETTLING)
                raise BackendTrouble("crashed", f"the command {child.ending()} in the middle of a line")
            if not line.lstrip().startswith(b"{"):  # no attempt at an answer
                self._stray(line, asked)
                continue
            tree = object_of(line)
            if tree.get("id") == asked:
                return tree
            if "id" not in tree:
                raise BackendTrouble("garbage", f"an answer without an id: {clipped(line.decode('utf-8', errors='replace'))}")
            self._stray(line, asked)

    def _stray(self, line: bytes, during: str) -> None:
        self._stray_lines.append(f"{clipped(line.decode('utf-8', errors='replace'))} while {during} was asked")

    def _drop(self) -> None:
        if self._child is not None:
            self._child.stop()
            self._child = None

    def close(self) -> None:
        """Let the command end, and look at how it does."""
        child, self._child = self._child, None
        if child is not None:
            ended, rest = child.finish(GRACE)
            for line in rest:
                self._stray(line, "nothing")
            if not ended:
                self._endings.append(f"the command went on for {GRACE:g} seconds after its input had ended, and was killed")
            elif child.process.returncode:
                self._endings.append(f"after the last answer the command {child.ending()}")
        self._arrays.cleanup()

    def strays(self) -> list[str]:
        """Lines that answer nothing, as one record, and a bad ending."""
        found = list(self._endings)
        if self._stray_lines:
            count = len(self._stray_lines)
            lines = f"{count} lines that answer nothing" if count > 1 else "a line that answers nothing"
            found.insert(0, f"standard output has {lines} (talk belongs to stderr), first {self._stray_lines[0]}")
        return found
