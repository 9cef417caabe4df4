"""A matrix as a sum of scaled signs, with more terms for some blocks of columns than for others."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np

from refquant.core.qtensor import Origin
from refquant.errors import InputError, UsageError
from refquant.numerics.arrays import Array, Float64Array, read_only
from refquant.numerics.casting import as_float64, float_dtype
from refquant.numerics.frozen import by_constructor

MOST_ORDERS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class BinarySpec:
    """How a :class:`BinaryTensor` is cut and what its scales are stored as.

    Parameters
    ----------
    block : int
        Columns that share their number of signs a weight, and their row scales; the last block may be short.
    scale_format : {"float16", "bfloat16", "float32", "float64"}

    Examples
    --------
    >>> BinarySpec(block=128).to_json()
    '{"block":128,"kind":"binary","scale_format":"float16"}'
    """

    block: int
    scale_format: str = "float16"

    def __post_init__(self) -> None:
        if isinstance(self.block, bool) or not isinstance(self.block, int) or self.block < 1:
            raise UsageError(f"a block of columns is a positive integer, not {self.block!r}")
        float_dtype(self.scale_format)

    def to_json(self) -> str:
        """Canonical JSON: sorted keys, no spaces."""
        tree = {"kind": "binary", "block": self.block, "scale_format": self.scale_format}
        return json.dumps(tree, sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> BinarySpec:
        """Read what :meth:`to_json` wrote; InputError if it is not that."""
        try:
            tree: dict[str, Any] = json.loads(text)
            if tree.pop("kind") != "binary":
                raise ValueError("its kind is not 'binary'")
            return cls(**tree)
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise InputError(f"this is not the JSON of a binary spec: {error}") from error

    def edges(self, columns: int) -> list[int]:
        """Where blocks begin, and the end."""
        return [*range(0, columns, self.block), columns]


@dataclass(frozen=True, slots=True, kw_only=True)
class BinaryTensor:
    """``W[i, j] = sum_k rows[k, i] columns[k, j] B_k[i, j]`` with signs ``B_k``, over the terms k of the block that column j lies in.

    Parameters
    ----------
    codes : uint8 ndarray ``[out, in]``
        Bit k is set where ``B_k`` is +1.
    orders : uint8 ndarray ``[blocks]``
        Number of terms of each block, 1 to 3.
    row_scales : ndarray ``[terms, out]``
        Of all blocks, one after the other.
    column_scales : ndarray ``[sum of orders times widths]``
        The same order; each term has one number a column of its block.
    spec : BinarySpec
    origin : Origin

    Raises
    ------
    InputError
        If the parts do not fit the spec or each other, or a scale is not finite.

    Examples
    --------
    >>> one = np.float16([2.0])
    >>> t = BinaryTensor(
    ...     codes=np.array([[0, 1]], dtype=np.uint8),
    ...     orders=np.array([1], dtype=np.uint8),
    ...     row_scales=np.array([[0.5]], dtype=np.float16),
    ...     column_scales=np.array([1.0, 2.0], dtype=np.float16),
    ...     spec=BinarySpec(block=2),
    ... )
    >>> t.dequantize().tolist(), t.bits_per_weight
    ([[-0.5, 1.0]], Fraction(26, 1))
    """

    codes: Array
    orders: Array
    row_scales: Array
    column_scales: Array
    spec: BinarySpec
    origin: Origin = field(default=Origin(method="unknown"))

    __reduce__ = by_constructor

    def __post_init__(self) -> None:
        for name in ("codes", "orders", "row_scales", "column_scales"):
            object.__setattr__(self, name, read_only(np.asarray(getattr(self, name))))
        if self.codes.ndim != 2 or self.codes.dtype != np.uint8 or self.orders.dtype != np.uint8:
            raise InputError(f"binary codes are a uint8 matrix; found {self.codes.dtype} {self.codes.shape}, orders {self.orders.dtype}")
        edges = self.spec.edges(self.shape[1])
        if self.orders.shape != (len(edges) - 1,) or not ((self.orders >= 1) & (self.orders <= MOST_ORDERS)).all():
            raise InputError(f"{len(edges) - 1} blocks have 1 to {MOST_ORDERS} signs a weight each; found {self.orders.tolist()}")
        widths = np.diff(edges)
        wanted = (sum(self.orders.tolist()), self.shape[0]), (sum((self.orders * widths).tolist()),)
        for what, scales, shape in (("row", self.row_scales, wanted[0]), ("column", self.column_scales, wanted[1])):
            if scales.shape != shape or scales.dtype.name != self.spec.scale_format:
                raise InputError(f"{what} scales are {self.spec.scale_format} {shape}; found {scales.dtype.name} {scales.shape}")
            if not np.isfinite(as_float64(scales)).all():
                raise InputError(f"a {what} scale is not finite")
        if (self.codes >> np.repeat(self.orders, widths)).any():
            raise InputError("a code has more signs than its block has terms")

    @property
    def shape(self) -> tuple[int, ...]:
        """Logical shape."""
        return self.codes.shape

    def dequantize(self, dtype: np.dtype[np.floating] | None = None) -> Array:
        """The sums, added in float64 from the first term on and rounded once to `dtype` (float32 by default)."""
        values = np.zeros(self.shape)
        row, column = 0, 0
        edges = self.spec.edges(self.shape[1])
        for order, (start, stop) in zip(self.orders.tolist(), pairwise(edges), strict=True):
            width = stop - start
            scales = as_float64(self.column_scales[column : column + order * width]).reshape(order, width)
            values[:, start:stop] = binary_sum(self.codes[:, start:stop], as_float64(self.row_scales[row : row + order]), scales)
            row, column = row + order, column + order * width
        return values.astype(np.float32 if dtype is None else dtype)

    def parts(self) -> dict[str, Array]:
        """The arrays: ``codes``, ``orders``, ``row_scales``, ``column_scales``."""
        return {name: getattr(self, name) for name in BINARY_PARTS}

    @classmethod
    def from_parts(cls, parts: Mapping[str, Array], spec: BinarySpec, origin: Origin) -> BinaryTensor:
        """Put together what :meth:`parts` took apart; InputError if a part is missing, too many, or does not fit."""
        if set(parts) != set(BINARY_PARTS):
            raise InputError(f"a binary tensor is made of {', '.join(BINARY_PARTS)}; found {', '.join(sorted(parts)) or 'nothing'}")
        return cls(**parts, spec=spec, origin=origin)

    @property
    def total_bits(self) -> int:
        """Bits of signs, of row and column scales, and two for each block's number of terms."""
        signs: int = self.shape[0] * sum((self.orders * np.diff(self.spec.edges(self.shape[1]))).tolist())
        scales = (self.row_scales.size + self.column_scales.size) * self.row_scales.dtype.itemsize * 8
        return signs + int(scales) + 2 * int(self.orders.size)

    @property
    def bits_per_weight(self) -> Fraction:
        """:attr:`total_bits` over the number of weights, exactly; 0 for an empty tensor."""
        return Fraction(self.total_bits, self.codes.size) if self.codes.size else Fraction(0)

    def digest(self) -> str:
        """SHA-256 over the canonical spec and every part's name, dtype, shape and little-endian bytes."""
        sha = hashlib.sha256(self.spec.to_json().encode())
        for name, array in sorted(self.parts().items()):
            sha.update(json.dumps([name, array.dtype.name, list(array.shape)]).encode())
            sha.update(array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes())
        return sha.hexdigest()


def is_binary(spec: str) -> bool:
    """Whether a spec's canonical JSON is that of a :class:`BinarySpec`; other specs have no `kind`.

    Examples
    --------
    >>> is_binary(BinarySpec(block=8).to_json()), is_binary("[]")
    (True, False)
    """
    try:
        tree = json.loads(spec)
    except (ValueError, RecursionError):
        return False
    return isinstance(tree, dict) and tree.get("kind") == "binary"


BINARY_PARTS = ("codes", "orders", "row_scales", "column_scales")


def binary_sum(codes: Array, rows: Float64Array, columns: Float64Array) -> Float64Array:
    """``sum_k rows[k, i] columns[k, j] B_k[i, j]``, float64, in the order of terms.

    Parameters
    ----------
    codes : uint8 ndarray ``[out, width]``
    rows : float64 ndarray ``[terms, out]``
    columns : float64 ndarray ``[terms, width]``
    """
    total = np.zeros(codes.shape)
    for k in range(len(rows)):
        term = rows[k][:, None] * columns[k]
        total += np.where(codes >> k & 1, term, -term)
    return total
