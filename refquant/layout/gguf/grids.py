"""Tensors on a grid as GGUF tensors and back, exactly.

========== ================================================================ ======================================================
type       holds                                                             comes back as
========== ================================================================ ======================================================
``Q8_0``   8-bit signed codes                                                ``spec("int8", group_size=32, scheme="sym_full")``
``Q4_0``   4-bit codes whose zero points are 8, or 7                         ``spec("int4", group_size=32, scheme="asym_incl0")``
``Q5_0``   5-bit codes whose zero points are 16, or 15                       ``spec("int5", group_size=32, scheme="asym_incl0")``
``MXFP4``  ``spec("mxfp4")`` and its other scale rules                       ``spec("mxfp4")``
``Q6_K``   ``spec("q6_k_grid")``, rows of whole blocks of 256                 ``spec("q6_k_grid")``, if no scale is negative
``Q3_K``   ``spec("q3_k_grid")``, rows of whole blocks of 256                 ``spec("q3_k_grid")``, if no scale is negative
========== ================================================================ ======================================================

All but the last three have groups of 32 on float16 scales. Scales of a grid are positive and ggml's Q4_0 and Q5_0 are of either sign:
``-d (code - 8)`` is ``d ((15 - code) - 7)``, so a negative scale is a zero point of 7. A scale of 0, whose block is zeros, is the smallest
float16 number, 2^-24, with every code at its zero point; a block like that is written with a scale of 0 again, negative for 7.

MXFP4 has the codes of e2m1 as they are; of code 8 OCP says -0 and ggml +0. Types with minima are refused: no spec says how they would be
made, and :class:`~refquant.layout.gguf.GgufTensor` holds them.
"""

from __future__ import annotations

import numpy as np

from refquant.core import Origin, QTensor, QuantSpec, Tiling, spec
from refquant.core.scales import CodedScales
from refquant.errors import InputError
from refquant.formats import IntFormat
from refquant.layout.gguf.fields import Fields
from refquant.layout.gguf.tensor import GgufTensor
from refquant.layout.gguf.types import find_block_type
from refquant.numerics.arrays import Array

SMALLEST = np.finfo(np.float16).smallest_subnormal
_HALVES = {4: "Q4_0", 5: "Q5_0"}
_GRIDS = {"q6_k_grid": "Q6_K", "q3_k_grid": "Q3_K"}


def why_not(q: QTensor) -> str | None:
    """Say what of a tensor no GGUF type holds, or None if one does.

    Examples
    --------
    >>> from refquant.methods.grid.rtn import rtn
    >>> why_not(rtn(np.eye(32), spec("int4", group_size=16, scheme="sym_full", scale_format="float16")))
    'groups of 16; GGUF types have groups of 32'
    """
    found = _type_of(q)
    return None if found in _known() else found


def type_for(q: QTensor) -> str:
    """The name of the type that holds a tensor exactly; InputError if :func:`why_not` says something."""
    found = _type_of(q)
    if found not in _known():
        raise InputError(f"the gguf layout cannot hold {found}")
    return found


def _known() -> tuple[str, ...]:
    return ("Q8_0", "MXFP4", *_HALVES.values(), *_GRIDS.values())


def _type_of(q: QTensor) -> str:
    """The type, or what is in the way of one."""
    if q.permutation is not None:
        return "columns in activation order"
    if not q.shape or not q.codes.size:
        return f"a tensor of shape {q.shape}"
    for name, kind in _GRIDS.items():
        if q.spec.format == spec(name).format and q.spec.scales == spec(name).scales and q.spec.tiling.extents[-1] == 16:
            return kind if q.shape[-1] % 256 == 0 else f"rows of {q.shape[-1]}; {kind} has blocks of 256"
    extents = q.spec.tiling.extents
    if len(extents) != len(q.shape) or any(extent != 1 for extent in extents[:-1]) or extents[-1] != 32:
        size = extents[-1] if extents[-1] is not None else q.shape[-1]
        return f"groups of {size}; GGUF types have groups of 32"
    if q.shape[-1] % 32:
        return f"rows of {q.shape[-1]}; GGUF types have whole blocks of 32"
    if q.spec.format.name == "e2m1":
        scales = q.spec.scales
        power = scales is not None and scales.format.name == "e8m0"
        return "MXFP4" if power else "codes of e2m1 on scales that are no powers of two"
    return _integer_type(q)


