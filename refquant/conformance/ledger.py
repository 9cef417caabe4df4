"""Every hash that was ever published, and the reasons for those that changed.

``ledger.txt`` has a line ``first 16 digits of the hash, space, id`` for each hash under which a case was ever published, in the order of
publication; lines are only ever added. ``CHANGES.md`` has an entry for every id whose value changed or that vanished: a line
``- `id or pattern with *`: reason`` for each time.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path

from refquant.errors import InputError

LEDGER = "ledger.txt"
CHANGES = "CHANGES.md"
DIGITS = 16
_LINE = re.compile(rf"([0-9a-f]{{{DIGITS}}}) (\S+)")
_ENTRY = re.compile(r"^- ((?:`[^`]+`(?:, )?)+): (\S.*)$", re.MULTILINE)


def published(folder: Path) -> dict[str, list[str]]:
    """Every id with the hashes (their first digits) under which it was published, oldest first; empty without a ledger.

    Raises
    ------
    InputError
        If a line of the ledger is none.
    """
    found: dict[str, list[str]] = {}
    path = folder / LEDGER
    if not path.is_file():
        return found
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        match = _LINE.fullmatch(line)
        if match is None:
            raise InputError(f"{path}, line {number}: {line[:80]!r}; a line is {DIGITS} hex digits, a space and an id")
        found.setdefault(match[2], []).append(match[1])
    return found


def unpublished_lines(old: Mapping[str, list[str]], hashes: Mapping[str, str]) -> Iterator[str]:
    """The lines that the ledger lacks.

    Examples
    --------
    >>> list(unpublished_lines({"a.b/x": ["0" * 16]}, {"a.b/x": "0" * 64, "a.b/y": "1" * 64}))
    ['1111111111111111 a.b/y\\n']
    """
    for name in sorted(hashes):
        if old.get(name, [""])[-1] != hashes[name][:DIGITS]:
            yield f"{hashes[name][:DIGITS]} {name}\n"


def reasons(text: str) -> list[tuple[tuple[str, ...], str]]:
    """The entries of CHANGES.md: patterns of ids, and the reason.

    Examples
    --------
    >>> reasons("- `a.b/*`, `c.d/x`: the floor was wrong\\n")
    [(('a.b/*', 'c.d/x'), 'the floor was wrong')]
    """
    return [(tuple(re.findall(r"`([^`]+)`", patterns)), reason) for patterns, reason in _ENTRY.findall(text)]


def unexplained(folder: Path, hashes: Mapping[str, str]) -> list[str]:
    """What was done to published values without an entry that says why: one line each."""
    entries = reasons((folder / CHANGES).read_text(encoding="utf-8")) if (folder / CHANGES).is_file() else []
    known, found = published(folder), []
    for name, history in known.items():
        changes = len(history) - 1 + (name not in hashes)
        told = sum(any(fnmatchcase(name, pattern) for pattern in patterns) for patterns, _ in entries)
        if name in hashes and history[-1] != hashes[name][:DIGITS]:
            found.append(f"{name}: its hash {hashes[name][:DIGITS]} is not in {LEDGER}; run `refquant golden generate`")
        elif told < changes:
            what = "vanished" if name not in hashes else f"changed {changes} times" if changes > 1 else "changed"
            found.append(f"{name}: {what}, and {CHANGES} has {told} entries that name it; add a line - `{name}`: reason")
    return found + [f"{name}: not in {LEDGER}; run `refquant golden generate`" for name in hashes if name not in known]
