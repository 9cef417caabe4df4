"""Weights and activations: ties, signed zeros, subnormal numbers, equal and constant rows, outliers, empty and ragged shapes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import Any, Literal

import ml_dtypes
import numpy as np
from hypothesis import strategies as st

from refquant.errors import UsageError
from refquant.numerics.arrays import Array
from refquant.numerics.casting import float_dtype

DTYPES = ("float32", "float64", "float16")
PATTERNS = ("plain", "ties", "constant_row", "equal_rows", "outlier", "one_signed", "arbitrary")
_NO_OVERFLOW = float(np.ldexp(1.0, 126))  # rounding to bfloat16 cannot carry it past the largest number
_WIDTHS: dict[int, Literal[16, 32, 64]] = {2: 16, 4: 32, 8: 64}
TIE_MAXIMA = (7.0, 15.0, 1.0, 3.0, 127.0, 255.0)  # with such a maximum the step of some usual grid is 1, and halves are ties


def numbers(dtype: str = "float64", *, nasty: bool = True) -> st.SearchStrategy[float]:
    """Finite numbers of a dtype; small integers first, then halves, so that counterexamples shrink to those.

    Parameters
    ----------
    dtype : {"float16", "bfloat16", "float32", "float64"}
    nasty : bool
        Add negative zero, subnormal numbers, the smallest normal one, numbers near overflow and arbitrary ones. Without it magnitudes
        are 0 or between 1/8 and 256: no underflow, no overflow, no floor of any scheme is near, also after scaling by ``2**-8 .. 2**8``.

    Raises
    ------
    UsageError
        For another dtype.

    Examples
    --------
    >>> from hypothesis import find
    >>> find(numbers(), lambda v: v > 1.2)
    2.0
    """
    table = st.sampled_from(_table(dtype, nasty))
    return st.one_of(table, _any_finite(float_dtype(dtype))) if nasty else table


@cache
def _table(dtype: str, nasty: bool) -> tuple[float, ...]:
    """What elements are sampled from, the most readable first: one cheap draw an element, and lower places are simpler numbers."""
    kind = float_dtype(dtype)
    integers = [float(n) for n in range(9)]
    halves = [n / 2 for n in range(1, 32) if n % 2]
    eighths = [n / 8 for n in (*range(1, 32), *range(35, 128, 13))]
    large = [15.0, 16.0, 31.0, 64.0, 100.125, 127.0, 127.5, 128.0, 255.0, 256.0]
    kept = [_stored(sign * value, kind) for value in (*integers, *halves, *eighths, *large) for sign in (1.0, -1.0)]
    found = [*(value + 0.0 for value in kept), *(_pool(kind) if nasty else [])]  # adding +0 makes a +0 of -0: only the pool has that
    return tuple({(value, math.copysign(1.0, value)): value for value in found}.values())


def _stored(value: float, dtype: np.dtype[Any]) -> float:
    return float(np.float64(value).astype(dtype))


def _pool(dtype: np.dtype[Any]) -> list[float]:
    """Numbers with a history of going wrong."""
    limits = ml_dtypes.finfo(dtype)  # type: ignore[no-untyped-call]
    tiny, normal, largest = float(limits.smallest_subnormal), float(limits.smallest_normal), float(limits.max)
    magnitudes = (0.0, tiny, 3 * tiny, 20 * tiny, normal, 0.1, 0.3, 1e-5, 6e-5, 1e4, 0.49999997, largest / 4, largest)
    return [_stored(sign * magnitude, dtype) for magnitude in magnitudes for sign in (-1.0, 1.0)]


def _any_finite(dtype: np.dtype[Any]) -> st.SearchStrategy[float]:
    if dtype.itemsize == 2 and dtype != np.float16:  # bfloat16 has no hypothesis width: round float32 numbers that cannot overflow
        return st.floats(-_NO_OVERFLOW, _NO_OVERFLOW, width=32).map(lambda v: _stored(v, dtype))
    return st.floats(allow_nan=False, allow_infinity=False, width=_WIDTHS[dtype.itemsize])


@st.composite
def weights(
    draw: st.DrawFn,
    *,
    dtypes: Sequence[str] = DTYPES,
    shape: tuple[int, int] | None = None,
    max_rows: int = 4,
    max_columns: int = 9,
    empty: bool = True,
    nasty: bool = True,
    patterns: Sequence[str] = PATTERNS,
) -> Array:
    """Matrices ``[out, in]`` of finite numbers.

    Parameters
    ----------
    dtypes : sequence of str
        Of ``float16``, ``bfloat16``, ``float32``, ``float64``; the first is what examples shrink to.
    shape : tuple of int, optional
        A fixed shape instead of up to `max_rows` x `max_columns`.
    empty : bool
        Allow axes of length 0.
    nasty : bool
        As in :func:`numbers`; the pattern ``outlier`` is then also larger.
    patterns : sequence of str
        What is done to a matrix of independent numbers: nothing (``plain``); a row of halves whose maximum makes the step of a usual
        grid 1 (``ties``); a row of one number; two rows alike; one number far above the others; a row without negative numbers; some
        numbers from anywhere (``arbitrary``, if `nasty`).

    Raises
    ------
    UsageError
        If a pattern or dtype is unknown.

    Examples
    --------
    >>> from hypothesis import find
    >>> find(weights(), lambda w: (w < 0).any())
    array([[-1.]], dtype=float32)
    """
    unknown = [p for p in patterns if p not in PATTERNS]
    if unknown or not patterns:
        raise UsageError(f"patterns of weights are {', '.join(PATTERNS)}; found {', '.join(unknown) or 'none'}")
    name = draw(st.sampled_from(list(dtypes)))
    rows, columns = shape or (None, draw(st.integers(1, max_columns)))
    elements = st.sampled_from(_table(name, nasty))
    row = st.tuples(*[elements] * columns)
    drawn = draw(st.lists(row, min_size=1 if rows is None else rows, max_size=max_rows if rows is None else rows))
    values = np.array(drawn, dtype=np.float64).reshape(len(drawn), columns)
    if values.size:
        known = [p for p in patterns if nasty or p != "arbitrary"] or ["plain"]
        _impose(draw, values, draw(st.sampled_from(known)), numbers(name, nasty=nasty), 3e4 if nasty else 256.0)
    if empty and shape is None:  # the last thing that is drawn, or the smallest counterexample would too often be an empty one
        kept = draw(st.sampled_from(["all"] * 10 + ["no rows", "no columns"]))
        values = values[: 0 if kept == "no rows" else None, : 0 if kept == "no columns" else None]
    return values.astype(float_dtype(name))


def _impose(draw: st.DrawFn, values: Array, pattern: str, elements: st.SearchStrategy[float], outlier: float) -> None:
    """Do to `values` what the pattern says, in place."""
    row = draw(st.integers(0, len(values) - 1))
    match pattern:
        case "ties":
            columns = values.shape[1]
            top = draw(st.sampled_from(TIE_MAXIMA))
            bound = int(2 * top)
            values[row] = [n / 2 for n in draw(st.lists(st.integers(-bound, bound), min_size=columns, max_size=columns))]
            values[row, 0] = top
        case "constant_row":
            values[row] = draw(elements)
        case "equal_rows":
            values[row] = values[draw(st.integers(0, len(values) - 1))]
        case "arbitrary":
            for column in draw(st.lists(st.integers(0, values.shape[1] - 1), min_size=1, max_size=3)):
                values[row, column] = draw(elements)
        case "outlier":
            values[row, draw(st.integers(0, values.shape[1] - 1))] = draw(st.sampled_from([outlier, -outlier]))
        case "one_signed":
            values[row] = np.abs(values[row]) * draw(st.sampled_from([1.0, -1.0]))


@st.composite
def activations(
    draw: st.DrawFn,
    *,
    dtypes: Sequence[str] = ("float32", "float64"),
    shape: tuple[int, int] | None = None,
    max_tokens: int = 6,
    max_features: int = 8,
    factors: Sequence[float] = (1.0, 64.0, 1024.0),
) -> Array:
    """Inputs ``[tokens, features]`` of a linear, some with outlier channels, outlier tokens, tokens of zeros and equal tokens.

    Real activations have both: a few features that are large in every token, and a few tokens (delimiters, the first) that are large in
    every feature.

    Parameters
    ----------
    dtypes, shape
        As in :func:`weights`.
    max_tokens, max_features : int
    factors : sequence of float
        What outlier channels and tokens are multiplied by, one drawn for each kind; the first is what examples shrink to.

    Examples
    --------
    >>> from hypothesis import find
    >>> find(activations(), lambda x: (abs(x) >= 64).all(axis=0).any())
    array([[64.]], dtype=float32)
    """
    name = draw(st.sampled_from(list(dtypes)))
    tokens, features = shape or (draw(st.integers(1, max_tokens)), draw(st.integers(1, max_features)))
    row = st.tuples(*[numbers(name, nasty=False)] * features)
    x = np.array(draw(st.tuples(*[row] * tokens)), dtype=np.float64).reshape(tokens, features)
    if x.size:
        channels = draw(st.lists(st.integers(0, features - 1), max_size=2, unique=True))
        x[:, channels] *= draw(st.sampled_from(list(factors)))
        rows = draw(st.lists(st.integers(0, tokens - 1), max_size=2, unique=True))
        x[rows] *= draw(st.sampled_from([*factors, 0.0]))
        if draw(st.booleans()):
            x[draw(st.integers(0, tokens - 1))] = x[0]
    limit = float(ml_dtypes.finfo(float_dtype(name)).max)  # type: ignore[no-untyped-call]
    return np.asarray(np.clip(x, -limit, limit).astype(float_dtype(name)))
