"""Which elements of a tensor share a scale.

A tiling cuts every axis into runs of a given extent; the last run of an axis may be short (a ragged tail). One rule, in one place:
``blocks`` pads the tail with a neutral element and reshapes, so that any reduction over a tile is an ordinary reduction over axes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from refquant.errors import InputError, UsageError
from refquant.numerics.arrays import Array


@dataclass(frozen=True, slots=True)
class Tiling:
    """One extent per axis; ``None`` means the whole axis.

    Parameters
    ----------
    extents : tuple of int or None
        Per tensor ``(None, None)``, per output channel ``(1, None)``, group ``(1, 128)``, block ``(128, 128)``, per token ``(1, None)``.

    Raises
    ------
    UsageError
        If an extent is neither ``None`` nor a positive integer.

    Examples
    --------
    >>> Tiling((1, 4)).grid_shape((2, 10))
    (2, 3)
    """

    extents: tuple[int | None, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "extents", tuple(int(e) if isinstance(e, np.integer) else e for e in self.extents))
        for extent in self.extents:
            if extent is not None and (isinstance(extent, bool) or not isinstance(extent, int) or extent < 1):
                raise UsageError(f"a tile's extent is a positive integer or None, not {extent!r} (in {self.extents})")

    @classmethod
    def tensor(cls, ndim: int = 2) -> Tiling:
        """One tile for the whole tensor."""
        return cls((None,) * ndim)

    @classmethod
    def channel(cls, ndim: int = 2) -> Tiling:
        """One tile for each index of the first axis (an output channel of ``[out, in]``)."""
        return cls((1,) + (None,) * (ndim - 1))

    @classmethod
    def token(cls, ndim: int = 2) -> Tiling:
        """One tile for each vector along the last axis."""
        return cls((1,) * (ndim - 1) + (None,))

    @classmethod
    def group(cls, size: int, ndim: int = 2) -> Tiling:
        """One tile for each run of `size` elements along the last axis."""
        return cls((1,) * (ndim - 1) + (size,))

    @classmethod
    def block(cls, rows: int, columns: int) -> Tiling:
        """Rectangles of `rows` x `columns`."""
        return cls((rows, columns))

    def _sizes(self, shape: tuple[int, ...]) -> list[tuple[int, int]]:
        """``(number of tiles, extent)`` of every axis."""
        if len(shape) != len(self.extents):
            raise InputError(f"a tiling of {len(self.extents)} axes {self.extents} does not fit an array of shape {shape}")
        sizes = []
        for length, extent in zip(shape, self.extents, strict=True):
            step = max(length, 1) if extent is None else extent
            sizes.append((-(-length // step), step))
        return sizes

    def grid_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of the array that holds one number a tile; an axis of length 0 has no tiles."""
        return tuple(count for count, _ in self._sizes(shape))

    def blocks(self, x: Array, fill: float) -> Array:
        """Cut `x` into tiles.

        Parameters
        ----------
        x : ndarray
        fill : float
            What pads the ragged tails: the neutral element of the reduction to come.

        Returns
        -------
        ndarray of shape ``(tiles_0, extent_0, tiles_1, extent_1, ...)``
            A view where nothing had to be padded and the memory order allows it.
        """
        sizes = self._sizes(x.shape)
        padding = [(0, count * step - length) for (count, step), length in zip(sizes, x.shape, strict=True)]
        if any(tail for _, tail in padding):
            x = np.pad(x, padding, constant_values=fill)
        return x.reshape([n for size in sizes for n in size])

    def by_tile(self, x: Array, fill: float) -> Array:
        """Give every tile a row of its elements: shape ``(tiles_0, tiles_1, ..., elements of a tile)``, in the order of the array.

        A sum over the last axis then runs in the same order wherever the tile lies. Parameters as in :meth:`blocks`.
        """
        blocks = self.blocks(x, fill)
        outer = tuple(range(0, blocks.ndim, 2))
        counts = tuple(blocks.shape[axis] for axis in outer)
        length = math.prod(blocks.shape[axis] for axis in self.inner_axes)
        return np.ascontiguousarray(blocks.transpose(outer + self.inner_axes)).reshape((*counts, length))

    def slabs(self, shape: tuple[int, ...], elements: int) -> Iterator[tuple[slice, slice]]:
        """Cut the first axis into runs of whole tiles that hold about `elements` elements, so that temporary arrays stay in the cache.

        Parameters
        ----------
        shape : tuple of int, at least one axis
        elements : int

        Yields
        ------
        rows, tiles : slice
            The run in the array, and the run in the grid.

        Examples
        --------
        >>> list(Tiling((2, None)).slabs((5, 10), 40))
        [(slice(0, 4, None), slice(0, 2, None)), (slice(4, 8, None), slice(2, 4, None))]
        """
        count, extent = self._sizes(shape)[0]
        shared = count == 1  # one tile spans the axis: wherever it is cut, the grid's single entry applies
        step = 1 if shared else extent
        run = max(1, elements // max(step * math.prod(shape[1:]), 1))
        for start in range(0, -(-shape[0] // step), run):
            yield slice(start * step, (start + run) * step), slice(0, 1) if shared else slice(start, start + run)

    def run_length(self, shape: tuple[int, ...]) -> int | None:
        """How many elements a tile has if every tile is as many consecutive elements of a contiguous array; None if one is not.

        Examples
        --------
        >>> Tiling((1, 4)).run_length((3, 8)), Tiling((1, None)).run_length((3, 8)), Tiling((1, 4)).run_length((3, 10))
        (4, 8, None)
        """
        sizes = self._sizes(shape)
        if not sizes or any(step != 1 for _, step in sizes[:-1]) or shape[-1] % sizes[-1][1]:
            return None
        return sizes[-1][1]

    @property
    def inner_axes(self) -> tuple[int, ...]:
        """The axes of :meth:`blocks` that run inside a tile."""
        return tuple(range(1, 2 * len(self.extents), 2))

    def spread(self, grid: Array) -> Array:
        """Give one number a tile the axes of :meth:`blocks`: ``(tiles_0, 1, tiles_1, 1, ...)``."""
        return np.expand_dims(grid, self.inner_axes)

    def require_fit(self, grid: Array, shape: tuple[int, ...]) -> None:
        """Raise InputError if `grid` does not have :meth:`grid_shape`."""
        if grid.shape != self.grid_shape(shape):
            raise InputError(
                f"a grid of shape {grid.shape} does not fit shape {shape} under {self.extents}: {self.grid_shape(shape)} is needed"
            )

    def expand(self, grid: Array, shape: tuple[int, ...]) -> Array:
        """Repeat one number a tile over the tile's elements.

        Returns
        -------
        ndarray
            Of a shape that broadcasts to `shape`: axes that are one tile long stay of length 1.

        Raises
        ------
        InputError
            If `grid` does not have :meth:`grid_shape`.
        """
        self.require_fit(grid, shape)
        for axis, (length, extent) in enumerate(zip(shape, self.extents, strict=True)):
            if extent is not None and extent > 1 and grid.shape[axis] > 1:
                inside = (slice(None),) * axis + (slice(length),)
                grid = np.repeat(grid, extent, axis=axis)[inside]
        return grid
