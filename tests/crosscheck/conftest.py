"""Rows for docs/interop.md: what a real program made of our bytes, or we of its, one JSON line each."""

from __future__ import annotations

import json
import os
from importlib.metadata import version
from pathlib import Path

import pytest


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.crosscheck)


@pytest.fixture
def peer():
    """Import a program by name, or skip: the default environment has none of them."""
    return pytest.importorskip


@pytest.fixture
def record():
    """Write a row; called at the end of a test, when nothing can fail any more."""

    def row(layout, reader, direction, result, note=""):
        path = os.environ.get("REFQUANT_CROSSCHECK_ROWS")
        line = {"layout": layout, "reader": reader, "version": version(reader), "direction": direction, "result": result, "note": note}
        if path:
            with Path(path).open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")

    return row