def _integer_type(q: QTensor) -> str:
    fmt = q.spec.format
    if not isinstance(fmt, IntFormat) or q.spec.scales is not None:
        return f"codes of {fmt.name} on such scales; Q8_0, Q4_0 and Q5_0 hold integers on float16 scales"
    if q.scale.dtype != np.float16:
        return f"scales of {q.scale.dtype}; GGUF types have float16"
    if fmt.bits == 8 and fmt.signed and q.zero is None:
        return "Q8_0"
    if fmt.bits not in _HALVES:
        return f"codes of {fmt.name}, zero points {q.spec.scheme.zero}; there are signed ones of 8 bits, and ones of 4 and 5 bits"
    if q.zero is not None:
        half = 1 << (fmt.bits - 1)
        zero = q.zero.astype(np.float64)
        if not ((zero == half) | (zero == half - 1)).all():
            wrong = zero[(zero != half) & (zero != half - 1)].ravel()[0]
            return f"a zero point of {wrong:g}; {_HALVES[fmt.bits]} has {half}, or {half - 1} for a negative scale"
    return _HALVES[fmt.bits]


def to_gguf(q: QTensor) -> GgufTensor:
    """Write a tensor in the type that holds it; InputError if :func:`why_not` says something."""
    kind = find_block_type(type_for(q))
    codes = np.asarray(q.codes)
    if q.coded is not None:
        scale_codes = np.asarray(q.coded.codes)
        if kind.name == "MXFP4":
            fields = Fields(codes=codes.reshape(-1, 32), d=scale_codes.reshape(-1))
        else:
            fields = Fields(codes=codes.reshape(-1, 256), d=np.asarray(q.coded.outer).reshape(-1), scales=scale_codes.reshape(-1, 16))
    else:
        fields = _signed_fields(q)
    return GgufTensor(kind=kind, blocks=kind.pack(fields), shape=q.shape)


def _signed_fields(q: QTensor) -> Fields:
    """Codes around 0, and scales with their sign."""
    codes, d = np.asarray(q.codes).reshape(-1, 32).astype(np.int8), np.asarray(q.scale).reshape(-1)
    half = 1 << (q.spec.format.bits - 1)
    if not q.spec.format.signed:
        codes = codes - np.int8(half)
        zero = np.full(d.shape, half) if q.zero is None else np.asarray(q.zero).reshape(-1)
        turned = zero == half - 1
        codes = np.where(turned[:, None], -1 - codes, codes)
        d = np.where(turned, -d, d)
    d = np.where((np.abs(d) == SMALLEST) & (codes == 0).all(axis=1), d * np.float16(0), d)
    return Fields(codes=codes, d=d)


def from_gguf(t: GgufTensor, wanted: QuantSpec | None = None) -> QTensor:
    """Read a tensor as one on a grid: the same numbers.

    Parameters
    ----------
    t : GgufTensor
    wanted : QuantSpec, optional
        A spec of the same codes, such as a symmetric scheme, where the one in the table of this module is not meant.

    Raises
    ------
    InputError
        If the type has minima or no blocks, a scale is not finite or has a sign that the grid cannot have, or `wanted` does not fit.
    """
    fields, name = t.fields(), t.kind.name
    if name == "MXFP4":
        if (np.asarray(fields.d) == 255).any():
            raise InputError("MXFP4: a block has the scale byte 255, NaN in OCP's text and 2^127 in ggml")
        coded = CodedScales(codes=np.asarray(fields.d).reshape(_tiles(t, 32)))
        return _assembled(t, fields.codes, coded, wanted or spec("mxfp4"))
    if name in _GRIDS.values():
        chosen = wanted or next(spec(grid) for grid, kind in _GRIDS.items() if kind == name)
        return _assembled(t, fields.codes, _super_scales(t, fields), chosen)
    if name != "Q8_0" and name not in _HALVES.values():
        raise InputError(f"{name} is no grid of one scale a group; it can be read as numbers")
    return _from_signed(t, fields, wanted or _usual(name))


