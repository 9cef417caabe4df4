"""Atomicity: whatever fails, and wherever a process is killed, the target is the old one or the new one and nothing is left behind."""

import errno
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from refquant.errors import InputError
from refquant.storage import new_directory, read_tensors, write_bytes, write_tensors, write_text


def listing(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def failing(name, error, after=0):
    """Replace os.<name> by one that raises at its call number `after`."""
    real, calls = getattr(os, name), []

    def stub(*args, **kwargs):
        calls.append(args)
        if len(calls) == after + 1:
            raise error
        return real(*args, **kwargs)

    return stub


WRITERS = {
    "bytes": lambda path: write_bytes(path, b"new"),
    "text": lambda path: write_text(path, "new"),
    "tensors": lambda path: write_tensors(path, {"a": np.ones(3)}),
}
ERRORS = [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt(), MemoryError()]


@pytest.mark.parametrize("old", [None, b"old"])
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("call", ["replace", "fsync"])
@pytest.mark.parametrize("writer", WRITERS.values(), ids=WRITERS)
def test_a_failure_before_the_rename_leaves_the_old_file(tmp_path, monkeypatch, writer, call, error, old):
    path = tmp_path / "a"
    if old is not None:
        path.write_bytes(old)
    before = listing(tmp_path)
    monkeypatch.setattr(os, call, failing(call, error))
    expected = InputError if isinstance(error, OSError) else type(error)
    with pytest.raises(expected) as caught:
        writer(path)
    if expected is InputError:
        assert str(caught.value) == f"{path}: cannot write: No space left on device"
    assert listing(tmp_path) == before


needs_proc = pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="asks Linux which file a descriptor is")


@needs_proc
def test_the_order_is_flush_rename_flush_the_folder(tmp_path, monkeypatch):
    seen = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)

        def stub(first, *rest, name=name, real=real):
            seen.append((name, os.path.realpath(f"/proc/self/fd/{first}") if name == "fsync" else str(first)))
            return real(first, *rest)

        monkeypatch.setattr(os, name, stub)
    write_bytes(tmp_path / "a", b"new")
    temporary = seen[0][1]
    assert seen == [("fsync", temporary), ("replace", temporary), ("fsync", str(tmp_path))]


def test_a_failure_to_flush_the_folder_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", failing("fsync", OSError(errno.EIO, "Input/output error"), after=1))
    with pytest.raises(InputError, match="Input/output error"):
        write_bytes(tmp_path / "a", b"new")
    assert listing(tmp_path) == {"a": b"new"}


def test_mode_and_link(tmp_path):
    (tmp_path / "real").write_bytes(b"real")
    os.symlink("real", tmp_path / "link")
    old = os.umask(0o027)
    try:
        write_text(tmp_path / "link", "é\r\n")
    finally:
        os.umask(old)
    assert (tmp_path / "link").stat().st_mode & 0o777 == 0o640
    assert listing(tmp_path) == {"real": b"real", "link": "é\r\n".encode()}


def test_the_longest_name(tmp_path):
    write_bytes(tmp_path / ("n" * 255), b"new")
    assert listing(tmp_path) == {"n" * 255: b"new"}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing/a", "cannot write: No such file or directory"),
        ("folder", "cannot write: Is a directory"),
        ("file/a", "cannot write: Not a directory"),
        ("n" * 256, "cannot write: File name too long"),
        ("a\0b", "NUL character"),
        ("..", "the path has no file name"),
    ],
)
def test_what_the_system_refuses(tmp_path, name, message):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_bytes(b"file")
    before = listing(tmp_path)
    with pytest.raises(InputError, match=message) as caught:
        write_bytes(tmp_path / name, b"new")
    assert "\n" not in str(caught.value)
    assert listing(tmp_path) == before


def test_text_with_a_lone_surrogate(tmp_path):
    with pytest.raises(InputError, match="character 2 is a lone surrogate"):
        write_text(tmp_path / "a", "ab\ud800")
    assert listing(tmp_path) == {}


