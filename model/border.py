"""Checks of what callers hand in: token ids, attention masks, settings."""

from __future__ import annotations

from typing import Any

import numpy as np

from refquant.errors import InputError, UsageError
from refquant.numerics.arrays import Array


def token_ids(values: Any, rows: int, what: str = "input_ids", rank: int = 2, may_be_empty: bool = False) -> Array:
    """Check token ids and return them as int64.

    Parameters
    ----------
    values : array_like of integers
    rows : int
        Rows of the embedding; ids must be below it.
    what : str
        What error messages call the array.
    rank : int
        2 for ``[batch, length]``, 1 for one sequence.
    may_be_empty : bool
        Whether a length of 0 is fine. A batch of 0 never is.

    Raises
    ------
    InputError
        If the rank or dtype is wrong, there is nothing in it, or an id is out of range (the first one is named).
    """
    ids = np.asarray(values)
    if ids.ndim == 1 and rank == 1 and ids.size == 0 and may_be_empty:
        return np.zeros(0, dtype=np.int64)
    if ids.ndim != rank:
        shape = "[batch, length]" if rank == 2 else "[length]"
        raise InputError(f"{what} has shape {ids.shape}; allowed: {rank} axes, {shape}")
    if ids.size == 0 and not (may_be_empty and ids.shape[0] > 0 and rank == 2):
        raise InputError(f"{what} has shape {ids.shape}; allowed: at least one token")
    if ids.dtype.kind not in "iu" and ids.size:
        raise InputError(f"{what} has dtype {ids.dtype}; allowed: integers")
    bad = (ids < 0) | (ids >= rows)
    if bad.any():
        at = tuple(int(i) for i in np.argwhere(bad)[0])
        raise InputError(f"{what}{list(at)} is {int(ids[at])}; allowed: 0 to {rows - 1}")
    return ids.astype(np.int64, copy=False)


def mask_of_ones(values: Any, shape: tuple[int, int]) -> Array:
    """Check a padding mask, 1 for a token and 0 for padding, and return it as bool.

    Raises
    ------
    InputError
        If the shape is not `shape` or a value is neither 0 nor 1.
    """
    mask = np.asarray(values)
    if mask.shape != shape:
        raise InputError(f"attention_mask has shape {mask.shape}; allowed: {shape}, that of the ids")
    if mask.dtype.kind not in "biuf":
        raise InputError(f"attention_mask has dtype {mask.dtype}; allowed: booleans, integers or floats that are 0 or 1")
    bad = (mask != 0) & (mask != 1)
    if bad.any():
        at = tuple(int(i) for i in np.argwhere(bad)[0])
        raise InputError(f"attention_mask{list(at)} is {mask[at]}; allowed: 0 or 1")
    return mask.astype(bool)


def token_id(value: Any, rows: int, name: str) -> int:
    """Check one token id among the settings; ``UsageError`` unless it is an integer in 0..rows - 1."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or not 0 <= value < rows:
        raise UsageError(f"{name} is {value!r}; allowed: a token id, 0 to {rows - 1}")
    return int(value)


def count(value: Any, name: str) -> int:
    """Check a count among the settings; ``UsageError`` unless it is an integer of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise UsageError(f"{name} is {value!r}; allowed: an integer of at least 1")
    return int(value)


def not_negative(value: Any, name: str) -> float:
    """Check a number among the settings; ``UsageError`` unless it is finite and at least 0."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.number) or not 0 <= value < np.inf:
        raise UsageError(f"{name} is {value!r}; allowed: a finite number of at least 0")
    return float(value)


def fraction(value: Any, name: str) -> float:
    """Check a share among the settings; ``UsageError`` unless it is a number above 0 and at most 1."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.number) or not 0 < value <= 1:
        raise UsageError(f"{name} is {value!r}; allowed: a number above 0 and at most 1")
    return float(value)


def generator(rng: Any, why: str) -> None:
    """Stop where a run that draws numbers was given nothing to draw from; ``UsageError``."""
    if rng is None:
        raise UsageError(f"rng is None with {why}; allowed: a numpy.random.Generator, as this run draws numbers")
