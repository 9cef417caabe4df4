"""How ratios are measured: in turn, with a round that is not counted; and that the script of the ordered lane runs."""

from __future__ import annotations

import sys

import pytest

from benchmarks import measure, ordered


@pytest.fixture
def clock(monkeypatch):
    """A clock that only calls advance."""
    now = [0.0]
    monkeypatch.setattr(measure.time, "perf_counter", lambda: now[0])
    return now


def test_rounds_alternate_and_the_first_is_not_counted(clock):
    seen = []

    def takes(name, *seconds):
        left = iter(seconds)

        def call():
            seen.append(name)
            clock[0] += next(left)

        return call

    found = measure.alternate("x", takes("ours", 100, 4, 6, 30), takes("peer", 100, 2, 2, 3), rounds=3)
    assert seen == ["ours", "peer", "peer", "ours", "ours", "peer", "peer", "ours"]
    assert found.ours == (4, 6, 30)
    assert found.peer == (2, 2, 3)
    assert found.ratios == (2, 3, 10)
    assert found.ratio == 3
    line = found.line(limit=2.5)
    assert "3.00x  [2.00, 10.00]" in line
    assert "MISSED" in line
    assert "kept" in found.line(limit=3)


def test_the_script_of_the_ordered_lane_runs(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["ordered", "--quick"])
    monkeypatch.setattr(ordered, "functions", lambda rounds, rng: iter(()))
    ordered.main()
    out = capsys.readouterr().out
    assert "BLAS: " in out
    assert out.count("x [") == 8
