"""Hessians of any rank and conditioning, symmetric and positive semidefinite exactly and not just up to rounding."""

from __future__ import annotations

import hypothesis.extra.numpy as hnp
import numpy as np
from hypothesis import strategies as st

from refquant.numerics import FAST
from refquant.numerics.arrays import Float64Array


@st.composite
def hessians(
    draw: st.DrawFn,
    size: int | None = None,
    *,
    max_size: int = 8,
    dead: bool = True,
    singular: bool = True,
    spread: int = 6,
) -> Float64Array:
    """Second moments ``S X^T X S (+ ridge)`` of small integer inputs ``X``, with powers of two on the diagonal of ``S``.

    Every entry is computed without rounding, so the matrix is symmetric to the bit and positive semidefinite as a matrix of fractions.
    They shrink to the identity and to few features.

    Parameters
    ----------
    size : int, optional
        Number of features; up to `max_size` otherwise.
    dead : bool
        Some features have been 0 in every token: their row and column are 0.
    singular : bool
        Some have fewer tokens than features, equal features, or none at all; without it every one is positive definite.
    spread : int
        Features are scaled by ``2**-spread`` to ``2**spread``: the condition number grows by up to ``2**(4 spread)``.

    Examples
    --------
    >>> from hypothesis import find
    >>> find(hessians(2), lambda h: h[0, 1] != 0)
    array([[2., 1.],
           [1., 2.]])
    """
    n = draw(st.integers(1, max_size)) if size is None else size
    tokens = draw(st.integers(0, n + 2))
    x = draw(hnp.arrays(np.float64, (tokens, n), elements=st.integers(-3, 3).map(float)))
    if dead and n and draw(st.booleans()):
        x[:, draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=n, unique=True))] = 0
        ridges = [0.0]
    else:
        ridges = [1.0, 2.0**-10, 2.0**-30, *([0.0] if singular else [])]  # 2^-30: near singular, and still exact beside 9 (n + 2)
    ridge = draw(st.sampled_from(ridges))
    exponents = draw(hnp.arrays(np.int64, n, elements=st.integers(-spread, spread), fill=st.just(0)))
    factor = np.ldexp(1.0, exponents)
    gram = FAST.gram(x) if tokens else np.zeros((n, n))  # sums of at most n + 2 integers below 10: exact in any order
    return np.asarray((gram + ridge * np.eye(n)) * factor[:, None] * factor)
