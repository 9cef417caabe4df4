"""Workers of a Dask scheduler. Imports ``distributed``; :mod:`refquant.apply.executors` imports this where somebody asks for it.

Tasks go to the scheduler with everything that they need, and not as data scattered over workers beforehand: a worker that is lost then
takes nothing with it, and the scheduler gives its tasks to others. A task that was lost with four workers is given up.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

import dask
import distributed
from distributed.scheduler import KilledWorker
from threadpoolctl import threadpool_limits

from refquant.apply.executors import unseen_interrupts
from refquant.apply.workforce import Blas, Workforce, loaded_blas
from refquant.errors import InputError

SETTINGS = {
    "distributed.admin.large-graph-warning-threshold": "1 TiB",  # a task carries a weight and its Hessian: that is meant
    "distributed.comm.timeouts.connect": "10s",
}
PATIENCE = "10s"
"""How long a scheduler may take to answer."""


class Threads(distributed.WorkerPlugin):  # type: ignore[misc]
    """Limits the threads of BLAS in every worker, in those that join later, too."""

    name = "refquant-threads"

    def __init__(self, threads: int) -> None:
        self.threads = threads

    def setup(self, worker: Any) -> None:
        """Run in each worker."""
        threadpool_limits(limits=self.threads, user_api="blas")


@contextmanager
def local(count: int, threads: int, *, shared_files: bool) -> Iterator[Workforce]:
    """Start a scheduler here and `count` worker processes beside it.

    Parameters
    ----------
    count, threads : int
        Workers, and threads of BLAS in each.
    shared_files : bool
    """
    with dask.config.set(SETTINGS), _quiet():
        with unseen_interrupts():
            cluster = distributed.LocalCluster(
                n_workers=count,
                threads_per_worker=1,
                processes=True,
                dashboard_address="127.0.0.1:0",  # a port that is free, whoever else runs Dask here
                memory_limit=0,  # a limit would be a share of the machine, and a large task killed for what it is
                silence_logs=logging.CRITICAL,
            )
        with cluster, _client(cluster.scheduler_address, threads, shared_files=shared_files) as workforce:
            yield workforce


@contextmanager
def remote(address: str, threads: int, *, shared_files: bool) -> Iterator[Workforce]:
    """Connect to a scheduler that somebody started.

    Parameters
    ----------
    address : str
        ``HOST:PORT``.
    threads : int
        Of BLAS, in each worker.
    shared_files : bool

    Raises
    ------
    InputError
        If nobody answers, or there are no workers, or they run another version of this package.
    """
    with dask.config.set(SETTINGS), _quiet(), _client(f"tcp://{address}", threads, shared_files=shared_files) as workforce:
        yield workforce


@contextmanager
def _client(address: str, threads: int, *, shared_files: bool) -> Iterator[Workforce]:
    try:
        with unseen_interrupts():
            client = distributed.Client(address, timeout=PATIENCE, set_as_default=False)
    except (OSError, TimeoutError) as error:
        raise InputError(f"dask {address}: no Dask scheduler answers there ({str(error) or type(error).__name__})") from error
    with client:
        count = sum(client.nthreads().values())
        if not count:
            raise InputError(f"dask {address}: the scheduler has no workers; start some with: dask worker {address}")
        client.register_plugin(Threads(threads))
        _check_versions(address, _ask(client, address, _version))
        yield Workforce(
            client.get_executor(pure=False),
            count,
            shared_files=shared_files,
            blas=lambda: _common_blas(_ask(client, address, loaded_blas)),
            lost=(KilledWorker,),
        )


def _ask(client: Any, address: str, question: Callable[[], Any]) -> dict[str, Any]:
    """What every worker answers to a function without arguments."""
    try:
        return dict(client.run(question))
    except ImportError as error:
        raise InputError(f"dask {address}: a worker cannot import what this run needs: {error}; install refquant there, too") from error


def _version() -> str:
    return version("refquant")


def _check_versions(address: str, found: dict[str, str]) -> None:
    for worker, theirs in found.items():
        if theirs != version("refquant"):
            raise InputError(f"dask {address}: worker {worker} runs refquant {theirs}, this is {version('refquant')}; install one version")


def _common_blas(found: dict[str, Blas]) -> Blas:
    """What the workers multiply with: one answer where they agree, and all answers where they do not."""
    answers: list[Blas] = []
    for answer in found.values():
        if answer not in answers:
            answers.append(answer)
    return answers[0] if len(answers) == 1 else sorted((one for answer in answers for one in answer), key=str)


@contextmanager
def _quiet() -> Iterator[None]:
    """What goes wrong is told by whoever waits for the result, in one line."""
    logger = logging.getLogger("distributed")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)
