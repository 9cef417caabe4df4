"""The fitted exponent, the drawing, and that what the page shows is drawn from what was measured."""

from __future__ import annotations

import json

import numpy as np
import pytest

from benchmarks import growth, measure


@pytest.mark.parametrize("power", [0.5, 1.0, 3.0])
def test_the_exponent_of_a_power_law_is_its_power(power):
    sizes = [2, 5, 7, 30]
    costs = [1e9, *(4 * size**power for size in sizes[1:])]  # the small ones do not count
    assert growth.exponent(sizes, costs) == pytest.approx(power)


def test_costs_are_multiples_of_the_smallest_sizes(monkeypatch, capsys):
    monkeypatch.setattr(growth, "SERIES", {"squares": ("n", lambda rng, dropped: iter([(n, n) for n in (2, 4, 8, 16)][: 4 - dropped]))})
    monkeypatch.setattr(growth, "seconds", lambda n: 0.1 * n * n)
    assert growth.measured(smaller=False)["series"] == {"squares": {"sizes": [2, 4, 8, 16], "costs": [1, 4, 16, 64]}}
    assert growth.measured(smaller=True)["series"]["squares"]["sizes"] == [2, 4]
    assert "exponent 2.00" in capsys.readouterr().out


def test_series_yield_what_they_say():
    rng = np.random.Generator(np.random.PCG64(0))
    size, call = next(growth.forward_by_length(rng))
    assert call().shape == (1, size, 1024)
    size, call = next(growth.sampling_by_length(rng))
    assert call().shape == (1, 16 + size)
    size, call = next(growth.gptq_by_width(rng))
    assert call().codes.shape == (size, size)


def test_the_kept_figures_are_drawn_the_same_way_twice():
    found = json.loads((growth.FOLDER / "growth.json").read_text(encoding="utf-8"))
    assert list(found["series"]) == list(growth.SERIES)
    svg = growth.drawing(found)
    assert svg == growth.drawing(found)
    kept = (growth.FOLDER / "growth.svg").read_text(encoding="utf-8")
    page = (growth.FOLDER.parent / "benchmarks.md").read_text(encoding="utf-8")
    for series in found["series"].values():
        slope = f"{growth.exponent(series['sizes'], series['costs']):.2f}"
        assert f"exponent {slope}" in svg
        assert f"exponent {slope}" in kept
    assert page == measure.between(page, growth.BEGIN, growth.END, growth.table(found))
