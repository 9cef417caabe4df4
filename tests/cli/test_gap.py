"""`refquant explain --gap`: the tables, and what it refuses."""

import json

import pytest

from refquant.apply import gap as measured
from refquant.apply.gap import METHODS, embedded_gaps


@pytest.fixture
def few(monkeypatch):
    """A cut that takes a second instead of a minute."""
    real = embedded_gaps(bits=(2,), rows=1, columns=4, samples=1)
    monkeypatch.setattr(measured, "embedded_gaps", lambda: real)
    return real


def test_the_tables_hold_every_method(few, run):
    found = run("explain", "gptq", "--gap")
    assert found.code == 0
    assert all(method in found.out for method in METHODS)
    assert f"{few[2][0].ratio('RTN'):.3f}" in found.out


def test_json_holds_every_layer(few, run):
    found = json.loads(run("explain", "gptq", "--gap", "--format", "json").out)
    assert len(found["gaps"]) == 28
    assert found["gaps"][0]["losses"]["optimum"] == few[2][0].losses["optimum"]


def test_only_methods_that_solve_this_problem_have_a_gap(run):
    found = run("explain", "tmas", "--gap")
    assert found.code == 2
    assert "--gap compares rtn, gptq, obq, optimum" in found.err
