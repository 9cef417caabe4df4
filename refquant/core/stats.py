"""What calibration remembers of a linear's inputs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from refquant.errors import InputError
from refquant.numerics import FAST, Arithmetic
from refquant.numerics.arrays import Array, Float64Array, read_only


def hessian(x: Array, token_weights: Array | None = None, arithmetic: Arithmetic = FAST) -> Float64Array:
    """Weighted second moment ``H = sum_t w_t x_t x_t^T`` in float64.

    GPTQ's Hessian is ``2 H`` over some count; damping and updates do not see the factor, so it is left out [GPTQ-1].

    Parameters
    ----------
    x : ndarray, ``[..., features]``
        Inputs of a linear; all leading axes are tokens.
    token_weights : ndarray, shape of the leading axes, optional
        What multiplies each token's term; not negative. Weight 0 leaves a token out, whatever it holds. All 1 gives the same bytes as
        no weights.
    arithmetic : Arithmetic

    Returns
    -------
    float64 ndarray, ``[features, features]``, exactly symmetric

    Raises
    ------
    InputError
        If shapes do not agree, a weight is negative or not finite, or a token that counts is not finite.

    Examples
    --------
    >>> hessian(np.array([[1.0, 2.0], [3.0, 0.0]]), token_weights=np.array([4.0, 0.0]))
    array([[ 4.,  8.],
           [ 8., 16.]])
    """
    x = np.asarray(x)
    if x.ndim < 2:
        raise InputError(f"inputs have shape [..., features]; found {x.shape}")
    rows = x.reshape(-1, x.shape[-1]).astype(np.float64)
    if token_weights is not None:
        rows = _weigh(rows, np.asarray(token_weights, dtype=np.float64), x.shape[:-1])
    if not np.isfinite(rows).all():
        token, feature = (int(i) for i in np.argwhere(~np.isfinite(rows))[0])
        raise InputError(f"calibration input {token} holds {rows[token, feature]} at feature {feature}; a Hessian needs finite numbers")
    return arithmetic.gram(rows)


def _weigh(rows: Float64Array, weights: Float64Array, leading: tuple[int, ...]) -> Float64Array:
    """Multiply each row by the root of its weight; rows of weight 0 become 0 even where they hold NaN (padding)."""
    if weights.shape != leading:
        raise InputError(f"token_weights has shape {weights.shape}; the inputs have leading shape {leading}")
    if not (np.isfinite(weights) & (weights >= 0)).all():
        raise InputError(f"token weights are finite and not negative; found {weights[~(np.isfinite(weights) & (weights >= 0))][0]}")
    root = np.sqrt(weights.reshape(-1, 1))
    return np.where(root == 0, 0.0, rows * root)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """Statistics of one group of linears that share an input; they can be merged in any grouping.

    Parameters
    ----------
    tokens : int
        Number of tokens with a weight above 0.
    hessian : float64 ndarray ``[features, features]``
    absmax : ndarray ``[features]``
        Largest magnitude of each feature over those tokens.
    """

    tokens: int
    hessian: Float64Array
    absmax: Array

    def __post_init__(self) -> None:
        object.__setattr__(self, "hessian", read_only(self.hessian))
        object.__setattr__(self, "absmax", read_only(self.absmax))

    @classmethod
    def of(cls, x: Array, token_weights: Array | None = None, arithmetic: Arithmetic = FAST) -> Stats:
        """Collect from inputs ``[..., features]``; parameters and errors as in :func:`hessian`."""
        rows = np.asarray(x).reshape(-1, np.shape(x)[-1])
        counted = slice(None) if token_weights is None else np.asarray(token_weights).reshape(-1) > 0
        kept = np.abs(rows[counted])
        return cls(
            tokens=len(kept),
            hessian=hessian(x, token_weights, arithmetic),
            absmax=kept.max(axis=0, initial=0.0),
        )

    def merge(self, other: Stats) -> Stats:
        """Statistics of both sets of tokens together.

        Raises
        ------
        InputError
            If the numbers of features differ.
        """
        if self.absmax.shape != other.absmax.shape:
            raise InputError(f"cannot merge statistics of {self.absmax.shape[0]} and {other.absmax.shape[0]} features")
        return Stats(
            tokens=self.tokens + other.tokens,
            hessian=self.hessian + other.hessian,
            absmax=np.maximum(self.absmax, other.absmax),
        )
