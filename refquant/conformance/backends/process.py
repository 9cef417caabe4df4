"""A child process that is talked to in lines, and can neither hang nor flood us.

Three threads move bytes, so that no full pipe blocks anybody: one writes, one reads lines into a queue, one keeps the end of what the child
says on stderr. Reading a line always has a time limit, and a child is always ended with all that it started.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import IO

from refquant.conformance.backends.protocol import MAX_LINE
from refquant.errors import UsageError

END = None
"""What stands in the queue behind the last line."""
KEPT = 20
"""Lines of stderr that are kept."""
LOOK = 0.5
"""Seconds between two looks at whether the process is still there."""
JOIN = 2.0
"""Seconds that a thread gets to see that its pipe is closed."""


class SilenceError(Exception):
    """No line came in time."""


class Child:
    """A running command.

    Parameters
    ----------
    words : sequence of str
        The command, cut into words; no shell sees it.

    Raises
    ------
    UsageError
        If it cannot be started.
    """

    def __init__(self, words: Sequence[str]) -> None:
        try:
            self.process = subprocess.Popen(
                words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
            )
        except (OSError, ValueError) as error:
            raise UsageError(f"the command {words[0]!r} cannot be started: {error}") from error
        self.said: deque[str] = deque(maxlen=KEPT)
        self.unwritten = self.killed = False
        self._lines: queue.Queue[bytes | None] = queue.Queue()
        self._sent: queue.Queue[bytes | None] = queue.Queue()
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._write, self._read, self._listen)]
        for thread in self._threads:
            thread.start()

    def _pipe(self, name: str) -> IO[bytes]:
        found: IO[bytes] = getattr(self.process, name)
        return found

    def _write(self) -> None:
        while (line := self._sent.get()) is not END:
            try:
                self._pipe("stdin").write(line)
                self._pipe("stdin").flush()
            except (OSError, ValueError):
                self.unwritten = True  # it is gone, or does not listen; the end of its output tells
        try:
            self._pipe("stdin").close()
        except OSError:
            self.unwritten = True

    def _read(self) -> None:
        with contextlib.suppress(ValueError):  # closed while being read
            while line := self._pipe("stdout").readline(MAX_LINE):
                self._lines.put(line)
        self._lines.put(END)

    def _listen(self) -> None:
        with contextlib.suppress(ValueError):
            while line := self._pipe("stderr").readline(4096):
                self.said.append(line.decode("utf-8", errors="replace").rstrip())

    def send(self, line: bytes) -> None:
        """Write a line; returns at once."""
        self._sent.put(line)

    def receive(self, deadline: float) -> bytes | None:
        """The next line, or END; raises SilenceError when the clock shows `deadline`.

        The end of a process is an end too where something that it started still holds the pipe.
        """
        while True:
            ended = self.process.poll() is not None
            try:
                return self._lines.get(timeout=max(0.0, min(LOOK, deadline - time.monotonic())))
            except queue.Empty as error:
                if ended:
                    return END
                if time.monotonic() >= deadline:
                    raise SilenceError from error

    def finish(self, grace: float) -> tuple[bool, list[bytes]]:
        """Tell the child that nothing more comes; whether it then ended by itself, and what it still wrote."""
        self._sent.put(END)
        try:
            self.process.wait(timeout=grace)
        except subprocess.TimeoutExpired:
            self.stop()
            return False, self._rest()
        self.stop()
        return True, self._rest()

    def _rest(self) -> list[bytes]:
        found = []
        while not self._lines.empty():
            if (line := self._lines.get()) is not None:
                found.append(line)
        return found

    def stop(self, grace: float = 0.0) -> None:
        """End the child, after `grace` seconds in which it may do so by itself, and everything that it started; close the pipes."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=grace)
        self.killed = self.killed or self.process.poll() is None
        with contextlib.suppress(ProcessLookupError, PermissionError):  # already gone
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self._sent.put(END)
        for thread in self._threads:
            thread.join(JOIN)
        for name in ("stdin", "stdout", "stderr"):
            with contextlib.suppress(OSError):
                self._pipe(name).close()

    def ending(self) -> str:
        """How it ended, with the last thing that it said on stderr."""
        code = self.process.returncode
        if self.killed:
            return "closed its output and went on, and was killed"
        how = f"ended with signal {signal.Signals(-code).name}" if code is not None and code < 0 else f"ended with exit code {code}"
        last = next((line for line in reversed(self.said) if line.strip()), "")
        return f"{how}{'; it last said: ' + last[:200] if last else ''}"
