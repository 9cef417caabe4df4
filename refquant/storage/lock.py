"""A lock that stops two writers: held by the operating system, so that it ends with the process, however that ends.

The file says who holds it, for the message; it is the lock on it that counts, not its being there. Network file systems keep such locks
between machines only if they are set up to.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from refquant.errors import InputError
from refquant.storage.border import PathLike, quoted, telling

if sys.platform == "win32":
    import msvcrt

    def _try_lock(descriptor: int) -> None:
        os.lseek(descriptor, 1 << 30, os.SEEK_SET)  # a byte far behind the text: what is locked cannot be read by others there
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    def _try_lock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


@contextmanager
def locked(path: PathLike) -> Iterator[None]:
    """Hold the lock `path` while the block runs. The file stays behind; whoever is done with its folder removes it.

    Parameters
    ----------
    path : path
        A file; made if it is not there.

    Raises
    ------
    InputError
        If somebody else holds it (the message says who), or the operating system refuses.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder, locked(f"{folder}/lock"):
    ...     with locked(f"{folder}/lock"):
    ...         pass  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    refquant.errors.InputError: ...lock: held by process ... on ...; only one may write here at a time
    """
    path = Path(path)
    with telling(path, "lock"):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
    try:
        try:
            _try_lock(descriptor)
        except OSError as error:
            os.lseek(descriptor, 0, os.SEEK_SET)
            holder = os.read(descriptor, 200).decode(errors="replace").strip()
            who = quoted(holder)[1:-1] if holder else "another process"
            raise InputError(f"{path}: held by {who}; only one may write here at a time") from error
        _check_still_there(path, descriptor)
        with telling(path, "lock"):
            os.ftruncate(descriptor, 0)
            os.lseek(descriptor, 0, os.SEEK_SET)
            os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        yield
    finally:
        os.close(descriptor)  # which unlocks


def _check_still_there(path: Path, descriptor: int) -> None:
    """The one before may have finished, and removed the file, between our opening and our locking it."""
    try:
        same = os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        same = False
    if not same:
        raise InputError(f"{path}: whoever held it finished this moment and took it away; look at the result and try again")
