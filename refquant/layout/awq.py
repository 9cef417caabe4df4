"""AWQ's layouts: GEMM, as AutoAWQ writes its files, and llm-awq's interleaved 16-bit words.

GEMM: 4-bit codes, rows are *inputs*. Nibble ``i`` of word ``c`` holds output ``8 c + (0, 2, 4, 6, 1, 3, 5, 7)[i]``.

========== ========================== ===============================================
``qweight``  int32 ``[in, out / 8]``
``qzeros``   int32 ``[tiles, out / 8]``  in the same order, zero points as they are
``scales``   float16 ``[tiles, out]``
========== ========================== ===============================================

llm-awq today: int16 ``[out / 4, in]``. Within every 32 inputs the pairs (0, 1), (8, 9), (16, 17), (24, 25), (2, 3), ... follow each other;
within every 8 of these first the even, then the odd places; then four outputs are interleaved 64 inputs at a time, and four neighbouring
codes share a word, low nibble first. Zero points are kept as ``-scale * zero`` in floating point there; only the codes are read here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from refquant.core import QTensor, QuantSpec
from refquant.errors import InputError
from refquant.layout.bits import pack_stream, pack_words, unpack_stream, unpack_words
from refquant.layout.fields import Fields, column_tiles, fields_of, tensor_of, why_not_fields
from refquant.numerics.arrays import Array

ORDER = np.array([0, 2, 4, 6, 1, 3, 5, 7])
UNDO = np.argsort(ORDER, kind="stable")
SCALES = ("float16", "bfloat16")
PARTS = ("qweight", "qzeros", "scales")


def why_not(q: QTensor) -> str | None:
    """Say what of a tensor the GEMM layout cannot hold, or None if it holds it.

    Examples
    --------
    >>> from refquant.core import spec
    >>> from refquant.methods.grid.rtn import rtn
    >>> why_not(rtn(np.eye(8), spec("int3", scale_format="float16")))
    'codes of 3 bits; it holds 4'
    """
    found = why_not_fields(q, (4,), SCALES)
    if found is not None:
        return found
    if q.permutation is not None:
        return "groups of columns in activation order; its groups are runs of columns"
    if q.shape[0] % 8 or not q.shape[0]:
        return f"{q.shape[0]} rows; it holds multiples of 8"
    size = column_tiles(q.spec, q.shape)
    if not q.shape[1] or size is None or q.shape[1] % size:
        return f"{q.shape[1]} columns in groups of {size}; it holds whole groups"
    return None


def pack(q: QTensor) -> dict[str, Array]:
    """Write a tensor ``[out, in]`` in the GEMM layout.

    Returns
    -------
    dict of ``qweight``, ``qzeros``, ``scales``

    Raises
    ------
    InputError
        If :func:`why_not` says something.
    """
    reason = why_not(q)
    if reason is not None:
        raise InputError(f"the AWQ layout cannot hold {reason}")
    fields = fields_of(q)
    return {
        "qweight": _pack_eights(fields.codes.T),
        "qzeros": _pack_eights(fields.zero.T),
        "scales": np.ascontiguousarray(fields.scale.T),
    }


def unpack(parts: Mapping[str, Array], spec: QuantSpec) -> QTensor:
    """Read a tensor; the inverse of :func:`pack`.

    Parameters
    ----------
    parts : mapping of ``qweight``, ``qzeros``, ``scales``
    spec : QuantSpec
        Group size, and whether codes were meant as signed; its scale format is taken from the file.

    Returns
    -------
    QTensor ``[out, in]``

    Raises
    ------
    InputError
        If the arrays do not fit each other or the spec.
    """
    missing = [name for name in PARTS if name not in parts]
    if missing:
        raise InputError(f"{missing[0]} is missing; an AWQ linear has {', '.join(PARTS)}")
    qweight, qzeros, scales = (np.asarray(parts[name]) for name in PARTS)
    if spec.format.bits != 4 or spec.tiling.extents[0] != 1 or len(spec.tiling.extents) != 2:
        raise InputError(f"the AWQ layout holds 4 bits in groups of a row; the spec says {spec.format.bits} bits, {spec.tiling.extents}")
    if qweight.dtype != np.int32 or qzeros.dtype != np.int32 or scales.dtype.name not in (*SCALES, "float32"):
        raise InputError(f"qweight and qzeros are int32 and scales floating; found {qweight.dtype}, {qzeros.dtype}, {scales.dtype}")
    if not qweight.ndim == qzeros.ndim == scales.ndim == 2:
        raise InputError(f"qweight, qzeros and scales are matrices; found shapes {qweight.shape}, {qzeros.shape}, {scales.shape}")
    columns, words = qweight.shape
    size = spec.tiling.extents[1] or columns
    tiles = -(-columns // max(size, 1))
    if not columns or columns % max(size, 1):
        raise InputError(f"qweight has {columns} rows, one an input, in groups of {size}; whole groups are read")
    if qzeros.shape != (tiles, words) or scales.shape != (tiles, words * 8):
        raise InputError(
            f"qweight {qweight.shape}, qzeros {qzeros.shape} and scales {scales.shape} do not fit each other under groups of {size}"
        )
    fields = Fields(
        codes=np.ascontiguousarray(_unpack_eights(qweight).T),
        zero=np.ascontiguousarray(_unpack_eights(qzeros).T.astype(np.int64)),
        scale=np.ascontiguousarray(scales.T),
    )
    return tensor_of(fields, replace(spec, scale_format=scales.dtype.name))


def _pack_eights(codes: Array) -> Array:
    """``[n, out]`` fields as ``[n, out / 8]`` words in AWQ's order."""
    eights = codes.reshape(codes.shape[0], codes.shape[1] // 8, 8)[..., ORDER]
    return pack_words(eights.reshape(codes.shape), 4)


def _unpack_eights(words: Array) -> Array:
    codes = unpack_words(words, 4, words.shape[1] * 8)
    return codes.reshape(words.shape[0], words.shape[1], 8)[..., UNDO].reshape(codes.shape)


def pack_interleaved(codes: Array) -> Array:
    """Write 4-bit codes ``[out, in]`` as llm-awq's int16 ``[out / 4, in]``.

    Raises
    ------
    InputError
        If there are not multiples of 4 rows and of 64 columns, or codes do not fit 4 bits.
    """
    codes = np.asarray(codes)
    if codes.ndim != 2 or codes.shape[0] % 4 or codes.shape[1] % 64 or not codes.size:
        raise InputError(f"llm-awq interleaves multiples of 4 rows and 64 columns; found shape {codes.shape}")
    rows, columns = codes.shape
    # 32 inputs as [4 blocks of 8, 4 pairs, 2]: the pair's number becomes the slower index.
    paired = codes.reshape(rows, columns // 32, 4, 4, 2).transpose(0, 1, 3, 2, 4).reshape(rows, columns // 8, 8)
    ordered = paired.reshape(rows, columns // 8, 4, 2).swapaxes(-1, -2).reshape(rows, columns)
    four = ordered.reshape(rows // 4, 4, columns // 64, 64).transpose(0, 2, 1, 3).reshape(rows // 4, columns, 4)
    packed = pack_stream(four, 4).view("<u2").reshape(rows // 4, columns)
    return packed.astype(np.uint16).view(np.int16)


def unpack_interleaved(words: Array) -> Array:
    """Read codes back; the inverse of :func:`pack_interleaved`."""
    words = np.asarray(words)
    if words.dtype != np.int16 or words.ndim != 2 or words.shape[1] % 64 or not words.size:
        raise InputError(f"llm-awq's words are an int16 matrix with a multiple of 64 columns; found {words.dtype} of shape {words.shape}")
    quarter, columns = words.shape
    rows = quarter * 4
    packed = words.astype("<i2").view(np.uint8).reshape(quarter, columns, 2)
    four = unpack_stream(packed, 4, 4).reshape(quarter, columns // 64, 4, 64).transpose(0, 2, 1, 3).reshape(rows, columns // 8, 2, 4)
    paired = four.swapaxes(-1, -2).reshape(rows, columns // 32, 4, 4, 2)
    return np.ascontiguousarray(paired.transpose(0, 1, 3, 2, 4).reshape(rows, columns))
