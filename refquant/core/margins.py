"""How near a decision for a code was to another one."""

from __future__ import annotations

import numpy as np

from refquant import formats
from refquant.core.coding import BEFORE_ROUNDING
from refquant.core.spec import QuantSpec
from refquant.formats import IntFormat
from refquant.numerics.arrays import Array
from refquant.numerics.rounding import Rounding


def decision_margins(x: Array, codes: Array, scale: Array, zero: Array | None, spec: QuantSpec) -> Array:
    """Distance of every decision to the nearest value with another code, in steps of its grid.

    Where two implementations disagree although both are right, the margin is below their rounding error.

    Parameters
    ----------
    x : float64 ndarray
        The values that were coded.
    codes : ndarray
        What they were coded as (integers, or floats that are integers; members, for other formats).
    scale, zero : ndarray
        Broadcastable to `x`.
    spec : QuantSpec
        A saturated code has one boundary only, towards the inside. Under ``overflow="wrap"`` margins have no meaning.

    Returns
    -------
    float64 ndarray, never negative

    Examples
    --------
    >>> import numpy as np
    >>> from refquant.core import spec
    >>> decision_margins(np.array([0.4, 9.0]), np.array([0.0, 3.0]), np.array(1.0), np.array(0.0), spec("int2"))
    array([0.1, 6.5])
    """
    if not isinstance(spec.format, IntFormat):
        return _member_margins(x, codes, scale, spec.format, spec)
    first = spec.scheme.zero in BEFORE_ROUNDING
    offset = 0 if zero is None or first else zero
    steps = np.asarray(codes, dtype=np.float64) - offset  # the integers that were rounded to
    with np.errstate(over="ignore", under="ignore"):
        place = np.asarray(x / scale + (zero if zero is not None and first else 0), dtype=np.float64)
    below: Array | float
    above: Array | float
    below = above = {Rounding.FLOOR: 0.5, Rounding.CEIL: -0.5}.get(Rounding(spec.rounding), 0.0)
    if spec.rounding == Rounding.TRUNC_HALF:  # 0 takes -1.5 .. 0.5, and negative integers lie below them by one
        below, above = np.where(steps <= 0, -1.0, 0.0), np.where(steps < 0, -1.0, 0.0)
    lower = np.where(codes > spec.integers.lo, place - (steps + below - 0.5), np.inf)
    upper = np.where(codes < spec.integers.hi, (steps + above + 0.5) - place, np.inf)
    return np.asarray(np.maximum(np.minimum(lower, upper), 0.0))


def _member_margins(x: Array, members: Array, scale: Array, fmt: formats.Format, spec: QuantSpec) -> Array:
    """Margins where the distance between members differs from place to place."""
    inner = formats.thresholds_of(fmt, formats.rounding_for(fmt, spec.rounding), np.dtype(np.float64)).inner
    ends = np.concatenate([[-np.inf], inner, [np.inf]])
    index = np.searchsorted(formats.members_of(fmt).values, np.asarray(members, dtype=np.float64) + 0.0)
    with np.errstate(over="ignore", under="ignore"):
        place = np.asarray(x / scale, dtype=np.float64)
    return np.asarray(np.maximum(np.minimum(place - ends[index], ends[index + 1] - place), 0.0))
