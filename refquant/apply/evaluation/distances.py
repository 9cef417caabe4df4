"""How far two next-token distributions are apart, position by position, in float64."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from refquant.numerics import FAST, Arithmetic
from refquant.numerics.arrays import Array


@dataclass(frozen=True, slots=True, kw_only=True)
class Distributions:
    """Softmax distributions at `n` positions over `V` tokens (all rows of the embedding, as the sampler has it)."""

    logits: Array  # float64 [n, V]
    log_p: Array  # float64 [n, V]
    p: Array  # float64 [n, V]
    top: Array  # int64 [n], the lowest index of the largest logit

    @classmethod
    def of(cls, logits: Array, arithmetic: Arithmetic = FAST) -> Distributions:
        """Take the softmax of finite logits [n, V] of any floating dtype, shifted by each row's maximum, in float64.

        Examples
        --------
        >>> Distributions.of(np.array([[0.0, 0.0]], dtype=np.float32)).p
        array([[0.5, 0.5]])
        """
        wide = logits.astype(np.float64)
        log_p = wide - np.max(wide, axis=-1, keepdims=True)
        p = arithmetic.exp(log_p)
        total = arithmetic.sum(p, axis=-1, keepdims=True)
        log_p -= arithmetic.log(total)
        p /= total
        return cls(logits=wide, log_p=log_p, p=p, top=np.argmax(logits, axis=-1))

    def at(self, keep: Array) -> Distributions:
        """Return those at some positions: a boolean [n] or indices."""
        return Distributions(logits=self.logits[keep], log_p=self.log_p[keep], p=self.p[keep], top=self.top[keep])


def kl_divergence(p: Distributions, q: Distributions, arithmetic: Arithmetic = FAST) -> Array:
    """``sum p (log p - log q)``, nats, float64 [n]. Exactly 0 for equal distributions; rounding may leave -1e-17 for near ones.

    Examples
    --------
    >>> even, odd = (Distributions.of(np.array([[0.0, x]])) for x in (0.0, np.log(3)))
    >>> kl_divergence(even, odd).round(6), kl_divergence(odd, even).round(6)
    (array([0.143841]), array([0.130812]))
    """
    return arithmetic.sum(p.p * (p.log_p - q.log_p), axis=-1)


def total_variation(p: Distributions, q: Distributions, arithmetic: Arithmetic = FAST) -> Array:
    """``sum |p - q| / 2``, float64 [n]: the largest difference in the probability of any set of tokens."""
    return arithmetic.sum(np.abs(p.p - q.p), axis=-1) / 2


def row_means(values: Array, where: Array, arithmetic: Arithmetic = FAST) -> Array:
    """Mean over the marked positions of each row; NaN for a row that has none.

    Parameters
    ----------
    values : ndarray [n]
        One a marked position, in C order.
    where : ndarray of bool [B, T]
        With n True.

    Returns
    -------
    ndarray of float64 [B]

    Examples
    --------
    >>> row_means(np.array([1.0, 3.0]), np.array([[True, True], [False, False]]))
    array([ 2., nan])
    """
    return ratio(row_sums(values, where, arithmetic), np.count_nonzero(where, axis=1).astype(np.float64))


def row_sums(values: Array, where: Array, arithmetic: Arithmetic = FAST) -> Array:
    """Sum over the marked positions of each row, as :func:`row_means`; 0 for a row that has none."""
    spread = np.zeros(where.shape, dtype=np.float64)
    spread[where] = values
    return arithmetic.sum(spread, axis=1)


def ratio(top: Array, bottom: Array) -> Array:
    """``top / bottom``; NaN, which stands for "not defined" here, where `bottom` is 0."""
    return np.asarray(np.divide(top, bottom, out=np.full(np.shape(top), np.nan), where=bottom != 0))
