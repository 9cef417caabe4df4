"""Files and functions that one can take in, names that mean something, and nothing that belongs to one machine."""

from __future__ import annotations

import ast
import re

import pytest

MODULE_LINES = 350
FUNCTION_LINES = 70  # without the docstring
NAMELESS = {"utils", "util", "helpers", "helper", "common", "misc", "base"}
TEXT = {".py", ".md", ".toml", ".json", ".sh", ".txt", ".cfg", ".yml", ".yaml", ""}
# Put together so that this file does not find itself.
PLACES = re.compile(r"(?<![\w.])/" + r"(work|root|home/\w+|tmp/\w+|opt/\w+)/|\.\./" + "shared")
UNFINISHED = re.compile(r"\b(TO" + "DO|FIX" + "ME|XX" + r"X)\b")


def functions(tree):
    return [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]


def code_lines(function):
    """Lines from ``def`` to the end, without the docstring."""
    body = function.body
    skipped = body[0].end_lineno - body[0].lineno + 1 if ast.get_docstring(function, clean=False) is not None else 0
    return function.end_lineno - function.lineno + 1 - skipped


def oversized(module):
    length = module.text.count("\n")
    if length > MODULE_LINES:
        yield f"{module.path}: {length} lines, at most {MODULE_LINES}"
    for f in functions(module.tree):
        if code_lines(f) > FUNCTION_LINES:
            yield f"{module.path}:{f.lineno}: {f.name} has {code_lines(f)} lines without its docstring, at most {FUNCTION_LINES}"


def test_files_and_functions_fit_a_head(modules):
    found = [o for m in modules for o in oversized(m)]
    assert not found, "\n".join(found)


def test_oversized_code_is_found(planted):
    long_function = 'def f():\n    """Text.\n\n    More.\n    """\n' + "    x = 1\n" * FUNCTION_LINES
    assert len(list(oversized(planted("a.py", long_function)))) == 1
    assert not list(oversized(planted("a.py", long_function.replace("    x = 1\n", "", 1))))
    assert len(list(oversized(planted("a.py", "x = 1\n" * (MODULE_LINES + 1))))) == 1


def test_every_file_and_folder_has_a_noun(modules):
    bad = [m.path for m in modules if NAMELESS & set(m.path.removesuffix(".py").split("/"))]
    assert not bad, "\n".join(bad)


def loose_ends(path, text):
    """Paths of one machine, and notes that something is left to do."""
    for number, line in enumerate(text.splitlines(), 1):
        if PLACES.search(line):
            yield f"{path}:{number}: a path of one machine: {line.strip()[:100]}"
        if UNFINISHED.search(line):
            yield f"{path}:{number}: unfinished: {line.strip()[:100]}"


def test_no_file_names_a_machine_or_is_unfinished(files, root):
    found = []
    for path in files:
        name = path.relative_to(root).as_posix()
        if path.suffix in TEXT and not name.startswith("tests/data/"):
            found += loose_ends(name, path.read_text(encoding="utf-8"))
    assert not found, "\n".join(found)


def test_data_of_tests_name_no_machine(root):
    data = [p for p in (root / "tests" / "data").rglob("*") if p.is_file()]
    text = [p for p in data if p.suffix in TEXT | {".jsonl", ".safetensors", ".npz"}]
    bad = [p.name for p in text if PLACES.search(p.read_bytes().decode("latin-1"))]
    assert not bad, "\n".join(bad)


@pytest.mark.parametrize(
    "line", ["see /" + "work/main", "open('/" + "home/me/x')", "../" + "shared/spec", "# TO" + "DO: later", "FIX" + "ME"]
)
def test_loose_ends_are_found(line):
    assert len(list(loose_ends("a.py", line))) == 1


@pytest.mark.parametrize("line", ["/usr/bin/env bash", "TODOS", "a/w" + "ork/b is relative", "https://example.org/home"])
def test_innocent_lines_are_not(line):
    assert not list(loose_ends("a.py", line))


def careless(module):
    """Asserts, which -O removes, and handlers that swallow whatever went wrong."""
    for node in ast.walk(module.tree):
        where = f"{module.path}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Assert):
            yield f"{where}: assert guards nothing under -O; raise one of refquant.errors"
        if isinstance(node, ast.ExceptHandler):
            name = None if node.type is None else ast.unparse(node.type)
            silent = all(isinstance(s, ast.Pass | ast.Continue) for s in node.body)
            raises = any(isinstance(n, ast.Raise) for s in node.body for n in ast.walk(s))
            if name is None or (name in ("Exception", "BaseException") and not raises) or silent:
                yield f"{where}: except {name}: carries on as if nothing had happened"


def test_nothing_is_asserted_or_swallowed(product):
    found = [c for m in product for c in careless(m)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "text",
    [
        "assert x",
        "try:\n    f()\nexcept Exception:\n    pass",
        "try:\n    f()\nexcept:\n    raise",
        "try:\n    f()\nexcept ValueError:\n    pass",
        "try:\n    f()\nexcept Exception as e:\n    print(e)",
    ],
)
def test_carelessness_is_found(planted, text):
    assert len(list(careless(planted("a.py", text)))) == 1


def test_care_is_not(planted):
    text = "try:\n    f()\nexcept BaseException:\n    clean()\n    raise\n"
    text += "try:\n    g()\nexcept OSError as e:\n    raise InputError(str(e)) from e\n"
    assert not list(careless(planted("a.py", text)))
