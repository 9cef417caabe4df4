"""A method is one file with a card; its equations are numbered in the text, at the line that does it, and in the test that holds it."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module

import pytest

from refquant.methods.card import Card

LABEL = re.compile(r"\[([A-Z][A-Z0-9]*(?:-[A-Z]+)*-\d+[a-z]?)\]")


def card_labels(module):
    """Labels of the ``Equation(...)`` calls of a module."""
    calls = [n for n in ast.walk(module.tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name) and n.func.id == "Equation"]
    return [c.args[0].value for c in calls if c.args and isinstance(c.args[0], ast.Constant)]


def has_card(module):
    """Whether a module assigns CARD at its top."""
    targets = [t for n in module.tree.body if isinstance(n, ast.Assign) for t in n.targets]
    targets += [n.target for n in module.tree.body if isinstance(n, ast.AnnAssign)]
    return any(isinstance(t, ast.Name) and t.id == "CARD" for t in targets)


def label_faults(module, coded, tested):
    """What is missing for the equations of a method's card, and labels that no equation has.

    `coded` are the labels in comments anywhere in the product (a Gram matrix of GPTQ is summed in ``core``), `tested` those in tests.
    """
    labels = card_labels(module)
    text = ast.get_docstring(module.tree) or ""
    if not labels:
        yield f"{module.path}: the card has no equation"
    for label in labels:
        if f"[{label}]" not in text:
            yield f"{module.path}: [{label}] is not in the module's docstring"
        if label not in coded:
            yield f"{module.path}: no line of code carries # [{label}]"
        if label not in tested:
            yield f"{module.path}: no test names [{label}]"
    for label in sorted({name for name in LABEL.findall(module.text) if name not in labels and stem(name) in map(stem, labels)}):
        yield f"{module.path}: [{label}] is on no card"


def stem(label):
    """``GPTQ`` of ``GPTQ-3``."""
    return label.rpartition("-")[0]


@pytest.fixture(scope="session")
def methods(product):
    """The files that hold a method: those with a card."""
    return [m for m in product if m.path.startswith("refquant/methods/") and has_card(m)]


@pytest.fixture(scope="session")
def tested(modules):
    tests = [m for m in modules if m.path.startswith("tests/") and not m.path.startswith("tests/house/")]
    return {label for m in tests for label in LABEL.findall(m.text)}


@pytest.fixture(scope="session")
def coded(product):
    return {label for m in product for label in LABEL.findall(m.comments)}


def test_every_equation_has_its_text_its_line_and_its_test(methods, coded, tested):
    found = [f for m in methods for f in label_faults(m, coded, tested)]
    assert not found, "\n".join(found)


def test_missing_labels_are_found(planted):
    whole = '"""Doc.\n\n[ABC-1]  x = y\n"""\nCARD = Card(equations=(Equation("ABC-1", "x = y"),))\nx = y  # [ABC-1]\n'
    here = {"ABC-1"}
    assert not list(label_faults(planted("a.py", whole), here, here))
    assert len(list(label_faults(planted("a.py", whole), here, set()))) == 1
    assert len(list(label_faults(planted("a.py", whole), set(), here))) == 1
    assert len(list(label_faults(planted("a.py", whole.replace("[ABC-1]  x", "x")), here, here))) == 1
    assert len(list(label_faults(planted("a.py", whole + "y = x  # [ABC-2]\n"), here, here))) == 1
    assert LABEL.findall(planted("a.py", whole).comments) == ["ABC-1"]


def table():
    return import_module("refquant.methods.catalog").METHODS


def test_the_table_and_the_folder_hold_the_same_methods(methods):
    listed = {target.partition(":")[0] for target in table().values()}
    found = {m.name for m in methods}
    assert listed == found, f"not in the table: {sorted(found - listed)}; not in the folder: {sorted(listed - found)}"


def test_a_file_under_methods_is_a_method_or_says_that_it_is_not(product, methods):
    plumbing = {"card.py", "catalog.py", "__init__.py"}
    folders = [m for m in product if m.path.startswith("refquant/methods/") and m.path.rpartition("/")[2] not in plumbing]
    bad = [m.path for m in folders if m not in methods and card_labels(m)]
    assert not bad, f"equations without a CARD: {bad}"


def test_every_entry_names_a_function_and_its_card():
    for name, target in table().items():
        where, _, function = target.partition(":")
        module = import_module(where)
        assert callable(getattr(module, function)), f"{name}: {target}"
        assert isinstance(module.CARD, Card), f"{name}: {where}.CARD"
        assert module.CARD.name == name, f"{name}: the card of {where} is named {module.CARD.name}"


def test_labels_are_unique(methods):
    labels = [label for m in methods for label in card_labels(m)]
    assert sorted(set(labels)) == sorted(labels)


def explain(name):
    command = [sys.executable, "-m", "refquant", "explain", name]
    return name, subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)


def test_every_card_is_printed():
    with ThreadPoolExecutor(2) as pool:
        for name, done in pool.map(explain, table()):
            assert done.returncode == 0, done.stderr
            card = import_module(table()[name].partition(":")[0]).CARD
            assert name in done.stdout
            for equation in card.equations:
                assert equation.label in done.stdout, f"refquant explain {name} does not print {equation.label}"
