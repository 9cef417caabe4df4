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
from refquant.numerics.arrays import Array, Float64Array, IntArray


def _require_scales(spec: QuantSpec, fixed: Grid | None) -> None:
    """Nested scales that a sweep can use: it divides by the stored ones, and an outer scale must be known before the first column."""
    if spec.scales is None:
        return
    if spec.scales.coded_by != "stored":
        raise UsageError(f"compensation divides by the scales as they are stored; this spec has coded_by={spec.scales.coded_by!r}")
    if spec.scales.outer is not None and fixed is None:
        raise UsageError("an outer scale belongs to all groups, so they are fitted before the sweep: static_groups=True")


class ColumnGrids:
    """The grid of each column: fixed beforehand, or fitted when the sweep reaches a group's first column."""

    def __init__(self, spec: QuantSpec, shape: tuple[int, ...], order: IntArray, fixed: Grid | None, arithmetic: Arithmetic) -> None:
        rows, columns = shape
        _require_scales(spec, fixed)
        self.spec, self.order, self.arithmetic = spec, order, arithmetic
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
        """Scale and zero as float64 ``[groups, rows]``."""
        rows = Tiling((self.rows_per_tile, 1))
        shape = (self.rows, grid.scale.shape[1])
        scale, zero = grid.expanded(shape, rows, np.dtype(np.float64))
        full = np.broadcast_to(scale, shape).T.copy()
        return full, None if zero is None else np.broadcast_to(zero, shape).T.copy()

    def next_group_start(self, column: int) -> int:
        """First column after `column` at which a new group is fitted."""
        if self.fixed is not None:
            return len(self.order)
        return (column // self.columns_per_group + 1) * self.columns_per_group

    def at(self, column: int, running: Float64Array) -> tuple[Array, Array | None]:
        """Scale and zero ``[rows]`` of a column in quantization order; `running` is the transposed matrix as it stands."""
        if self._wide is not None:
            group = int(self.order[column]) // self.columns_per_group
            return self._wide[0][group], None if self._wide[1] is None else self._wide[1][group]
        if column % self.columns_per_group == 0:
            values = running[column : column + self.columns_per_group].T
            spec = self.spec.with_tiling(Tiling((self.rows_per_tile, None)))
            self.fitted.append(fit_grid(values, spec, self.arithmetic))
            self._current = self._expand(self.fitted[-1])
        return self._current[0][0], None if self._current[1] is None else self._current[1][0]

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
        """Scale and zero of every column in quantization order, float64 ``[rows, columns]``."""
        scale, zero = self._expand(self.grid)
        position = self.order if self.fixed is not None else np.arange(len(self.order))
        group = position // self.columns_per_group
        return scale[group].T, None if zero is None else zero[group].T
