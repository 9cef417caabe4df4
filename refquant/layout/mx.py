"""Tensors of OCP's Microscaling formats and NVFP4, as torchao, nvidia-modelopt and others store them.

================== =================================================================================================================
``weight``         the element codes, uint8. e4m3fn, e5m2 and int8: one a byte, int8 in two's complement. e2m1: two a byte, the even
                   column in the *low* half. e2m3, e3m2: ``sixes`` says whether one lies in the lower bits of each byte (torchao) or
                   four in three bytes, the first in the lowest bits (compressed-tensors)
``weight_scale``   one code a block: e8m0 for MX (32 elements), e4m3fn for NVFP4 (16), as uint8
``weight_scale_2`` NVFP4 with a scale of the tensor: one float32. Of torchao and modelopt what scales are multiplied by; what
                   compressed-tensors calls ``weight_global_scale`` is what they are divided by. The spec says which
================== =================================================================================================================

Scales lie in the order of the blocks, ``[rows, blocks]``; the tiles of 128 by 4 that some GPU kernels want are not made here. Nothing in
such a file says which it is, so reading takes the spec.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np

from refquant.core import Origin, QTensor, QuantSpec
from refquant.errors import InputError, UsageError
from refquant.layout.bits import pack_stream, stream_bytes, unpack_stream
from refquant.numerics.arrays import Array

Sixes = Literal["bytes", "dense"]
ELEMENTS = {"e4m3fn": 8, "e5m2": 8, "int8_q6": 8, "e2m3": 6, "e3m2": 6, "e2m1": 4}


def why_not(q: QTensor) -> str | None:
    """Say what of a tensor is neither MX nor NVFP4, or None.

    Examples
    --------
    >>> from refquant.core import spec
    >>> from refquant.methods.grid.rtn import rtn
    >>> why_not(rtn(np.eye(32), spec("mxfp4"))), why_not(rtn(np.eye(64), spec("nf4")))
    (None, 'codes of nf4; there are e4m3fn, e5m2, int8_q6, e2m3, e3m2, e2m1')
    """
    reason = _why_not_spec(q.spec)
    if reason is None and (not q.shape or q.permutation is not None):
        return f"a tensor of shape {q.shape}{'' if q.permutation is None else ' in activation order'}"
    return reason


def _why_not_spec(spec: QuantSpec) -> str | None:
    if spec.format.name not in ELEMENTS:
        return f"codes of {spec.format.name}; there are {', '.join(ELEMENTS)}"
    scales = spec.scales
    if scales is None or scales.format.name not in ("e8m0", "e4m3fn"):
        return f"scales of {'plain numbers' if scales is None else scales.format.name}; there are e8m0 and e4m3fn"
    block = 32 if scales.format.name == "e8m0" else 16
    extents = spec.tiling.extents
    if extents[-1] != block or any(extent != 1 for extent in extents[:-1]):
        return f"tiles {extents}; scales of {scales.format.name} belong to {block} elements of the last axis"
    if scales.format.name == "e4m3fn" and spec.format.name != "e2m1":
        return f"codes of {spec.format.name} on scales of e4m3fn; NVFP4 has e2m1"
    if scales.outer not in (None, "float32") or scales.tiling is not None or scales.center != "none":
        return "scales of scales other than one float32 for the tensor"
    return None


def pack(q: QTensor, sixes: Sixes = "bytes") -> dict[str, Array]:
    """Write a tensor ``[..., n]``.

    Returns
    -------
    dict of ``weight``, ``weight_scale`` and perhaps ``weight_scale_2``

    Raises
    ------
    UsageError
        If `sixes` is unknown.
    InputError
        If :func:`why_not` says something.

    Examples
    --------
    >>> from refquant.core import spec
    >>> from refquant.methods.grid.rtn import rtn
    >>> parts = pack(rtn(np.array([[1.0, 6.0]]), spec("mxfp4")))
    >>> parts["weight"], parts["weight_scale"]
    (array([[114]], dtype=uint8), array([[127]], dtype=uint8))
    """
    reason = why_not(q)
    if reason is not None or q.coded is None:
        raise InputError(f"the mx layout cannot hold {reason or 'scales that are not coded'}")
    bits = _field(q.spec, sixes)
    codes = np.asarray(q.codes).view(np.uint8)
    parts = {"weight": codes if bits == 8 else pack_stream(codes, bits), "weight_scale": np.asarray(q.coded.codes)}
    return parts if q.coded.outer is None else parts | {"weight_scale_2": np.asarray(q.coded.outer).reshape(1)}


def unpack(parts: Mapping[str, Array], spec: QuantSpec, sixes: Sixes = "bytes", columns: int | None = None) -> QTensor:
    """Read a tensor; the inverse of :func:`pack`.

    Parameters
    ----------
    parts : mapping of the layout's arrays
    spec : QuantSpec
        ``spec("mxfp8_e4m3")``, ``spec("nvfp4_torchao")`` and so on, with as many axes as the tensor.
    sixes : {"bytes", "dense"}
    columns : int, optional
        Where a row does not fill its last byte; by default it does.

    Raises
    ------
    UsageError
        If `sixes` is unknown.
    InputError
        If the arrays do not fit each other or the spec, or padding is not zero.
    """
    reason = _why_not_spec(spec)
    if reason is not None or spec.scales is None:
        raise InputError(f"the mx layout cannot hold {reason}")
    wanted = ("weight", "weight_scale", *(() if spec.scales.outer is None else ("weight_scale_2",)))
    missing = [name for name in wanted if name not in parts]
    if missing:
        raise InputError(f"{missing[0]} is missing; such a tensor has {', '.join(wanted)}")
    arrays = {name: np.asarray(parts[name]) for name in wanted}
    for name in ("weight", "weight_scale"):
        if arrays[name].dtype.itemsize != 1 or not arrays[name].ndim:
            raise InputError(f"{name} is {arrays[name].dtype} of shape {arrays[name].shape}; bytes along at least one axis are needed")
    packed, bits = np.ascontiguousarray(arrays["weight"]).view(np.uint8), _field(spec, sixes)
    count = packed.shape[-1] * 8 // bits if columns is None else columns
    if count < 0 or stream_bytes(count, bits) != packed.shape[-1]:
        raise InputError(f"{count} codes of {bits} bits are {stream_bytes(max(count, 0), bits)} bytes; weight has {packed.shape[-1]}")
    codes = packed if bits == 8 else unpack_stream(packed, bits, count)
    found = {"codes": codes.view(spec.format.dtype), "scale_codes": np.ascontiguousarray(arrays["weight_scale"]).view(np.uint8)}
    if spec.scales.outer is not None:
        outer = arrays["weight_scale_2"]
        if outer.dtype != np.float32 or outer.size != 1:
            raise InputError(f"weight_scale_2 is {outer.dtype} of shape {outer.shape}; one float32 is needed")
        found["scale_outer"] = outer.reshape((1,) * codes.ndim)
    return QTensor.from_parts(found, spec, Origin(method="imported"))


def _field(spec: QuantSpec, sixes: Sixes) -> int:
    """Bits that an element takes."""
    if sixes not in ("bytes", "dense"):
        raise UsageError(f"6-bit codes lie in 'bytes' or 'dense', not {sixes!r}")
    bits = ELEMENTS[spec.format.name]
    return 8 if bits == 6 and sixes == "bytes" else bits
