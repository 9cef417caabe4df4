"""Which grid a column is quantized on: fixed beforehand, or fitted when the sweep reaches its group."""

from __future__ import annotations

import numpy as np

from refquant.core.fitting import fit_grid
from refquant.core.grid import Grid
from refquant.core.scales import CodedScales
from refquant.core.spec import QuantSpec
from refquant.core.tiling import Tiling
from refquant.errors import InputError, UsageError
from refquant.numerics import Arithmetic
from refquant.numerics.arrays import Array, IntArray


def _require_scales(spec: QuantSpec, fixed: Grid | None) -> None:
    """Nested scales that a sweep can use: it divides by the stored ones, and an outer scale must be known before the first column."""
    if spec.scales is None:
        return
    if spec.scales.coded_by != "stored":
        raise UsageError(f"compensation divides by the scales as they are stored; this spec has coded_by={spec.scales.coded_by!r}")
    if spec.scales.outer is not None and fixed is None:
        raise UsageError("an outer scale belongs to all groups, so they are fitted before the sweep: static_groups=True")


class ColumnGrids:
    """The grid of each column: fixed beforehand, or fitted when the sweep reaches a group's first column.

    `dtype` is that in which scales and zero points are handed out.
    """

    def __init__(
        self,
        spec: QuantSpec,
        shape: tuple[int, ...],
        order: IntArray,
        fixed: Grid | None,
        arithmetic: Arithmetic,
        dtype: np.dtype[np.floating] | None = None,
    ) -> None:
        rows, columns = shape
        _require_scales(spec, fixed)
        self.spec, self.order, self.arithmetic = spec, order, arithmetic
        self.dtype = np.dtype(np.float64) if dtype is None else dtype
        self.fixed = fixed
        self.columns_per_group = spec.tiling.extents[1] or max(columns, 1)
        self.rows_per_tile = spec.tiling.extents[0]
        self.rows = rows
        self.fitted: list[Grid] = []
        identity = np.array_equal(order, np.arange(columns))
        self.follow_order = fixed is None and not identity
        if fixed is not None and fixed.scale.shape != spec.tiling.grid_shape((rows, columns)):
            raise InputError(f"the grid has shape {fixed.scale.shape}; {spec.tiling.grid_shape((rows, columns))} is needed")
        self._wide = None if fixed is None else self._expand(fixed)

    def _expand(self, grid: Grid) -> tuple[Array, Array | None]:
        """Scale and zero as ``[groups, rows]``."""
        rows = Tiling((self.rows_per_tile, 1))
        shape = (self.rows, grid.scale.shape[1])
        scale, zero = grid.expanded(shape, rows, self.dtype)
        full = np.broadcast_to(scale, shape).T.copy()
        return full, None if zero is None else np.broadcast_to(zero, shape).T.copy()

    def next_group_start(self, column: int) -> int:
        """First column after `column` at which a new group is fitted."""
        if self.fixed is not None:
            return len(self.order)
        return (column // self.columns_per_group + 1) * self.columns_per_group

    def last_cut(self, start: int, most: int) -> int:
        """Where a block of about `most` columns ends that cuts no group which is still to be fitted."""
        stop = start + most
        if self.fixed is None:
            stop = max(stop // self.columns_per_group * self.columns_per_group, self.next_group_start(start))
        return min(stop, len(self.order))

    def middle_cut(self, start: int, stop: int, leaf: int) -> int:
        """Where to halve ``start..stop``: where a group begins that is still to be fitted, if one does; `stop` if it stays whole."""
        if self.next_group_start(start) < stop:
            return max((start + stop) // 2 // self.columns_per_group * self.columns_per_group, self.next_group_start(start))
        half = -(-(stop - start) // (2 * leaf)) * leaf
        return min(start + half, stop)

    def begins_group(self, column: int) -> bool:
        """Whether a group is fitted before this column is decided on."""
        return self.fixed is None and column % self.columns_per_group == 0

    def fit(self, values: Array) -> None:
        """Fit the next group to the transposed values of its columns."""
        spec = self.spec.with_tiling(Tiling((self.rows_per_tile, None)))
        self.fitted.append(fit_grid(values.T, spec, self.arithmetic))
        self._current = self._expand(self.fitted[-1])

    def of(self, column: int) -> tuple[Array, Array | None]:
        """Scale and zero ``[rows]`` of a column in quantization order, after its group was fitted."""
        scale, zero = self._current if self._wide is None else self._wide
        group = 0 if self._wide is None else int(self.order[column]) // self.columns_per_group
        return scale[group], None if zero is None else zero[group]

    @property
    def grid(self) -> Grid:
        """The whole grid, one column a group."""
        if self.fixed is not None:
            return self.fixed
        empty = not self.fitted
        if empty:
            return fit_grid(np.empty((self.rows, 0)), self.spec, self.arithmetic)
        zeros = [g.zero for g in self.fitted if g.zero is not None]
        coded = [g.coded.codes for g in self.fitted if g.coded is not None]
        return Grid(
            scale=np.concatenate([g.scale for g in self.fitted], axis=1),
            zero=np.concatenate(zeros, axis=1) if zeros else None,
            coded=CodedScales(codes=np.concatenate(coded, axis=1)) if coded else None,
            signed=self.spec.scheme.signed_scale,
        )

    def columns(self) -> tuple[Array, Array | None]:
        """Scale and zero of every column in quantization order, ``[rows, columns]``."""
        scale, zero = self._expand(self.grid)
        position = self.order if self.fixed is not None else np.arange(len(self.order))
        group = position // self.columns_per_group
        return scale[group].T, None if zero is None else zero[group].T
