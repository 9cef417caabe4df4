"""Progress: shares of the work, expected time, one line every few seconds in a pipe, a bar on a terminal."""

from __future__ import annotations

import io
import json
import threading
import time

import pytest
from rich.console import Console

from refquant.cli.progress import LINE_EVERY, Progress


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def piped():
    return Console(file=io.StringIO(), force_terminal=False, width=20)


def test_the_share_of_the_work_follows_costs(clock):
    progress = Progress({"a": 1, "b": 3}, piped(), clock)
    progress("a", 1, 2)
    assert progress.fraction == 0.125
    progress("b", 0, 5)
    assert progress.fraction == 0.25
    progress("blocks", 1, 2)  # belongs to the stage that is open
    assert progress.fraction == 0.625
    clock.now += 50
    assert progress.left() == "about 0:30 left"
    progress("b", 5, 5)
    assert progress.fraction == 1


def test_a_stage_without_a_cost_and_an_empty_stage_do_no_harm(clock):
    progress = Progress({"a": 1}, piped(), clock)
    progress.begin("unheard of")
    progress("a", 0, 0)
    assert progress.fraction == 1
    assert Progress({}, piped(), clock).fraction == 0


def test_a_pipe_gets_a_line_every_few_seconds(clock):
    console = piped()
    with Progress({"a": 1}, console, clock) as progress:
        for step in range(100):
            progress("a", step, 100)
            clock.now += 0.5
    lines = console.file.getvalue().splitlines()
    assert len(lines) == pytest.approx(50 / LINE_EVERY, abs=1)
    assert lines[1].startswith("[ 10%] a 10/100, 0:05, about 0:45 left")


def test_a_line_names_layer_step_tokens_and_times(clock):
    console = piped()
    with Progress({"quantize": 9, "save": 1}, console, clock) as progress:
        progress.tokens = 1024
        progress.begin("quantize")
        clock.now += 30
        progress("block 2/32, ff_proj", 12, 224)
    assert console.file.getvalue().splitlines() == [
        "[  0%] quantize, 1024 tokens, 0:00",
        "[  5%] quantize 12/224 (block 2/32, ff_proj), 1024 tokens, 0:30, about 9:52 left",
    ]


@pytest.mark.parametrize("events", [False, True])
def test_a_long_step_is_heard_of(monkeypatch, clock, events):
    """Nothing is reported for half a minute; what is said last is said again, with the time that has gone by."""
    monkeypatch.setattr("refquant.cli.progress.SILENCE", 0.02)
    console = piped()

    def lines():
        return console.file.getvalue().splitlines()

    with Progress({"quantize": 1}, console, clock, events=events) as progress:
        progress("quantize", 0, 4)
        progress("block 1/2, ff_out", 1, 4)  # at once behind a line: told only if the step lasts
        clock.now += 30
        until = time.monotonic() + 60
        while len(lines()) < 2:
            assert time.monotonic() < until
            time.sleep(0.001)
    said = [json.loads(line) for line in lines()] if events else lines()
    if events:
        assert [(one["step"], one["elapsed"]) for one in said] == [("", 0.0), ("block 1/2, ff_out", 30.0)]
    else:
        assert said == ["[  0%] quantize, 0:00", "[ 25%] quantize 1/4 (block 1/2, ff_out), 0:30, about 1:30 left"]
    assert not [thread for thread in threading.enumerate() if thread.name == "progress"]


def test_with_events_a_line_is_an_object_that_says_the_same(clock):
    console = piped()
    with Progress({"quantize": 9, "save": 1}, console, clock, events=True) as progress:
        progress.begin("quantize")
        progress.tokens = 1024
        clock.now += 30
        progress("block 2/32, ff_proj", 12, 224)
    first, second = map(json.loads, console.file.getvalue().splitlines())
    assert (first["stage"], first["step"], first["left"]) == ("quantize", "", None)
    assert second == {
        "event": "progress",
        "stage": "quantize",
        "step": "block 2/32, ff_proj",
        "at": "12/224",
        "fraction": 0.0482,
        "tokens": 1024,
        "elapsed": 30.0,
        "left": 592.2,
    }


def test_a_terminal_gets_one_bar_that_goes_away(clock):
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    with Progress({"quantize GPTQ": 1}, console, clock) as progress:
        progress.begin("quantize GPTQ")
        progress.tokens = 96
        progress("blocks", 1, 4)
        progress.bar.refresh()
    text = console.file.getvalue()
    assert "quantize GPTQ 1/4, 96 tokens" in text
    assert "25%" in text
    assert text.endswith("\x1b[2K") or "\x1b[?25h" in text
