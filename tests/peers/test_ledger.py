"""Every recorded tensor has a test, every test of the ledger exists and reads the file, and the page says so."""

from __future__ import annotations

import ast

import pytest
from safetensors import safe_open

from tests.peers.ledger import LEDGER, PAGE, ROOT, Row, page, row_of

DATA = ROOT / "tests" / "data"
FILES = sorted(
    path.relative_to(DATA).with_suffix("").as_posix()
    for folder in ("formats", "layout", "quant")
    for path in (DATA / folder).glob("*.safetensors")
)


def names(file: str) -> list[str]:
    with safe_open(DATA / f"{file}.safetensors", "numpy") as opened:
        return list(opened.keys())


@pytest.mark.parametrize("file", FILES)
def test_every_tensor_has_a_row(file: str) -> None:
    missing = [name for name in names(file) if row_of(file, name) is None]
    assert not missing, f"{file}: no row of tests/peers/ledger.py answers for {missing}"


def test_every_row_has_tensors() -> None:
    used = {row_of(file, name) for file in FILES for name in names(file)}
    assert not [row for row in LEDGER if row not in used], "rows that match nothing, or that an earlier one hides"


@pytest.mark.parametrize("row", sorted(set(LEDGER), key=str), ids=lambda row: f"{row.file}:{row.pattern}")
def test_every_test_is_there(row: Row) -> None:
    module, _, function = row.tests.partition("::")
    tree = ast.parse((ROOT / "tests" / f"{module}.py").read_text(encoding="utf-8"))
    defined = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    assert not function or function in defined


def test_the_page_has_the_table() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run python -m tests.peers.ledger"
