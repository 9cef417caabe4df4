"""Verdicts on made-up numbers: every rule can come out each way, and decides nothing where a cell is missing."""

from __future__ import annotations

import pytest

from refquant.apply.study.findings import UNDECIDED, findings
from refquant.apply.study.results import Results
from refquant.errors import UsageError
from tests.apply.study.records import outliers, record


def verdicts(*records):
    return {f.claim: f.verdict for f in findings(Results.of(records), [outliers()])}


def verdict(part, *records):
    found = [v for claim, v in verdicts(*records).items() if part in claim]
    assert len(found) == 1
    return found[0]


def test_nothing_is_decided_by_nothing():
    assert set(verdicts().values()) == {UNDECIDED}


def weight_only(three, method="RTN"):
    return [record(width="W4A16", method=method, damage=0.1), record(width="W3A16", method=method, damage=three)]


@pytest.mark.parametrize(("three", "wanted"), [(0.5, "reproduced"), (0.12, "contradicted"), (0.2, UNDECIDED)])
def test_three_bits(three, wanted):
    assert verdict("at 3 bits", *weight_only(three)) == wanted


def test_three_bits_needs_every_method():
    assert verdict("at 3 bits", *weight_only(0.5), *weight_only(0.2, "GPTQ")) == UNDECIDED


STUDIED = ("SmoothQuant, 4 places", "QuaRot", "DuQuant")


@pytest.mark.parametrize(
    ("eight", "worst", "wanted"),
    [(0.01, 1.0, "reproduced"), (0.3, 1.0, "contradicted"), (0.01, 0.12, "contradicted"), (0.03, 1.0, UNDECIDED)],
)
def test_eight_bits(eight, worst, wanted):
    cells = [record(width="W8A8", method=m, damage=eight) for m in STUDIED]
    cells += [record(method=m, damage=worst if m == STUDIED[0] else 0.1) for m in STUDIED]
    assert verdict("W8A8 is safe for every method; W4A4 is where methods part (plain", *cells) == wanted
    assert verdict("W8A8 is safe for every method; W4A4 is where methods part (outliers", *cells) == UNDECIDED


@pytest.mark.parametrize(
    ("smooth", "smooth_right", "turned_right", "wanted"),
    [
        (2.0, "00000000", "11111110", "reproduced"),
        (2.0, "11111110", "11111110", "contradicted"),  # no collapse
        (0.1, "00000000", "11111110", "contradicted"),  # less damage than the rotation
        (2.0, "00000000", "00000000", UNDECIDED),  # both collapse
    ],
)
def test_rotations_survive(smooth, smooth_right, turned_right, wanted):
    cells = [
        record("outliers", method="SmoothQuant, 4 places", damage=smooth, right=smooth_right),
        record("outliers", method="QuaRot", damage=0.3, right=turned_right),
    ]
    assert verdict("SmoothQuant collapses, rotations survive (outliers", *cells) == wanted


@pytest.mark.parametrize(("turned", "wanted"), [(0.5, "reproduced"), (3.0, "contradicted"), (2.0, UNDECIDED)])
def test_recovery(turned, wanted):
    cells = [record("outliers", damage=4.0, right="0000"), record("outliers", method="QuaRot, RTN", damage=turned)]
    assert verdict("a rotation recovers", *cells) == wanted


@pytest.mark.parametrize(("first", "wanted"), [(0.3, "reproduced"), (0.7, "contradicted"), (0.5, UNDECIDED)])
def test_orderings_are_paired(first, wanted):
    cells = [record(method="DLLMQuant", damage=first), record(method="GPTQ", damage=0.5, noise=0.02)]
    assert verdict("DLLMQuant does less damage than GPTQ at W4A4 (plain", *cells) == wanted


def test_gptq_or_awq_counts_cells():
    def pair(width, gptq, kind="plain"):
        return [record(kind, width=width, method="GPTQ", damage=gptq), record(kind, width=width, method="AWQ", damage=0.5)]

    assert verdict("GPTQ is at least", *pair("W4A16", 0.3), *pair("W3A16", 0.3), *pair("W2A16", 0.9)) == "reproduced"
    assert verdict("GPTQ is at least", *pair("W4A16", 0.3), *pair("W3A16", 0.9), *pair("W3A16", 0.9, "outliers")) == "contradicted"
    assert verdict("GPTQ is at least", *pair("W4A16", 0.3), *pair("W3A16", 0.5)) == UNDECIDED


@pytest.mark.parametrize(("right", "wanted"), [("0000", "reproduced"), ("1111", "contradicted")])
def test_generation(right, wanted):
    assert verdict("Long generations", record(damage=0.5, right=right)) == wanted


@pytest.mark.parametrize(("tmas", "wanted"), [(0.2, "reproduced"), (0.9, "contradicted"), (0.5, UNDECIDED)])
def test_states(tmas, wanted):
    cells = [record(method="GPTQ", damage=0.5, noise=0.02), record(method="tmas", group="calibration", damage=tmas)]
    assert verdict("TMAS", *cells) == wanted


@pytest.mark.parametrize(("free", "wanted"), [(0.3, "reproduced"), (0.05, "contradicted"), (0.1005, UNDECIDED)])
def test_accumulation(free, wanted):
    assert verdict("accumulate", record(free=free, forced=0.1)) == wanted


def test_one_seed_decides_nothing_about_accumulation():
    assert verdict("accumulate", record(seeds=1)) == UNDECIDED


def test_figures_of_outliers_name_the_largest():
    found = [f for f in findings(Results.of([]), [outliers()]) if "Massive outliers" in f.claim]
    assert found[0].figures == ("plain: largest magnitude over median 50 at model.transformer.blocks.0.ff_out",)
    assert found[0].verdict == UNDECIDED


def test_a_cell_that_is_missing_is_named():
    with pytest.raises(UsageError, match="W4A4 RTN of the plain model is not finished"):
        Results.of([]).record("plain", "W4A4", "RTN")


def test_seeds_are_averaged_before_items_and_texts():
    """Two seeds that are right on different halves of the items: half right, and as certain of each item."""
    cell = record(right="1100", damage=0.5)
    cell["runs"][1]["right"] = {"add": "0011"}
    cell["runs"][1]["nll_difference_per_text"] = [1.5 - v for v in cell["runs"][0]["nll_difference_per_text"]]
    results = Results.of([cell])
    found = results.exact("plain", "W4A4", "RTN")
    assert (found.mean, found.low, found.high) == (0.5, 0.5, 0.5)
    found = results.damage("plain", "W4A4", "RTN")
    assert (found.mean, found.low, found.high) == (0.75, 0.75, 0.75)
    assert results.exact_drop("plain", "W4A4", "RTN").mean == 0.5
