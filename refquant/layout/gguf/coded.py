"""GGUF's blocks of integer codes as quantized tensors, in the form that gives every byte back.

Where a grid (:mod:`~refquant.layout.gguf.grids`) holds a tensor's bytes it is one on a grid, which other layouts and integer linears know
as well: Q8_0, Q4_0, Q5_0, MXFP4 as they are quantized, and Q3_K and Q6_K without a negative scale. Where it does not, and for all types
with minima, it is an :class:`~refquant.core.affine_tensor.AffineTensor` (:mod:`~refquant.layout.gguf.affine`). Whatever comes of it is
written back and compared: bytes that would not return are refused.
"""

from __future__ import annotations

import numpy as np

from refquant.core import QTensor
from refquant.core.affine_tensor import AffineTensor
from refquant.errors import InputError
from refquant.layout.gguf.affine import NAMES, from_affine, to_affine, types_of
from refquant.layout.gguf.fields import Fields
from refquant.layout.gguf.grids import SMALLEST, from_gguf, to_gguf, type_for, why_not
from refquant.layout.gguf.tensor import GgufTensor

CODED = (*NAMES, "MXFP4")
"""Names of the types that become codes; the others are numbers, or are only read as numbers."""


def to_coded(t: GgufTensor) -> QTensor | AffineTensor:
    """Read a tensor of integer codes, losing nothing.

    Raises
    ------
    InputError
        If the type is none of :data:`CODED`, a scale is infinite or NaN, or bytes are none that an encoder writes and would not come back.

    Examples
    --------
    >>> from refquant.layout.gguf import quantize
    >>> row = np.linspace(-1, 2, 256, dtype=np.float32)
    >>> [type(to_coded(quantize(row, kind))).__name__ for kind in ("q4_0", "q4_1", "q4_k")]
    ['QTensor', 'AffineTensor', 'AffineTensor']
    """
    name = t.kind.name
    reason = why_not_coded(name)
    if reason is not None:
        raise InputError(f"{reason}; it can be read as numbers")
    found = from_gguf(t) if name not in NAMES or _grid_holds(name, t.fields()) else to_affine(t)
    back = from_coded(found)
    if not np.array_equal(back.blocks, t.blocks):
        wrong = int(np.argmax((back.blocks != t.blocks).any(axis=1)))
        raise InputError(f"{name}: block {wrong} has bytes that no encoder writes, and that would not come back")
    return found


def why_not_coded(kind: str) -> str | None:
    """Say why tensors of a type, by its name, do not become codes; None if they do."""
    return None if kind in CODED else f"{kind} is no grid of one scale a group; its blocks have no integer codes"


def _grid_holds(name: str, fields: Fields) -> bool:
    """Whether every scale of some blocks has a place on a grid, and comes back from it."""
    d = np.asarray(fields.d)
    if not np.isfinite(d).all():
        return False
    if name in ("Q6_K", "Q3_K"):
        return bool((d > 0).all() and (np.asarray(fields.scales) > 0).all())
    if name not in ("Q8_0", "Q4_0", "Q5_0"):
        return False
    empty, zeros = d == 0, (np.asarray(fields.codes) == 0).all(axis=1)
    # On the grid a block of zeros has the smallest scale, so one that has that scale in the file would come back with 0.
    returns = np.where(empty, zeros, ~(zeros & (np.abs(d) == SMALLEST)))
    return bool((returns & ~(np.signbit(d) & (name == "Q8_0"))).all())


def from_coded(tensor: QTensor | AffineTensor, kind: str | None = None) -> GgufTensor:
    """Write a tensor in the type that holds it, or in the one of :func:`types_that_hold` that is wanted; InputError if there is none."""
    return from_affine(tensor, kind) if isinstance(tensor, AffineTensor) else to_gguf(tensor)


def types_that_hold(tensor: QTensor | AffineTensor) -> list[str]:
    """Names of the types that hold a tensor exactly; :func:`from_coded` writes the last by default."""
    if isinstance(tensor, AffineTensor):
        return types_of(tensor)
    return [type_for(tensor)] if why_not(tensor) is None else []


def what_no_type_holds(tensor: QTensor | AffineTensor) -> str | None:
    """Say what of a tensor no type holds, or None if one does.

    Examples
    --------
    >>> from refquant.core import spec
    >>> from refquant.methods.grid.rtn import rtn
    >>> what_no_type_holds(rtn(np.eye(32), spec("int4", group_size=16, scheme="sym_full", scale_format="float16")))
    'groups of 16; GGUF types have groups of 32'
    """
    if isinstance(tensor, QTensor):
        return why_not(tensor)
    return None if types_of(tensor) else f"blocks of {tensor.spec.format.name} in tiles {tensor.spec.tiling.extents} on such scales"
