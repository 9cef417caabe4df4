"""Tilings against loops that go element by element."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refquant.core import Tiling
from refquant.errors import InputError, UsageError

shapes = st.lists(st.integers(0, 7), max_size=3).map(tuple)


@st.composite
def tilings(draw: st.DrawFn) -> tuple[tuple[int, ...], Tiling]:
    shape = draw(shapes)
    return shape, Tiling(tuple(draw(st.one_of(st.none(), st.integers(1, 8))) for _ in shape))


def tile_of(index: tuple[int, ...], tiling: Tiling) -> tuple[int, ...]:
    return tuple(0 if extent is None else i // extent for i, extent in zip(index, tiling.extents, strict=True))


def elements(shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    return list(itertools.product(*map(range, shape)))


@given(case=tilings())
def test_every_tile_is_somewhere_and_has_its_elements(case: tuple[tuple[int, ...], Tiling]) -> None:
    shape, tiling = case
    members: dict[tuple[int, ...], list[int]] = {}
    x = np.arange(math.prod(shape)).reshape(shape)
    for index in elements(shape):
        members.setdefault(tile_of(index, tiling), []).append(int(x[index]))
    counts = tiling.grid_shape(shape)
    if x.size:
        assert set(members) == set(elements(counts))
    blocks, rows = tiling.blocks(x, -1), tiling.by_tile(x, -1)
    for tile, expected in members.items():
        inside = blocks[tuple(part for i in tile for part in (i, slice(None)))]
        assert [v for v in inside.ravel().tolist() if v >= 0] == expected
        assert [v for v in rows[tile].tolist() if v >= 0] == expected
        assert set(rows[tile].tolist()) - set(expected) <= {-1}


@given(case=tilings())
def test_expand_gives_every_element_its_tile(case: tuple[tuple[int, ...], Tiling]) -> None:
    shape, tiling = case
    counts = tiling.grid_shape(shape)
    grid = np.arange(math.prod(counts)).reshape(counts)
    full = np.broadcast_to(tiling.expand(grid, shape), shape)
    for index in elements(shape):
        assert full[index] == grid[tile_of(index, tiling)]
    spread = np.broadcast_to(tiling.spread(grid), tiling.blocks(np.zeros(shape), 0).shape)
    for tile in elements(counts):
        assert (spread[tuple(part for i in tile for part in (i, slice(None)))] == grid[tile]).all()


def test_the_usual_tilings() -> None:
    assert Tiling.tensor().grid_shape((4, 6)) == (1, 1)
    assert Tiling.channel().grid_shape((4, 6)) == (4, 1)
    assert Tiling.channel(3).grid_shape((4, 6, 2)) == (4, 1, 1)
    assert Tiling.token(3).grid_shape((4, 6, 2)) == (4, 6, 1)
    assert Tiling.group(4).grid_shape((4, 6)) == (4, 2)
    assert Tiling.group(4, ndim=1).grid_shape((9,)) == (3,)
    assert Tiling.block(3, 5).grid_shape((4, 6)) == (2, 2)
    assert Tiling.channel().grid_shape((0, 6)) == (0, 1)
    assert Tiling.channel().grid_shape((4, 0)) == (4, 0)


def test_group_boundaries() -> None:
    x = np.arange(10.0).reshape(1, 10)
    assert Tiling.group(4).blocks(x, -np.inf).max(axis=(1, 3)).tolist() == [[3, 7, 9]]
    assert Tiling.group(5).blocks(x, -np.inf).max(axis=(1, 3)).tolist() == [[4, 9]]
    assert Tiling.group(4).expand(np.array([[0, 1, 2]]), (1, 10)).tolist() == [[0, 0, 0, 0, 1, 1, 1, 1, 2, 2]]


def test_what_is_not_allowed_is_said() -> None:
    for extent in (0, -1, 1.5, True, "4"):
        with pytest.raises(UsageError, match="positive integer or None"):
            Tiling((1, extent))  # type: ignore[arg-type]
    assert Tiling((np.int64(3), None)) == Tiling((3, None))  # type: ignore[arg-type]
    assert hash(Tiling([1, None])) == hash(Tiling((1, None)))  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"2 axes \(1, 4\) does not fit an array of shape \(3,\)"):
        Tiling((1, 4)).grid_shape((3,))
    with pytest.raises(InputError, match=r"\(1, 3\) is needed"):
        Tiling((1, 4)).expand(np.zeros((1, 2)), (1, 10))
