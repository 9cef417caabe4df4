"""A weight made ready for products with integer activations: segments of columns, their sums, and the proof that no int32 overflows."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from refquant.core import QTensor, QuantSpec, Tiling
from refquant.errors import UsageError
from refquant.methods.kernels.integer_matmul import accumulator_bound, exact_dtype, integer_matmul, largest_magnitude
from refquant.numerics import FAST, Arithmetic
from refquant.numerics.arrays import Array, read_only
from refquant.numerics.ordering import argsort_ascending


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """Columns that share an activation group and a weight group.

    Parameters
    ----------
    columns : slice
        Of the gathered codes.
    activation_group : int
    scale : ndarray ``[out]`` of the working dtype
    zero : int64 ndarray ``[out]``, or None
    sums : int64 ndarray ``[out]``
        ``sum_k w[o, k] - n zero[o]``.
    """

    columns: slice
    activation_group: int
    scale: Array
    zero: Array | None
    sums: Array


@dataclass(frozen=True, slots=True, kw_only=True)
class IntegerWeight:
    """A weight, made ready for products with integer activations; see :func:`prepare_weight`.

    Parameters
    ----------
    codes : ndarray ``[in, out]``
        Integers in the floating dtype in which their products sum exactly, gathered segment by segment.
    order : int64 ndarray ``[in]``, or None
        The column at each place of `codes`; None where nothing moved.
    segments : tuple of Segment
        By activation group, then by weight group.
    activation : QuantSpec
        What activations are coded as.
    activation_groups : int
    bound : int
        No accumulator's magnitude exceeds it.
    reach : int
        Largest ``|w| + |zero|``.
    longest : int
        Columns of the longest segment.
    dtype : dtype
        Working format.
    """

    codes: Array
    order: Array | None
    segments: tuple[Segment, ...]
    activation: QuantSpec
    activation_groups: int
    bound: int
    reach: int
    longest: int
    dtype: np.dtype[Any]

    @property
    def shape(self) -> tuple[int, int]:
        """``(out, in)``."""
        return self.codes.shape[1], self.codes.shape[0]

    def ordered(self, codes: Array) -> Array:
        """Activation codes ``[tokens, in]`` with their columns where those of :attr:`codes` are."""
        return codes if self.order is None else codes[:, self.order]


def prepare_weight(weight: QTensor, activation: QuantSpec, dtype: np.dtype[Any], arithmetic: Arithmetic = FAST) -> IntegerWeight:
    """Cut a weight into segments, sum its codes, and prove that no accumulator overflows.

    Parameters
    ----------
    weight : QTensor ``[out, in]``
    activation : QuantSpec
        Of activations ``[tokens, in]``.
    dtype : dtype
        Working format: float32 or float64.
    arithmetic : Arithmetic

    Raises
    ------
    UsageError
        For a weight that is not a matrix of codes, real zero points, another dtype, or formats so wide that an int32 might overflow.
    NumericalError
        If a float64 scale becomes 0 or infinite in float32.

    Examples
    --------
    >>> from refquant.core import spec
    >>> from refquant.methods.grid.rtn import rtn
    >>> q = rtn(np.array([[0.0, 1.0, 2.0, 3.0]]), spec("int2", group_size=2))
    >>> prepared = prepare_weight(q, spec("int8", scheme="sym_full"), np.dtype(np.float32))
    >>> len(prepared.segments), prepared.bound == 2 * 128 * 3
    (2, True)
    """
    if not isinstance(weight, QTensor) or len(weight.shape) != 2:
        found = f"a tensor of shape {weight.shape}" if isinstance(weight, QTensor) else f"a {type(weight).__name__}"
        raise UsageError(f"integer arithmetic multiplies a QTensor [out, in], whose codes are integers; found {found}")
    if np.dtype(dtype) not in (np.float32, np.float64):
        raise UsageError(f"an integer linear works in float32 or float64, not {np.dtype(dtype)}")
    for what, spec in (("weight", weight.spec), ("activation", activation)):
        if spec.scheme.zero == "real":
            raise UsageError(f"the {what}'s scheme {spec.scheme.name} has real zero points; integer arithmetic needs integer ones or none")
        if len(spec.tiling.extents) != 2:
            raise UsageError(f"the {what}'s tiling {spec.tiling.extents} has {len(spec.tiling.extents)} axes; a linear's operands have 2")
    order, runs = _segment_columns(weight, activation)
    longest = max((stop - start for start, stop, _, _ in runs), default=0)
    bound = accumulator_bound(longest, widest(activation), widest(weight.spec))  # [INT-1]
    gathered = weight.codes if order is None else weight.codes[:, order]
    scale, zero = weight.grid.in_dtype(np.dtype(dtype))[0], weight.zero
    by_row = Tiling((weight.spec.tiling.extents[0], 1))  # one number a row and group of columns
    scale = by_row.expand(scale, (weight.shape[0], scale.shape[1]))
    zero = None if zero is None else by_row.expand(zero.astype(np.int64), (weight.shape[0], zero.shape[1]))
    segments = []
    for start, stop, activation_group, group in runs:
        z = None if zero is None else read_only(np.broadcast_to(zero[:, group], weight.shape[:1]))
        sums = _row_sums(gathered[:, start:stop], arithmetic) - (0 if z is None else (stop - start) * z)
        s = read_only(np.broadcast_to(scale[:, group], weight.shape[:1]))
        segments.append(Segment(columns=slice(start, stop), activation_group=activation_group, scale=s, zero=z, sums=read_only(sums)))
    return IntegerWeight(
        codes=read_only(gathered.T.astype(exact_dtype(bound))),
        order=None if order is None else read_only(order),
        segments=tuple(segments),
        activation=activation,
        activation_groups=activation.tiling.grid_shape((1, weight.shape[1]))[1],
        bound=bound,
        reach=widest(weight.spec) + (0 if zero is None else largest_magnitude(zero)),
        longest=longest,
        dtype=np.dtype(dtype),
    )


def _segment_columns(weight: QTensor, activation: QuantSpec) -> tuple[Array | None, list[tuple[int, int, int, int]]]:
    """The order that gathers segments, and their ``(start, stop, activation group, weight group)`` in it."""
    count = weight.shape[1]
    place = np.arange(count, dtype=np.int64)
    group = np.empty(count, dtype=np.int64)
    group[place if weight.permutation is None else weight.permutation] = place // (weight.spec.tiling.extents[1] or max(count, 1))
    feature_group = place // (activation.tiling.extents[1] or max(count, 1))
    key = feature_group * max(count, 1) + group
    order = argsort_ascending(key)
    ordered = key[order]
    starts = [0, *(np.flatnonzero(ordered[1:] != ordered[:-1]) + 1).tolist(), count] if count else []
    runs = [(start, stop, int(ordered[start]) // count, int(ordered[start]) % count) for start, stop in pairwise(starts)]
    return (None if np.array_equal(order, place) else order), runs


def widest(spec: QuantSpec) -> int:
    """Largest magnitude of the codes of a spec: 128 of ``int8``."""
    return max(-spec.integers.lo, spec.integers.hi)


def _row_sums(codes: Array, arithmetic: Arithmetic) -> Array:
    """Sum of each row of integer codes, int64: an exact product with ones."""
    return integer_matmul(codes, np.ones((1, codes.shape[1]), dtype=np.int8), arithmetic)[:, 0].astype(np.int64)
