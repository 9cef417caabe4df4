"""The floating-point layouts of compressed-tensors: ``float-quantized``, ``nvfp4-pack-quantized``, and MX with 4, 6 and 8 bits.

============================ ====================================================================================================
``float-quantized``
``weight``                    float8 e4m3fn ``[out, in]``
``weight_scale``              float ``[out, tiles]``; ``[1]`` for one scale a tensor
``nvfp4-pack-quantized``
``weight_packed``             uint8 ``[out, in / 2]``: two e2m1 codes a byte, the even column in the *low* half
``weight_scale``              float8 e4m3fn ``[out, in / 16]``
``weight_global_scale``       float32 ``[1]``, which scales are *divided* by; other programs store the factor
``mxfp4-pack-quantized``
``weight_packed``             as above
``weight_scale``              uint8 ``[out, in / 32]``: powers of two, e8m0
``mxfp6-pack-quantized``
``weight_packed``             uint8 ``[out, in 3 / 4]``: four e2m3 codes in three bytes, the first in the lowest bits
``weight_scale``              as above
``mxfp8-quantized``
``weight``                    float8 e4m3fn ``[out, in]``
``weight_scale``              as above
============================ ====================================================================================================
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import ml_dtypes
import numpy as np

from refquant.core import Origin, QTensor, QuantSpec, Tiling
from refquant.errors import InputError, UsageError
from refquant.layout.bits import pack_stream, unpack_stream
from refquant.numerics.arrays import Array

FloatLayout = Literal["float-quantized", "nvfp4-pack-quantized", "mxfp4-pack-quantized", "mxfp6-pack-quantized", "mxfp8-quantized"]
PARTS: Mapping[str, tuple[str, ...]] = {
    "float-quantized": ("weight_scale", "weight"),
    "nvfp4-pack-quantized": ("weight_packed", "weight_scale", "weight_global_scale"),
    "mxfp4-pack-quantized": ("weight_packed", "weight_scale"),
    "mxfp6-pack-quantized": ("weight_packed", "weight_scale"),
    "mxfp8-quantized": ("weight_scale", "weight"),
}
ELEMENTS: Mapping[str, str] = {
    "float-quantized": "e4m3fn",
    "nvfp4-pack-quantized": "e2m1",
    "mxfp4-pack-quantized": "e2m1",
    "mxfp6-pack-quantized": "e2m3",
    "mxfp8-quantized": "e4m3fn",
}
BLOCKS: Mapping[str, int] = {"nvfp4-pack-quantized": 16, "mxfp4-pack-quantized": 32, "mxfp6-pack-quantized": 32, "mxfp8-quantized": 32}
SCALES = ("float16", "bfloat16", "float32")
E4M3 = np.dtype(ml_dtypes.float8_e4m3fn)


def why_not(q: QTensor, layout: FloatLayout) -> str | None:
    """Say what of a tensor the layout cannot hold, or None if it holds it.

    Examples
    --------
    >>> from refquant.core import spec
    >>> from refquant.methods.grid.rtn import rtn
    >>> why_not(rtn(np.eye(16), spec("nvfp4")), "nvfp4-pack-quantized")
    'a tensor scale that multiplies; it holds one that is divided by'
    """
    _require_layout(layout)
    wanted = ELEMENTS[layout]
    if q.spec.format.name != wanted:
        return f"codes of {q.spec.format.name}; it holds {wanted}"
    if len(q.shape) != 2 or not q.codes.size:
        return f"a tensor of shape {q.shape}; it holds matrices that are not empty"
    if q.permutation is not None or q.zero is not None:
        return "zero points or columns in activation order"
    if layout == "float-quantized":
        if q.spec.scales is not None or q.scale.dtype.name not in SCALES:
            return f"scales of {q.scale.dtype if q.spec.scales is None else q.spec.scales.format.name}; it holds {', '.join(SCALES)}"
        whole = q.spec.tiling.extents in ((None, None), (1, None))
        return None if whole else f"tiles {q.spec.tiling.extents}; it holds a scale for each row or one for all"
    block = BLOCKS[layout]
    if q.spec.tiling.extents != (1, block) or q.shape[1] % block:
        return f"{q.shape[1]} columns in tiles {q.spec.tiling.extents}; it holds whole blocks of {block}"
    scales = q.spec.scales
    wanted = "e4m3fn" if layout == "nvfp4-pack-quantized" else "e8m0"
    if scales is None or scales.format.name != wanted:
        return f"scales of {q.scale.dtype if scales is None else scales.format.name}; it holds {wanted}"
    if layout == "nvfp4-pack-quantized" and (scales.outer != "float32" or scales.tiling is not None or scales.center != "none"):
        return "scales of scales other than one float32 for the tensor"
    if layout == "nvfp4-pack-quantized" and scales.outer_kind != "divisor":
        return "a tensor scale that multiplies; it holds one that is divided by"
    return "scales of scales" if layout != "nvfp4-pack-quantized" and scales.outer is not None else None


def pack(q: QTensor, layout: FloatLayout) -> dict[str, Array]:
    """Write a tensor ``[out, in]``; InputError if :func:`why_not` says something."""
    reason = why_not(q, layout)
    if reason is not None:
        raise InputError(f"the {layout} layout cannot hold {reason}")
    if layout == "float-quantized":
        flat = q.spec.tiling.extents == (None, None)
        return {"weight": q.codes.view(E4M3), "weight_scale": q.scale.reshape(1) if flat else q.scale}
    if q.coded is None:
        raise InputError(f"the {layout} layout cannot hold scales that are not coded")
    bits = q.spec.format.bits
    found: dict[str, Array] = {"weight": q.codes.view(E4M3)} if bits == 8 else {"weight_packed": pack_stream(q.codes, bits)}
    if layout != "nvfp4-pack-quantized":
        return found | {"weight_scale": q.coded.codes}
    return found | {"weight_scale": q.coded.codes.view(E4M3), "weight_global_scale": np.asarray(q.coded.outer).reshape(1)}


def unpack(parts: Mapping[str, Array], spec: QuantSpec, layout: FloatLayout) -> QTensor:
    """Read a tensor; the inverse of :func:`pack`.

    Parameters
    ----------
    parts : mapping of the layout's arrays
    spec : QuantSpec
        ``spec("nvfp4_compressed_tensors")``, ``spec("mxfp4_even")``, ``spec("mxfp6_e2m3_even")``, ``spec("mxfp8_e4m3_rceil")``, or e4m3fn
        codes with a tiling, whose scale format is taken from the file.

    Raises
    ------
    InputError
        If the arrays do not fit each other or the spec.
    """
    _require_layout(layout)
    missing = [name for name in PARTS[layout] if name not in parts]
    if missing:
        raise InputError(f"{missing[0]} is missing; a {layout} linear has {', '.join(PARTS[layout])}")
    arrays = {name: np.asarray(parts[name]) for name in PARTS[layout]}
    for name, array in arrays.items():
        if name != "weight_global_scale" and array.ndim != 2 and not (name == "weight_scale" and array.shape == (1,)):
            raise InputError(f"{name} has shape {array.shape}; a matrix is needed")
    scale, origin = arrays["weight_scale"], Origin(method="imported")
    if "weight" in arrays:
        weight = arrays["weight"]
        if weight.dtype != E4M3:
            raise InputError(f"weight is {weight.dtype}; {E4M3} is needed")
        if np.isnan(weight).any():
            raise InputError(f"weight holds NaN at {tuple(int(i) for i in np.argwhere(np.isnan(weight))[0])}; numbers are needed")
    if layout == "float-quantized":
        if scale.dtype.name not in SCALES:
            raise InputError(f"weight_scale is {scale.dtype}; {', '.join(SCALES)} are read")
        found = replace(spec, scale_format=scale.dtype.name, tiling=Tiling.tensor() if scale.shape == (1,) else spec.tiling)
        shaped = scale.reshape(1, 1) if scale.shape == (1,) else scale
        return QTensor(codes=weight.view(np.uint8), scale=shaped, zero=None, spec=found, origin=origin)
    codes = arrays["weight"].view(np.uint8) if "weight" in arrays else _unpacked(arrays["weight_packed"], spec.format.bits)
    kind = E4M3 if layout == "nvfp4-pack-quantized" else np.dtype(np.uint8)
    if scale.dtype != kind or scale.shape != (codes.shape[0], -(-codes.shape[1] // BLOCKS[layout])):
        raise InputError(
            f"codes of shape {codes.shape} and weight_scale {scale.dtype} {scale.shape} do not fit blocks of {BLOCKS[layout]}; "
            f"{kind} is needed"
        )
    found_parts = {"codes": codes, "scale_codes": np.ascontiguousarray(scale).view(np.uint8)}
    if layout == "nvfp4-pack-quantized":
        outer = arrays["weight_global_scale"]
        if outer.dtype != np.float32 or outer.size != 1:
            raise InputError(f"weight_global_scale is {outer.dtype} of shape {outer.shape}; one float32 is needed")
        if not (np.isfinite(outer).all() and (outer > 0).all()):
            raise InputError(f"weight_global_scale is {float(outer.ravel()[0])}; a positive finite number is needed")
        found_parts["scale_outer"] = outer.reshape(1, 1)
    return QTensor.from_parts(found_parts, spec, origin)


def _unpacked(packed: Array, bits: int) -> Array:
    """Codes of rows that fill their bytes."""
    if packed.dtype != np.uint8 or packed.shape[1] * 8 % bits:
        raise InputError(
            f"weight_packed is {packed.dtype} of shape {packed.shape}; rows of uint8 that hold whole codes of {bits} bits are read"
        )
    return unpack_stream(packed, bits, packed.shape[1] * 8 // bits)


def _require_layout(layout: str) -> None:
    if layout not in PARTS:
        raise UsageError(f"floating-point layouts of compressed-tensors are {', '.join(PARTS)}, not {layout!r}")
