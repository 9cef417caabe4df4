"""Whatever is public says what it is; whatever ``refquant`` itself offers shows it by an example that runs."""

from __future__ import annotations

import ast
import doctest
import importlib.metadata

import model
import refquant

DEFINITIONS = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def public_definitions(node, prefix=""):
    """Public functions and classes of a module, and public methods of public classes. Overloads and setters aside."""
    for child in node.body:
        if not isinstance(child, DEFINITIONS) or child.name.startswith("_"):
            continue
        if any(ast.unparse(d).endswith(("overload", ".setter")) for d in child.decorator_list):
            continue
        yield prefix + child.name, child
        if isinstance(child, ast.ClassDef):
            yield from public_definitions(child, f"{child.name}.")


def undocumented(module):
    if module.text.strip() and ast.get_docstring(module.tree) is None:
        yield f"{module.path}: the module has no docstring"
    for name, node in public_definitions(module.tree):
        if ast.get_docstring(node) is None:
            yield f"{module.path}:{node.lineno}: {name} has no docstring"


def test_whatever_is_public_has_a_docstring(product):
    found = [u for m in product for u in undocumented(m)]
    assert not found, "\n".join(found)


def test_a_missing_docstring_is_found(planted):
    text = '"""A module."""\nclass A:\n    """A class."""\n    def f(self): ...\n    def _g(self): ...\ndef h(): ...\n'
    assert len(list(undocumented(planted("a.py", text)))) == 2
    assert len(list(undocumented(planted("a.py", "x = 1\n")))) == 1


def offered(package):
    return [(f"{package.__name__}.{name}", getattr(package, name)) for name in package.__all__]


def test_whatever_the_package_offers_shows_an_example():
    found = []
    for name, thing in offered(refquant) + offered(model):
        own = getattr(thing, "__module__", "").split(".")[0] in ("refquant", "model")
        if callable(thing) and own and not isinstance(thing, type):
            text = thing.__doc__ or ""
            examples = [e for e in doctest.DocTestParser().get_examples(text) if "+SKIP" not in e.source]
            if "Examples\n" not in text or not examples:
                found.append(f"{name} has no Examples section with a doctest that runs")
    assert not found, "\n".join(found)


def test_the_version_is_told_once(pyproject):
    version = pyproject["project"]["version"]
    assert importlib.metadata.version("refquant") == version
    assert refquant.__version__ == version
