"""pytest plugin: every golden case is a test of somebody's backend.

    pytest --pyargs refquant.conformance --refquant-backend package.module:object
    pytest --pyargs refquant.conformance --refquant-pipe './kernel' --refquant-level codes

Registered under the entry point ``pytest11``. Without one of the two options it adds nothing to a run, and it imports nothing until then.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of `refquant conform` that make sense here."""
    group = parser.getgroup("refquant", "conformance with refquant's golden vectors")
    group.addoption("--refquant-backend", metavar="PKG:OBJ", help="Python object with any subset of the operations")
    group.addoption("--refquant-pipe", metavar="CMD", help="command that answers questions, one JSON line each")
    group.addoption("--refquant-level", action="append", default=[], metavar="LEVEL", help="only operations of this level")
    group.addoption("--refquant-operation", action="append", default=[], metavar="NAME", help="only operations of this name or pattern")
    group.addoption("--refquant-flag", action="append", default=[], metavar="FLAG", help="only cases with this flag")
    group.addoption(
        "--refquant-expected", metavar="FILE", help="TOML file of expected failures; they become xfail, strict by pytest's xfail_strict"
    )
    group.addoption("--refquant-allow-missing", action="store_true", help="outputs that are not given are not judged")
    group.addoption("--refquant-timeout", type=float, default=60.0, metavar="SECONDS", help="for an answer of --refquant-pipe")


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """This very file stands for the vectors, if a backend is named."""
    config = parent.config
    if file_path != Path(__file__) or not (config.getoption("--refquant-backend") or config.getoption("--refquant-pipe")):
        return None
    from refquant.conformance.pytest_cases import VectorsFile

    collector: pytest.Collector = VectorsFile.from_parent(parent, path=file_path)
    return collector