def _usual(name: str) -> QuantSpec:
    if name == "Q8_0":
        return spec("int8", group_size=32, scheme="sym_full", scale_format="float16")
    bits = next(bits for bits, kind in _HALVES.items() if kind == name)
    return spec(f"int{bits}", group_size=32, scheme="asym_incl0", scale_format="float16")


def _tiles(t: GgufTensor, size: int) -> tuple[int, ...]:
    return (*t.shape[:-1], t.shape[-1] // size)


def _super_scales(t: GgufTensor, fields: Fields) -> CodedScales:
    d, scales = np.asarray(fields.d), np.asarray(fields.scales)
    if not (np.isfinite(d) & (d > 0)).all() or not (scales > 0).all():
        raise InputError(f"{t.kind.name}: a scale is not positive; a grid's scales are")
    return CodedScales(codes=scales.reshape(_tiles(t, 16)), outer=d.reshape(_tiles(t, 256)))


def _assembled(t: GgufTensor, codes: Array, coded: CodedScales, chosen: QuantSpec) -> QTensor:
    placed = chosen.with_tiling(_rows_of(chosen.tiling, len(t.shape)))
    if placed.scales is None:
        raise InputError(f"{t.kind.name} has coded scales; the spec that is wanted has none")
    shaped = codes.reshape(t.shape).astype(placed.format.dtype)
    return QTensor(codes=shaped, scale=coded.decoded(placed.scales), zero=None, spec=placed, coded=coded, origin=Origin(method="imported"))


def _rows_of(tiling: Tiling, ndim: int) -> Tiling:
    """The same groups along the last axis of an array of `ndim` axes."""
    return tiling if len(tiling.extents) == ndim else Tiling((*(1,) * (ndim - 1), tiling.extents[-1]))


def _from_signed(t: GgufTensor, fields: Fields, chosen: QuantSpec) -> QTensor:
    codes, d = fields.codes, np.asarray(fields.d)
    if not np.isfinite(d).all():
        raise InputError(f"{t.kind.name}: the scale of block {int(np.argmin(np.isfinite(d)))} is {float(d[~np.isfinite(d)][0])}")
    half, empty, negative = 1 << (chosen.format.bits - 1), d == 0, np.signbit(d)
    codes = np.where(empty[:, None], np.int8(0), codes)
    zero: Array | None = None
    if chosen.scheme.zero == "integer":
        codes = np.where(negative[:, None], -1 - codes, codes) + half
        zero = np.where(negative, half - 1, half).astype(chosen.format.dtype).reshape(_tiles(t, 32))
    elif (negative & ~empty).any():
        raise InputError(f"{t.kind.name}: a scale is negative; scheme {chosen.scheme.name} has no place for its sign")
    elif chosen.scheme.zero == "midpoint":
        codes = codes + half
        zero = np.full(_tiles(t, 32), half, chosen.format.dtype)
    elif not chosen.format.signed:
        raise InputError(f"{t.kind.name} has codes on both sides of 0; scheme {chosen.scheme.name} has no zero point for them")
    scale = np.where(empty, SMALLEST, np.abs(d)).reshape(_tiles(t, 32))
    placed = chosen.with_tiling(_rows_of(chosen.tiling, len(t.shape)))
    return QTensor(
        codes=codes.reshape(t.shape).astype(chosen.format.dtype), scale=scale, zero=zero, spec=placed, origin=Origin(method="imported")
    )
