"""Ctrl-C that lets the tensor in hand be finished first."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class Interruption:
    """Whether somebody pressed Ctrl-C; calling it answers.

    Parameters
    ----------
    tell : callable
        Takes the line that says what will happen now.
    begun : str
        What is finished first.

    Examples
    --------
    >>> asked = Interruption(print)
    >>> try:
    ...     with asked.deferred():
    ...         signal.raise_signal(signal.SIGINT)
    ...         print("still here, and asked to stop:", asked())
    ... except KeyboardInterrupt:
    ...     print("stopped")
    interrupted: the linear in hand is finished first; press Ctrl-C again to stop at once
    still here, and asked to stop: True
    stopped
    """

    def __init__(self, tell: Callable[[str], None], begun: str = "the linear in hand is") -> None:
        self._tell, self._begun, self._asked = tell, begun, False

    def __call__(self) -> bool:
        """Whether the work is to stop at the next good moment."""
        return self._asked

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """While the block runs, the first Ctrl-C only asks and the second interrupts; one that was not obeyed interrupts at the end."""
        if threading.current_thread() is not threading.main_thread():
            yield  # signals are the main thread's
            return
        before = signal.signal(signal.SIGINT, self._take)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)
        if self._asked:
            raise KeyboardInterrupt

    def _take(self, number: int, frame: FrameType | None) -> None:
        if self._asked:
            raise KeyboardInterrupt
        self._asked = True
        self._tell(f"interrupted: {self._begun} finished first; press Ctrl-C again to stop at once")
