"""bitsandbytes' 4-bit layout: NF4 and FP4 with their quant state, nested or not, as transformers stores them.

================================================ =================================================================================
``weight``                                        uint8 ``[ceil(n / 2), 1]``: two codes a byte, the even element in the *high* half
``weight.absmax``                                 float32 ``[blocks]``, or uint8 codes of the dynamic map if nested
``weight.quant_map``                              float32 ``[16]``, the table of the codes
``weight.nested_absmax``                          float32 ``[ceil(blocks / 256)]``; nested only, as the next
``weight.nested_quant_map``                       float32 ``[256]``
``weight.quant_state.bitsandbytes__nf4``          uint8, JSON: type, block size, dtype, shape; nested: block size, dtype, offset
================================================ =================================================================================

Blocks run over the flattened tensor, so a matrix fits ours where its columns are whole blocks. A block of zeros has an absmax of 0 in the
file; scales here are positive, and such a block has the scale 1, which is what is read for it. With an odd number of elements half a byte
is left over and holds the code of 0.

float64 scales that are float32 numbers are written, and come back as float32.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np

from refquant.core import Origin, QTensor, QuantSpec, Tiling, spec
from refquant.core.scales import CodedScales
from refquant.errors import InputError
from refquant.formats import encode, find_format, table_of
from refquant.layout.bits import pack_nibbles, unpack_nibbles
from refquant.numerics.arrays import Array
from refquant.storage.border import quoted
from refquant.storage.json_text import parse_object

KINDS = ("nf4", "fp4")
NESTED_BLOCK = 256
STATE = "weight.quant_state.bitsandbytes__"
PARTS = (
    "weight.absmax",
    "weight",
    "weight.quant_map",
    "weight.nested_absmax",
    "weight.nested_quant_map",
    *(STATE + kind for kind in KINDS),
)
DTYPES = ("float32", "float16", "bfloat16")


def block_spec(kind: str, block: int, nested: bool, ndim: int = 2) -> QuantSpec:
    """The spec of a tensor in this layout.

    Examples
    --------
    >>> block_spec("nf4", 64, nested=False) == spec("nf4")
    True
    """
    found = spec(f"{kind}_double") if nested else spec(kind)
    return found.with_tiling(Tiling((1,) * (ndim - 1) + (block,)))


def why_not(q: QTensor) -> str | None:
    """Say what of a tensor the layout cannot hold, or None if it holds it.

    Examples
    --------
    >>> from refquant.methods.grid.rtn import rtn
    >>> why_not(rtn(np.eye(64), spec("int4", scale_format="float32")))
    'codes of uint4; it holds nf4 and fp4'
    """
    kind = q.spec.format.name
    if kind not in KINDS:
        return f"codes of {kind}; it holds nf4 and fp4"
    block = q.spec.tiling.extents[-1] if q.spec.tiling.extents else None
    if block is None or any(extent != 1 for extent in q.spec.tiling.extents[:-1]):
        return f"tiles {q.spec.tiling.extents}; it holds runs of a row"
    if q.zero is not None or q.permutation is not None:
        return "zero points or columns in activation order"
    if not q.codes.size:
        return f"a tensor of shape {q.shape}; it holds tensors that are not empty"
    if prod(q.shape[:-1]) > 1 and q.shape[-1] % block:
        return f"{q.shape[-1]} columns in blocks of {block}; its blocks run on from row to row, so it holds whole ones"
    nested = block_spec(kind, block, nested=True).scales
    if q.spec.scales is not None and q.spec.scales != nested:
        return f"scales coded in {q.spec.scales.format.name} as this spec does; it holds dynamic8 in runs of 256 with an offset"
    if q.scale.dtype not in (np.float32, np.float64) or not np.array_equal(_as_float32(q.scale), q.scale):
        return f"scales of {q.scale.dtype}; it holds float32"
    return None


def pack(q: QTensor, dtype: str = "float32") -> dict[str, Array]:
    """Write a tensor.

    Parameters
    ----------
    q : QTensor
    dtype : {"float32", "float16", "bfloat16"}
        What readers are told to dequantize to.

    Returns
    -------
    dict of arrays by the names above

    Raises
    ------
    InputError
        If :func:`why_not` says something.
    """
    reason = why_not(q)
    if reason is not None:
        raise InputError(f"the bitsandbytes layout cannot hold {reason}")
    kind, block = q.spec.format.name, q.spec.tiling.extents[-1]
    flat = np.append(q.codes.ravel(), _zero_code(kind)) if q.codes.size % 2 else q.codes.ravel()
    state: dict[str, Any] = {"quant_type": kind, "blocksize": block, "dtype": dtype, "shape": list(q.shape)}
    found = {"weight": pack_nibbles(flat, "high")[:, None], "weight.quant_map": _map(kind)}
    if q.coded is not None and q.coded.outer is not None and q.coded.offset is not None:
        state |= {"nested_blocksize": NESTED_BLOCK, "nested_dtype": "float32", "nested_offset": float(q.coded.offset)}
        found["weight.absmax"] = q.coded.codes.ravel()
        found["weight.nested_absmax"] = q.coded.outer.ravel()
        found["weight.nested_quant_map"] = _map("dynamic8")
    else:
        found["weight.absmax"] = np.where(_empty_blocks(q.codes, q.spec) & (q.scale == 1), np.float32(0), _as_float32(q.scale)).ravel()
    found[STATE + kind] = np.frombuffer(json.dumps(state).encode(), dtype=np.uint8)
    return found


def unpack(parts: Mapping[str, Array]) -> QTensor:
    """Read a tensor; the inverse of :func:`pack`. What there is to know stands in the quant state.

    Raises
    ------
    InputError
        If a part is missing, damaged, or does not fit the others.
    """
    kind, state = _state(parts)
    shape, block = _shape(state), _integer(state, "blocksize")
    count, nested = prod(shape), "weight.nested_absmax" in parts
    if not 1 <= block <= 1 << 20 or (prod(shape[:-1]) > 1 and shape[-1] % block):
        raise InputError(f"blocks of {block} run on from row to row of a tensor of shape {shape}; whole ones are read")
    packed, absmax = np.asarray(parts["weight"]), np.asarray(parts["weight.absmax"])
    if packed.dtype != np.uint8 or packed.size != -(-count // 2) or absmax.shape != (-(-count // block),):
        raise InputError(
            f"weight {packed.dtype} {packed.shape} and absmax {absmax.shape} do not fit {count} elements of 4 bits in blocks of {block}"
        )
    _require_map(parts, "weight.quant_map", kind)
    flat = unpack_nibbles(packed.reshape(-1), "high")
    if (flat[count:] != _zero_code(kind)).any():
        raise InputError("the half byte behind the last element is to be the code of 0")
    found = block_spec(kind, block, nested, len(shape))
    codes = flat[:count].reshape(shape).astype(found.format.dtype)
    grid = found.tiling.grid_shape(shape)
    origin = Origin(method="imported")
    if nested:
        coded = _coded(parts, state, absmax.reshape(grid))
        if found.scales is None:
            raise InputError("the layout has no nested scales")
        return QTensor(codes=codes, scale=coded.decoded(found.scales), zero=None, spec=found, origin=origin, coded=coded)
    if absmax.dtype != np.float32:
        raise InputError(f"absmax is {absmax.dtype}; float32 is needed where it is not nested")
    scale = absmax.reshape(grid)
    empty = scale == 0
    if (empty & ~_empty_blocks(codes, found)).any():
        raise InputError("absmax is 0 for a block whose codes are not all that of 0")
    return QTensor(codes=codes, scale=np.where(empty, np.float32(1), scale), zero=None, spec=found, origin=origin)


def _coded(parts: Mapping[str, Array], state: Mapping[str, Any], absmax: Array) -> CodedScales:
    _require_map(parts, "weight.nested_quant_map", "dynamic8")
    outer, offset = np.asarray(parts["weight.nested_absmax"]), state.get("nested_offset")
    if _integer(state, "nested_blocksize") != NESTED_BLOCK:
        raise InputError(f"nested_blocksize is {state['nested_blocksize']}; {NESTED_BLOCK} is read")
    if absmax.dtype != np.uint8 or outer.dtype != np.float32 or outer.shape != (-(-absmax.size // NESTED_BLOCK),):
        raise InputError(f"nested absmax {absmax.dtype} {absmax.shape} and nested_absmax {outer.dtype} {outer.shape} do not fit each other")
    if type(offset) is not float and type(offset) is not int:
        raise InputError(f"nested_offset is {quoted(offset)}; a number is needed")
    if not np.isfinite(outer).all() or abs(offset) > float(np.finfo(np.float32).max):
        raise InputError("nested_absmax and nested_offset are finite float32 numbers")
    return CodedScales(codes=absmax, outer=outer, offset=np.array(offset, dtype=np.float32))


def _state(parts: Mapping[str, Array]) -> tuple[str, Mapping[str, Any]]:
    kinds = [kind for kind in KINDS if STATE + kind in parts]
    missing = [name for name in ("weight", "weight.absmax", "weight.quant_map") if name not in parts]
    if missing or len(kinds) != 1:
        raise InputError(f"{missing[0] if missing else STATE + 'nf4 or ...fp4'} is missing; a 4-bit linear has it")
    raw = np.asarray(parts[STATE + kinds[0]])
    if raw.dtype != np.uint8 or raw.ndim != 1 or raw.size > 4096:
        raise InputError(f"quant state is {raw.dtype} of shape {raw.shape}; at most 4096 bytes of JSON are read")
    state = parse_object(raw.tobytes(), "quant state")
    if state.get("quant_type") != kinds[0] or state.get("dtype") not in DTYPES:
        raise InputError(
            f"quant state says {quoted(state.get('quant_type'))} and {quoted(state.get('dtype'))}; {kinds[0]} and a float dtype are needed"
        )
    return kinds[0], state


def _integer(state: Mapping[str, Any], key: str) -> int:
    value = state.get(key)
    if type(value) is not int:
        raise InputError(f"quant state: {key} is {quoted(value)}; an integer is needed")
    return value


def _shape(state: Mapping[str, Any]) -> tuple[int, ...]:
    shape = state.get("shape")
    if not isinstance(shape, list) or not 1 <= len(shape) <= 8 or not all(type(n) is int and n > 0 for n in shape):
        raise InputError(f"quant state: shape is {quoted(shape)}; 1 to 8 positive integers are needed")
    return tuple(shape)


def _map(name: str) -> Array:
    # Their FP4 has two codes for +0, ours one for each sign.
    return np.asarray(table_of(find_format(name)), dtype=np.float32) + np.float32(0)


def _require_map(parts: Mapping[str, Array], part: str, name: str) -> None:
    found, wanted = np.asarray(parts.get(part, np.zeros(0))), _map(name)
    if found.shape != wanted.shape or not np.array_equal(found, wanted):
        raise InputError(f"{part} is not the table of {name}; other tables are not read")


def _as_float32(scale: Array) -> Array:
    with np.errstate(over="ignore", under="ignore"):
        return scale.astype(np.float32)


def _zero_code(kind: str) -> Array:
    return encode(np.zeros(1, dtype=np.float32), find_format(kind))


def _empty_blocks(codes: Array, found: QuantSpec) -> Array:
    """Whether every code of a block is the one that 0 gets."""
    blocks = found.tiling.blocks((codes != _zero_code(found.format.name)).astype(np.uint8), 0)
    return np.asarray(blocks.max(axis=found.tiling.inner_axes) == 0)
