"""ABMP: blocks of columns that matter get a bit more, as many others a bit less (Quant-dLLM, arXiv 2510.03274).

[ABMP-1]  score of a block = sum of the saliencies Z ([DAQ-1]) in it.
[ABMP-2]  n = floor(ratio * blocks): the n blocks with the highest scores get one bit more, the n with the lowest one less; the mean stays.

The paper has ratio 5 % for LLaDA and 10 % for Dream, around 2 bits. Readings: of equal scores the block further left counts as higher; a
short last block counts as a block, so that the mean number of bits a *weight* stays only if all are equally wide.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from refquant.errors import InputError, UsageError
from refquant.methods.card import Card, Equation
from refquant.numerics import FAST, Arithmetic
from refquant.numerics.arrays import Array, Float64Array

CARD = Card(
    name="abmp",
    title="ABMP: adaptive blockwise mixed precision",
    paper="Quant-dLLM, arXiv 2510.03274; no public code",
    inputs=("scores [blocks]", "ratio", "bits"),
    equations=(
        Equation("ABMP-1", "score = sum of saliencies in the block"),
        Equation("ABMP-2", "the floor(ratio * blocks) highest get one bit more, as many lowest one less"),
    ),
    departures=("ties go to the block further left; a short last block counts as a block",),
    guarantees=("the mean over blocks is the given number of bits", "a block with more bits has no lower score than one with fewer"),
    lane="exact for given scores",
    cost="one sum over Z, one sort of the blocks",
    oracle="enumeration of small cases",
)


def block_scores(z: Float64Array, edges: Sequence[int], arithmetic: Arithmetic = FAST) -> Float64Array:
    """Scores of [ABMP-1], ``[blocks]``, of saliencies ``[out, in]`` whose columns are cut at `edges`."""
    return np.array([float(arithmetic.sum(z[:, start:stop])) for start, stop in pairwise(edges)])  # [ABMP-1]


def allocate_orders(scores: Float64Array, ratio: float, bits: int = 2) -> Array:
    """Bits of every block [ABMP-2].

    Parameters
    ----------
    scores : ndarray ``[blocks]``
    ratio : float
        0 to 0.5.
    bits : int
        Of the blocks in the middle; with a ratio above 0, 2.

    Returns
    -------
    uint8 ndarray ``[blocks]``

    Raises
    ------
    UsageError
        If an option is out of range: nobody can get 0 bits or more than 3.
    InputError
        If a score is not a number.

    Examples
    --------
    >>> allocate_orders(np.array([3.0, 9.0, 1.0, 4.0]), ratio=0.25)
    array([2, 3, 1, 2], dtype=uint8)
    """
    if not 0 <= ratio <= 0.5:
        raise UsageError(f"the share of blocks that get a bit more is 0 to 0.5, not {ratio!r}")
    if not 1 <= bits <= 3 or (ratio and bits != 2):
        raise UsageError(f"blocks have 1 to 3 bits, so that a ratio above 0 goes with 2; got {bits} bits and ratio {ratio!r}")
    scores = np.asarray(scores, dtype=np.float64)
    if scores.ndim != 1 or np.isnan(scores).any():
        raise InputError(f"there is one score a block, no NaN; found shape {scores.shape}")
    moved = int(ratio * len(scores) + 1e-9)  # 0.05 * 20 is one block, whatever its last bit
    given = np.full(len(scores), bits, dtype=np.uint8)
    ranking = np.argsort(-scores, kind="stable")
    if moved:
        given[ranking[:moved]] += 1
        given[ranking[-moved:]] -= 1  # [ABMP-2]
    return given
