"""Locks: one at a time, given back by the end of a process however it ends."""

import os
import signal
import subprocess
import sys

import pytest

from refquant.errors import InputError
from refquant.storage import locked

HOLD = "import sys\nfrom refquant.storage import locked\nwith locked(sys.argv[1]):\n    print('held', flush=True)\n    sys.stdin.read()\n"


@pytest.fixture
def holder(tmp_path):
    child = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path / "lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "held\n"
    yield child
    child.kill()
    child.communicate()


def test_one_at_a_time_and_the_message_says_who(tmp_path, holder):
    with (
        pytest.raises(InputError, match=f"lock: held by process {holder.pid} on .*; only one may write here at a time"),
        locked(tmp_path / "lock"),
    ):
        pass


def test_a_killed_process_holds_nothing(tmp_path, holder):
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    with locked(tmp_path / "lock"):
        assert (tmp_path / "lock").read_text().startswith(f"process {os.getpid()} on ")
    with locked(tmp_path / "lock"):
        pass


def test_whoever_comes_while_it_is_taken_away_is_told(tmp_path, monkeypatch):
    real_stat = os.stat

    def stat(path, **keywords):
        (tmp_path / "lock").unlink(missing_ok=True)
        return real_stat(path, **keywords)

    monkeypatch.setattr(os, "stat", stat)
    with pytest.raises(InputError, match="finished this moment and took it away"), locked(tmp_path / "lock"):
        pass


def test_a_place_that_cannot_be_locked(tmp_path):
    with pytest.raises(InputError, match="cannot lock: No such file or directory"), locked(tmp_path / "none" / "lock"):
        pass
