"""Named rounding to integers. The tie rule changes codes, so it is always named."""

from __future__ import annotations

from enum import StrEnum

import numpy as np

from refquant.errors import UsageError
from refquant.numerics.arrays import Array


class Rounding(StrEnum):
    """How a real number becomes an integer.

    ``half_even`` and ``half_away`` round to the nearest integer and differ on ties. ``trunc_half`` is ``trunc(x + 0.5)`` with the
    addition rounded in the working dtype, exactly as written in much C code: it sends ties up, treats negative numbers unlike
    positive ones (-0.7 becomes 0), and sends 0.49999997 (float32) to 1 because the sum rounds to 1.
    """

    HALF_EVEN = "half_even"
    HALF_AWAY = "half_away"
    TRUNC_HALF = "trunc_half"
    FLOOR = "floor"
    CEIL = "ceil"


def round_to_integer(x: Array, mode: Rounding = Rounding.HALF_EVEN) -> Array:
    """Round every element to an integer; the result keeps the floating dtype.

    Parameters
    ----------
    x : ndarray, float32 or float64, any shape
    mode : Rounding

    Returns
    -------
    ndarray
        Integers as floats, a new array of the same shape and dtype. NaN and infinities stay what they are, and so does the sign of
        a number that becomes zero: -0.2 gives -0.0.

    Raises
    ------
    UsageError
        If there is no such mode.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.array([-2.5, -0.5, 0.5, 1.5, 2.5])
    >>> round_to_integer(x, Rounding.HALF_EVEN)
    array([-2., -0.,  0.,  2.,  2.])
    >>> round_to_integer(x, Rounding.HALF_AWAY)
    array([-3., -1.,  1.,  2.,  3.])
    >>> round_to_integer(x, Rounding.TRUNC_HALF)
    array([-2.,  0.,  1.,  2.,  3.])
    """
    match mode:
        case Rounding.HALF_EVEN:
            return np.asarray(np.rint(x))
        case Rounding.HALF_AWAY:
            return _half_away(x)
        case Rounding.TRUNC_HALF:
            return np.asarray(np.trunc(x + x.dtype.type(0.5)))
        case Rounding.FLOOR:
            return np.asarray(np.floor(x))
        case Rounding.CEIL:
            return np.asarray(np.ceil(x))
        case _:
            raise UsageError(f"unknown rounding {mode!r}; known are {', '.join(Rounding)}")


def _half_away(x: Array) -> Array:
    """Round ties away from zero without adding 0.5, whose rounding would push 0.49999997 (float32) up to 1."""
    whole = np.trunc(x)
    with np.errstate(invalid="ignore"):  # inf - inf: the comparison is then false, which keeps the infinity
        ties_or_more = np.abs(x - whole) >= x.dtype.type(0.5)
    return np.asarray(whole + np.copysign(ties_or_more.astype(x.dtype), x))
