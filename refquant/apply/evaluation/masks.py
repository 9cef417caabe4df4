"""Which positions are masked: an exact number of them, the numbers spread evenly, the same for every model.

Definition 2.1 of the bound averages over ``l`` uniform in ``1..L`` and, given ``l``, over all sets of ``l`` positions. The `K` numbers
of a text are ``first + floor(k L / K)``, wrapped around in ``1..L``, with one random `first`: each of them alone is exactly uniform, so
the estimate has the right expectation, and together they are spread evenly, so it varies little. Where `K` divides `L` they are those of
LLaDA's ``get_log_likelihood``; elsewhere that function rounds halves to even, which favours some numbers.
"""

from __future__ import annotations

import numpy as np

from refquant.numerics.arrays import Array
from refquant.numerics.draws import integers_below, sample_without_replacement

MASK_STREAM = 1
"""Second word of the seed of every mask, so that masks and resampling never share random words."""


def mask_counts(first: int, length: int, masks: int) -> Array:
    """How many positions each masked copy hides.

    Parameters
    ----------
    first : int
        1 to `length`: the first number.
    length : int
        Positions that can be masked.
    masks : int
        Masked copies.

    Returns
    -------
    ndarray of int64 [masks]
        In ``1..length``.

    Examples
    --------
    >>> mask_counts(3, 8, 4)
    array([3, 5, 7, 1])
    """
    return np.asarray((first - 1 + np.arange(masks, dtype=np.int64) * length // masks) % length + 1)


def draw_masks(length: int, masks: int, rng: np.random.Generator) -> Array:
    """Draw the masks of one text.

    Returns
    -------
    ndarray of bool [masks, length]
        Row `k` has exactly as many True as ``mask_counts`` says for a uniform `first`, every set of positions equally likely.

    Examples
    --------
    >>> draw_masks(6, 3, np.random.default_rng(0)).sum(axis=1)
    array([6, 2, 4])
    """
    first = 1 + int(integers_below(rng, length, 1)[0])
    masked = np.zeros((masks, length), dtype=bool)
    for row, count in enumerate(mask_counts(first, length, masks).tolist()):
        masked[row, sample_without_replacement(rng, length, count)] = True
    return masked


def text_masks(seed: int, index: int, length: int, masks: int) -> Array:
    """Draw the masks of text number `index`: bool [masks, length]; they depend on nothing but these four numbers."""
    return draw_masks(length, masks, np.random.Generator(np.random.PCG64([seed, MASK_STREAM, index])))
