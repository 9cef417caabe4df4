"""A response while its masks fill in, as one line of text."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

from rich.text import Text

from model import Tokenizer
from refquant.storage.border import quoted


class Piece(NamedTuple):
    """A run of tokens: its text, whether it is masked still, and whether it was committed just now."""

    text: str
    masked: bool
    new: bool


def pieces(ids: Sequence[int], committed: Sequence[bool], tokenizer: Tokenizer, mask: str = "_") -> list[Piece]:
    """Cut a response into runs that are shown alike; runs are decoded whole, since a token can be a part of a character.

    A masked token is shown as `mask`, one character.

    Examples
    --------
    >>> from model import embedded_directory
    >>> tokenizer = Tokenizer.from_directory(embedded_directory())
    >>> ids = tokenizer.encode("In the") + [tokenizer.mask_id] * 2
    >>> [tuple(piece) for piece in pieces(ids, [False] * len(ids), tokenizer)]
    [('In the', False, False), ('__', True, False)]
    """
    found = []
    for (masked, new), run in groupby(zip(ids, committed), key=lambda pair: (pair[0] == tokenizer.mask_id, bool(pair[1]))):
        members = [token for token, _ in run]
        # An end of text is shown as such; a line stays a line.
        text = mask * len(members) if masked else quoted_text(tokenizer.decode(members))
        found.append(Piece(text, masked, new and not masked))
    return found


def quoted_text(text: str) -> str:
    r"""Show a text on one line: line ends and other control characters as escapes.

    Examples
    --------
    >>> print(quoted_text("two\nlines é"))
    two\nlines é
    """
    return "".join(c if c.isprintable() else quoted(c)[1:-1] for c in text)


def filling_line(step: int, steps: int, found: Sequence[Piece]) -> Text:
    """Number of the step, then the response; on a terminal new tokens stand out and masks are dim."""
    line = Text(f"{step:>{len(str(steps))}}/{steps} ", style="dim")
    for piece in found:
        line.append(piece.text, style="dim" if piece.masked else "bold green" if piece.new else "not dim")
    return line
