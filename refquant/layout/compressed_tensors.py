"""The integer layouts of compressed-tensors: ``pack-quantized`` and ``int-quantized``.

============================ ====================================================================================================
``pack-quantized``
``weight_packed``             int32 ``[out, ceil(in * bits / 32)]``: ``code + 2^(bits-1)`` of signed codes as one stream along *in*
``weight_scale``              float ``[out, tiles]``
``weight_zero_point``         int32 ``[ceil(out * bits / 32), tiles]``: ``zero + 2^(bits-1)``, a stream along *out*; asymmetric only
``weight_shape``              int64 ``[2]``
``weight_g_idx``              int32 ``[in]``, in files of older releases: tile of every input
``int-quantized``
``weight``                    int8 ``[out, in]``, the signed codes
``weight_scale``              float ``[out, tiles]``; ``[1]`` for one scale a tensor
``weight_zero_point``         int8 like the scale; asymmetric only
============================ ====================================================================================================

``weight = (code - zero) * scale``, computed by compressed-tensors in the dtype of the scale: with float16 scales its product is rounded
to float16 where ours is rounded to float32.

Unsigned codes are the same numbers less ``2^(bits-1)``, zero points too, so every integer scheme fits. Release 0.20 no longer looks at
``weight_g_idx`` and would scale columns by the wrong groups; such tensors are therefore read and not written.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import numpy as np

from refquant.core import QTensor, QuantSpec
from refquant.errors import InputError, UsageError
from refquant.layout.bits import pack_words, unpack_words
from refquant.layout.fields import Fields, column_tiles, fields_of, tensor_of, why_not_fields
from refquant.layout.gptq import group_permutation
from refquant.numerics.arrays import Array

IntegerLayout = Literal["pack-quantized", "int-quantized"]
PARTS: Mapping[str, tuple[str, ...]] = {
    "pack-quantized": ("weight_packed", "weight_scale", "weight_shape"),
    "int-quantized": ("weight_scale", "weight"),
}
OPTIONAL: Mapping[str, tuple[str, ...]] = {
    "pack-quantized": ("weight_zero_point", "weight_g_idx"),
    "int-quantized": ("weight_zero_point",),
}
SCALES = ("float16", "bfloat16", "float32")


def why_not(q: QTensor, layout: IntegerLayout = "pack-quantized") -> str | None:
    """Say what of a tensor the layout cannot hold, or None if it holds it.

    Examples
    --------
    >>> from refquant.core import spec
    >>> from refquant.methods.grid.rtn import rtn
    >>> why_not(rtn(np.eye(32), spec("int4", group_size=24, scale_format="float16")))
    '32 columns in groups of 24; it holds whole groups'
    """
    _require_layout(layout)
    rows = _per_row(q)
    if layout == "int-quantized" and rows is not None and is_per_tensor(q.spec):
        q = rows
    found = why_not_fields(q, tuple(range(1, 9)), SCALES)
    if found is not None:
        return found
    if q.permutation is not None:
        return "groups of columns in activation order; compressed-tensors 0.20 no longer reads weight_g_idx"
    size = column_tiles(q.spec, q.shape)
    if size is not None and size and q.shape[1] % size:
        return f"{q.shape[1]} columns in groups of {size}; it holds whole groups"
    if not q.codes.size:
        return f"a tensor of shape {q.shape}; it holds matrices that are not empty"
    return None


def pack(q: QTensor, layout: IntegerLayout = "pack-quantized") -> dict[str, Array]:
    """Write a tensor ``[out, in]``.

    Returns
    -------
    dict of the layout's arrays

    Raises
    ------
    InputError
        If :func:`why_not` says something.
    """
    reason = why_not(q, layout)
    if reason is not None:
        raise InputError(f"the {layout} layout cannot hold {reason}")
    bits = q.spec.format.bits
    fields = fields_of(q)
    if layout == "int-quantized":
        half = 1 << (bits - 1)
        found = {"weight": (fields.codes.astype(np.int16) - half).astype(np.int8), "weight_scale": _flat_scale(fields.scale, q.spec)}
        if not is_symmetric(q.spec):
            found["weight_zero_point"] = _flat_scale((fields.zero - half).astype(np.int8), q.spec)
        return found
    found = {
        "weight_packed": pack_words(fields.codes, bits),
        "weight_scale": fields.scale,
        "weight_shape": np.array(q.shape, dtype=np.int64),
    }
    if not is_symmetric(q.spec):
        found["weight_zero_point"] = np.ascontiguousarray(pack_words(fields.zero.T, bits).T)
    return found


def unpack(parts: Mapping[str, Array], spec: QuantSpec, layout: IntegerLayout = "pack-quantized") -> QTensor:
    """Read a tensor; the inverse of :func:`pack`.

    Parameters
    ----------
    parts : mapping of the layout's arrays
    spec : QuantSpec
        Bits, tiling, and the scheme; its scale format is taken from the file.

    Raises
    ------
    InputError
        If the arrays do not fit each other or the spec.
    """
    _require_layout(layout)
    wanted = (*PARTS[layout], *(() if is_symmetric(spec) else ("weight_zero_point",)))
    missing = [name for name in wanted if name not in parts]
    if missing:
        raise InputError(f"{missing[0]} is missing; a {layout} linear has {', '.join(wanted)}")
    arrays = {name: np.asarray(array) for name, array in parts.items()}
    if arrays["weight_scale"].dtype.name not in SCALES:
        raise InputError(f"weight_scale is {arrays['weight_scale'].dtype}; {', '.join(SCALES)} are allowed")
    bits = spec.format.bits
    if not 1 <= bits <= 8:
        raise InputError(f"{layout} holds 1 to 8 bits; the spec says {bits}")
    codes = _packed_codes(arrays, bits) if layout == "pack-quantized" else _plain_codes(arrays["weight"], bits)
    grid = spec.tiling.grid_shape(codes.shape)
    scale = arrays["weight_scale"]
    if scale.shape != grid and not (grid == (1, 1) and scale.shape in ((1,), ())):
        raise InputError(f"weight_scale has shape {scale.shape}; codes {codes.shape} in tiles {spec.tiling.extents} need {grid}")
    zero = np.full(grid, 1 << (bits - 1), dtype=np.int64) if is_symmetric(spec) else _zeros(arrays["weight_zero_point"], bits, grid, layout)
    permutation = None
    if "weight_g_idx" in arrays and layout == "pack-quantized":
        permutation = group_permutation(arrays["weight_g_idx"], codes.shape[1], column_tiles(spec, codes.shape) or 1)
    fields = Fields(codes=codes, zero=zero, scale=np.ascontiguousarray(scale.reshape(grid)))
    return tensor_of(fields, replace(spec, scale_format=scale.dtype.name), permutation=permutation)


def is_symmetric(spec: QuantSpec) -> bool:
    """Whether zero points are constant, so that the file has none."""
    return spec.scheme.zero in ("none", "midpoint")


def is_per_tensor(spec: QuantSpec) -> bool:
    """Whether one scale is for the whole tensor."""
    return spec.tiling.extents == (None, None)


def _per_row(q: QTensor) -> QTensor | None:
    """A per-tensor grid repeated for every row, so that the checks of rows apply to it."""
    if not is_per_tensor(q.spec) or q.codes.ndim != 2 or not q.codes.size:
        return None
    tiling = replace(q.spec.tiling, extents=(1, None))
    scale, zero = (None if a is None else np.repeat(a, q.shape[0], axis=0) for a in (q.scale, q.zero))
    return replace(q, spec=q.spec.with_tiling(tiling), scale=np.asarray(scale), zero=zero)


def _flat_scale(grid: Array, spec: QuantSpec) -> Array:
    return grid.reshape(1) if is_per_tensor(spec) else grid


def _packed_codes(arrays: Mapping[str, Array], bits: int) -> Array:
    packed, shape = arrays["weight_packed"], arrays["weight_shape"]
    if shape.shape != (2,) or shape.dtype.kind not in "iu":
        raise InputError(f"weight_shape is {shape.dtype} of shape {shape.shape}; two integers are needed")
    rows, columns = (int(n) for n in shape)
    # Compared before anything of that size is made: the numbers come from a file.
    if packed.dtype != np.int32 or packed.shape != (rows, -(-columns * bits // 32)):
        raise InputError(f"weight_packed is {packed.dtype} of shape {packed.shape}; {bits} bits of {rows} x {columns} do not fit it")
    return unpack_words(packed, bits, columns)


def _plain_codes(weight: Array, bits: int) -> Array:
    half = 1 << (bits - 1)
    if weight.dtype != np.int8 or weight.ndim != 2:
        raise InputError(f"weight is {weight.dtype} of shape {weight.shape}; an int8 matrix is needed")
    if weight.size and not (-half <= int(weight.min()) and int(weight.max()) < half):
        raise InputError(f"codes of {bits} bits lie in {-half}..{half - 1}; found {int(weight.min())}..{int(weight.max())}")
    return (weight.astype(np.int16) + half).astype(np.uint8)


def _zeros(stored: Array, bits: int, grid: tuple[int, ...], layout: IntegerLayout) -> Array:
    if layout == "int-quantized":
        if stored.size != grid[0] * grid[1] or stored.dtype.kind not in "iu":
            raise InputError(f"weight_zero_point is {stored.dtype} of shape {stored.shape}; integers of shape {grid} are needed")
        return stored.reshape(grid).astype(np.int64) + (1 << (bits - 1))
    if stored.dtype != np.int32 or stored.shape != (-(-grid[0] * bits // 32), grid[1]):
        raise InputError(
            f"weight_zero_point is {stored.dtype} of shape {stored.shape}; {bits} bits for scales of shape {grid} do not fit it"
        )
    return np.ascontiguousarray(unpack_words(np.ascontiguousarray(stored.T), bits, grid[0]).T).astype(np.int64)


def _require_layout(layout: str) -> None:
    if layout not in PARTS:
        raise UsageError(f"integer layouts of compressed-tensors are {', '.join(PARTS)}, not {layout!r}")
