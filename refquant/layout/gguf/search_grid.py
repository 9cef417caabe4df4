"""What a search over a codebook's points needs: where the points lie, and which are near every place between them.

Points have few coordinates, so a place is a row of *levels*, 0 for the smallest coordinate and so on; the levels as digits of a number say
where in a table a place is. A place that holds no point has neighbours: the points at the nearest of the distances that occur, two of them
for IQ2_XXS, for instance, in rising order of distance and then of the point's place in the book. They follow from the book, and are derived
from it once. Distances are those of levels, though coordinates of some books are not quite evenly spaced.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np

from refquant.layout.gguf.codebooks import codebook
from refquant.layout.gguf.group_fits import in_order
from refquant.numerics.arrays import Array, read_only


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchGrid:
    """A codebook as seen by a search.

    Parameters
    ----------
    members : int8 ndarray ``[levels]``
        The book's coordinates.
    coordinates : float32 ndarray ``[levels]``
        Those that a search fits with.
    points : ndarray ``[width, entries]``
        Levels.
    holds : bool ndarray ``[levels^width]``
        Whether a place is a point.
    starts, counts : ndarray ``[levels^width]``
        Where in `neighbours` those of a place begin, and how many there are.
    neighbours : ndarray
        Entries of the book.
    """

    members: Array
    coordinates: Array
    points: Array
    holds: Array
    starts: Array
    counts: Array
    neighbours: Array

    @property
    def width(self) -> int:
        """Elements of a point."""
        return len(self.points)

    def settle(self, levels: Array, x: Array, w: Array, scale: Array, moved: Array | None = None) -> tuple[Array, Array]:
        """Replace places that hold no point by their nearest neighbour.

        Near is what has the least ``sum w (scale * coordinate - x)^2``, of equals the first neighbour.

        Parameters
        ----------
        levels : integer ndarray ``[elements, groups]``
        x, w : float32 ndarray ``[elements, groups]``
        scale : float32 ndarray ``[groups]``
        moved : float32 ndarray ``[points of a group, groups]``, optional
            Added to the coordinates.

        Returns
        -------
        levels ``[elements, groups]``, and whether they were a point before, ``[points of a group, groups]``
        """
        groups = levels.shape[1]
        place = _place(levels.reshape(len(levels) // self.width, self.width, groups).swapaxes(0, 1), len(self.members))
        held = self.holds[place]
        point, group = np.nonzero(~held)
        if not point.size:
            return levels, held
        at = place[point, group]
        order = np.argsort(-self.counts[at], kind="stable")  # those with most neighbours first, so that a round over them is a slice
        point, group, at = point[order], group[order], at[order]
        elements = point * (self.width * groups) + group + groups * np.arange(self.width)[:, None]
        move = None if moved is None else moved[point, group]
        chosen = self._nearest(at, np.take(x, elements), np.take(w, elements), scale[group], move)
        settled = levels.copy()
        settled.reshape(-1)[elements] = self.points[:, chosen]
        return settled, held

    def _nearest(self, at: Array, x: Array, w: Array, scale: Array, move: Array | None) -> Array:
        """The entries nearest to numbers ``[width, n]`` at places that hold no point, those with most neighbours first."""
        counts, starts = self.counts[at], self.starts[at]
        best, chosen = np.full(len(at), np.inf, np.float32), np.zeros(len(at), np.int64)
        values = self.coordinates[self.points]
        with np.errstate(all="ignore"):
            for i, n in enumerate(np.searchsorted(-counts, -np.arange(counts[0]))):
                entry = self.neighbours[starts[:n] + i]
                off = np.take(values, entry, axis=1)
                if move is not None:
                    off += move[:n]
                off *= scale[:n]
                off -= x[:, :n]
                cost = w[:, :n] * off
                cost *= off
                distance = in_order(cost, best[:n])
                nearer = distance < best[:n]
                np.copyto(best[:n], distance, where=nearer)
                np.copyto(chosen[:n], entry, where=nearer)
        return chosen


def _place(levels: Array, base: int) -> Array:
    """Levels ``[width, ...]`` as the digits of a number, the first the lowest."""
    place = np.zeros(levels.shape[1:], np.int64)
    for digit in levels[::-1]:
        place = place * base + digit
    return place


@cache
def search_grid(book: str, distances: int) -> SearchGrid:
    """The grid of a codebook; neighbours are the points at that many distances.

    Examples
    --------
    >>> grid = search_grid("IQ3_S", 3)
    >>> int(grid.holds.sum()), bool(grid.counts[~grid.holds].min() >= 3), grid.coordinates[:3].tolist()
    (512, True, [1.0, 3.0, 5.0])
    """
    points = codebook(book).points
    members = np.unique(points)
    levels = np.searchsorted(members, points).T.astype(np.int16)
    places = math.prod([len(members)] * len(levels))
    holds = np.zeros(places, bool)
    holds[_place(levels, len(members))] = True
    between = np.flatnonzero(~holds)
    distance = np.zeros((len(between), points.shape[0]), np.int16)
    rest = between
    for row in levels:
        rest, digit = rest // len(members), rest % len(members)
        off = digit.astype(np.int16)[:, None] - row
        distance += off * off
    limit = distance.min(axis=1)
    for _ in range(distances - 1):
        limit = np.where(distance > limit[:, None], distance, np.iinfo(np.int16).max).min(axis=1)
    near = distance <= limit[:, None]
    place, entry = np.nonzero(near)
    neighbours = entry[np.lexsort((entry, distance[near], place))]
    counts, starts = np.zeros(places, np.int64), np.zeros(places, np.int64)
    counts[between] = np.count_nonzero(near, axis=1)
    starts[between] = np.cumsum(counts[between]) - counts[between]
    lowest = -1 if members[0] < 0 else 1
    coordinates = lowest + (1 if lowest < 0 else 2) * np.arange(len(members))
    return SearchGrid(
        members=read_only(members),
        coordinates=read_only(coordinates.astype(np.float32)),
        points=read_only(levels),
        holds=read_only(holds),
        starts=read_only(starts),
        counts=read_only(counts),
        neighbours=read_only(neighbours),
    )
