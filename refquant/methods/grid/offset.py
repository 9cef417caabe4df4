"""Grids that start at a number, and not at a whole code: optimum-quanto's int2 and int4, torchao's tinygemm int4.

A range is never widened to hold 0, and 0 need not be on the grid. With ``lo, hi`` the extremes of a tile and ``b`` bits:

[OFFSET-1]  s = (hi - lo) / (2^b - 1);  ``lower``: o = -lo;  ``middle``: s at least the smallest normal number, o = lo + 2^(b-1) s.
[OFFSET-2]  ``lower``: code = clip(rn((x + o) / s)), x_hat = s code - o.
            ``middle``: code = clip(rn((x - (o - 2^(b-1) s)) / s)), x_hat = (code - 2^(b-1)) s + o.

Every operation rounds once, in the dtype of the weight: tinygemm takes bfloat16, and then its scales and offsets are bfloat16 too.

Departures: in a tile of equal numbers quanto divides by 0 and casts NaN to a code; here its code is 0, which decodes to the same number.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, get_args

import numpy as np

from refquant.core.tiling import Tiling
from refquant.errors import InputError, NumericalError, UsageError
from refquant.methods.card import Card, Equation
from refquant.numerics.arrays import Array, read_only
from refquant.numerics.casting import FLOAT_DTYPES, smallest_normal

Anchor = Literal["lower", "middle"]

CARD = Card(
    name="offset",
    title="Grids with an offset in the place of a zero point",
    paper="optimum-quanto 0.2.7 (lower), torchao 0.18 tinygemm (middle)",
    inputs=("weight [out, in]", "bits", "tiling"),
    equations=(
        Equation("OFFSET-1", "scale from the range as found; the offset is its lower end or its middle"),
        Equation("OFFSET-2", "code = clip(rn((x - start) / s)), the offset is added to what codes decode to"),
    ),
    departures=("a tile of equal numbers has code 0, not the cast of a NaN",),
    guarantees=("exact in every dtype: the same bytes on every machine", "tiles of equal numbers are kept under 'lower'"),
    lane="exact",
    cost="one pass over the weight",
    oracle="optimum-quanto, torchao",
    laws=tuple(
        (
            "finite nearest_level monotone scaling signed_zero row_permutation column_permutation batch_independence chunk_independence "
            "determinism inputs_untouched layout_independence nan_policy infinity_policy"
        ).split()
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class OffsetTensor:
    """Codes, and a scale and an offset a tile.

    Parameters
    ----------
    codes : uint8 ndarray
    scale, offset : floating ndarray, one number a tile
    bits : int
    tiling : Tiling
    anchor : {"lower", "middle"}

    Raises
    ------
    InputError
        If the parts do not fit each other.
    """

    codes: Array
    scale: Array
    offset: Array
    bits: int
    tiling: Tiling
    anchor: Anchor

    def __post_init__(self) -> None:
        wanted = self.tiling.grid_shape(self.codes.shape)
        if self.scale.shape != wanted or self.offset.shape != wanted or self.scale.dtype != self.offset.dtype:
            raise InputError(
                f"codes of shape {self.codes.shape} need scales and offsets of shape {wanted} and one dtype, not {self.scale.shape} "
                f"{self.scale.dtype} and {self.offset.shape} {self.offset.dtype}"
            )
        if self.codes.dtype != np.uint8 or (self.codes >= 1 << self.bits).any():
            raise InputError(f"codes of {self.bits} bits are uint8 below {1 << self.bits}; found {self.codes.dtype}")
        for name in ("codes", "scale", "offset"):
            object.__setattr__(self, name, read_only(getattr(self, name)))

    def dequantize(self) -> Array:
        """The numbers, in the dtype of scale and offset.

        Returns
        -------
        ndarray, the shape of the codes

        Raises
        ------
        NumericalError
            If a number overflows the dtype: the highest code may stand for a little more than what it was made of.
        """
        kind = self.scale.dtype.type
        scale, offset = (self.tiling.expand(part, self.codes.shape) for part in (self.scale, self.offset))
        steps = self.codes.astype(self.scale.dtype)
        with np.errstate(over="ignore", under="ignore"):
            if self.anchor == "lower":
                numbers = np.asarray(steps * scale - offset)
            else:
                numbers = np.asarray((steps - kind(1 << (self.bits - 1))) * scale + offset)  # [OFFSET-2]
        lost = ~np.isfinite(numbers)
        if lost.any():
            at = tuple(int(i) for i in np.argwhere(lost)[0])
            raise NumericalError(
                f"code {int(self.codes[at])} at {at} stands for a number that overflows {self.scale.dtype.name}; rescale the weight"
            )
        return numbers

    @property
    def bits_per_weight(self) -> Fraction:
        """Codes, scales and offsets over the number of weights."""
        side = (self.scale.size + self.offset.size) * self.scale.dtype.itemsize * 8
        return Fraction(self.codes.size * self.bits + side, max(self.codes.size, 1))


def offset_rtn(weight: Array, bits: int, tiling: Tiling, *, anchor: Anchor = "lower") -> OffsetTensor:
    """Round to the nearest code of a grid that starts where the tile's numbers do.

    Parameters
    ----------
    weight : ndarray of bfloat16, float16, float32 or float64
    bits : int, 1 to 8
    tiling : Tiling
    anchor : {"lower", "middle"}
        What the offset is: quanto stores ``-lo``, tinygemm the number in the middle of the codes.

    Returns
    -------
    OffsetTensor

    Raises
    ------
    UsageError
        If `bits` or `anchor` is unknown.
    InputError
        If the weight holds NaN or infinities or has another dtype.
    NumericalError
        If a range is wider than the dtype can hold, or its offset overflows.

    Examples
    --------
    >>> import numpy as np
    >>> q = offset_rtn(np.array([[1.0, 1.5, 2.5]], dtype=np.float32), 2, Tiling.channel())
    >>> q.codes.tolist(), q.dequantize().tolist()
    ([[0, 1, 3]], [[1.0, 1.5, 2.5]])
    """
    if isinstance(bits, bool) or not isinstance(bits, int) or not 1 <= bits <= 8 or anchor not in get_args(Anchor):
        raise UsageError(f"offset grids have 1 to 8 bits and an anchor {' or '.join(get_args(Anchor))}; got {bits!r} and {anchor!r}")
    x = np.asarray(weight)
    if x.dtype not in FLOAT_DTYPES.values() or not np.isfinite(x).all():
        raise InputError(f"offset grids need finite weights of {', '.join(FLOAT_DTYPES)}; found {x.dtype}, or NaN or an infinity in it")
    kind, top = x.dtype.type, (1 << bits) - 1
    lo = tiling.blocks(x, np.inf).min(axis=tiling.inner_axes)
    hi = tiling.blocks(x, -np.inf).max(axis=tiling.inner_axes)
    with np.errstate(over="ignore", under="ignore"):
        scale = np.asarray((hi - lo) / kind(top))
    if not np.isfinite(scale).all():
        raise NumericalError(f"a range is wider than {x.dtype.name} can hold; widen the weight or rescale it")
    if anchor == "lower":
        offset, start = np.asarray(-lo), lo
    else:
        half = kind(1 << (bits - 1))
        scale = np.maximum(scale, kind(smallest_normal(x.dtype)))
        with np.errstate(over="ignore", under="ignore"):
            offset = np.asarray(lo + scale * half)  # [OFFSET-1]
            start = np.asarray(offset - scale * half)
        if not np.isfinite(start).all():
            raise NumericalError(f"the middle of a range overflows {x.dtype.name}; rescale the weight")
    wide, begin = tiling.expand(scale, x.shape), tiling.expand(np.asarray(start), x.shape)
    with np.errstate(under="ignore"):
        steps = np.rint((x - begin) / np.where(wide == 0, kind(1), wide))
    codes = np.clip(steps, kind(0), kind(top)).astype(np.uint8)
    return OffsetTensor(codes=codes, scale=scale, offset=offset, bits=bits, tiling=tiling, anchor=anchor)
