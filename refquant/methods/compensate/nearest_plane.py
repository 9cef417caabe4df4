"""GPTQ's sweep without the inverse: Babai's nearest plane on the root of the Hessian (the link: arXiv 2507.18553).

With ``H + lambda I = G^T G``, G lower triangular, [GPTQ-5]'s factor is ``U = G^-T``. So [GPTQ-8], ``W - Q = E U``, reads

    E = D G^T  with  D = W - Q,   that is   E_i = D_i G_ii + sum_{j < i} D_j G_ij,

and as [GPTQ-6] says ``E_i = (W_i at its turn - Q_i) G_ii``, the value on which column i is decided is

    W_i at its turn = W_i + (sum_{j < i} D_j G_ij) / G_ii.

These are the decisions of :func:`~refquant.methods.compensate.lazy_blocks.lazy_blocks` up to rounding error, and that one is the oracle of
this one. What is gained: no inverse of the root (n^3 / 3 operations less and one loss of accuracy fewer), nothing is written to columns
that are still to come, and the sums over j are taken as products of matrices as large as one likes: `WIDE` columns at once against all
behind them, and inside by halves down to `LEAF`, so that hardly anything is left for products with one row.

Groups that are fitted when the sweep reaches them need the fully compensated values of all their columns: with g the group and S the sums
over the columns before it, these are ``W_g + G_gg^-1 S_g``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from refquant.core.coding import real_codes
from refquant.core.spec import QuantSpec
from refquant.formats import IntFormat
from refquant.methods.compensate.column_grids import ColumnGrids
from refquant.numerics import Arithmetic
from refquant.numerics.arrays import Array

WIDE = 512  # columns whose sums over all earlier ones are one product
LEAF = 16  # columns that are handled one by one


def nearest_planes(
    weight: Array, root: Array, spec: QuantSpec, grids: ColumnGrids, arithmetic: Arithmetic, decided: Array | None = None
) -> Array:
    """Codes of the transposed weight in quantization order.

    Parameters
    ----------
    weight : float32 or float64 ndarray ``[n, out]``
        It is written to: what is left in it is ``(W - Q)^T``.
    root : ndarray ``[n, n]`` of that dtype
        G, lower triangular.
    spec : QuantSpec
    grids : ColumnGrids
    arithmetic : Arithmetic
    decided : ndarray ``[n, out]``, optional
        Where to write what was decided on.

    Returns
    -------
    ndarray ``[n, out]``
        Codes in the dtype of their format; members as floats for formats other than integers.
    """
    dtype = spec.format.dtype if isinstance(spec.format, IntFormat) else weight.dtype
    codes = np.empty(weight.shape, dtype=dtype)
    start = 0
    while start < len(weight):
        stop = grids.last_cut(start, WIDE)
        rows = np.ascontiguousarray(root[start:stop, :stop])
        sums = arithmetic.matmul(rows[:, :start], weight[:start])
        _Block(start, weight, rows, sums, codes, decided, spec, grids, arithmetic).settle(start, stop)
        start = stop
    return codes


@dataclass(frozen=True, slots=True)
class _Block:
    """Columns from `first` on: their rows of G, and the sums of ``D_j G_ij`` over columns j that are done."""

    first: int
    weight: Array
    rows: Array
    sums: Array
    codes: Array
    decided: Array | None
    spec: QuantSpec
    grids: ColumnGrids
    arithmetic: Arithmetic

    def settle(self, start: int, stop: int) -> None:
        """Decide on columns whose sums hold everything before `start`: one half, its part of the other's sums, the other half."""
        middle = self.grids.middle_cut(start, stop, LEAF)
        if middle == stop:
            for i in range(start, stop):
                self._decide(i, start)
            return
        self.settle(start, middle)
        other = slice(middle - self.first, stop - self.first)
        self.sums[other] += self.arithmetic.matmul(self.rows[other, start:middle], self.weight[start:middle])
        self.settle(middle, stop)

    def _decide(self, i: int, leaf: int) -> None:
        """[GPTQ-6] of one column, whose sum holds everything before the first column of its leaf."""
        row, total = self.rows[i - self.first], self.sums[i - self.first]
        if i > leaf:
            total += self.arithmetic.matmul(row[leaf:i], self.weight[leaf:i])
        if self.grids.begins_group(i):
            self.grids.fit(self._compensated_group(i))
        scale, zero = self.grids.of(i)
        weight = self.weight[i]
        place = weight + total / row[i]  # [GPTQ-6]
        codes = real_codes(place, scale, zero, self.spec)
        weight -= scale * (codes if zero is None else codes - zero)  # from here on D_i
        self.codes[i] = codes
        if self.decided is not None:
            self.decided[i] = place

    def _compensated_group(self, i: int) -> Array:
        """The values of a whole group, transposed, before its first column is decided on."""
        group = slice(i, i + self.grids.columns_per_group)
        inside = slice(i - self.first, group.stop - self.first)
        inverse = self.arithmetic.inverse_lower(self.rows[inside, group])
        return np.asarray(self.weight[group] + self.arithmetic.matmul(inverse, self.sums[inside]))
