"""Rows of the table: what they are held to, how they travel between processes, what is said of those that did not run; and the page."""

from __future__ import annotations

import ast
import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import __main__ as table
from benchmarks import forward, hadamard, measure, startup
from refquant.errors import NumericalError

FOLDER = Path(table.__file__).parent
ROUNDS = measure.Comparison(name="x", ours=(1.0, 2.0, 9.0), peer=(2.0, 2.0, 3.0))


def result(**fields):
    return measure.Result(**{"name": "x", "comparison": ROUNDS, "limit": 1.0, **fields})


def test_a_row_is_held_to_its_limit():
    assert result().verdict == "kept"  # ratios 0.5, 1, 3
    assert result(limit=0.99).verdict == "MISSED"
    assert result(limit=None).verdict == ""
    assert result(more=True, limit=0.0).verdict == "kept"  # -1, 0 and 6 seconds more
    assert result(more=True, limit=-0.001).verdict == "MISSED"
    assert result(comparison=None).verdict == "not run"
    assert "0.00 ms [-1000.00, 6000.00]  (limit 60 ms: kept)" in result(more=True, limit=0.06).line()


@pytest.mark.parametrize("row", [result(share=0.25, note="n", size="s"), result(more=True), measure.not_run("x", ["gguf"])])
def test_rows_survive_the_way_between_processes(row):
    assert measure.from_json(row.json()) == row


def test_the_share_of_the_roofline_is_the_larger_of_both_needs():
    rates = measure.Roofline(flops=100.0, traffic=10.0)
    assert rates.share(4.0, flops=100.0) == 0.25
    assert rates.share(4.0, flops=100.0, traffic=20.0) == 0.5


def test_every_script_is_in_the_table_and_keeps_the_convention():
    scripts = {path.stem for path in FOLDER.glob("*.py") if "\ndef run(" in path.read_text(encoding="utf-8")}
    assert scripts == {*table.TABLE, *table.APART}
    for name in scripts:
        module = importlib.import_module(f"benchmarks.{name}")
        assert isinstance(module.TITLE, str)
        assert set(module.NEEDS) <= set(measure.PEERS)
        assert callable(module.main)


def test_scripts_import_without_their_peers():
    for path in FOLDER.glob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names = [
            (alias.name if isinstance(node, ast.Import) else node.module or "").partition(".")[0]
            for node in tree.body
            if isinstance(node, ast.Import | ast.ImportFrom)
            for alias in node.names
        ]
        assert not set(names) & set(measure.PEERS), path.name


def test_a_missing_peer_is_named_with_how_to_get_it_and_its_rows_are_listed(monkeypatch, capsys):
    monkeypatch.setattr(measure.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(sys, "argv", ["forward", "--json"])
    forward.main()
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["name"] for line in lines[1:-1]] == list(forward.ROWS)
    assert all("torch is not installed (pip install torch" in line["note"] for line in lines[1:-1])


def run_table(monkeypatch, capsys, *arguments, lines=None):
    """The table's exit code and output, with made-up scripts."""

    def made_up(name, quick, threads):
        if lines is None:
            raise table.subprocess.CalledProcessError(3, name)
        yield json.dumps({"title": f"about {name}"})
        yield from (row.json() for row in lines)
        yield json.dumps({"surroundings": "here; roofline: high"})

    monkeypatch.setattr(table, "lines_of", made_up)
    monkeypatch.setattr(sys, "argv", ["benchmarks", *arguments])
    return table.main(), capsys.readouterr().out


def test_exit_codes(monkeypatch, capsys):
    good, missed, absent = result(), result(name="slow", limit=0.1), measure.not_run("alone", ["torch"])
    assert run_table(monkeypatch, capsys, "--strict", lines=[good])[0] == 0
    assert run_table(monkeypatch, capsys, lines=[good, missed, absent])[0] == 0
    assert run_table(monkeypatch, capsys, "--only", "startup", "--strict", lines=[good, missed])[0] == 1
    code, out = run_table(monkeypatch, capsys, "--only", "startup", "--strict", lines=[good, absent])
    assert code == 1
    assert "kept: 1; MISSED: 0; not run: 1" in out
    assert "not run: alone" in out
    code, out = run_table(monkeypatch, capsys, "--only", "startup")
    assert code == 1
    assert "startup FAILED with exit code 3" in out


def test_the_page_gets_the_table(monkeypatch, capsys, tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"above\n{table.BEGIN}\nold\n{table.END}\nbelow\n", encoding="utf-8")
    monkeypatch.setattr(table, "PAGE", page)
    monkeypatch.setattr(table, "TABLE", ("startup",))
    run_table(monkeypatch, capsys, "--write", lines=[result(share=0.5), measure.not_run("alone", ["torch"])])
    text = page.read_text(encoding="utf-8")
    assert text.startswith(f"above\n{table.BEGIN}\n| what")
    assert text.endswith(f"* startup: here\n{table.END}\nbelow\n")
    assert "| x |  | 1.00 | 0.50 to 3.00 | 1, kept | 50% |  |" in text
    assert "| alone |  | not run |" in text
    assert "old" not in text


def test_a_script_alone_replaces_its_own_rows(monkeypatch, capsys, tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"{table.BEGIN}\n{table.END}\n", encoding="utf-8")
    monkeypatch.setattr(table, "PAGE", page)
    run_table(monkeypatch, capsys, "--write", lines=[result(name="old"), result(name="older")])
    run_table(monkeypatch, capsys, "--write", "--only", "rtn", lines=[result(name="new")])
    text = page.read_text(encoding="utf-8")
    assert text.count("| new |") == 1
    assert text.count("| old |") == text.count("| older |") == len(table.TABLE) - 1
    assert [name for name in table.TABLE if f"(`{name}`)" in text] == list(table.TABLE)
    assert text.index("(`forward`)") < text.index("| new |") < text.index("(`gguf_types`)")
    assert all(text.count(f"* {name}: here") == 1 for name in table.TABLE)


def test_the_real_page_has_the_place_for_it():
    text = table.PAGE.read_text(encoding="utf-8")
    assert measure.between(text, table.BEGIN, table.END, ["new"])
    sections, where = table.kept(text.splitlines())
    assert list(sections) == list(where) == list(table.TABLE)


def test_a_network_that_differs_is_not_timed():
    class Other:
        def logits(self, ids):
            return np.array([1.0, 2.0])

        def __call__(self, ids):
            return self

        def numpy(self):
            return np.array([1.0, 2.001])

    with pytest.raises(NumericalError, match=r"logits differ from torch's by 0\.0005 of the largest"):
        forward.check(Other(), Other(), None)


def test_flops_of_the_forward_pass():
    # One block of width 512 and MLP 1536 by hand: q, k, v, out; gate, up, down; scores and mixing over 8 tokens; then the head.
    size = forward.Size(512, 1, 1, 8, 1.0, vocabulary=100)
    per_token = 4 * 512 * 512 + 3 * 512 * 1536 + 2 * 8 * 512 + 100 * 512
    assert size.flops == 2 * 8 * per_token
    assert size.config.mlp_width == 1536
    assert size.config.embedding_rows == 100


def test_quick_scripts_run(monkeypatch, capsys):
    monkeypatch.setattr(startup, "EVERYTHING", "import refquant")
    for script in (hadamard, startup):
        monkeypatch.setattr(sys, "argv", ["x", "--quick"])
        script.main()
    out = capsys.readouterr().out
    assert "Hadamard of size 768" in out
    assert "refquant --help" in out
    assert "limit" not in out.replace("roofline", "")
