"""Independent tasks and whoever computes them: this process, or any ``concurrent.futures.Executor``.

A task is a module's function and an argument that can be pickled; its result depends on nothing else. Results come back in the order of
the tasks, whoever was done first, so that what is made of them does not depend on time.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future
from typing import Any, Generic, TypeVar

from threadpoolctl import threadpool_info

from refquant.errors import InputError

Task = TypeVar("Task")
Result = TypeVar("Result")
Blas = list[list[Any]]


def processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def loaded_blas() -> Blas:
    """Kernel and threads of each BLAS that is loaded in this process, in a fixed order."""
    found = [[one["internal_api"], one.get("version"), one.get("architecture"), one["num_threads"]] for one in threadpool_info()]
    return sorted(found, key=str)


class Inline(Executor):
    """Computes a task when it is submitted, in the calling thread."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Compute ``fn(*args, **kwargs)`` now; what it raises is raised here."""
        done: Future[Any] = Future()
        done.set_result(fn(*args, **kwargs))
        return done


class Workforce:
    """Whoever computes independent tasks.

    Parameters
    ----------
    pool : Executor, optional
        Without one, this process computes each task when its result is asked for.
    count : int
        How many tasks the pool computes at a time.
    same_memory : bool
        Whether workers are threads of this process: tasks are then not taken apart and put together again.
    shared_files : bool
        Whether a path means the same to the workers as here: tasks may then name a file in the place of the numbers in it.
    blas : callable
        What the workers multiply with, as :func:`loaded_blas` tells it.
    lost : tuple of exception types
        What the pool raises, besides ``BrokenExecutor``, if a task is lost with its worker and not tried again.
    """

    def __init__(
        self,
        pool: Executor | None = None,
        count: int = 1,
        *,
        same_memory: bool = False,
        shared_files: bool = True,
        blas: Callable[[], Blas] = loaded_blas,
        lost: tuple[type[BaseException], ...] = (),
    ) -> None:
        self.here = pool is None
        self.same_memory = same_memory or pool is None
        self.pool, self.count, self.shared_files, self.blas = pool or Inline(), count, shared_files, blas
        self._lost: tuple[type[BaseException], ...] = (BrokenExecutor, CancelledError, *lost)

    def submit(self, function: Callable[[Task], Result], task: Task) -> Future[Result]:
        """Begin a task; :meth:`result` takes its result."""
        try:
            return self.pool.submit(function, task)
        except self._lost as error:
            raise _told(error) from error

    def result(self, future: Future[Result]) -> Result:
        """Wait for a result.

        Raises
        ------
        InputError
            If the task was lost with its worker.
        Exception
            What the function raised, as if it had been called here.
        """
        try:
            return future.result()
        except self._lost as error:
            raise _told(error) from error

    def map(self, function: Callable[[Task], Result], tasks: Iterable[Task]) -> Results[Task, Result]:
        """Compute a function of each task; results come in the order of the tasks.

        No more than one task is begun beyond those that workers are busy with, so that memory holds few of them.

        Examples
        --------
        >>> from concurrent.futures import ThreadPoolExecutor
        >>> with ThreadPoolExecutor(2) as pool:
        ...     list(Workforce(pool, 2).map(abs, [-1, 2, -3]))
        [1, 2, 3]
        """
        return Results(self, function, iter(tasks))


class Results(Generic[Task, Result]):
    """The results of :meth:`Workforce.map`, an iterator."""

    def __init__(self, workforce: Workforce, function: Callable[[Task], Result], tasks: Iterator[Task]) -> None:
        self._workforce, self._function, self._tasks = workforce, function, tasks
        self._waiting: deque[Future[Result]] = deque()
        self._ahead = 1 if workforce.here else workforce.count + 1

    def __iter__(self) -> Iterator[Result]:
        return self

    def __next__(self) -> Result:
        """The next result; an error ends the iteration, and what was begun is dropped."""
        try:
            while len(self._waiting) < self._ahead:
                try:
                    task = next(self._tasks)
                except StopIteration:
                    break
                self._waiting.append(self._workforce.submit(self._function, task))
            if not self._waiting:
                raise StopIteration
            return self._workforce.result(self._waiting.popleft())
        except BaseException:
            self.drop()
            raise

    def begun(self) -> Iterator[Result]:
        """Results of the tasks that were begun; no other is begun."""
        self._tasks = iter(())
        return self

    def drop(self) -> None:
        """Begin no task any more and forget those that were begun."""
        self._tasks = iter(())
        for future in self._waiting:
            future.cancel()
        self._waiting.clear()


def _told(error: BaseException) -> InputError:
    """One line about a task that was lost with its worker."""
    return InputError(
        "a worker ended in the middle of its task and nobody took it over: it was killed, by hand or for want of memory, or its machine "
        f"was lost ({type(error).__name__}); fewer workers at a time need less memory"
    )


HERE = Workforce()
"""This process alone."""