KILLED = """
import os, signal, sys
import numpy as np
from refquant.storage import new_directory, write_bytes, write_tensors
victim, at, path = sys.argv[1:]
def die(*args): os.kill(os.getpid(), signal.SIGKILL)
setattr(os, at, die)
if victim == "file":
    write_tensors(path, {"a": np.zeros(1000)})
else:
    with new_directory(path) as out:
        (out / "a").write_bytes(b"new")
"""


@pytest.mark.parametrize("at", ["fsync", "replace"])
def test_a_killed_writer_leaves_the_old_file(tmp_path, at):
    path = tmp_path / "a"
    write_tensors(path, {"a": np.ones(2)})
    ran = subprocess.run([sys.executable, "-c", KILLED, "file", at, str(path)], check=False)
    assert ran.returncode == -signal.SIGKILL
    assert read_tensors(path)["a"].tolist() == [1, 1]
    assert all(name == "a" or name.startswith(".tmp-") for name in listing(tmp_path))


@pytest.mark.parametrize("at", ["fsync", "rename"])
def test_a_killed_writer_leaves_no_folder(tmp_path, at):
    ran = subprocess.run([sys.executable, "-c", KILLED, "folder", at, str(tmp_path / "out")], check=False)
    assert ran.returncode == -signal.SIGKILL
    assert not (tmp_path / "out").exists()


def test_new_directory(tmp_path):
    with new_directory(tmp_path / "out") as out:
        assert out.parent == tmp_path
        assert not (tmp_path / "out").exists()
        (out / "sub").mkdir()
        (out / "sub" / "a").write_bytes(b"1")
        write_text(out / "b", "2")
        os.symlink("nowhere", out / "dangling")
    assert listing(tmp_path) == {"out/sub/a": b"1", "out/b": b"2"}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@needs_proc
def test_new_directory_flushes_everything_inside(tmp_path, monkeypatch):
    seen, real = [], os.fsync

    def stub(descriptor):
        seen.append(os.path.basename(os.path.realpath(f"/proc/self/fd/{descriptor}")))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", stub)
    with new_directory(tmp_path / "out") as out:
        (out / "sub").mkdir()
        (out / "sub" / "a").write_bytes(b"1")
        (out / "b").write_bytes(b"2")
        temporary = out.name
    assert sorted(seen) == sorted(["a", "b", "sub", temporary, tmp_path.name])


@pytest.mark.parametrize("error", [ValueError("mine"), KeyboardInterrupt(), SystemExit(1), FileNotFoundError(2, "mine")])
def test_an_exception_inside_removes_everything_and_passes_on(tmp_path, error):
    with pytest.raises(type(error)) as caught, new_directory(tmp_path / "out") as out:  # noqa: PT012
        (out / "sub").mkdir()
        (out / "sub" / "a").write_bytes(b"1")
        raise error
    assert caught.value is error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("call", ["fsync", "rename"])
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_a_failure_to_finish_leaves_no_folder(tmp_path, monkeypatch, call, error):
    monkeypatch.setattr(os, call, failing(call, error))
    expected = InputError if isinstance(error, OSError) else type(error)
    with pytest.raises(expected), new_directory(tmp_path / "out") as out:
        (out / "a").write_bytes(b"1")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["folder", "file", "link"])
def test_new_directory_refuses_a_name_that_exists(tmp_path, kind):
    make = {"folder": os.mkdir, "file": lambda path: path.write_bytes(b""), "link": lambda path: os.symlink("x", path)}
    make[kind](tmp_path / "out")
    with pytest.raises(InputError, match="out: exists already"), new_directory(tmp_path / "out"):
        pytest.fail("the block must not run")
    assert len(list(tmp_path.iterdir())) == 1


def test_new_directory_refuses_a_name_that_appears_meanwhile(tmp_path):
    with pytest.raises(InputError, match="out: exists already"), new_directory(tmp_path / "out"):
        (tmp_path / "out").mkdir()
    assert list((tmp_path / "out").iterdir()) == []
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_new_directory_without_a_parent(tmp_path):
    with pytest.raises(InputError, match="cannot create: No such file or directory"), new_directory(tmp_path / "a" / "b"):
        pytest.fail("the block must not run")
