"""Tasks that tell when they begin and take their time, so that something can happen to the worker in the middle."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

from refquant.apply.linear_task import quantize_linear


def begun(place):
    """Process ids of the tasks that were begun, by what they were called."""
    found = {}
    for path in sorted(Path(place).glob("begun-*")):
        _, name, pid = path.name.split("-")
        found.setdefault(name, []).append(int(pid))
    return found


def slowly(task):
    """Square a number; tells when it begins."""
    place, number, seconds = task
    Path(place, f"begun-{number}-{os.getpid()}").touch()
    time.sleep(seconds)
    return number * number


class Slowly:
    """Quantizes a linear; tells when it begins, and takes a moment over one of them, so that it can be met in the middle."""

    def __init__(self, place, name=None):
        self.place, self.name = place, name

    def __call__(self, task):
        Path(self.place, f"begun-{task.name}-{os.getpid()}").touch()
        time.sleep(0.5 if task.name == self.name else 0.01)
        return quantize_linear(task)


class Killer(threading.Thread):
    """Kills the process that begins a task, once."""

    def __init__(self, place, name):
        super().__init__(daemon=True)
        self.place, self.name_of_task, self.killed = place, name, None
        self.start()

    def run(self):
        until = time.monotonic() + 120
        while self.killed is None and time.monotonic() < until:
            for pid in begun(self.place).get(self.name_of_task, [])[:1]:
                os.kill(pid, signal.SIGKILL)
                self.killed = pid
            time.sleep(0.01)


def pid(task):
    """Which process this is."""
    return os.getpid()


def die(task):
    """End this process as the system's killer does."""
    os.kill(os.getpid(), signal.SIGKILL)
