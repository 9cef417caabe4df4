"""Run by test_resume and test_dask in a process of its own: kills children at every write operation in turn, resumes, and compares bytes.

The process has one thread, so that forking it is sound. A write operation is what changes the disk or makes a change last: opening a file
for writing, writing, truncating, syncing, renaming, making and removing files and folders.
"""

from __future__ import annotations

import builtins
import errno
import hashlib
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import traceback
from pathlib import Path

import model
from refquant.apply.executors import ExecutorPlan, open_workforce
from refquant.apply.recipe import find_recipe
from refquant.apply.run import is_there, open_workbench
from refquant.apply.work_folder import partial_of, sweep
from refquant.errors import InputError

SHARD_BYTES = 3000  # a handful of shards
SKIP = ("k_proj", "v_proj", "up_proj", "ff_proj")


class Counter:
    """Counts write operations; before or in the middle of the one with the number `at`, something happens."""

    def __init__(self, at, action):
        self.at, self.action, self.count = at, action, 0

    def operation(self, half=None):
        self.count += 1
        if self.count == self.at:
            if half is not None:
                half()
            self.action()

    def install(self):
        for name in ("replace", "rename", "mkdir", "unlink", "rmdir", "ftruncate"):
            setattr(os, name, self._counted(getattr(os, name)))
        os.fsync = self._counted(lambda descriptor: None)  # what a process wrote outlives it without; it is the time that counts here
        real = builtins.open

        def opened(path, mode="r", *rest, **keywords):
            if not set(mode) & set("wxa+"):
                return real(path, mode, *rest, **keywords)
            if not set(mode) & set("w+"):
                self.operation()
            return Watched(real(path, mode, *rest, **keywords), self)

        builtins.open = opened

    def _counted(self, real):
        def counted(*arguments, **keywords):
            self.operation()
            return real(*arguments, **keywords)

        return counted


class Watched:
    """A file that tells before it writes, and may be stopped half way."""

    def __init__(self, file, counter):
        self._file, self._counter = file, counter

    def write(self, data):
        data = memoryview(data).cast("B")

        def half():
            self._file.write(data[: len(data) // 2])
            self._file.flush()

        self._counter.operation(half)
        return self._file.write(data)

    def truncate(self, size):
        self._counter.operation()
        return self._file.truncate(size)

    def __getattr__(self, name):
        return getattr(self._file, name)

    def __enter__(self):
        self._file.__enter__()
        return self

    def __exit__(self, *reason):
        return self._file.__exit__(*reason)


def recipe():
    changes = {"samples": 2, "prompts": 2, "gen_length": 8, "block_length": 4, "min_distinct": 0.0, "states": "iid"}
    return find_recipe("gptq-w4a4").replace(weights={"group_size": 8}, calibration=changes, skip=SKIP)


def quantize(source, out, workers):
    """What the command does, without its talk."""
    bench = open_workbench(source, model.load(source, stream=True), source / "calib.jsonl", 0)
    plan = recipe()
    if is_there(out, bench.run_digest(plan)):
        sweep(out)
        return
    force = open_workforce(None if workers == "1" else ExecutorPlan.read(workers))
    with force as bench.workers, bench.work_folder(out, plan, resume=True) as work:
        quantized = bench.quantize(plan, keeper=work)
        work.finish(source, quantized, bench.provenance(plan), SHARD_BYTES)


def digest(folder):
    found = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        found.update(f"{path.name}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    return found.hexdigest()


def in_child(work):
    """Run a function in a forked child; returns its status."""
    child = os.fork()
    if not child:
        code = 70
        try:
            work()
            code = 0
        except InputError as error:
            sys.stderr.write(f"{error}\n")
            code = 3
        except Exception:  # noqa: BLE001 - shown, and the status says so
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    return os.waitpid(child, 0)[1]


def run(source, out, workers, at=0, action=lambda: None, tell=None):
    counter = Counter(at, action)

    def work():
        counter.install()
        try:
            quantize(source, out, workers)
        finally:
            if tell is not None:
                os.write(tell, str(counter.count).encode())

    return in_child(work)


def full():
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def killed(source, place, workers, every, action):
    """Do it in a process of its own: what was found, and what was said."""
    words = [sys.executable, __file__, source, place, workers, every, action]
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    ran = subprocess.run(list(map(str, words)), capture_output=True, text=True, env=environment, check=False)
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout), ran.stderr


def main(source, place, workers, every, action):
    here = Path(place)
    if workers.startswith("dask"):
        importlib.import_module("refquant.apply.dask_cluster")  # once, and not in every child
    assert threading.active_count() == 1
    reading, writing = os.pipe()
    whole = here / "whole"
    assert run(Path(source), whole, workers, tell=writing) == 0
    operations = int(os.read(reading, 20))
    expected = digest(whole)
    kill = {"kill": lambda: os.kill(os.getpid(), signal.SIGKILL), "full": full}[action]
    wrong, torn = [], 0
    for at in range(1, operations + 1, every):
        out = here / "out"
        status = run(Path(source), out, workers, at, kill)
        ended = status == signal.SIGKILL if action == "kill" else os.waitstatus_to_exitcode(status) in (0, 3)
        torn += os.path.exists(partial_of(out))
        again = run(Path(source), out, workers)
        if not ended or again != 0 or digest(out) != expected or partial_of(out).exists():
            wrong.append([at, status, again])
        shutil.rmtree(out, ignore_errors=True)
        shutil.rmtree(partial_of(out), ignore_errors=True)
    sys.stdout.write(json.dumps({"operations": operations, "torn": torn, "wrong": wrong, "files": sorted(os.listdir(whole))}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), sys.argv[5])
