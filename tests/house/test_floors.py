"""A file imports only from lower floors. The floors are the contracts of pyproject.toml, which ``lint-imports`` holds too (in .ci/run).

Here they are read and held without it, because ``pip install '.[test]'`` does not bring it, and held more strictly: whatever a
contract does not name is forbidden instead of free.
"""

from __future__ import annotations

import re
import sys
from itertools import pairwise

import pytest

# Packages that see a named few others only, whatever the floors would allow.
ONLY = {
    "model": ("model", "refquant.errors", "refquant.numerics", "refquant.storage"),
    "refquant.oracle": ("refquant.oracle", "refquant.errors", "refquant.formats"),
}
# Nothing in the product leans on the second opinion.
MAY_IMPORT_ORACLE = ("refquant.oracle", "refquant.conformance")
# Packages outside the declared run-time dependencies, and the only modules that may import them.
EXTRAS = {
    "hypothesis": ("refquant.conformance",),
    "pytest": ("refquant.conformance",),
    "matplotlib": ("refquant.report",),
    "dask": ("refquant.apply.dask_cluster",),
    "distributed": ("refquant.apply.dask_cluster",),
}


def room(name, floors):
    """The entry of the floors that holds a dotted name, or None."""
    return next((r for floor in floors for r in floor if name == r or name.startswith(r + ".")), None)


def within(name, packages):
    return any(name == p or name.startswith(p + ".") for p in packages)


def breaches(module, floors):
    """What a module imports and should not."""
    height = {r: -i for i, floor in enumerate(floors) for r in floor}
    here = room(module.name, floors)
    only = next((allowed for package, allowed in ONLY.items() if within(module.name, [package])), None)
    for line, target in module.imports():
        if not within(target, ["refquant", "model"]):
            continue
        where = f"{module.path}:{line}: imports {target}"
        there = room(target, floors)
        if only is not None and not within(target, only):
            yield f"{where}, allowed are {', '.join(only)}"
        elif within(target, ["refquant.oracle"]) and not within(module.name, MAY_IMPORT_ORACLE):
            yield f"{where}: the oracle is for tests"
        elif here and there and here != there and height[there] >= height[here]:
            yield f"{where}, which is not below {here}"
        elif here and there is None and target.split(".")[0] == "refquant" and not within(target, ["refquant.oracle"]):
            yield f"{where}: the top of the package is above {here}"


@pytest.fixture(scope="session")
def floors(pyproject):
    contract = next(c for c in pyproject["tool"]["importlinter"]["contracts"] if c["type"] == "layers")
    return [[r.strip(" ()") for r in re.split(r"[|:]", layer)] for layer in contract["layers"]]


def test_no_module_imports_from_its_own_height_or_above(product, floors):
    assert not [b for m in product for b in breaches(m, floors)]


def test_every_room_stands_on_a_floor(root, floors):
    rooms = {r for floor in floors for r in floor}
    found = {f"refquant.{p.name}" for p in (root / "refquant").iterdir() if p.is_dir() and any(p.rglob("*.py"))}
    assert found - rooms <= {"refquant.oracle"}, "name the new package in the layers of pyproject.toml"


def test_the_floors_are_the_ones_that_the_design_names(floors):
    order = ["cli", "report", "apply", "methods", "core", "formats", "errors"]
    height = {r: i for i, floor in enumerate(floors) for r in floor}
    assert all(height[f"refquant.{a}"] < height[f"refquant.{b}"] for a, b in pairwise(order))


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("refquant/core/grid.py", "from refquant.methods.grid.rtn import rtn"),
        ("refquant/core/grid.py", "def f():\n    from refquant.storage import read_json"),
        ("refquant/core/grid.py", "from ..apply import recipe"),
        ("refquant/core/grid.py", "from refquant import rtn"),
        ("refquant/methods/grid/rtn.py", "import model"),
        ("refquant/core/grid.py", "from refquant.oracle import nearest"),
        ("refquant/oracle/nearest.py", "from refquant.numerics import FAST"),
        ("model/ops.py", "from refquant.core import spec"),
        ("model/ops.py", "import refquant"),
        ("model/ops.py", "from refquant.formats import IntFormat"),
    ],
)
def test_a_planted_import_is_found(planted, floors, path, text):
    assert len(list(breaches(planted(path, text), floors))) == 1


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("refquant/core/grid.py", "from refquant.numerics import FAST\nfrom refquant.core.spec import QuantSpec"),
        ("refquant/__init__.py", "from refquant.methods.grid.rtn import rtn"),
        ("refquant/apply/run.py", "import model\nfrom refquant.methods.card import Card"),
        ("refquant/oracle/nearest.py", "from refquant.formats import IntFormat"),
    ],
)
def test_a_lawful_import_is_not(planted, floors, path, text):
    assert not list(breaches(planted(path, text), floors))


def undeclared(module, declared):
    for line, target in module.imports():
        top = target.split(".")[0]
        if top in declared or top in ("refquant", "model") or top in sys.stdlib_module_names:
            continue
        if not within(module.name, EXTRAS.get(top, ())):
            yield f"{module.path}:{line}: imports {top}, which is no declared dependency of this module"


@pytest.fixture(scope="session")
def declared(pyproject):
    return {re.split(r"[<>=!~\[; ]", d)[0].replace("-", "_") for d in pyproject["project"]["dependencies"]}


def test_whatever_is_imported_is_declared(product, declared):
    assert not [u for m in product for u in undeclared(m, declared)]


def test_an_undeclared_import_is_found(planted, declared):
    text = "import torch\nimport numpy\nfrom torch.nn import Linear\nimport matplotlib.pyplot\nimport os.path"
    assert len(list(undeclared(planted("refquant/core/grid.py", text), declared))) == 3
    assert not list(undeclared(planted("refquant/report/plots.py", "import matplotlib"), declared))


def test_torch_is_imported_by_tools_only(modules):
    bad = [m.path for m in modules for _, t in m.imports() if t.split(".")[0] in ("torch", "transformers", "tensorflow", "jax")]
    assert not [path for path in bad if not path.startswith("tools/")]
