"""Hessians of any rank and conditioning, symmetric and positive semidefinite exactly and not just up to rounding."""

from __future__ import annotations

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
        Some have fewer tokens than features, equal features, or nothing but zeros. Without it and without `dead` every one is positive
        definite, some barely.
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
    near = float(np.ldexp(1.0, -30))  # near singular, and still exact beside sums of squares of x
    kinds = ["definite", "near_singular", *(["dead"] if dead else []), *(["singular"] if singular else [])]
    kind = draw(st.sampled_from(kinds))
    ridge = {"definite": 1.0, "near_singular": near}.get(kind, 0.0)
    token = st.tuples(*[st.sampled_from((0.0, 1.0, -1.0, 2.0, -2.0, 3.0, -3.0))] * n)
    drawn = draw(st.lists(token, min_size=0 if kind == "definite" else 1, max_size=min(n + 1, 5)))
    tokens = len(drawn)
    x = np.array(drawn, dtype=np.float64).reshape(tokens, n)
    if kind in ("near_singular", "singular") and n > 1 and draw(st.booleans()):
        x[:, -1] = x[:, 0]  # two features that nobody can tell apart
    if kind == "dead":
        x[:, draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=n, unique=True))] = 0
    exponents = draw(st.tuples(*[st.integers(-spread, spread)] * n)) if draw(st.booleans()) else (0,) * n
    factor = np.ldexp(1.0, np.array(exponents, dtype=np.int64))
    gram = FAST.gram(x) if tokens else np.zeros((n, n))  # sums of a few integers below 10: exact in any order
    return np.asarray((gram + ridge * np.eye(n)) * factor[:, None] * factor)
