"""What is in the blocks of a GGUF tensor, and the one formula that turns nearly all of them into numbers.

    x = (d * scale) * code - dmin * min        super-blocks: a small integer scale, and perhaps a minimum, for each group of elements
    x = d * code + m                           blocks with a minimum
    x = d * code                               blocks without

All of it is float32, every operation rounded once, in this order: what gguf's NumPy does, to the byte.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from refquant.errors import NumericalError
from refquant.numerics.arrays import Array
from refquant.numerics.extremes import row_extremes

HALF_OVERFLOWS = np.float32(65520)
"""From here on a number rounds to infinity in float16: half a step above the largest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fields:
    """The fields of `n` blocks.

    Parameters
    ----------
    codes : ndarray ``[n, size]``
        What is multiplied: int8 or uint8; plain types have their floats here.
    d : ndarray ``[n]``, optional
        float16 scale; of MXFP4 the uint8 exponent.
    m : float16 ndarray ``[n]``, optional
        Minimum, or scale of the minima (``dmin``) where there are `mins`.
    scales, mins : integer ndarray ``[n, groups]``, optional
        Of NVFP4 the scales' bytes.
    """

    codes: Array
    d: Array | None = None
    m: Array | None = None
    scales: Array | None = None
    mins: Array | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockType:
    """One tensor type of GGUF.

    Parameters
    ----------
    name : str
        As ggml calls it.
    number : int
        As files call it.
    size : int
        Elements of a block, along the last axis.
    nbytes : int
        Bytes of a block.
    unpack, pack : callable
        uint8 ``[n, nbytes]`` to fields and back: inverse to each other on every byte (what differs is said in the type's module).
    values : callable
        Writes the numbers of fields into a float32 array ``[n, size]``.
    quantize : callable, optional
        float32 ``[n, size]``, finite, to fields, bit for bit as the reference does; None of types that need an importance.
    """

    name: str
    number: int
    size: int
    nbytes: int
    unpack: Callable[[Array], Fields]
    pack: Callable[[Fields], Array]
    values: Callable[[Fields, Array], None]
    quantize: Callable[[Array], Fields] | None = None


def scaled_values(fields: Fields, out: Array) -> None:
    """Write ``d * code`` with what else the fields have (see the module) to `out`, float32 ``[n, size]``."""
    if fields.d is None:
        np.copyto(out, fields.codes)
        return
    np.copyto(out, fields.codes)
    with np.errstate(invalid="ignore", over="ignore"):  # a scale in a file may be infinite or NaN
        scale = fields.d.astype(np.float32)[:, None]
        if fields.scales is not None:
            scale = scale * fields.scales.astype(np.float32)
        groups = out.reshape(scale.size, -1)  # rows of a matrix: NumPy broadcasts over three axes at half that speed
        groups *= spread(scale, groups)
        if fields.mins is not None and fields.m is not None:
            groups -= spread(fields.m.astype(np.float32)[:, None] * fields.mins.astype(np.float32), groups)
        elif fields.m is not None:
            groups += spread(fields.m.astype(np.float32), groups)


def spread(numbers: Array, groups: Array) -> Array:
    """One number a group, to be broadcast over `groups` ``[groups, size]``; short ones are repeated here, which is faster than NumPy's."""
    size = groups.shape[1]
    return np.repeat(numbers, size).reshape(groups.shape) if size <= 16 else numbers.reshape(-1, 1)


def times(x: Array, numbers: Array) -> Array:
    """Rows ``[n, size]`` times one number each; their copies are what is multiplied, so that one array fewer passes through the cache."""
    out = np.repeat(numbers, x.shape[1]).reshape(x.shape)
    out *= x
    return out


def reciprocal(d: Array) -> Array:
    """``1 / d`` in float32, and 0 where that is not finite: blocks of zeros, and of subnormal numbers, whose stored scale is 0 anyway."""
    with np.errstate(divide="ignore", over="ignore"):
        found = np.float32(1) / d
    return np.where(np.isfinite(found), found, np.float32(0))


def half_away(x: Array) -> Array:
    """Round to integers, ties away from zero, as C's ``roundf``."""
    whole = np.trunc(x)
    return np.asarray(whole + np.trunc((x - whole) * 2))  # both exact: the rest is below 1, and twice it 1 or more from a half on


def half_away_codes(x: Array) -> Array:
    """What :func:`half_away` gives, as int8, of numbers of magnitude below 127.5: faster, and `x` is doubled where it is.

    Half steps are counted towards zero, ``h = trunc(2 x)``, which is exact; then ``ceil(h / 2)`` above zero and ``floor(h / 2)`` below.

    Examples
    --------
    >>> half_away_codes(np.array([-1.5, -0.5, 0.49999997, 0.5, 2.5], np.float32))
    array([-2, -1,  0,  1,  3], dtype=int8)
    """
    x += x
    halves = x.astype(np.int16)
    halves += halves > 0
    halves >>= 1
    return halves.astype(np.int8)


def largest_magnitude(x: Array) -> Array:
    """The largest magnitude of each row of finite numbers."""
    lo, hi = row_extremes(x)
    return np.abs(np.maximum(-lo, hi))  # +0 for a row of zeros, whatever their signs


def stored_half(numbers: Array, what: str) -> Array:
    """Round to float16; NumericalError if one overflows.

    Examples
    --------
    >>> stored_half(np.array([0.1], np.float32), "scale")
    array([0.1], dtype=float16)
    """
    too_large = ~(np.abs(numbers) < HALF_OVERFLOWS)  # or NaN
    if too_large.any():
        block = int(np.argmax(too_large))
        raise NumericalError(
            f"the {what} {float(numbers[block]):g} of block {block} exceeds the largest float16 number, 65504; rescale the tensor"
        )
    with np.errstate(under="ignore"):
        return numbers.astype(np.float16)
