"""GGUF's blocks with minima, super-blocks, and scales of either sign as :class:`~refquant.core.affine_tensor.AffineTensor` and back.

================ ====================== ========================================================================================
type             spec                   what is what
================ ====================== ========================================================================================
Q2_K ... Q6_K    ``q2_k`` ... ``q6_k``  a group's scale and minimum are codes; `d` and `dmin` are the numbers over them
Q4_1, Q5_1       ``q4_1``, ``q5_1``     float16; the minimum that is taken off is ``-m``
Q8_0, Q4_0, Q5_0 the same in lower case float16 scales of any sign, where a grid has no place for one
TQ1_0, TQ2_0     ``ternary_256``        one float16 scale; which of the two types it was stands in the origin's parameter ``gguf_type``
================ ====================== ========================================================================================

Scales of every sign and of 0 have a place, as they do not on a grid (:mod:`~refquant.layout.gguf.grids`); infinities and NaN have none.
Which of the two forms a tensor takes is :mod:`~refquant.layout.gguf.coded`'s business.
"""

from __future__ import annotations

import numpy as np

from refquant.core import Origin
from refquant.core.affine_spec import AFFINE_FORMATS
from refquant.core.affine_tensor import AffineTensor
from refquant.core.scales import CodedScales, ScaleSpec
from refquant.errors import InputError
from refquant.layout.gguf.fields import BlockType, Fields
from refquant.layout.gguf.tensor import GgufTensor
from refquant.layout.gguf.types import find_block_type
from refquant.numerics.arrays import Array

TERNARY = "ternary_256"
OWN = ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "Q4_1", "Q5_1", "Q8_0", "Q4_0", "Q5_0")
NAMES = {**{kind: kind.lower() for kind in OWN}, "TQ1_0": TERNARY, "TQ2_0": TERNARY}
"""Name of the spec by the type's."""
TYPE = "gguf_type"
"""The parameter of a tensor's origin that says which type it was read from."""


def to_affine(t: GgufTensor) -> AffineTensor:
    """Read blocks as codes, scales and minima: the same numbers.

    Raises
    ------
    InputError
        If the type is another, or a scale is not finite.

    Examples
    --------
    >>> from refquant.layout.gguf import quantize
    >>> t = quantize(np.linspace(-1, 2, 256), "q4_k")
    >>> found = to_affine(t)
    >>> found.minimum.codes.shape, found.minimum.outer.shape, np.array_equal(found.dequantize(), t.dequantize())
    ((8,), (1,), True)
    """
    if t.kind.name not in NAMES:
        raise InputError(f"{t.kind.name} has no blocks of integer codes on scales; {', '.join(NAMES)} have")
    spec, fields = AFFINE_FORMATS[NAMES[t.kind.name]].with_tiling(len(t.shape)), t.fields()
    lead, groups, blocks = t.shape[:-1], t.shape[-1] // int(spec.tiling.extents[-1] or 1), t.shape[-1] // t.kind.size

    def held(numbers: Array, codes: Array | None, stored: object) -> CodedScales | Array:
        outer = np.asarray(numbers).reshape(*lead, blocks)
        if not isinstance(stored, ScaleSpec):
            return outer
        return CodedScales(codes=np.asarray(codes).astype(stored.format.dtype).reshape(*lead, groups), outer=outer)

    minimum = None
    if fields.m is not None and spec.minima is not None:
        minimum = held(np.asarray(fields.m) if fields.mins is not None else -np.asarray(fields.m), fields.mins, spec.minima)
    return AffineTensor(
        codes=fields.codes.reshape(t.shape).astype(spec.format.dtype),
        scale=held(np.asarray(fields.d), fields.scales, spec.scales),
        minimum=minimum,
        spec=spec,
        origin=Origin(method="imported", parameters={TYPE: t.kind.name}),
    )


def from_affine(tensor: AffineTensor, kind: str | None = None) -> GgufTensor:
    """Write codes, scales and minima as blocks.

    Parameters
    ----------
    tensor : AffineTensor
    kind : str, optional
        ``TQ1_0`` or ``TQ2_0``; by default what the tensor was read from, or ``TQ2_0``. For all others the spec says it.

    Raises
    ------
    InputError
        If no type, or not this one, has such blocks, or rows are no whole number of them.
    """
    found = _type_of(tensor, kind)
    count = tensor.codes.size // found.size
    numbers, scales = _parts(tensor.scale, count)
    low, mins = _parts(tensor.minimum, count)
    if low is not None and mins is None:
        low = -low
    fields = Fields(codes=np.asarray(tensor.codes).reshape(count, -1), d=numbers, m=low, scales=scales, mins=mins)
    return GgufTensor(kind=found, blocks=found.pack(fields), shape=tensor.shape)


def _parts(held: CodedScales | Array | None, count: int) -> tuple[Array | None, Array | None]:
    """The float16 number of each block, and the codes under it."""
    if isinstance(held, CodedScales):
        return np.asarray(held.outer).reshape(count), np.asarray(held.codes).reshape(count, -1)
    return (None if held is None else held.reshape(count)), None


def types_of(tensor: AffineTensor) -> list[str]:
    """Names of the types that have a tensor's blocks, in rows of whole ones: none, one, or the ternary two, what it was read from last."""
    fitting = _types_of_spec(tensor)
    whole = bool(tensor.shape) and all(tensor.shape[-1] % find_block_type(name).size == 0 for name in fitting)
    return fitting if whole else []


def _types_of_spec(tensor: AffineTensor) -> list[str]:
    ndim, read_from = len(tensor.spec.tiling.extents), tensor.origin.parameters.get(TYPE)
    fitting = [name for name, entry in NAMES.items() if AFFINE_FORMATS[entry].with_tiling(ndim) == tensor.spec]
    return sorted(fitting, key=lambda name: name == read_from)


def _type_of(tensor: AffineTensor, kind: str | None) -> BlockType:
    fitting = _types_of_spec(tensor)
    if not fitting:
        raise InputError(f"no GGUF type has these blocks: {tensor.spec.to_json()}")
    wanted = kind.upper() if kind is not None else fitting[-1]
    if wanted not in fitting:
        raise InputError(f"{kind} has other blocks; {', '.join(fitting)} has these")
    found = find_block_type(wanted)
    if not types_of(tensor):
        raise InputError(f"{found.name} has blocks of {found.size} along the last axis; shape {tensor.shape} does not divide into them")
    return found
