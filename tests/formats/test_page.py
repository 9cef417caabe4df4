"""docs/formats.md is held to the catalogue."""

from __future__ import annotations

from tests.formats.formats_page import PAGE, page


def test_the_page_lists_what_there_is() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run python -m tests.formats.formats_page and read the difference"
