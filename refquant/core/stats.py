"""What calibration remembers of a linear's inputs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from refquant.errors import InputError, NumericalError
from refquant.numerics import FAST, Arithmetic
from refquant.numerics.arrays import Array, Float64Array, read_only
from refquant.numerics.casting import FLOAT_DTYPES, as_float64
from refquant.numerics.frozen import by_constructor
from refquant.numerics.gram_digits import GramDigits


def hessian(x: Array, token_weights: Array | None = None, arithmetic: Arithmetic = FAST) -> Float64Array:
    """Weighted second moment ``H = sum_t w_t x_t x_t^T`` in float64.

    GPTQ's Hessian is ``2 H`` over some count; damping and updates do not see the factor, so it is left out [GPTQ-1].

    Parameters
    ----------
    x : ndarray of floats or integers, ``[..., features]``
        Inputs of a linear; all leading axes are tokens.
    token_weights : ndarray, shape of the leading axes, optional
        What multiplies each token's term; not negative. Weight 0 leaves a token out, whatever it holds. All 1 gives the same bytes as
        no weights. (Each token is multiplied by the root of its weight, so that the product stays symmetric.)
    arithmetic : Arithmetic

    Returns
    -------
    float64 ndarray, ``[features, features]``, exactly symmetric

    Raises
    ------
    InputError
        If shapes do not agree, a weight is negative or not finite, or a token that counts is not finite.
    NumericalError
        If an entry overflows float64.

    Examples
    --------
    >>> hessian(np.array([[1.0, 2.0], [3.0, 0.0]]), token_weights=np.array([4.0, 0.0]))
    array([[ 4.,  8.],
           [ 8., 16.]])
    """
    return _hessian(weighted(*checked_tokens(x, token_weights)), arithmetic)


def _hessian(rows: Float64Array, arithmetic: Arithmetic) -> Float64Array:
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        gram = arithmetic.gram(rows)  # [GPTQ-1]
    return finite_hessian(gram)


def weighted(rows: Array, weights: Float64Array | None, dtype: type[np.floating] = np.float64, *, known_finite: bool = False) -> Array:
    """Rows ``[tokens, features]`` times the roots of their weights in a dtype; InputError if one that counts is not finite.

    Rows that are known to be finite in that dtype are not looked through again.
    """
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        rows = rows.astype(dtype, copy=False)
    if weights is not None:
        rows = _weigh(rows, weights)
    if (
        rows.size and not known_finite and not (np.isfinite(rows.max()) and np.isfinite(rows.min()))
    ):  # extremes need no array of truth values
        token, feature = (int(i) for i in np.argwhere(~np.isfinite(rows))[0])
        raise InputError(f"calibration input {token} holds {rows[token, feature]} at feature {feature}; a Hessian needs finite numbers")
    return rows


def checked_tokens(x: Array, token_weights: Array | None) -> tuple[Array, Float64Array | None]:
    """Inputs as ``[tokens, features]`` and weights as ``[tokens]``, after their shapes and dtypes were checked."""
    x = np.asarray(x)
    if x.ndim < 2:
        raise InputError(f"inputs have shape [..., features]; found {x.shape}")
    if x.dtype.kind not in "iu" and x.dtype not in FLOAT_DTYPES.values():
        raise InputError(f"inputs have dtype {x.dtype}; allowed are integers, {', '.join(FLOAT_DTYPES)}")
    rows = x.reshape(int(np.prod(x.shape[:-1])), x.shape[-1])
    if token_weights is None:
        return rows, None
    weights = as_float64(token_weights)
    if weights.shape != x.shape[:-1]:
        raise InputError(f"token_weights has shape {weights.shape}; the inputs have leading shape {x.shape[:-1]}")
    wrong = ~(np.isfinite(weights) & (weights >= 0))
    if wrong.any():
        raise InputError(f"token weights are finite and not negative; found {weights[wrong][0]}")
    return rows, weights.reshape(-1)


def _weigh(rows: Array, weights: Float64Array) -> Array:
    """Multiply each row by the root of its weight; rows of weight 0 become 0 even where they hold NaN or infinities (padding)."""
    counted = np.where(weights[:, None] > 0, rows, rows.dtype.type(0))
    with np.errstate(over="ignore", under="ignore"):
        return np.asarray(counted * np.sqrt(weights)[:, None].astype(rows.dtype))


def extremes(rows: Array, weights: Float64Array | None) -> tuple[int, Array]:
    """How many tokens count, and the largest magnitude of each feature over those."""
    kept = rows if weights is None else rows[weights > 0]
    if kept.dtype.kind in "iu":
        kept = kept.astype(np.float64)  # the magnitude of the lowest integer does not fit its dtype
    if not len(kept):
        return 0, np.zeros(kept.shape[1], dtype=kept.dtype)
    return len(kept), np.maximum(np.abs(kept.max(axis=0)), np.abs(kept.min(axis=0))).astype(kept.dtype)


def _total(digits: GramDigits) -> Float64Array:
    with np.errstate(over="ignore"):
        return finite_hessian(digits.total())


def finite_hessian(h: Float64Array) -> Float64Array:
    """The Hessian itself; NumericalError if an entry overflowed."""
    if h.size and not (np.isfinite(h.max()) and np.isfinite(h.min())):
        row, column = (int(i) for i in np.argwhere(~np.isfinite(h))[0])
        raise NumericalError(f"entry ({row}, {column}) of the Hessian overflows float64; scale the inputs down")
    return h


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """Statistics of one group of linears that share an input; they can be merged in any grouping.

    Counts and maxima are exact in any grouping. In the ordered arithmetic the Hessian is too: it is made of integers that are merged with
    it, so that statistics depend on the set of tokens alone, not on how they were grouped or in what order groups were merged. In the fast
    one its sums are floating-point sums, and another grouping may change last bits (it does not while every sum is exact, as with integers
    below 2^26 and few tokens).

    Parameters
    ----------
    tokens : int
        Number of tokens with a weight above 0.
    hessian : float64 ndarray ``[features, features]``
    absmax : ndarray ``[features]``
        Largest magnitude of each feature over those tokens; 0 if there are none.
    digits : GramDigits, optional
        What the Hessian is the total of, if it was collected in the ordered arithmetic.

    Examples
    --------
    >>> first, second = Stats.of(np.array([[1.0, -3.0]])), Stats.of(np.array([[2.0, 0.0]]))
    >>> first.merge(second).absmax
    array([2., 3.])
    """

    tokens: int
    hessian: Float64Array
    absmax: Array
    digits: GramDigits | None = None

    __reduce__ = by_constructor

    def __post_init__(self) -> None:
        object.__setattr__(self, "hessian", read_only(np.asarray(self.hessian)))
        object.__setattr__(self, "absmax", read_only(np.asarray(self.absmax)))
        features = self.absmax.shape[0] if self.absmax.ndim == 1 else -1
        if self.hessian.shape != (features, features):
            raise InputError(f"statistics hold a Hessian [n, n] and magnitudes [n]; found {self.hessian.shape} and {self.absmax.shape}")

    @classmethod
    def of(cls, x: Array, token_weights: Array | None = None, arithmetic: Arithmetic = FAST) -> Stats:
        """Collect from inputs ``[..., features]``; parameters and errors as in :func:`hessian`."""
        rows, weights = checked_tokens(x, token_weights)
        used = weighted(rows, weights)
        digits = arithmetic.gram_digits(used)
        tokens, absmax = extremes(rows, weights)
        return cls(tokens=tokens, hessian=_hessian(used, arithmetic) if digits is None else _total(digits), absmax=absmax, digits=digits)

    def merge(self, other: Stats) -> Stats:
        """Statistics of both sets of tokens together.

        Raises
        ------
        InputError
            If the numbers of features differ, or one was collected in the ordered arithmetic and the other was not.
        NumericalError
            If an entry of the Hessian overflows.
        """
        if self.absmax.shape != other.absmax.shape:
            raise InputError(f"cannot merge statistics of {self.absmax.shape[0]} and {other.absmax.shape[0]} features")
        if (self.digits is None) != (other.digits is None):
            raise InputError("cannot merge statistics of the ordered arithmetic with those of another; collect both in one")
        digits = None if self.digits is None or other.digits is None else self.digits.merge(other.digits)
        with np.errstate(over="ignore"):
            total = self.hessian + other.hessian if digits is None else digits.total()
        return Stats(
            tokens=self.tokens + other.tokens,
            hessian=finite_hessian(total),
            absmax=np.maximum(self.absmax, other.absmax),
            digits=digits,
        )
