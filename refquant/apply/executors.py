"""Executors by a short text: ``processes?workers=4``, ``threads?workers=4``, ``dask://HOST:PORT``, ``dask://local?workers=4``.

=========================  ====================================================================================================
``processes?workers=N``    processes on this machine, started anew (``spawn``) and ended with this one
``threads?workers=N``      threads of this process: what NumPy does outside the interpreter runs side by side
``dask://HOST:PORT``       the workers of a Dask scheduler; one that is lost has its tasks taken over by the others
``dask://local?workers=N`` a Dask scheduler and N worker processes on this machine, started and ended with this process
=========================  ====================================================================================================

Options stand behind ``?``, with ``&`` between them:

* ``workers``: by default as many as there are processors. Not for ``dask://HOST:PORT``, which has those that were started for it.
* ``blas``: threads that BLAS may take in each worker. By default the processors are shared out, and a worker never takes more than this
  process does; on a Dask scheduler's workers it is 1.
* ``files``: ``shared`` if workers see this machine's files under the same paths, ``sent`` if not. Then a task carries numbers where it
  else carries the name of a tensor in a file. By default ``shared`` on this machine and ``sent`` elsewhere.

In the ordered lane results are the same bytes whoever computes. In the fast lane they are if BLAS is the same program with the same
kernel and number of threads everywhere: with ``blas=1`` and one thread here (``OPENBLAS_NUM_THREADS=1``, or a model so narrow that the
command line takes one), on machines of one kind.

Processes import the script that started them: one that opens executors does so behind ``if __name__ == "__main__":``.

Whoever may submit tasks to a Dask scheduler may run any program on its workers: it belongs into a network of one's own.
"""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import re
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from typing import Literal, get_args

import scipy.linalg  # noqa: F401  (its BLAS must be loaded before it can be limited)
from threadpoolctl import threadpool_info, threadpool_limits

from refquant.apply.workforce import HERE, Workforce, loaded_blas, processors
from refquant.errors import UsageError

Kind = Literal["processes", "threads", "dask"]
Files = Literal["shared", "sent"]
LOCAL = "local"
FORMS = "processes?workers=N, threads?workers=N, dask://HOST:PORT, dask://local?workers=N"
MOST = 4096
_FORM = re.compile(r"(?P<kind>[a-z]+)(?:://(?P<address>[^?/]*)/?)?(?:\?(?P<options>.*))?")


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutorPlan:
    """What an executor's text says.

    Parameters
    ----------
    kind : {"processes", "threads", "dask"}
    address : str
        Of a Dask scheduler, ``HOST:PORT`` or ``"local"``; else empty.
    workers : int or None
        None leaves it to the number of processors, or to the scheduler.
    blas : int or None
    files : {"shared", "sent"} or None

    Examples
    --------
    >>> ExecutorPlan.read("dask://local?workers=2&blas=1")
    ExecutorPlan(kind='dask', address='local', workers=2, blas=1, files=None)
    """

    kind: Kind
    address: str = ""
    workers: int | None = None
    blas: int | None = None
    files: Files | None = None

    @classmethod
    def read(cls, text: str) -> ExecutorPlan:
        """Read the text; UsageError says what is wrong with it and what is allowed."""
        match = _FORM.fullmatch(text.strip())
        if match is None or match["kind"] not in get_args(Kind):
            raise UsageError(f"executor {text!r} is none of {FORMS}")
        kind, address = match["kind"], match["address"]
        if (kind == "dask") != (address is not None):
            belongs = "an address belongs" if kind == "dask" else "no address belongs"
            raise UsageError(f"executor {text!r}: {belongs} behind {kind}; {FORMS}")
        if kind == "dask" and address != LOCAL:
            host, _, port = address.rpartition(":")
            if not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
                raise UsageError(f"executor {text!r}: {address!r} is not HOST:PORT with a port of 1 to 65535, nor {LOCAL!r}")
        options = _options(text, match["options"])
        if "workers" in options and kind == "dask" and address != LOCAL:
            raise UsageError(f"executor {text!r}: a scheduler has the workers that were started for it; leave workers out")
        files: Files | None = "shared" if options.get("files") == "shared" else "sent" if "files" in options else None
        numbers = {name: _number(text, name, options[name]) for name in ("workers", "blas") if name in options}
        return cls(kind=kind, address=address or "", files=files, **numbers)  # type: ignore[arg-type]


def _options(text: str, given: str | None) -> dict[str, str]:
    found: dict[str, str] = {}
    for part in [] if given is None else given.split("&"):
        name, equals, value = part.partition("=")
        if name not in ("workers", "blas", "files") or not equals or name in found:
            raise UsageError(f"executor {text!r}: option {part!r}; allowed, each once: workers=N, blas=N, files=shared, files=sent")
        if name == "files" and value not in get_args(Files):
            raise UsageError(f"executor {text!r}: files is {value!r}; allowed: shared, sent")
        found[name] = value
    return found


