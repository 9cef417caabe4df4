"""Hadamard transforms of any size that has one, along any axis, in logarithmic time.

The matrix of size ``n = blocks k 2^m`` is ``I_blocks (x) H_k (x) H_(2^m)`` over ``sqrt(k 2^m)``: butterflies for the power of two, one
small dense product for the base ``H_k``. It is orthogonal, so its transpose undoes it.

The butterflies are additions in a fixed order, the same bits on every machine; the product with the base goes through an Arithmetic. Where
that promises nobody its last bits (`regroups`), five butterflies at a time are one product with a matrix of order 32, which adds more and
moves less, and takes a quarter of the time. Sums are divided by the root at the very end.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from refquant.errors import InputError, UsageError
from refquant.numerics.arithmetic import FAST, Arithmetic
from refquant.numerics.arrays import Array, Float64Array, IntArray, read_only
from refquant.numerics.draws import words
from refquant.numerics.hadamard_bases import base_matrix, has_base, is_power_of_two

QUAROT_ORDERS = (172, 156, 148, 140, 108, 60, 52, 40, 36, 28, 20, 12)
"""Orders that QuaRot has tables of (148: its fork for Dream), in the order in which it tries them."""

Normalization = Literal["exact", "float32"]
_CHUNK = 1 << 16  # elements that are transformed at a time: they stay in the cache through all butterflies
_ORDER = 32  # of the matrix that stands for butterflies in products
_SHORT = 64  # below this distance NumPy's loops over neighbours would be too short to be fast


@dataclass(frozen=True, slots=True, eq=False)
class Hadamard:
    """A Hadamard transform of a size. Get one from :func:`hadamard`.

    Parameters
    ----------
    size : int
    base : int8 ndarray ``[k, k]``
        Of ones and minus ones, with orthogonal rows.
    blocks : int
        The matrix is block diagonal with so many equal blocks.
    normalization : {"exact", "float32"}
        Divide by the root of a block's size as the working dtype has it, or rounded to float32 first, as QuaRot does with float64 too: its
        transforms are orthogonal to 1e-7 only, unless the size is a square.

    Raises
    ------
    UsageError
        If base, blocks and size do not fit, or the base is no Hadamard matrix.
    """

    size: int
    base: NDArray[np.int8]
    blocks: int = 1
    normalization: Normalization = "exact"

    def __post_init__(self) -> None:
        object.__setattr__(self, "base", _checked_base(self.base))
        if self.normalization not in ("exact", "float32"):
            raise UsageError(f"normalization is 'exact' or 'float32', not {self.normalization!r}")
        if self.blocks < 1 or self.size % (self.blocks * len(self.base)) or not is_power_of_two(self.block // len(self.base)):
            raise UsageError(
                f"size {self.size} is not {self.blocks} blocks times a base of order {len(self.base)} times a power of two; "
                "give another base or number of blocks"
            )

    @property
    def block(self) -> int:
        """Size of one block."""
        return self.size // self.blocks

    def apply(self, x: Array, axis: int = -1, *, inverse: bool = False, out: Array | None = None, arithmetic: Arithmetic = FAST) -> Array:
        """Multiply every vector along an axis: ``H v``, or ``H^T v``.

        Parameters
        ----------
        x : float32 or float64 ndarray
            Of length `size` along `axis`.
        axis : int
        inverse : bool
            Multiply by the transpose.
        out : C-contiguous ndarray of the shape and dtype of `x`, optional
            Where the result goes; may be `x`. Only along the last axis.
        arithmetic : Arithmetic

        Returns
        -------
        ndarray
            The shape and dtype of `x`, C-contiguous; `out` if it is given.

        Raises
        ------
        InputError
            If the length or the dtype is another.
        UsageError
            If `out` is another, or the axis not the last one.

        Examples
        --------
        >>> hadamard(4).apply(np.array([1.0, 2.0, 3.0, 4.0]))
        array([ 5., -1., -2.,  0.])
        """
        if x.dtype not in (np.float32, np.float64):
            raise InputError(f"a Hadamard transform works in float32 or float64; found {x.dtype}")
        if x.shape[axis] != self.size:
            raise InputError(f"axis {axis} of shape {x.shape} has length {x.shape[axis]}; this Hadamard transform has size {self.size}")
        moved = np.moveaxis(x, axis, -1)
        rows = moved.reshape(-1, self.block)  # [vectors, block]
        base = None if len(self.base) == 1 else (self.base.T if inverse else self.base).astype(x.dtype)
        root = np.sqrt(np.asarray(self.block, dtype=np.float32 if self.normalization == "float32" else x.dtype)).astype(x.dtype)
        if out is not None and (axis not in (-1, x.ndim - 1) or out.shape != x.shape or out.dtype != x.dtype or not out.flags.c_contiguous):
            raise UsageError(
                f"axis {axis} of {x.dtype} {x.shape} does not go into {out.dtype} {out.shape} with strides {out.strides}; "
                "allowed: the last axis, into a C-contiguous array of that dtype and shape"
            )
        found = np.empty(rows.shape, dtype=x.dtype) if out is None else out.reshape(rows.shape)
        step = max(1, _CHUNK // self.block)
        for start in range(0, len(rows), step):
            np.divide(_transform(rows[start : start + step], base, arithmetic), root, out=found[start : start + step])
        return out if out is not None else np.ascontiguousarray(np.moveaxis(found.reshape(moved.shape), -1, axis))

    def signs(self) -> NDArray[np.int8]:
        """The dense matrix before normalization, int8 ``[size, size]``: ones, minus ones, and zeros between the blocks."""
        power = self.block // len(self.base)
        one = np.kron(self.base, base_matrix(power))
        return np.asarray(np.kron(np.eye(self.blocks, dtype=np.int8), one), dtype=np.int8)


def hadamard(size: int, *, base: IntArray | int | None = None, blocks: int | None = 1, normalization: Normalization = "exact") -> Hadamard:
    """Plan the Hadamard transform of a size.

    Parameters
    ----------
    size : int
    base : integer ndarray ``[k, k]`` or int, optional
        The small matrix, or its order; otherwise QuaRot's if it has one (the first of :data:`QUAROT_ORDERS` that leaves a power of two),
        else that of the smallest order that works. Another implementation's matrix gives that implementation's transform.
    blocks : int, optional
        Number of equal diagonal blocks; None takes as many as leave blocks of a power of two, the largest that divides the size. That
        exists for every size, and mixes less: the caller asks for it.
    normalization : {"exact", "float32"}
        See :class:`Hadamard`.

    Returns
    -------
    Hadamard

    Raises
    ------
    UsageError
        If no Hadamard matrix of the size (or block size) is known, or the base does not fit.

    Examples
    --------
    >>> plan = hadamard(12288)
    >>> len(plan.base), plan.block
    (12, 12288)
    >>> hadamard(18944).base.shape, hadamard(100, blocks=None).blocks
    ((148, 148), 25)
    """
    if isinstance(size, bool) or not isinstance(size, int | np.integer) or size < 1:
        raise UsageError(f"the size of a Hadamard transform is a positive integer, not {size!r}")
    size = int(size)
    if blocks is None:
        blocks = size // (size & -size)
    if blocks < 1 or size % blocks:
        raise UsageError(f"{blocks} equal blocks do not divide size {size}")
    if base is None:
        base = _base_order(size // blocks) or size // blocks  # an order that is not known raises, and says what is near
    matrix = base_matrix(int(base)) if np.ndim(base) == 0 else base
    return Hadamard(size, np.asarray(matrix), blocks, normalization)


def has_hadamard(size: int) -> bool:
    """Whether :func:`hadamard` knows an undivided transform of a size.

    Examples
    --------
    >>> has_hadamard(18944), has_hadamard(184), has_hadamard(100), has_hadamard(6)
    (True, False, True, False)
    """
    return size >= 1 and _base_order(size) is not None


def random_signs(rng: Generator, count: int) -> Float64Array:
    """Draw signs, 1 or -1 with equal odds: the uppermost bit of a raw word, 1 where it is clear.

    Examples
    --------
    >>> random_signs(np.random.default_rng(5), 4)
    array([-1., -1., -1.,  1.])
    """
    return 1.0 - 2.0 * (words(rng, count) >> np.uint64(63)).astype(np.float64)


def _base_order(size: int) -> int | None:
    if is_power_of_two(size):
        return 1
    for order in QUAROT_ORDERS:
        if size % order == 0 and is_power_of_two(size // order):
            return order
    odd = size // (size & -size)
    return next((order for order in (odd * 2**k for k in range(size.bit_length())) if order <= size and has_base(order)), None)


def _transform(rows: Array, base: Array | None, arithmetic: Arithmetic) -> Array:
    """``[vectors, block]``, not normalized."""
    vectors, block = rows.shape
    order = 1 if base is None else len(base)
    x = _products(rows, block // order, arithmetic) if arithmetic.regroups else _all_butterflies(rows, block // order)
    if base is not None:
        x = arithmetic.matmul(base, x.reshape(vectors, order, -1))
    return x.reshape(vectors, block)


def _products(rows: Array, power: int, arithmetic: Arithmetic) -> Array:
    """All butterflies below distance `power`, some at a time: ``H_(a b) = H_a (x) H_b``."""
    x, inner = rows, 1
    while inner < power:
        order = min(_ORDER, power // inner)
        signs = base_matrix(order).astype(rows.dtype)
        x = arithmetic.matmul(x.reshape(-1, order), signs) if inner == 1 else arithmetic.matmul(signs, x.reshape(-1, order, inner))
        inner *= order
    return x


def _all_butterflies(rows: Array, power: int) -> Array:
    """All butterflies below distance `power`.

    Every addition is over long runs of memory: while the halves are short, elements that a butterfly joins lie in columns, and everything
    else side by side.
    """
    short = min(_SHORT, power)
    x = np.array(rows.reshape(-1, short).T, order="C")  # [short, the rest]; a copy always: the butterflies write to and fro
    x, y = _butterflies(x, np.empty_like(x), 1, short, rows.size // short)
    np.copyto(y.reshape(-1, short), x.reshape(short, -1).T)  # and back
    return _butterflies(y, x, short, power, 1)[0]


def _butterflies(x: Array, y: Array, half: int, end: int, unit: int) -> tuple[Array, Array]:
    """Butterflies between neighbours at distance `half`, twice that, ... below `end`, in elements of `unit` numbers; writes to both arrays.

    Returns the array that holds the result, and the other one.
    """
    while half < end:
        pairs, out = x.reshape(-1, 2, half * unit), y.reshape(-1, 2, half * unit)
        np.add(pairs[:, 0], pairs[:, 1], out=out[:, 0])
        np.subtract(pairs[:, 0], pairs[:, 1], out=out[:, 1])
        x, y, half = y, x, 2 * half
    return x, y


def _checked_base(base: Any) -> NDArray[np.int8]:
    matrix = np.asarray(base)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not len(matrix) or not (np.abs(matrix) == 1).all():
        raise UsageError(f"a Hadamard base is a square matrix of ones and minus ones; found {matrix.dtype} of shape {matrix.shape}")
    exact = matrix.astype(np.float64)  # sums of ones: exact far beyond any size
    if not np.array_equal(np.matmul(exact, exact.T), len(exact) * np.eye(len(exact))):
        raise UsageError(f"the Hadamard base of order {len(matrix)} is none: its rows are not orthogonal")
    return np.asarray(read_only(matrix.astype(np.int8)))


__all__ = ["QUAROT_ORDERS", "Hadamard", "hadamard", "has_hadamard", "random_signs"]
