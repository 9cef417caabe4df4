"""What a masked diffusion model's calibration sees: which positions are masked, and how certain the model is of them."""

from __future__ import annotations

import hypothesis.extra.numpy as hnp
import numpy as np
from hypothesis import strategies as st

from refquant.errors import UsageError
from refquant.numerics.arrays import Array, BoolArray, Float64Array

CERTAIN = float(np.nextafter(1.0, 0.0))
PATTERNS = ("response", "blocks", "scattered", "all", "none")


@st.composite
def masks(draw: st.DrawFn, length: int | None = None, *, max_length: int = 12, patterns: tuple[str, ...] = PATTERNS) -> BoolArray:
    """Masked positions ``[length]`` of one sequence, as a sampler leaves them.

    Parameters
    ----------
    length : int, optional
        1 to `max_length` otherwise.
    patterns : tuple of str
        ``response``: a visible prompt, and behind it any number of positions masked; ``blocks``: blocks are finished one after the
        other, so everything behind the current block is masked and everything before it visible; ``scattered``: any positions, as in
        training; ``all`` and ``none``: the first and the last state.

    Returns
    -------
    bool ndarray ``[length]``, True where the mask token stands

    Raises
    ------
    UsageError
        If a pattern is unknown.

    Examples
    --------
    >>> from hypothesis import find
    >>> find(masks(4), lambda m: m.any())
    array([ True,  True,  True,  True])
    """
    unknown = [p for p in patterns if p not in PATTERNS]
    if unknown or not patterns:
        raise UsageError(f"patterns of masks are {', '.join(PATTERNS)}; found {', '.join(unknown) or 'none'}")
    n = draw(st.integers(1, max_length)) if length is None else length
    pattern = draw(st.sampled_from(sorted(patterns, key=["all", "none", "response", "blocks", "scattered"].index)))
    if pattern in ("all", "none"):
        return np.full(n, pattern == "all")
    scattered: BoolArray = draw(hnp.arrays(np.bool_, n, elements=st.booleans()))
    if pattern == "scattered":
        return scattered
    prompt = draw(st.integers(0, max(n - 1, 0)))
    scattered[:prompt] = False
    if pattern == "response":
        return scattered
    block = draw(st.integers(1, max(n, 1)))
    start = prompt + block * draw(st.integers(0, n // block))
    place = np.arange(n)
    return np.asarray(((place >= start + block) | ((place >= start) & scattered)) & (place >= prompt))


@st.composite
def confidences(draw: st.DrawFn, masked: Array | int) -> Float64Array:
    """Probabilities of the model's guess at every position: 0, 1, ties and near-ties among them.

    Parameters
    ----------
    masked : bool ndarray or int
        Masked positions, whose shape the result has; visible positions are often certain, as a model is of what it reads. A number is
        a length, all masked.

    Returns
    -------
    float64 ndarray in [0, 1]

    Examples
    --------
    >>> from hypothesis import find
    >>> find(confidences(2), lambda s: s[0] == s[1] > 0)
    array([1., 1.])
    """
    where = np.ones(masked, dtype=bool) if isinstance(masked, int) else np.asarray(masked)
    elements = st.one_of(
        st.sampled_from([0.0, 1.0, 0.5, 0.25]), st.sampled_from([CERTAIN, 5e-324, 0.5000000000000001]), st.floats(0.0, 1.0)
    )
    values: Float64Array = draw(hnp.arrays(np.float64, where.shape, elements=elements))
    return np.where(where, values, draw(st.sampled_from([1.0, CERTAIN]))) if draw(st.booleans()) else values
