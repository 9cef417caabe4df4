"""Failures that somebody expects of his backend, in a TOML file of his own.

    [[expected]]
    case = "uniform.quantize/asym_omni-*"      # an id, or a pattern with * and ?
    reason = "the kernel has no such scheme yet, issue 12"

`part` (one output) and `mutant` (the name of a known mistake) narrow an entry down: with `mutant`, the failure is expected only as long as
it is that mistake. An entry that matches no case, or whose cases all conform, is reported: it has outlived its reason.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import msgspec

from refquant.errors import InputError


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Cases that are expected to fail, and why."""

    case: str
    reason: str
    part: str | None = None
    mutant: str | None = None

    def matches(self, case: str) -> bool:
        """Whether a case is meant, by its id.

        Examples
        --------
        >>> Entry(case="uniform.*", reason="none yet").matches("uniform.quantize/x")
        True
        """
        return fnmatchcase(case, self.case)

    def covers(self, case: str, parts: Sequence[str], mutants: Sequence[str]) -> bool:
        """Whether it expects this failure: every part that is wrong, by this mistake if it names one."""
        narrow = self.part is None or (bool(parts) and set(parts) == {self.part})
        return self.matches(case) and narrow and (self.mutant is None or self.mutant in mutants)


class _File(msgspec.Struct, forbid_unknown_fields=True):
    expected: list[Entry]


def read_expected(path: Path) -> tuple[Entry, ...]:
    """Read a file of expected failures.

    Raises
    ------
    InputError
        If it cannot be read, holds another field, or an entry has no reason.
    """
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
        entries = msgspec.convert(tree, _File).expected
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not TOML: {error}") from error
    except msgspec.ValidationError as error:
        raise InputError(f"{path}: {error}; tables [[expected]] with case and reason, and part or mutant, are allowed") from error
    for number, entry in enumerate(entries, 1):
        if not entry.reason.strip() or not entry.case.strip():
            lacks = "case" if entry.reason.strip() else "reason"
            raise InputError(f"{path}: entry {number} ({entry.case!r}) has no {lacks}; both are needed")
    return tuple(entries)
