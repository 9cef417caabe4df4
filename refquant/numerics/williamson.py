"""Four rows that make a Hadamard matrix where no formula of ours does: data, not code.

J. Williamson (Duke Math. J. 11, 1944): if four symmetric circulant matrices ``A, B, C, D`` of ones and minus ones and of size m satisfy
``A A^T + B B^T + C C^T + D D^T = 4 m I``, then this array of them is a Hadamard matrix of order 4 m::

     A   B   C   D
    -B   A  -D   C
    -C   D   A  -B
    -D  -C   B   A

Each entry below holds the first rows of the four, + for 1 and - for -1. They are the ones that QuaRot (spcl/QuaRot, after N. Sloane's
library of Hadamard matrices, ``had.52.will``, ``had.156.will``, ``had.172.will``) uses, so that results can be compared number by number.
A test multiplies every matrix by its transpose in integers.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from refquant.errors import UsageError

FIRST_ROWS: dict[int, tuple[str, str, str, str]] = {
    52: (
        "+-+--++++--+-",
        "+---++++++---",
        "++-+--++--+-+",
        "+----+--+----",
    ),
    156: (
        "+++--+-+-----+--++----++--+-----+-+--++",
        "++++---+--++----+-+--+-+----++--+---+++",
        "+++--++-+---+-+--+----+--+-+---+-++--++",
        "+---++-+-+-----+++-++-+++-----+-+-++---",
    ),
    172: (
        "+---++--++++-+-+++-++--++-+++-+-++++--++---",
        "++-++++++----+-+--++-++-++--+-+----++++++-+",
        "+++-+-++--+-+-++++-+----+-++++-+-+--++-+-++",
        "++---++++-+--+--++--------++--+--+-++++---+",
    ),
}
_ARRAY = ("+A +B +C +D", "-B +A -D +C", "-C +D +A -B", "-D -C +B +A")


def williamson(order: int) -> NDArray[np.int8]:
    """Build the Hadamard matrix of a stored order.

    Parameters
    ----------
    order : int
        A key of :data:`FIRST_ROWS`.

    Returns
    -------
    int8 ndarray ``[order, order]``

    Raises
    ------
    UsageError
        If no rows are stored for `order`.

    Examples
    --------
    >>> h = williamson(52).astype(int)
    >>> bool((np.inner(h, h) == 52 * np.eye(52)).all())
    True
    """
    if order not in FIRST_ROWS:
        raise UsageError(f"no Williamson rows are stored for order {order}; known are {', '.join(map(str, FIRST_ROWS))}")
    blocks = {letter: _circulant(row) for letter, row in zip("ABCD", FIRST_ROWS[order], strict=True)}
    rows = [[blocks[entry[1]] if entry[0] == "+" else -blocks[entry[1]] for entry in line.split()] for line in _ARRAY]
    return np.block(rows)


def _circulant(signs: str) -> NDArray[np.int8]:
    """Row i is the first row moved i places to the right."""
    row = np.array([1 if sign == "+" else -1 for sign in signs], dtype=np.int8)
    places = np.arange(len(row))
    return np.take(row, (places[None, :] - places[:, None]) % len(row))
