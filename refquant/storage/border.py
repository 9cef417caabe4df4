"""Errors at the border: what the operating system or a hostile file says, told in one line.

Names found in files are shown through :func:`quoted`, so that a newline, a control character or a megabyte of text
inside a tensor name cannot break the one-line message.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from refquant.errors import InputError

PathLike = str | os.PathLike[str]


def quoted(value: object, limit: int = 80) -> str:
    """Show a value found in a file: escaped, on one line, at most `limit` characters.

    Parameters
    ----------
    value : object
        What was found.
    limit : int
        Most characters to return.

    Returns
    -------
    str

    Examples
    --------
    >>> print(quoted("two\\nlines"))
    'two\\nlines'
    >>> print(quoted("x" * 1000, limit=8))
    'xxx...'
    """
    if isinstance(value, str):
        value = value[: limit + 1]
    text = ascii(value)
    return text if len(text) <= limit else text[: limit - 4] + "..." + text[-1]


@contextmanager
def telling(path: PathLike, action: str) -> Iterator[None]:
    """Turn an ``OSError`` raised inside into an ``InputError`` that names `path` and `action`.

    Parameters
    ----------
    path : path
        The file or folder that the message names.
    action : str
        What was being tried, to follow "cannot": ``"read"``, ``"create"``.

    Raises
    ------
    InputError
        In place of every ``OSError``, and for a path that contains a NUL character.

    Examples
    --------
    >>> with telling("there", "read"):
    ...     raise PermissionError(13, "Permission denied")
    Traceback (most recent call last):
        ...
    refquant.errors.InputError: there: cannot read: Permission denied
    """
    if "\0" in os.fspath(path):
        raise InputError(f"{quoted(os.fspath(path))}: cannot {action}: a path may not contain a NUL character")
    try:
        yield
    except OSError as error:
        raise InputError(f"{path}: cannot {action}: {error.strerror or type(error).__name__}") from error


@contextmanager
def regular_file(path: PathLike) -> Iterator[tuple[BinaryIO, int]]:
    """Open a regular file for reading and yield it with its size in bytes.

    Folders, pipes and devices are refused: a pipe would block and ``/dev/zero`` never ends. The check is made on the
    open file, so the path cannot be exchanged between the check and the read.

    Parameters
    ----------
    path : path
        The file.

    Yields
    ------
    tuple of (BinaryIO, int)

    Raises
    ------
    InputError
        If the path is missing, unreadable or not a regular file.
    """
    with telling(path, "read"):
        # Without O_NONBLOCK the open itself would wait for a writer at the other end of a pipe.
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
        descriptor = os.open(path, flags)
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            os.close(descriptor)
            kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe, socket or device"
            raise InputError(f"{path}: cannot read: it is {kind}, a regular file is needed")
        with os.fdopen(descriptor, "rb") as file:
            yield file, status.st_size


def read_exactly(file: BinaryIO, buffer: memoryview, path: Path) -> None:
    """Fill `buffer` from the current position of `file`.

    Parameters
    ----------
    file : BinaryIO
        Opened for reading.
    buffer : memoryview of bytes
        Filled in place.
    path : Path
        Named in the message.

    Raises
    ------
    InputError
        If the file ends early: it was cut while it was being read.
    """
    done = 0
    while done < len(buffer):
        count = file.readinto(buffer[done:])  # type: ignore[attr-defined]
        if not count:
            raise InputError(f"{path}: the file ended {len(buffer) - done} bytes early: it changed while it was being read")
        done += count
