"""The study's page: one file that needs nothing else, the same bytes each time, and what it may not leave out."""

from __future__ import annotations

import importlib
import re
import xml.etree.ElementTree as ElementTree
from html import escape

import pytest

from refquant.apply.evaluation.record import plain
from refquant.apply.study.results import Results
from refquant.apply.study.settings import Settings
from refquant.errors import UsageError
from refquant.report.study_conclusions import BEYOND, resolution
from refquant.report.study_page import Study, study_page
from refquant.report.study_plots import require_matplotlib
from tests.apply.study.records import outliers, record

RECORDS = [
    record(kind, width=width, method=method, damage=damage)
    for kind, damage in (("plain", 0.2), ("outliers", 2.0))
    for width in ("W4A4", "W4A16")
    for method in ("RTN", "GPTQ")
]
RECORDS += [record(method="tmas", group="calibration"), record(width="as shipped", method="duquant-w4a4", group="shipped")]
HEAD = {
    "settings": plain(Settings()),
    "inputs": {"checkpoint": "ab" * 32},
    "tokens": [100, 101],
    "injected": {"norm": [1, 2]},
    "root": "cd" * 32,
    "command": "refquant study <qdlm>",
}


@pytest.fixture(scope="module")
def page():
    return study_page(Study(head=HEAD, records=RECORDS, outliers=[outliers(), outliers("outliers")], left_out=("W2A16 AWQ, plain",)))


def test_it_needs_nothing_else(page):
    """No script, no link, no picture from elsewhere; every plot is well-formed."""
    assert "<script" not in page
    assert not re.findall(r'(?:src|href)="(?!#|data:)', page.replace("xlink:href", "href"))
    plots = re.findall(r"<svg.*?</svg>", page, re.S)
    assert len(plots) == 8  # width, mask ratio, trajectory, linears, states, curves, two maps
    for plot in plots:
        ElementTree.fromstring(plot)


def test_the_same_numbers_give_the_same_bytes(page):
    again = study_page(Study(head=HEAD, records=RECORDS, outliers=[outliers(), outliers("outliers")], left_out=("W2A16 AWQ, plain",)))
    assert again == page


def test_what_it_says(page):
    for text in ("cd" * 32, "refquant study &lt;qdlm&gt;", "W2A16 AWQ, plain", "1 cells of the grid were not run", "injected", "not grown"):
        assert text in page, text
    assert page.count("as printed in the paper)") == 5
    assert page.index("As printed in the paper") > page.index("<h2>Outliers</h2>")  # apart from what was measured
    assert ">-37.3<" in page  # base, W4A4 SmoothQuant, table 2
    assert page.count(': <span class="') == 21


def test_what_can_and_what_cannot_be_concluded(page):
    """Counted from the verdicts below it; RTN and GPTQ have the same damage here, so no pair of rows is told apart."""
    section = page[page.index("<h2>What can and what cannot be concluded</h2>") : page.index("<h2>Published findings</h2>")]
    verdicts = re.findall(r': <span class="\w+">([\w ]+)</span>', page)
    for verdict in ("reproduced", "contradicted", "not decidable at this size"):
        assert f"{verdicts.count(verdict)} {verdict}" in section
    assert section.count("<li>") == len(verdicts) + 4 + len(BEYOND)  # two widths of two models
    assert "W4A16, plain model: 0 of 1 pairs of rows are told apart; a difference is known to +-0.0000 nats a token" in section
    assert all(escape(line) in section for line in BEYOND)


def test_pairs_that_are_told_apart():
    """Damages of 0.2, 0.5 and 0.5, each text the same: two of three pairs; of one row alone nothing is said."""
    rows = [record(method=method, damage=damage) for method, damage in (("RTN", 0.5), ("GPTQ", 0.2), ("AWQ", 0.5))]
    assert resolution(Results.of(rows), "plain", "W4A4").startswith("W4A4, plain model: 2 of 3 pairs")
    assert resolution(Results.of(rows[:1]), "plain", "W4A4") == ""


def test_numbers_of_a_row(page):
    """Damage 0.2 +- 0.01 over six texts, all items right."""
    row = re.search(r"<h3>W4A4, plain model</h3>.*?<td>RTN</td>(.*?)</tr>", page, re.S).group(1)
    cells = re.findall(r"<td>(.*?)</td>", row)
    assert cells[0] == "4.156"
    assert re.fullmatch(r"\+0\.2000 \[\+0\.19\d\d, \+0\.20\d\d\]", cells[1])
    assert cells[2] == "[+0.2000, +0.2000]"
    assert cells[6] == "100.0% [100.0, 100.0]"


def test_matplotlib_that_is_missing_is_told(monkeypatch):
    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(UsageError, match=r"pip install 'refquant\[plot\]'"):
        require_matplotlib()
