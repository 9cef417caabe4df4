"""Atomic writes: a reader sees the old file or the new one, never a mixture, whatever happens in between.

The new content goes to a temporary name in the same folder, is flushed to the disk, and only then takes the final
name with one rename; the folder is flushed last, so that the rename itself survives a loss of power. If anything
fails before the rename, the temporary name is removed and the old content stays. A killed process may leave a
temporary name behind (``.tmp-`` and 16 hex digits), never a half-written target.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from refquant.errors import InputError
from refquant.storage.border import PathLike, telling


def _temporary_name(path: Path) -> Path:
    # The name does not grow with the target's, so a target of the longest allowed name still works.
    return path.with_name(f".tmp-{secrets.token_hex(8)}")


def _flush_path(path: Path) -> None:
    """Flush a file or folder that is already closed."""
    if not hasattr(os, "O_DIRECTORY") and path.is_dir():
        return  # Windows cannot open folders; its renames are journalled by the file system
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _target(path: PathLike) -> Path:
    target = Path(path)
    if target.name in ("", ".."):
        raise InputError(f"{target}: cannot write: the path has no file name")
    return target


@contextmanager
def replacing(path: PathLike) -> Iterator[tuple[BinaryIO, Path]]:
    """Open a temporary file that takes the name `path` when the block ends without an exception.

    Parameters
    ----------
    path : path
        Target; a file of that name is replaced. A symbolic link is replaced itself, not what it points to.

    Yields
    ------
    tuple of (BinaryIO, Path)
        The open file and its temporary name.

    Raises
    ------
    InputError
        If the operating system refuses any step.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with replacing(f"{folder}/a.bin") as (file, temporary):
    ...         _ = file.write(b"new")
    ...         print(Path(folder, "a.bin").exists())
    ...     print(Path(folder, "a.bin").read_bytes())
    False
    b'new'
    """
    target = _target(path)
    temporary = _temporary_name(target)
    with telling(target, "write"):
        try:
            # "x": never follow or reuse a name that is already there. The mode is the one every new file gets.
            with open(temporary, "xb") as file:
                yield file, temporary
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, target)
        except BaseException:  # KeyboardInterrupt leaves nothing behind either
            temporary.unlink(missing_ok=True)
            raise
        _flush_path(target.parent)


def write_bytes(path: PathLike, data: bytes) -> None:
    """Write a file atomically.

    Parameters
    ----------
    path : path
        The file.
    data : bytes
        The content.

    Raises
    ------
    InputError
        If the operating system refuses; a previous file of that name is then unchanged.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_bytes(f"{folder}/a.bin", b"123")
    ...     print(Path(folder, "a.bin").read_bytes())
    b'123'
    """
    with replacing(path) as (file, _):
        file.write(data)


def write_text(path: PathLike, text: str) -> None:
    """Write a text file atomically: UTF-8, line ends as given.

    Parameters
    ----------
    path : path
        The file.
    text : str
        The content.

    Raises
    ------
    InputError
        If the operating system refuses, or if the text holds a lone surrogate, which UTF-8 cannot express.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_text(f"{folder}/a.txt", "one\\n")
    ...     print(Path(folder, "a.txt").read_bytes())
    b'one\\n'
    """
    try:
        data = text.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{path}: cannot write: character {error.start} is a lone surrogate, UTF-8 needs pairs") from error
    write_bytes(path, data)


@contextmanager
def new_directory(path: PathLike) -> Iterator[Path]:
    """Fill a temporary sibling folder that becomes `path` when the block ends without an exception.

    Every file and folder inside is flushed to the disk before the rename. On any exception, ``KeyboardInterrupt``
    included, the temporary folder is removed. Exceptions of the block itself are passed on as they are.

    Parameters
    ----------
    path : path
        The folder to make; it must not exist, not even empty or as a dangling link.

    Yields
    ------
    Path
        The temporary folder to write into.

    Raises
    ------
    InputError
        If `path` exists already, or if the operating system refuses any step.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with new_directory(f"{folder}/out") as out:
    ...         write_text(out / "a.txt", "one")
    ...     print(Path(folder, "out", "a.txt").read_text())
    one
    """
    target = _target(path)
    with telling(target, "create"):
        _refuse_existing(target)
        temporary = _temporary_name(target)
        os.mkdir(temporary)
    try:
        yield temporary
        finish_directory(temporary, target)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if temporary.exists():
            error.add_note(f"{temporary}: could not be removed")
        raise


def finish_directory(folder: PathLike, path: PathLike) -> None:
    """Flush everything in a folder to the disk, then give the folder its name.

    Parameters
    ----------
    folder : path
        On the same file system as `path`.
    path : path
        It must not exist, not even empty or as a dangling link.

    Raises
    ------
    InputError
        If `path` exists already, or if the operating system refuses any step; the folder then keeps its old name.
    """
    target = _target(path)
    with telling(target, "create"):
        for place, _, files in os.walk(folder, topdown=False, onerror=_raise):
            for name in files:
                if not os.path.islink(os.path.join(place, name)):
                    _flush_path(Path(place, name))
            _flush_path(Path(place))
        # rename() would silently take the place of an empty folder that appeared meanwhile
        _refuse_existing(target)
        os.rename(folder, target)
        _flush_path(target.parent)


def _refuse_existing(target: Path) -> None:
    if os.path.lexists(target):
        raise InputError(f"{target}: exists already, a name that does not exist is needed")


def _raise(error: OSError) -> None:
    raise error
