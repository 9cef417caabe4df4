"""What the tests of the house look at: the tree, and every Python file of it parsed once."""

from __future__ import annotations

import ast
import io
import tokenize
import tomllib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
TOPS = ("refquant", "model", "tests", "tools", "benchmarks", "examples", "docs", "golden", ".ci")


@dataclass(frozen=True)
class Module:
    """A Python file: `path` is relative to the root of the tree, with forward slashes; `name` is dotted."""

    path: str
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text, filename=self.path)

    @property
    def name(self) -> str:
        return self.path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")

    @cached_property
    def comments(self) -> str:
        tokens = tokenize.generate_tokens(io.StringIO(self.text).readline)
        return "\n".join(token.string for token in tokens if token.type == tokenize.COMMENT)

    def imports(self) -> list[tuple[int, str]]:
        """Line and dotted name of everything imported, wherever in the file: ``from a import b`` gives ``a.b``."""
        found = []
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                found += [(node.lineno, alias.name) for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                start = node.module or ""
                if node.level:
                    package = self.name if self.path.endswith("__init__.py") else self.name.rpartition(".")[0]
                    up = package.split(".")[: len(package.split(".")) - node.level + 1]
                    start = ".".join([*up, start] if start else up)
                found += [(node.lineno, f"{start}.{alias.name}") for alias in node.names]
        return found


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def files() -> list[Path]:
    """Every file of ours: the top-level folders and the files beside them, without caches."""
    found = [p for p in ROOT.iterdir() if p.is_file() and not p.name.startswith(".")]
    for top in TOPS:
        found += [p for p in (ROOT / top).rglob("*") if p.is_file() and "__pycache__" not in p.parts]
    return sorted(found)


@pytest.fixture(scope="session")
def modules(files: list[Path]) -> list[Module]:
    python = [p for p in files if p.suffix == ".py"]
    return [Module(path=p.relative_to(ROOT).as_posix(), text=p.read_text(encoding="utf-8")) for p in python]


@pytest.fixture(scope="session")
def product(modules: list[Module]) -> list[Module]:
    """The modules that are installed."""
    return [m for m in modules if m.path.startswith(("refquant/", "model/"))]


@pytest.fixture
def planted() -> type[Module]:
    """To show that a rule goes red: ``planted(path, text)`` is a file that breaks it."""
    return Module
