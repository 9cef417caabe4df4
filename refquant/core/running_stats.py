"""Statistics of a stream of inputs, added up in the memory of one Hessian."""

from __future__ import annotations

import numpy as np

from refquant.core.stats import Stats, checked_tokens, extremes, finite_hessian, weighted
from refquant.errors import InputError, NumericalError, UsageError
from refquant.numerics import FAST, Arithmetic
from refquant.numerics.arrays import Array
from refquant.numerics.casting import as_float64

RUN = 4096  # tokens whose products are added up in float32 before they go to float64
SQUARE = 128  # rows and columns of a triangle that are moved at a time


class RunningStats:
    """Adds tokens to a Hessian instead of merging one Hessian a batch: half the products, and no second matrix.

    Parameters
    ----------
    features : int
    working : {"float64", "float32"}
        What products are taken in. In float32 those of `RUN` tokens are also added up in it, and such sums in float64: an entry is off
        by at most ``RUN 2^-24 sum_t w_t |x_ti x_tj|``, and commonly by a thousandth of that.
    arithmetic : Arithmetic
        In the ordered arithmetic the result is that of :meth:`Stats.merge` to the byte, whatever the batches.

    Raises
    ------
    UsageError
        If `working` is another, or float32 in an arithmetic that promises its bits.

    Examples
    --------
    >>> running = RunningStats(2)
    >>> for batch in ([[1.0, -3.0]], [[2.0, 0.0]]):
    ...     running.add(np.array(batch))
    >>> running.stats().tokens, running.stats().hessian
    (2, array([[ 5., -3.],
           [-3.,  9.]]))
    """

    def __init__(self, features: int, *, working: str = "float64", arithmetic: Arithmetic = FAST) -> None:
        if working not in ("float32", "float64"):
            raise UsageError(f"working is 'float64' or 'float32', not {working!r}")
        if working == "float32" and not arithmetic.regroups:
            raise UsageError("working='float32' is for speed: the ordered arithmetic takes products in float64")
        self._working, self._arithmetic = np.dtype(working), arithmetic
        self._tokens = 0
        self._absmax: Array | None = None
        self._merged: Stats | None = None
        kept = features if arithmetic.regroups else 0
        self._features = features
        self._total = np.zeros((kept, kept))
        self._narrow = np.zeros((kept, kept), dtype=np.float32) if working == "float32" else self._total[:0, :0]
        self._pending = 0
        self._given_away = False

    def add(self, x: Array, token_weights: Array | None = None) -> None:
        """Add tokens ``[..., features]``.

        Parameters and errors are those of :func:`refquant.hessian`; an overflow may show only in :meth:`stats`. After an error nothing was
        added.
        """
        rows, weights = checked_tokens(x, token_weights)
        if rows.shape[1] != self._features:
            raise InputError(f"inputs have {rows.shape[1]} features; the statistics are of {self._features}")
        if not self._arithmetic.regroups:
            one = Stats.of(x, token_weights, self._arithmetic)
            self._merged = one if self._merged is None else self._merged.merge(one)
            return
        tokens, absmax = extremes(rows, weights)
        finite = weights is None and bool((as_float64(absmax) <= np.finfo(self._working).max).all())
        rows_used = weighted(rows, weights, self._working.type, known_finite=finite)
        self._keep_what_was_given()
        for start in range(0, len(rows_used), RUN):
            self._add_run(rows_used[start : start + RUN])
        self._tokens += tokens
        self._absmax = absmax if self._absmax is None else np.maximum(self._absmax, absmax)

    def take(self, other: Stats) -> None:
        """Add statistics that were collected elsewhere, as :meth:`Stats.merge` does, but in the memory of these.

        Raises
        ------
        InputError
            If the numbers of features differ, or the other statistics are of another arithmetic.
        """
        if other.absmax.shape != (self._features,):
            raise InputError(f"cannot merge statistics of {self._features} and {other.absmax.shape[0]} features")
        if (other.digits is None) != self._arithmetic.regroups:
            raise InputError("cannot merge statistics of the ordered arithmetic with those of another; collect both in one")
        if other.digits is not None:
            self._merged = other if self._merged is None else self._merged.merge(other)
            return
        self._keep_what_was_given()
        with np.errstate(over="ignore"):
            self._total += other.hessian
        self._tokens += other.tokens
        self._absmax = other.absmax if self._absmax is None else np.maximum(self._absmax, other.absmax)

    def _keep_what_was_given(self) -> None:
        if self._given_away:  # somebody has looked at the statistics so far, and keeps them
            self._total, self._given_away = self._total.copy(), False

    def _add_run(self, rows: Array) -> None:
        if self._working == np.float64:
            self._arithmetic.add_gram(self._total, rows)  # [GPTQ-1]
            return
        if self._pending + len(rows) > RUN:
            self._flush()
        self._arithmetic.add_gram(self._narrow, rows)
        self._pending += len(rows)

    def _flush(self) -> None:
        """Take what was added up in float32 to the total, rows that stay in the cache at a time."""
        for start in range(0, len(self._narrow), SQUARE):
            part = self._narrow[start : start + SQUARE, start:]
            self._total[start : start + SQUARE, start:] += part
            part[:] = 0
        self._pending = 0

    def stats(self) -> Stats:
        """Statistics of all tokens so far; more may be added later.

        Raises
        ------
        NumericalError
            If an entry of the Hessian overflowed.
        """
        if self._merged is not None or not self._arithmetic.regroups:
            return self._merged or Stats.of(np.zeros((0, self._features)), arithmetic=self._arithmetic)
        if self._pending:
            self._flush()
        if self._working == np.float32 and not np.isfinite(np.diagonal(self._total)).all():
            raise NumericalError("an entry of the Hessian overflows float32; take products in float64, or scale the inputs down")
        _mirror(self._total)
        self._given_away = True
        absmax = np.zeros(self._features) if self._absmax is None else self._absmax
        return Stats(tokens=self._tokens, hessian=finite_hessian(self._total), absmax=absmax)


def _mirror(h: Array) -> None:
    """Write the upper triangle over the lower one, square by square."""
    for i in range(0, len(h), SQUARE):
        square = h[i : i + SQUARE, i : i + SQUARE]
        square[:] = np.triu(square) + np.triu(square, 1).T
        for j in range(i + SQUARE, len(h), SQUARE):
            h[j : j + SQUARE, i : i + SQUARE] = h[i : i + SQUARE, j : j + SQUARE].T
