"""Who sees whom, and where everyone stands: attention masks and positions, as each family treats them.

``keys``
    LLaDA, LLaDA-MoE. A mask [B, T] hides positions *as keys*; padded queries go on to see the visible ones. Positions count from 0 in
    every row, left padding included.
``pairs``
    Dream. A mask [B, T] stands for the outer AND of itself: a padded query sees nothing, and its attention is zero. Positions count the
    visible tokens from 0, so left padding does not shift them; padded positions are set to 1. The word ``"full"`` means no mask. A mask
    [B, 1, T, T] of pairs is taken as it is, with positions counted from 0.
``allowed``
    LLaDA2. Only masks of pairs: [T, T], [B, T, T] or [B, 1, T, T], 1 where the query (row) may see the key (column).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from model import border
from refquant.errors import InputError
from refquant.numerics.arrays import Array


@dataclass(frozen=True, slots=True, kw_only=True)
class Visibility:
    """What an attention mask comes to."""

    bias: Array | None = None  # bool [B or 1, 1, 1 or T, T] at first, then what is added to scores
    sighted: Array | None = None  # [B or 1, 1, T, 1] 1 for queries that see anything, 0 for those whose attention is zero
    positions: Array | None = None  # int64 [B, T] where they are not 0, 1, 2, ...


def block_causal(length: int, block_length: int) -> Array:
    """Every position sees its own block and all earlier ones.

    Parameters
    ----------
    length : int
        T.
    block_length : int
        The last block may be cut short.

    Returns
    -------
    ndarray of bool [T, T]
        Row: who looks; column: what is seen.

    Raises
    ------
    UsageError
        If either is not an integer of at least 1.

    Examples
    --------
    >>> block_causal(4, 2).astype(int)
    array([[1, 1, 0, 0],
           [1, 1, 0, 0],
           [1, 1, 1, 1],
           [1, 1, 1, 1]])
    """
    block = np.arange(border.count(length, "length")) // border.count(block_length, "block_length")
    return np.asarray(block[None, :] <= block[:, None])


def read_mask(mask: Any, masking: str, batch: int, length: int, dtype: np.dtype[Any]) -> Visibility:
    """Turn an attention mask of any form that a family takes into what the forward pass adds to scores.

    Raises
    ------
    InputError
        If the mask has none of the family's forms, or holds anything but 0 and 1.
    """
    if mask is None or (masking == "pairs" and isinstance(mask, str) and mask == "full"):
        return Visibility()
    rank = np.ndim(mask)
    if masking == "keys" or (masking == "pairs" and rank != 4):
        visible = border.mask_of_ones(mask, (batch, length))  # [B, T]
        if visible.all():
            return Visibility()
        if masking == "keys":
            return Visibility(bias=_bias(visible[:, None, None, :], dtype))
        positions = np.where(visible, np.cumsum(visible, axis=1) - 1, 1)
        return _pairs(visible[:, None, None, :] & visible[:, None, :, None], dtype, positions)
    return _pairs(_allowed(mask, masking, batch, length), dtype)


def read_positions(positions: Any, batch: int, length: int) -> Array:
    """Check position ids [B, T] or [1, T]; ``InputError`` unless they are integers from 0 on."""
    found = np.asarray(positions)
    if found.shape not in ((batch, length), (1, length)) or found.dtype.kind not in "iu":
        raise InputError(f"position_ids has shape {found.shape} and dtype {found.dtype}; allowed: integers, {(batch, length)}")
    if found.min() < 0:
        raise InputError(f"position_ids has a {found.min()}; allowed: integers of at least 0")
    return found.astype(np.int64)


def _allowed(mask: Any, masking: str, batch: int, length: int) -> Array:
    shape = np.shape(mask)
    pair = (length, length)
    forms = [(batch, 1, *pair), (1, 1, *pair)] + ([(batch, *pair), (1, *pair), pair] if masking == "allowed" else [])
    if shape not in forms:
        words = "[T, T], [B, T, T] or [B, 1, T, T]" if masking == "allowed" else "[B, T] or [B, 1, T, T]"
        raise InputError(f"attention_mask has shape {shape} for {batch} rows of {length} tokens; allowed in this family: {words}")
    return border.mask_of_ones(mask, shape).reshape(-1, 1, *pair)


def _pairs(allowed: Array, dtype: np.dtype[Any], positions: Array | None = None) -> Visibility:
    if allowed.all():
        return Visibility(positions=positions)
    sees = allowed.any(axis=-1, keepdims=True)  # [B, 1, T, 1]
    return Visibility(bias=_bias(allowed, dtype), sighted=None if sees.all() else sees.astype(dtype), positions=positions)


def _bias(visible: Array, dtype: np.dtype[Any]) -> Array:
    # The lowest finite float32, not -inf: where every key is hidden it swallows the scores, and the result is their
    # uniform average instead of NaN.
    lowest = np.asarray(np.finfo(np.float32).min, dtype=dtype)
    return np.where(visible, np.zeros((), dtype=dtype), lowest)
