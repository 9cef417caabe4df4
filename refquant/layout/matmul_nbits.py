"""ONNX Runtime's MatMulNBits: weights of 2, 4 or 8 bits in blocks along the input axis.

``N`` rows (outputs), ``K`` columns, blocks of ``block_size`` columns, a power of two from 16; ``blocks = ceil(K / block_size)``:

=============== ============================= ================================================================================
``B``           uint8 [N, blocks, size]       codes of a block as a stream, the first in the lowest bits; behind column K, 0
``scales``      float [N, blocks]             float32, float16 or bfloat16
``zero_points`` uint8 [N, ceil(blocks b / 8)] the zero points of a row as a stream, padded with 0; absent if all are ``2^(b-1)``
=============== ============================= ================================================================================

with ``size = block_size * bits / 8``. The weight is ``scale * (code - zero)``; the operator multiplies by its transpose. ``K``, ``N``,
``bits`` and ``block_size`` are attributes of the node: :func:`attributes`. (Some versions flatten scales and zero points: ``unpack`` takes
them in any shape.)
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from refquant.core import QTensor, QuantSpec, spec
from refquant.errors import InputError
from refquant.layout.bits import pack_stream, stream_bytes, unpack_stream
from refquant.layout.fields import Fields, column_tiles, fields_of, tensor_of, why_not_fields
from refquant.numerics.arrays import Array

WIDTHS = (2, 4, 8)
SCALES = ("float32", "float16", "bfloat16")
LEAST_BLOCK = 16


def why_not(q: QTensor) -> str | None:
    """Say what of a tensor MatMulNBits cannot hold, or None.

    Examples
    --------
    >>> from refquant.methods.grid.rtn import rtn
    >>> why_not(rtn(np.eye(32, dtype=np.float32), spec("int4", group_size=20)))
    'runs of 20 columns; blocks are powers of two from 16'
    """
    reason = why_not_fields(q, WIDTHS, SCALES)
    if reason is not None:
        return reason
    if q.permutation is not None:
        return "groups in activation order"
    size = _block_size(q)
    if size < LEAST_BLOCK or size & (size - 1):
        return f"runs of {size} columns; blocks are powers of two from {LEAST_BLOCK}"
    return None


def _block_size(q: QTensor) -> int:
    """Columns of a block; a whole row is one block of the next power of two."""
    size = column_tiles(q.spec, q.shape) or 0
    whole = q.spec.tiling.extents[1] is None
    return max(LEAST_BLOCK, 1 << max(size - 1, 0).bit_length()) if whole else size


def attributes(q: QTensor) -> dict[str, int]:
    """The node's attributes.

    Raises
    ------
    InputError
        If :func:`why_not` says something.
    """
    _require(q)
    return {"K": q.shape[1], "N": q.shape[0], "bits": q.spec.format.bits, "block_size": _block_size(q)}


def _require(q: QTensor) -> None:
    reason = why_not(q)
    if reason is not None:
        raise InputError(f"MatMulNBits cannot hold {reason}")


def pack(q: QTensor) -> dict[str, Array]:
    """Write a matrix ``[N, K]``.

    Returns
    -------
    dict of ``B``, ``scales`` and, for zero points that are not constant by the scheme, ``zero_points``

    Raises
    ------
    InputError
        If :func:`why_not` says something.

    Examples
    --------
    >>> from refquant.methods.grid.rtn import rtn
    >>> parts = pack(rtn(np.arange(32, dtype=np.float32).reshape(1, 32) - 16, spec("int4", group_size=16, scheme="sym_full")))
    >>> parts["B"].shape, parts["scales"].shape, sorted(parts)
    ((1, 2, 8), (1, 2), ['B', 'scales'])
    """
    _require(q)
    fields, bits, size = fields_of(q), q.spec.format.bits, _block_size(q)
    rows, columns = q.shape
    blocks = -(-columns // size)
    filled = np.zeros((rows, blocks * size), dtype=np.uint8)
    filled[:, :columns] = fields.codes
    parts = {"B": pack_stream(filled.reshape(rows, blocks, size), bits), "scales": np.asarray(fields.scale)}
    if q.spec.scheme.zero in ("none", "midpoint"):
        return parts
    return parts | {"zero_points": pack_stream(fields.zero.astype(np.uint8), bits)}


def unpack(parts: Mapping[str, Array], node: Mapping[str, int], like: QuantSpec | None = None) -> QTensor:
    """Read a matrix; the inverse of :func:`pack`.

    Parameters
    ----------
    parts : mapping of ``B``, ``scales`` and perhaps ``zero_points``
    node : mapping of ``K``, ``N``, ``bits`` and ``block_size``
    like : QuantSpec, optional
        What the tensor was; by default unsigned codes under ``sym_gptq``, or ``asym_incl0`` where there are zero points.

    Raises
    ------
    InputError
        If attributes and arrays do not fit each other, padding is not 0, or `like` does not fit.
    """
    columns, rows, bits, size = (_attribute(node, name) for name in ("K", "N", "bits", "block_size"))
    if bits not in WIDTHS or size < LEAST_BLOCK or size & (size - 1):
        raise InputError(f"MatMulNBits has 2, 4 or 8 bits and blocks that are powers of two from {LEAST_BLOCK}; found {bits} and {size}")
    blocks = -(-columns // size)
    packed = _shaped(parts, "B", (rows, blocks, size * bits // 8), (np.dtype(np.uint8),))
    kinds = tuple(np.dtype(name) for name in SCALES)
    scale = _shaped(parts, "scales", (rows, blocks), kinds)
    filled = unpack_stream(packed, bits, size).reshape(rows, blocks * size)
    if filled[:, columns:].any():
        raise InputError(f"the codes behind column {columns} are to be 0; some are not")
    zero = np.full((rows, blocks), 1 << (bits - 1), dtype=np.int64)
    if "zero_points" in parts:
        stored = _shaped(parts, "zero_points", (rows, stream_bytes(blocks, bits)), (np.dtype(np.uint8),))
        zero = unpack_stream(stored, bits, blocks).astype(np.int64)
    if like is None:
        scheme = "asym_incl0" if "zero_points" in parts else "sym_gptq"
        like = spec(f"uint{bits}", group_size=size, scheme=scheme, scale_format=scale.dtype.name)
    return tensor_of(Fields(codes=filled[:, :columns], zero=zero, scale=scale), like)


def _attribute(node: Mapping[str, int], name: str) -> int:
    value = node.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 1 << 31:
        raise InputError(f"attribute {name} of MatMulNBits is an integer from 1 to 2^31 - 1; found {value!r}")
    return value


def _shaped(parts: Mapping[str, Array], name: str, shape: tuple[int, ...], kinds: tuple[np.dtype[np.generic], ...]) -> Array:
    """One array in its shape; sizes are compared before anything is made from them."""
    if name not in parts:
        raise InputError(f"{name} is missing; MatMulNBits has B, scales and perhaps zero_points")
    array = np.asarray(parts[name])
    count = 1
    for extent in shape:
        count *= extent
    if array.dtype not in kinds or array.size != count:
        allowed = " or ".join(kind.name for kind in kinds)
        raise InputError(f"{name} is {array.dtype} of shape {array.shape}; {allowed} of shape {shape} is needed")
    return array.reshape(shape)
