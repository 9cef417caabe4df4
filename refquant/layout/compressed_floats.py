"""The floating-point layouts of compressed-tensors: ``float-quantized``, ``nvfp4-pack-quantized`` and ``mxfp4-pack-quantized``.

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
from refquant.layout.bits import pack_nibbles, unpack_nibbles
from refquant.numerics.arrays import Array

FloatLayout = Literal["float-quantized", "nvfp4-pack-quantized", "mxfp4-pack-quantized"]
PARTS: Mapping[str, tuple[str, ...]] = {
    "float-quantized": ("weight_scale", "weight"),
    "nvfp4-pack-quantized": ("weight_packed", "weight_scale", "weight_global_scale"),
    "mxfp4-pack-quantized": ("weight_packed", "weight_scale"),
}
BLOCKS: Mapping[str, int] = {"nvfp4-pack-quantized": 16, "mxfp4-pack-quantized": 32}
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
    wanted = "e4m3fn" if layout == "float-quantized" else "e2m1"
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
    return "scales of scales" if layout == "mxfp4-pack-quantized" and scales.outer is not None else None


def pack(q: QTensor, layout: FloatLayout) -> dict[str, Array]:
    """Write a tensor ``[out, in]``; InputError if :func:`why_not` says something."""
    reason = why_not(q, layout)
    if reason is not None:
        raise InputError(f"the {layout} layout cannot hold {reason}")
    if layout == "float-quantized":
        flat = q.spec.tiling.extents == (None, None)
        return {"weight": q.codes.view(E4M3), "weight_scale": q.scale.reshape(1) if flat else q.scale}
    found = {"weight_packed": pack_nibbles(q.codes, "low")}
    if q.coded is None:
        raise InputError(f"the {layout} layout cannot hold scales that are not coded")
    if layout == "mxfp4-pack-quantized":
        return found | {"weight_scale": q.coded.codes}
    return found | {"weight_scale": q.coded.codes.view(E4M3), "weight_global_scale": np.asarray(q.coded.outer).reshape(1)}


def unpack(parts: Mapping[str, Array], spec: QuantSpec, layout: FloatLayout) -> QTensor:
    """Read a tensor; the inverse of :func:`pack`.

    Parameters
    ----------
    parts : mapping of the layout's arrays
    spec : QuantSpec
        ``spec("nvfp4_compressed_tensors")``, ``spec("mxfp4_even")``, or e4m3fn codes with a tiling, whose scale format is taken from the
        file.

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
    if layout == "float-quantized":
        weight = arrays["weight"]
        if weight.dtype != E4M3 or scale.dtype.name not in SCALES:
            raise InputError(f"weight is {weight.dtype} and weight_scale {scale.dtype}; {E4M3} and a float are needed")
        if np.isnan(weight).any():
            raise InputError(f"weight holds NaN at {tuple(int(i) for i in np.argwhere(np.isnan(weight))[0])}; numbers are needed")
        found = replace(spec, scale_format=scale.dtype.name, tiling=Tiling.tensor() if scale.shape == (1,) else spec.tiling)
        shaped = scale.reshape(1, 1) if scale.shape == (1,) else scale
        return QTensor(codes=weight.view(np.uint8), scale=shaped, zero=None, spec=found, origin=origin)
    packed, kind = arrays["weight_packed"], E4M3 if layout == "nvfp4-pack-quantized" else np.dtype(np.uint8)
    if packed.dtype != np.uint8 or scale.dtype != kind or scale.shape != (packed.shape[0], -(-packed.shape[1] * 2 // BLOCKS[layout])):
        raise InputError(
            f"weight_packed {packed.dtype} {packed.shape}, weight_scale {scale.dtype} {scale.shape} do not fit blocks of {BLOCKS[layout]}"
        )
    found_parts = {"codes": unpack_nibbles(packed, "low"), "scale_codes": np.ascontiguousarray(scale).view(np.uint8)}
    if layout == "nvfp4-pack-quantized":
        outer = arrays["weight_global_scale"]
        if outer.dtype != np.float32 or outer.size != 1:
            raise InputError(f"weight_global_scale is {outer.dtype} of shape {outer.shape}; one float32 is needed")
        if not (np.isfinite(outer).all() and (outer > 0).all()):
            raise InputError(f"weight_global_scale is {float(outer.ravel()[0])}; a positive finite number is needed")
        found_parts["scale_outer"] = outer.reshape(1, 1)
    return QTensor.from_parts(found_parts, spec, origin)


def _require_layout(layout: str) -> None:
    if layout not in PARTS:
        raise UsageError(f"floating-point layouts of compressed-tensors are {', '.join(PARTS)}, not {layout!r}")
