"""GPTQ's layout, as AutoGPTQ and GPTQModel write it.

========== ============================ =======================================================================================
``qweight``  int32 ``[in * bits / 32, out]``  codes, one stream along *in* for every output (3 bits too: 32 codes in 3 words)
``qzeros``   int32 ``[tiles, out * bits / 32]`` zero points, one stream along *out* for every tile
``scales``   float16 ``[tiles, out]``
``g_idx``    int32 ``[in]``                tile of every input
========== ============================ =======================================================================================

``weight[o, i] = scales[g_idx[i], o] * (code[i, o] - zero[g_idx[i], o])``. Codes of 5, 6 and 7 bits (GPTQModel) are no stream but *planes*:
of every 32 codes first the low four bits, then the next two and the highest one, each plane a stream of its own.

Zero points have two formats under names that files get wrong. ``gptq_v2`` stores the zero point; ``gptq`` (v1) stores it minus one, and
readers add one without masking, so the fields hold 1 to ``2^bits``. What writers do with a zero point of 0 in v1 differs:

=================== ==========================================================================================================
``v1``              refused here: no reader of v1 gets it back
``v1_gptqmodel``    widths that divide 32: one is subtracted from every field of a word at once, so a 0 borrows from its neighbour, and
                    only adding to the whole word restores it; other widths: 0 becomes ``2^bits - 1``
``v1_autogptq``     the bits of -1 are OR-ed in and set every higher field of the word: what was there is lost, it can only be written
=================== ==========================================================================================================

Tiles of the order in which columns were quantized (activation order) are what ``g_idx`` holds; the order *within* a tile is not in the
file. It enters no number, and :func:`canonical` gives the permutation that reading gives.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from refquant.core import QTensor, QuantSpec
from refquant.errors import InputError, UsageError
from refquant.layout.bits import pack_words, unpack_words
from refquant.layout.fields import Fields, column_tiles, fields_of, tensor_of, why_not_fields
from refquant.numerics.arrays import Array

ZeroFormat = Literal["v1", "v2", "v1_gptqmodel", "v1_autogptq"]
ZERO_FORMATS: tuple[ZeroFormat, ...] = ("v1", "v2", "v1_gptqmodel", "v1_autogptq")
WIDTHS = (2, 3, 4, 5, 6, 7, 8)
PLANAR = (5, 6, 7)
SCALES = ("float16", "bfloat16")
PARTS = ("qweight", "qzeros", "scales", "g_idx")


def why_not(q: QTensor, zeros: ZeroFormat = "v1") -> str | None:
    """Say what of a tensor the layout cannot hold, or None if it holds it.

    Examples
    --------
    >>> from refquant.core import spec
    >>> from refquant.methods.grid.rtn import rtn
    >>> why_not(rtn(np.eye(32), spec("int4", scale_format="float32")))
    'scales of float32; it holds float16 or bfloat16'
    """
    _require_zeros(zeros)
    low, high = {"v1": (1, 1)}.get(zeros, (0, 0))
    found = why_not_fields(q, WIDTHS, SCALES, zero_low=low, zero_high=high)
    if found is not None:
        hint = "; v2 holds a zero point of 0" if found.startswith("the zero point 0 ") else ""
        return found + hint
    for name, length in zip(("rows", "columns"), q.shape, strict=True):
        if length % 32 or not length:
            return f"{length} {name}; it holds multiples of 32"
    return None


def pack(q: QTensor, zeros: ZeroFormat = "v1") -> dict[str, Array]:
    """Write a tensor.

    Parameters
    ----------
    q : QTensor
        ``[out, in]``.
    zeros : {"v1", "v2", "v1_gptqmodel", "v1_autogptq"}

    Returns
    -------
    dict of ``qweight``, ``qzeros``, ``scales``, ``g_idx``

    Raises
    ------
    UsageError
        If `zeros` is another word.
    InputError
        If :func:`why_not` says something.
    """
    reason = why_not(q, zeros)
    if reason is not None:
        raise InputError(f"the GPTQ layout cannot hold {reason}")
    bits, fields = q.spec.format.bits, fields_of(q)
    size = column_tiles(q.spec, q.shape)
    tiles = np.arange(q.shape[1]) // (size or 1)
    if q.permutation is not None:
        ordered, tiles = tiles, np.empty_like(tiles)
        tiles[q.permutation] = ordered
    return {
        "qweight": np.ascontiguousarray(pack_columns(fields.codes, bits).T),
        "qzeros": _pack_zeros(fields.zero.T, bits, zeros),
        "scales": np.ascontiguousarray(fields.scale.T),
        "g_idx": tiles.astype(np.int32),
    }


def unpack(parts: Mapping[str, Array], spec: QuantSpec, zeros: ZeroFormat = "v1") -> QTensor:
    """Read a tensor; the inverse of :func:`pack`, up to the order of columns within a tile.

    Parameters
    ----------
    parts : mapping of ``qweight``, ``qzeros``, ``scales``, and optionally ``g_idx``
    spec : QuantSpec
        Bits, group size, and whether codes were meant as signed; its scale format is taken from the file.
    zeros : {"v1", "v2", "v1_gptqmodel"}

    Returns
    -------
    QTensor ``[out, in]``

    Raises
    ------
    UsageError
        If `zeros` is another word.
    InputError
        If the arrays do not fit each other or the spec.
    """
    _require_zeros(zeros)
    if zeros == "v1_autogptq":
        raise UsageError("zeros of 'v1_autogptq' cannot be read: writing them destroys neighbours; such files are read as 'v1'")
    bits = spec.format.bits
    qweight, qzeros, scales = (_matrix(parts, name) for name in PARTS[:3])
    if bits not in WIDTHS or spec.tiling.extents[0] != 1 or len(spec.tiling.extents) != 2:
        raise InputError(f"the GPTQ layout holds {WIDTHS} bits in groups of a row; the spec says {bits} bits, tiles {spec.tiling.extents}")
    if qweight.dtype != np.int32 or qzeros.dtype != np.int32 or scales.dtype.name not in (*SCALES, "float32"):
        raise InputError(f"qweight and qzeros are int32 and scales floating; found {qweight.dtype}, {qzeros.dtype}, {scales.dtype}")
    columns, rows = qweight.shape[0] * 32 // bits, qweight.shape[1]
    size = spec.tiling.extents[1] or columns
    tiles = -(-columns // max(size, 1))
    if qweight.shape[0] * 32 != columns * bits or scales.shape != (tiles, rows) or qzeros.shape != (tiles, -(-rows * bits // 32)):
        raise InputError(
            f"qweight {qweight.shape}, qzeros {qzeros.shape} and scales {scales.shape} do not fit {bits} bits in groups of {size}"
        )
    fields = Fields(
        codes=unpack_columns(np.ascontiguousarray(qweight.T), bits, columns),
        zero=np.ascontiguousarray(_unpack_zeros(qzeros, bits, rows, zeros).T),
        scale=np.ascontiguousarray(scales.T),
    )
    permutation = group_permutation(parts["g_idx"], columns, size) if "g_idx" in parts else None
    return tensor_of(fields, replace(spec, scale_format=scales.dtype.name), permutation=permutation)


def canonical(q: QTensor) -> QTensor:
    """The same numbers with the columns of every tile in ascending order, and without a permutation that permutes nothing."""
    if q.permutation is None:
        return q
    size = column_tiles(q.spec, q.shape)
    if size is None:
        return q
    order = q.permutation.copy()
    for start in range(0, len(order), size):
        order[start : start + size] = np.sort(order[start : start + size])
    return replace(q, permutation=None if np.array_equal(order, np.arange(len(order))) else order)


def pack_columns(codes: Array, bits: int) -> Array:
    """Codes ``[..., n]`` as int32 words along the last axis: a stream, or planes for 5, 6 and 7 bits."""
    if bits not in PLANAR:
        return pack_words(codes, bits)
    chunks = codes.reshape(*codes.shape[:-1], codes.shape[-1] // 32, 32)
    words = np.concatenate([pack_words((chunks >> at) & ((1 << width) - 1), width) for at, width in _planes(bits)], axis=-1)
    return words.reshape(*codes.shape[:-1], codes.shape[-1] // 32 * bits)


def unpack_columns(words: Array, bits: int, count: int) -> Array:
    """Read codes ``[..., count]`` back; the inverse of :func:`pack_columns`."""
    if bits not in PLANAR:
        return unpack_words(words, bits, count)
    chunks = words.reshape(*words.shape[:-1], count // 32, bits)
    codes = np.zeros((*chunks.shape[:-1], 32), dtype=np.uint8)
    begin = 0
    for at, width in _planes(bits):
        codes |= unpack_words(np.ascontiguousarray(chunks[..., begin : begin + width]), width, 32) << np.uint8(at)
        begin += width
    return codes.reshape(*words.shape[:-1], count)


def _planes(bits: int) -> list[tuple[int, int]]:
    """First bit and width of each plane, low bits first."""
    planes, at = [], 0
    for width in (4, 2, 1):
        if bits & width:
            planes.append((at, width))
            at += width
    return planes


def _ones(bits: int) -> np.uint32:
    """A word with 1 in every field."""
    return np.uint32(((1 << 32) - 1) // ((1 << bits) - 1))


def _pack_zeros(zero: Array, bits: int, zeros: ZeroFormat) -> Array:
    levels = 1 << bits
    if zeros == "v1":
        return pack_columns(zero - 1, bits)
    if zeros == "v2":
        return pack_columns(zero, bits)
    if zeros == "v1_autogptq":
        # Every field is OR-ed into the word as a 32-bit number, and -1 has all bits set.
        if 32 % bits:
            raise UsageError(f"AutoGPTQ's way with zero points of 0 is written for 2, 4 and 8 bits, not {bits}")
        words = np.zeros((zero.shape[0], zero.shape[1] * bits // 32), dtype=np.uint32)
        run = 32 // bits
        for place in range(run):
            words |= (zero[:, place::run] - 1).astype(np.int32).view(np.uint32) << np.uint32(place * bits)
        return words.view(np.int32)
    if 32 % bits:
        return pack_columns((zero - 1) % levels, bits)
    return (pack_columns(zero, bits).view(np.uint32) - _ones(bits)).view(np.int32)


def _unpack_zeros(qzeros: Array, bits: int, rows: int, zeros: ZeroFormat) -> Array:
    if zeros == "v1_gptqmodel" and 32 % bits == 0:
        qzeros = (np.ascontiguousarray(qzeros).view(np.uint32) + _ones(bits)).view(np.int32)
        return unpack_columns(qzeros, bits, rows).astype(np.int64)
    stored = unpack_columns(qzeros, bits, rows).astype(np.int64)
    if zeros == "v1_gptqmodel":
        return (stored + 1) % (1 << bits)
    return stored + 1 if zeros == "v1" else stored


def group_permutation(g_idx: Array, columns: int, size: int) -> Array | None:
    """The columns tile by tile, or None where tiles are runs of the columns as they stand."""
    g_idx = np.asarray(g_idx)
    if g_idx.shape != (columns,) or g_idx.dtype.kind not in "iu":
        raise InputError(f"g_idx is {g_idx.dtype} of shape {g_idx.shape}; integers of shape ({columns},) are needed")
    order = np.argsort(g_idx, kind="stable")
    expected = np.arange(columns) // size
    if not np.array_equal(g_idx[order], expected):
        wrong = int(np.argmax(g_idx[order] != expected))
        found = f"in sorted order entry {wrong} is {int(g_idx[order][wrong])}, not {expected[wrong]}"
        raise InputError(f"g_idx does not give every group {size} columns: {found}")
    return None if np.array_equal(order, np.arange(columns)) else order


def _matrix(parts: Mapping[str, Array], name: str) -> Array:
    if name not in parts:
        raise InputError(f"{name} is missing; a GPTQ linear has {', '.join(PARTS)}")
    array = np.asarray(parts[name])
    if array.ndim != 2:
        raise InputError(f"{name} has shape {array.shape}; a matrix is needed")
    return array


def _require_zeros(zeros: Any) -> None:
    if zeros not in ZERO_FORMATS:
        raise UsageError(f"zeros of a GPTQ file are {', '.join(ZERO_FORMATS)}, not {zeros!r}")
