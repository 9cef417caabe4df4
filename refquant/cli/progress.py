"""How far a long command is: a bar on a terminal, a plain line every few seconds in a pipe. Always on stderr."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, ProgressColumn, Task, TextColumn
from rich.progress import Progress as Bar
from rich.text import Text

from refquant.report.numbers import duration
from refquant.storage import canonical_json

LINE_EVERY = 5.0
"""Seconds between two lines in a pipe, where there is news."""
SILENCE = 10.0
"""Seconds without a line in a pipe before the last one is said again: a step that takes minutes is still at work."""


class Progress:
    """Stages one after the other, each with an expected share of the work.

    An instance is what :mod:`refquant.apply` calls with what is done, how much, of how much. A name that is a stage begins it; any other
    is a step of the stage that was begun last.

    Parameters
    ----------
    costs : mapping of str to float
        Stages in order, each with its expected cost; only ratios matter.
    console : Console
    clock : callable
        Seconds.
    events : bool
        Whether a line in a pipe is a JSON object.
    """

    def __init__(
        self, costs: Mapping[str, float], console: Console, clock: Callable[[], float] = time.monotonic, events: bool = False
    ) -> None:
        self.costs, self.console, self.clock = dict(costs), console, clock
        self.stage, self.inside, self.step = "", "", ""
        self.tokens = 0  # of calibration, once they are known
        self.events = events
        self.part = 0.0
        self.finished = 0.0  # cost of the stages left behind
        self.began = clock()
        self.last_line = self.began - LINE_EVERY
        self.bar: Bar | None = None
        self._turn = threading.Lock()  # one line at a time, of one state
        self._over = threading.Event()
        self._watch: threading.Thread | None = None

    @property
    def fraction(self) -> float:
        """Share of the work that is done."""
        total = sum(self.costs.values())
        return (self.finished + self.part * self.costs.get(self.stage, 0.0)) / total if total else 0.0

    @property
    def seconds(self) -> float:
        """Since the beginning."""
        return self.clock() - self.began

    def left(self) -> str:
        """Time that is still expected, once there is something to judge by."""
        if self.fraction < 0.01 or self.seconds < 1:
            return ""
        return f"about {duration(self.seconds * (1 / self.fraction - 1))} left"

    def begin(self, stage: str) -> None:
        """Leave the current stage behind and begin another."""
        if stage == self.stage:
            return
        names = list(self.costs)
        with self._turn:
            self.finished = sum(self.costs[name] for name in names[: names.index(stage)]) if stage in self.costs else self.finished
            self.stage, self.inside, self.step, self.part = stage, "", "", 0.0
        self._tell()

    def __call__(self, what: str, done: int, total: int) -> None:
        """Take news from the work."""
        if what != self.stage and what in self.costs:
            self.begin(what)
        with self._turn:
            self.step = "" if what in (self.stage, "blocks") else what
            self.inside, self.part = f"{done}/{total}", done / total if total else 1.0
        self._tell()

    def __enter__(self) -> Progress:
        if self.console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"), _Times(self))
            self.bar = Bar(*columns, console=self.console, transient=True, refresh_per_second=4)
            self.bar.add_task("", total=1.0)
            self.bar.start()
        else:
            self._watch = threading.Thread(target=self._break_silence, name="progress", daemon=True)
            self._watch.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.bar is not None:
            self.bar.stop()
        if self._watch is not None:
            self._over.set()
            self._watch.join()

    def times(self) -> str:
        """Elapsed and expected."""
        return ", ".join(part for part in (duration(self.seconds), self.left()) if part)

    def _tell(self) -> None:
        if self.bar is not None:
            self.bar.update(self.bar.task_ids[0], completed=self.fraction, description=self._where())
        else:
            self._say(LINE_EVERY)

    def _where(self) -> str:
        where = f"{self.stage} {self.inside}".strip() + (f" ({self.step})" if self.step else "")
        return where + (f", {self.tokens} tokens" if self.tokens else "")

    def _say(self, every: float) -> None:
        """Say where the work is, if the last line is so many seconds old."""
        with self._turn:
            if self.clock() - self.last_line >= every:
                self.last_line = self.clock()
                line = self._event() if self.events else f"[{100 * self.fraction:3.0f}%] {self._where()}, {self.times()}"
                self.console.print(line, markup=False, soft_wrap=True)

    def _break_silence(self) -> None:
        while not self._over.wait(SILENCE / 10):
            if self.stage:
                self._say(SILENCE)

    def _event(self) -> str:
        """The same as a JSON object; times in seconds, ``left`` null until there is something to judge by."""
        left = self.seconds * (1 / self.fraction - 1) if self.left() else None
        found = {
            "event": "progress",
            "stage": self.stage,
            "step": self.step,
            "at": self.inside,
            "fraction": round(self.fraction, 4),
            "tokens": self.tokens,
            "elapsed": round(self.seconds, 1),
            "left": None if left is None else round(left, 1),
        }
        return canonical_json(found)


class _Times(ProgressColumn):
    """Elapsed and expected time; it ticks even while the work is silent."""

    def __init__(self, progress: Progress) -> None:
        super().__init__()
        self.progress = progress

    def render(self, task: Task) -> Text:
        return Text(self.progress.times())