def _number(text: str, name: str, value: str) -> int:
    if not value.isdecimal() or not 1 <= int(value) <= MOST:
        raise UsageError(f"executor {text!r}: {name} is {value!r}; allowed: 1 to {MOST}")
    return int(value)


def chosen_executor(executor: str | None, workers: int | None) -> ExecutorPlan | None:
    """What ``--executor`` and ``--workers`` ask for; None if this process does it alone.

    Raises
    ------
    UsageError
        If both are given, the text cannot be read, or it asks for Dask and that is not installed.

    Examples
    --------
    >>> chosen_executor(None, 3)
    ExecutorPlan(kind='processes', address='', workers=3, blas=None, files=None)
    >>> chosen_executor(None, 1) is None
    True
    """
    if executor is not None and workers is not None:
        raise UsageError("--executor and --workers are both given; --workers N is short for --executor processes?workers=N")
    if executor is not None:
        plan = ExecutorPlan.read(executor)
        _require(plan)
        return plan
    return None if workers is None or workers == 1 else ExecutorPlan(kind="processes", workers=workers)


def open_workforce(plan: ExecutorPlan | None) -> AbstractContextManager[Workforce]:
    """Start workers; they end with the block.

    A block that is left by an error does not wait for what processes are still busy with.

    Raises
    ------
    UsageError
        If the plan asks for Dask and it is not installed.
    InputError
        If a Dask scheduler does not answer, has no workers, or they run another version.
    """
    if plan is None:
        return nullcontext(HERE)
    count = plan.workers or processors()
    if plan.kind == "processes":
        return _processes(count, plan)
    if plan.kind == "threads":
        return _threads(count, plan)
    _require(plan)
    from refquant.apply import dask_cluster  # only where somebody asks for it: it takes a second to load

    files = plan.files or ("shared" if plan.address == LOCAL else "sent")
    if plan.address == LOCAL:
        return dask_cluster.local(count, plan.blas or blas_threads(count), shared_files=files == "shared")
    return dask_cluster.remote(plan.address, plan.blas or 1, shared_files=files == "shared")


def _require(plan: ExecutorPlan) -> None:
    if plan.kind == "dask" and importlib.util.find_spec("distributed") is None:
        raise UsageError("dask:// needs Dask, which is not installed; install it with: pip install 'refquant[cluster]'")


def blas_threads(count: int) -> int:
    """Threads that BLAS may take in each of `count` workers: the processors shared out, and no more than it takes here."""
    here = max((one["num_threads"] for one in threadpool_info() if one["user_api"] == "blas"), default=1)
    return max(1, min(here, processors() // count))


@contextmanager
def unseen_interrupts() -> Iterator[None]:
    """Processes and threads that are started in the block are not reached by Ctrl-C: the first process decides what becomes of them."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # it lets interrupts through again in whatever thread starts it, and so in what that starts
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _threads(count: int, plan: ExecutorPlan) -> Iterator[Workforce]:
    with threadpool_limits(limits=plan.blas or blas_threads(count), user_api="blas"):
        pool = ThreadPoolExecutor(count)
        try:
            yield Workforce(pool, count, same_memory=True, shared_files=plan.files != "sent")
        finally:
            pool.shutdown(cancel_futures=True)


@contextmanager
def _processes(count: int, plan: ExecutorPlan) -> Iterator[Workforce]:
    context = multiprocessing.get_context("spawn")  # a fork of a process with threads may wait for ever
    reader, writer = context.Pipe(duplex=False)
    beginning = (reader, plan.blas or blas_threads(count))
    pool = ProcessPoolExecutor(count, mp_context=context, initializer=_begin_worker, initargs=beginning)
    try:
        with unseen_interrupts():
            first = [pool.submit(loaded_blas) for _ in range(count)]  # each starts a process
        workforce = Workforce(pool, count, shared_files=plan.files != "sent", blas=lambda: workforce.result(first[0]))
        yield workforce
        pool.shutdown()
    finally:
        writer.close()
        pool.shutdown(cancel_futures=True)
        reader.close()


def _begin_worker(lifeline: Connection, threads: int) -> None:
    """Prepare a process: what a worker does before its first task."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(lifeline,), daemon=True).start()
    threadpool_limits(limits=threads, user_api="blas")


def _end_with(lifeline: Connection) -> None:
    """Wait until the other end of a pipe is closed, by will or by the death of whoever held it, and end this process at once."""
    try:
        lifeline.recv_bytes()
    except (EOFError, OSError):
        os._exit(1)
