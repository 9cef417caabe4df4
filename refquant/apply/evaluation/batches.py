"""Work in batches: what goes together into one forward pass, and many passes on several threads with one result."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import numpy as np

from model import Transformer, aligned
from refquant.errors import NumericalError, UsageError
from refquant.numerics.arrays import Array

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how many parts of it are done, and of how many."""

Models = Mapping[str, Transformer]
"""Models by name; the first is the reference."""

_LOGITS_AT_ONCE = 1 << 21  # bounds memory: 16 MB in float64, a few times over

_J = TypeVar("_J")
_R = TypeVar("_R")


def rows_at_once(length: int, vocabulary: int) -> int:
    """How many sequences of `length` one forward pass takes."""
    return max(1, _LOGITS_AT_ONCE // (length * vocabulary))


def in_batches(indices: Sequence[int], size: int) -> list[Array]:
    """Cut `indices` into runs of at most `size`.

    Examples
    --------
    >>> in_batches([3, 4, 5], 2)
    [array([3, 4]), array([5])]
    """
    return [np.asarray(indices[start : start + size], dtype=np.int64) for start in range(0, len(indices), size)]


def alike(keys: Sequence[tuple[int, ...]]) -> dict[tuple[int, ...], list[int]]:
    """Indices of equal keys, together and in order: sequences of equal lengths need no padding.

    Examples
    --------
    >>> alike([(1,), (2,), (1,)])
    {(1,): [0, 2], (2,): [1]}
    """
    groups: dict[tuple[int, ...], list[int]] = {}
    for index, key in enumerate(keys):
        groups.setdefault(key, []).append(index)
    return groups


def run_all(function: Callable[[_J], _R], jobs: Sequence[_J], workers: int, what: str, progress: Progress | None) -> list[_R]:
    """Results of `function` for each job, in the order of the jobs whatever thread is done first.

    The first error ends it: jobs not yet begun are dropped.
    """
    results: list[_R] = []

    def collect(found: Iterator[_R]) -> list[_R]:
        for result in found:
            results.append(result)
            if progress is not None:
                progress(what, len(results), len(jobs))
        return results

    if progress is not None:
        progress(what, 0, len(jobs))
    if workers == 1:
        return collect(map(function, jobs))
    pool = ThreadPoolExecutor(workers)
    try:
        return collect(pool.map(function, jobs))
    finally:
        pool.shutdown(cancel_futures=True)


def mask_id(model: Transformer) -> int:
    """Id of the mask token; UsageError if the model's config names none."""
    if model.config.mask_token_id is None:
        raise UsageError("the model's config has no mask_token_id; evaluation needs a mask token")
    return model.config.mask_token_id


@contextmanager
def blaming(name: str) -> Iterator[None]:
    """Put the model's name before the message of a numerical error."""
    try:
        yield
    except NumericalError as error:
        raise NumericalError(f"model {name!r}: {error}") from error


def finite_logits(name: str, model: Transformer, ids: Array) -> Array:
    """Logits [B, T, rows] of ids [B, T], at the positions of their tokens; NumericalError names the model if one is not finite."""
    logits = aligned(model, model.logits(ids))
    if not np.isfinite(logits).all():
        raise NumericalError(f"model {name!r}: the logits are not finite")
    return logits
