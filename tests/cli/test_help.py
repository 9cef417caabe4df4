"""Help pages: every command has one, and every example on it runs."""

from __future__ import annotations

import json
import re
import shlex

import pytest

import model
from refquant.apply.recipe import find_recipe, recipe_names
from refquant.cli import COMMANDS
from refquant.methods.catalog import METHODS, find_card

EXAMPLE = re.compile(r"^ +(refquant .*)$", re.MULTILINE)


def examples(page):
    return EXAMPLE.findall(page.partition("Examples:")[2])


@pytest.mark.parametrize("page", [*(name for name in COMMANDS if name != "study"), "study ladder", "study outliers"])
def test_a_help_page_ends_with_examples(run, page):
    ran = run(*page.split(), "--help")
    assert ran.code == 0
    found = examples(ran.out)
    assert found
    assert ran.out.rstrip().endswith(found[-1])  # nothing after them


@pytest.mark.parametrize("command", [*(name for name in COMMANDS if name != "study"), ""])  # a study takes minutes
def test_the_examples_run(run, command, tmp_path, checkpoint, monkeypatch):
    """In their order, in an empty folder, with quick sizes and a smaller model in the place of the embedded one."""
    monkeypatch.setattr(model, "embedded_directory", lambda: checkpoint)
    page = run(*([command] if command else []), "--help").out
    for line in examples(page):
        line, _, target = line.partition(" > ")
        words = shlex.split(line)[1:]
        if words[0] in ("quantize", "evaluate") and not {"--quick", "--dry-run"} & set(words):
            words.append("--quick")
        ran = run(*words)
        assert ran.code == 0, (line, ran.err)
        assert ran.out.strip()
        if "json" in words:
            json.loads(ran.out)
        if target:
            (tmp_path / "here" / target).write_text(ran.out)


def test_methods_lists_everything(run):
    table, tree = run("methods").out, run("methods", "--format", "json").json
    assert list(tree["methods"]) == sorted(METHODS)
    assert list(tree["recipes"]) == sorted(recipe_names())
    for name in [*METHODS, *recipe_names()]:
        assert re.search(rf"^{re.escape(name)} ", table, re.MULTILINE)
        assert name in table
    for name in METHODS:
        assert find_card(name).lane in table
        assert find_card(name).paper.split()[0] in table
    assert "weight [out, in]" in table  # brackets are text, not markup


@pytest.mark.parametrize("name", METHODS)
def test_explain_prints_the_whole_card(run, name):
    card = find_card(name)
    text = " ".join(run("explain", name).out.split())
    parts = [card.title, card.paper, card.lane, card.cost, card.oracle, *card.inputs, *card.departures, *card.guarantees]
    for part in [*parts, *(f"[{e.label}] {e.text}" for e in card.equations)]:
        assert " ".join(part.split()) in text
    tree = run("explain", name, "--format", "json").json["method"]
    assert tree["equations"] == [{"label": e.label, "text": e.text} for e in card.equations]


@pytest.mark.parametrize("name", recipe_names())
def test_explain_prints_a_recipe_that_can_be_edited_and_used(run, tmp_path, name):
    text = run("explain", name).out
    (tmp_path / "copy.toml").write_text(text)
    assert find_recipe(str(tmp_path / "copy.toml")) == find_recipe(name)
    for line in text.splitlines():
        assert line.startswith(("#", "[", " ", "]")) or " = " in line or not line
    assert run("explain", tmp_path / "copy.toml").out == text


def test_every_field_of_a_recipe_is_explained(run):
    """The first key of every part stands under a comment, and the part under its own."""
    for block in run("explain", "dllmquant-w4a4").out.split("\n\n")[1:]:
        summary, header, comment, *_ = block.splitlines()
        assert summary.startswith("# "), block
        assert header.startswith("["), block
        assert comment.startswith("# "), block
