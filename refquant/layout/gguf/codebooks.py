"""Codebooks of the IQ1, IQ2 and IQ3 types: the points that stand for 4 or 8 neighbouring elements, and what they share.

======= ====== ===== =====================================
book    points width coordinates
======= ====== ===== =====================================
IQ1_S   2048   8     -1, 0, 1
IQ2_XXS 256    8     8, 25, 43
IQ2_XS  512    8     8, 25, 43
IQ2_S   1024   8     8, 25, 43
IQ3_XXS 256    4     4, 12, 20, 28, 36, 44, 52, 62
IQ3_S   512    4     1, 3, 5, 7, 9, 11, 13, 15
======= ====== ===== =====================================

They were chosen by search and follow from no formula. ``codebooks.safetensors`` holds them as int8 by these names: the arrays
``gguf.quants.<book>.grid`` of gguf 0.19.0 after ``init_grid()``, reshaped to ``grid_shape``, as `safetensors.numpy.save` writes them
(gguf is under the MIT licence, copyright (c) 2023 Georgi Gerganov). The cross-check compares them with the package's again.

Points of a book differ from each other, so that they lead back to their places, and blocks to their bytes. Points of IQ2 and IQ3 are
magnitudes; signs are bits beside them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import numpy as np
from safetensors.numpy import load

from refquant.errors import InputError
from refquant.layout.gguf.fields import Fields, scaled_values
from refquant.numerics.arrays import Array, read_only

FILE = "codebooks.safetensors"
SHA256 = "a1a7b97a5e162cbba51610b57429cfa3ba9a4681ce839d9f8501920a3e0ee52f"
SEVENS = np.arange(0, 28, 7, dtype=np.uint32)
"""Where the four times seven sign bits of IQ2_XXS and IQ3_XXS begin."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Codebook:
    """The points of a book.

    Parameters
    ----------
    points : int8 ndarray ``[entries, width]``
    sorted_keys, places : ndarray ``[entries]``
        The points' bytes as one integer each, in rising order, and the places of these points.
    """

    points: Array
    sorted_keys: Array
    places: Array

    def take(self, places: Array) -> Array:
        """Points at places ``[n, m]``, side by side: ``[n, m * width]``."""
        return np.take(self.points, places, axis=0).reshape(len(places), -1)

    def find(self, points: Array) -> Array:
        """The places ``[n, m]`` of points ``[n, m * width]``, the inverse of :meth:`take`; InputError if one is in no place."""
        keys = _keys(points.reshape(-1, self.points.shape[1]))
        found = np.minimum(np.searchsorted(self.sorted_keys, keys), len(self.places) - 1)
        if not np.array_equal(self.sorted_keys[found], keys):
            raise InputError(f"codes that are no point of the codebook of {len(self.places)}")
        return self.places[found].reshape(len(points), -1)


@cache
def codebook(name: str) -> Codebook:
    """A book by its name; InputError if the file is another than it was.

    Examples
    --------
    >>> book = codebook("IQ3_S")
    >>> book.points.shape, book.take(np.array([[0, 1]])).tolist(), book.find(np.array([[1, 1, 1, 1, 3, 1, 1, 1]], np.int8)).tolist()
    ((512, 4), [[1, 1, 1, 1, 3, 1, 1, 1]], [[0, 1]])
    """
    data = files("refquant.layout.gguf").joinpath(FILE).read_bytes()
    if hashlib.sha256(data).hexdigest() != SHA256:
        raise InputError(f"{FILE} of this installation is damaged: its SHA-256 is not {SHA256}")
    points = load(data)[name]
    keys = _keys(points)
    places = np.argsort(keys, kind="stable")
    return Codebook(points=read_only(points), sorted_keys=read_only(keys[places]), places=read_only(places))


def _keys(points: Array) -> Array:
    return np.ascontiguousarray(points, dtype=np.int8).view(f"<u{points.shape[1]}")[:, 0]


def with_parity(seven: Array) -> Array:
    """Sign bits of seven elements with those of the eighth, which makes the number of minus signs even; uint8.

    Examples
    --------
    >>> with_parity(np.array([0, 1, 3, 7], np.uint8)).tolist()
    [0, 129, 3, 135]
    """
    found = seven.astype(np.uint8)
    folded = found ^ found >> 4
    folded ^= folded >> 2
    folded ^= folded >> 1
    return np.asarray(found | (folded & 1) << 7)


def with_signs(magnitudes: Array, signs: Array) -> Array:
    """Magnitudes ``[n, size]``, minus where the bits of ``[n, size / 8]`` bytes are set, lowest first; int8."""
    minus = np.unpackbits(np.ascontiguousarray(signs), axis=1, bitorder="little").view(np.int8)
    return np.asarray(magnitudes * (np.int8(1) - minus - minus))


def signs_of(codes: Array) -> Array:
    """The bits of :func:`with_signs`, of codes that are not 0."""
    return np.packbits(codes < 0, axis=1, bitorder="little")


def in_parts(parts: int) -> Callable[[Fields, Array], None]:
    """Values ``(d * scale) * code / parts``, `parts` a power of two: nothing is rounded, so the order is free."""

    def values(fields: Fields, out: Array) -> None:
        scaled_values(fields, out)
        out *= np.float32(1 / parts)

    return values
