"""A tensor as GGUF holds it: a type and blocks of bytes. Another kind of quantized tensor beside :class:`~refquant.core.QTensor`.

Bytes are kept as they are, so reading and writing lose nothing whatever is in them; K types, whose groups have minima with scales of
their own, and scales of either sign need no place in a :class:`~refquant.core.QuantSpec`, which says how a tensor is *to be made*. What
fits both goes over by :mod:`refquant.layout.gguf.grids`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from refquant.errors import InputError, UsageError
from refquant.layout.gguf.fields import BlockType, Fields
from refquant.layout.gguf.importance import Importance, checked_importance, mean_squares
from refquant.layout.gguf.types import WEIGHTED, find_block_type
from refquant.numerics.arrays import Array, read_only
from refquant.numerics.casting import as_float64, as_working

CHUNK = 1 << 17
"""Elements that are worked on at a time: what a processor's inner cache holds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufTensor:
    """Blocks of one type.

    Parameters
    ----------
    kind : BlockType
    blocks : uint8 ndarray ``[blocks, bytes of a block]``
        In the order of the flattened tensor; blocks run along the last axis.
    shape : tuple of int
        Logical, slowest axis first: the reverse of what the file says.

    Raises
    ------
    InputError
        If the parts do not fit each other.

    Examples
    --------
    >>> t = quantize(np.eye(32, dtype=np.float32), "q8_0")
    >>> t.blocks.shape, float(t.bits_per_weight), float(t.dequantize()[0, 0])
    ((32, 34), 8.5, 0.99993896484375)
    """

    kind: BlockType
    blocks: Array
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        size = self.kind.size
        if size > 1 and (not self.shape or self.shape[-1] % size):
            raise InputError(f"{self.kind.name} has blocks of {size} along the last axis; shape {self.shape} does not divide into them")
        count = int(np.prod(self.shape, dtype=object)) // size
        found = np.asarray(self.blocks)
        if found.dtype != np.uint8 or found.shape != (count, self.kind.nbytes):
            wanted = (count, self.kind.nbytes)
            raise InputError(f"{self.kind.name} of shape {self.shape} is uint8 of shape {wanted}, not {found.dtype} of {found.shape}")
        object.__setattr__(self, "blocks", read_only(found))

    def fields(self) -> Fields:
        """Codes, scales and minima of all blocks."""
        return self.kind.unpack(self.blocks)

    def dequantize(self, dtype: np.dtype[np.floating] | None = None) -> Array:
        """The numbers, computed in float32 as gguf does.

        Parameters
        ----------
        dtype : numpy dtype, optional
            float32 (default) or float64, which holds the same numbers.

        Returns
        -------
        ndarray of :attr:`shape`
        """
        kind = self.kind
        out = np.empty((len(self.blocks), kind.size), np.float32)
        step = max(1, CHUNK // kind.size)
        for start in range(0, len(out), step):
            kind.values(kind.unpack(self.blocks[start : start + step]), out[start : start + step])
        values = out.reshape(self.shape)
        return values if dtype is None or np.dtype(dtype) == np.float32 else as_float64(values).astype(dtype, copy=False)

    def parts(self) -> dict[str, Array]:
        """The bytes, under the name ``blocks``."""
        return {"blocks": self.blocks}

    @property
    def bits_per_weight(self) -> Fraction:
        """Bits of a block over its elements."""
        return Fraction(8 * self.kind.nbytes, self.kind.size)

    def digest(self) -> str:
        """SHA-256 over type, shape and bytes."""
        head = json.dumps([self.kind.name, list(self.shape)]).encode()
        return hashlib.sha256(head + self.blocks.tobytes()).hexdigest()


def quantize(x: Array, kind: BlockType | str, *, importance: Array | None = None) -> GgufTensor:
    """Quantize a tensor as the type's reference does: gguf's NumPy, and ggml's C for the types that gguf only reads.

    Parameters
    ----------
    x : ndarray of float16, bfloat16, float32 or float64
        float64 is rounded to float32 first, which is what these types are defined on.
    kind : BlockType or str
    importance : float ndarray ``[columns]``, optional
        How much each column matters, not negative: the mean squares of a linear's input, which llama.cpp calls an importance matrix.
        IQ1_S, IQ2_XXS and IQ2_XS need one.

    Raises
    ------
    UsageError
        If the type is unknown, needs an importance or makes no use of one.
    InputError
        If the tensor or the importance holds NaN or infinities, the importance negative numbers, or their sizes do not fit.
    NumericalError
        If a number or scale overflows the type's 16-bit floats, or weighted squares may exceed float32. NVFP4 clips beyond 2688.

    Examples
    --------
    >>> quantize(np.linspace(-1, 1, 32, dtype=np.float32), "Q4_0").fields().codes[0, :4]
    array([-8, -7, -7, -6], dtype=int8)
    >>> quantize(np.linspace(-1, 1, 32, dtype=np.float32), "Q4_0", importance=np.arange(32)).fields().codes[0, :4]
    array([-7, -7, -6, -6], dtype=int8)
    """
    kind = find_block_type(kind) if isinstance(kind, str) else kind
    working = as_working(x)
    with np.errstate(over="ignore", under="ignore"):
        numbers = np.ascontiguousarray(working, dtype=np.float32)
    if kind.size > 1 and (not numbers.ndim or numbers.shape[-1] % kind.size):
        raise InputError(f"{kind.name} has blocks of {kind.size} along the last axis; shape {numbers.shape} does not divide into them")
    quantized = _quantizer(kind, importance, numbers.shape[-1] if numbers.ndim else 1)
    rows = numbers.reshape(-1, kind.size)
    blocks = np.empty((len(rows), kind.nbytes), np.uint8)
    whole = 1 if importance is None else max(1, numbers.shape[-1] // kind.size)  # rows of the tensor stay whole
    step = max(1, CHUNK // (kind.size * whole)) * whole
    for start in range(0, len(rows), step):
        part = rows[start : start + step]
        if not np.isfinite(part).all():
            where = tuple(int(i) for i in np.argwhere(~np.isfinite(numbers))[0])
            raise InputError(f"the tensor holds {float(working[where])!r} at {where}; numbers that float32 holds are needed")
        blocks[start : start + step] = kind.pack(quantized(part))
    return GgufTensor(kind=kind, blocks=blocks, shape=numbers.shape)


def _quantizer(kind: BlockType, importance: Array | None, columns: int) -> Callable[[Array], Fields]:
    """Blocks to fields, with the importance if there is one; blocks then come as whole rows of the tensor."""
    if importance is None:
        if kind.quantize is None:
            raise UsageError(f"{kind.name} needs an importance, one number for each of the {columns} columns")
        return kind.quantize
    weighted = WEIGHTED.get(kind.name)
    if weighted is None:
        raise UsageError(f"{kind.name} makes no use of an importance; those that do are {', '.join(WEIGHTED)}")
    of_columns = checked_importance(importance, columns).reshape(-1, kind.size)

    def quantized(blocks: Array) -> Fields:
        rows = blocks.reshape(-1, columns)
        row_means = np.repeat(mean_squares(rows, columns), len(of_columns))
        return weighted(blocks, Importance(elements=np.tile(of_columns, (len(rows), 1)), row_means=row_means))

    return quantized
