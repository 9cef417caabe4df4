"""From numbers to codes and back, given a grid: ``code = policy(round(x / s) + z)`` and ``x_hat = s * (code - z)``."""

from __future__ import annotations

import math
from collections.abc import Iterator
from types import EllipsisType

import numpy as np

from refquant import formats
from refquant.core.grid import Grid
from refquant.core.spec import QuantSpec
from refquant.errors import InputError, NumericalError, UsageError
from refquant.formats import IntFormat
from refquant.numerics.arrays import Array
from refquant.numerics.casting import as_working
from refquant.numerics.rounding import Rounding, round_to_integer

SLAB = 1 << 17  # elements that are coded at a time
BEFORE_ROUNDING = ("real", "integer_first")  # zero points that are added to x / s before it is rounded


def encode(x: Array, grid: Grid, spec: QuantSpec) -> Array:
    """Turn an array into codes on a given grid.

    Parameters
    ----------
    x : ndarray of float16, bfloat16, float32 or float64
    grid : Grid
        Its scale and zero have one number a tile of `spec.tiling`.
    spec : QuantSpec

    Returns
    -------
    ndarray of `spec.format.dtype`, the shape of `x`

    Raises
    ------
    InputError
        NaN under ``nan="raise"``; a grid that does not fit the array or the scheme.
    NumericalError
        A code outside the format under ``overflow="raise"``, or an infinity unless it saturates; a float64 scale that float32 (the
        dtype in which narrower arrays are computed) cannot hold; a reciprocal that overflows.

    Examples
    --------
    >>> from refquant.core import fit_grid, spec
    >>> import numpy as np
    >>> x = np.array([[-1.0, 0.0, 0.5, 2.0]])
    >>> s = spec("int2", scheme="asym_incl0")
    >>> encode(x, fit_grid(x, s), s)
    array([[0, 1, 1, 3]], dtype=uint8)
    """
    x = as_working(x)
    if not isinstance(spec.format, IntFormat):
        return encode_members(x, grid, spec)
    codes = np.empty(x.shape, dtype=spec.format.dtype)
    for rows, start, scale, zero in _slabs(grid, x.shape, spec, x.dtype):
        codes[rows] = _integer_codes(x[rows], scale, zero, spec, start)
    return codes


def decode(codes: Array, grid: Grid, spec: QuantSpec, dtype: np.dtype[np.floating] | None = None, out: Array | None = None) -> Array:
    """Turn codes back into numbers, ``scale * (code - zero)``.

    Parameters
    ----------
    codes : integer ndarray
    grid : Grid
    spec : QuantSpec
    dtype : numpy dtype, optional
        float32 or float64; by default `out`'s, or else float64 if the scale is float64, else float32. The difference is exact and the
        product is rounded once to this dtype.
    out : ndarray of that dtype and the shape of `codes`, optional
        Where the numbers go; its memory is then not allocated anew, which takes as long as the arithmetic.

    Returns
    -------
    ndarray of `dtype`, the shape of `codes`
        `out` if it is given. Zeros are positive where a code has no sign of zero; formats with a code for -0 keep it.

    Raises
    ------
    UsageError
        If `dtype` is another, or `out` is of another dtype or shape.
    InputError
        If the codes are not integers, or the grid does not fit them or the scheme.
    NumericalError
        If a product overflows `dtype`: the largest number of a tile that reaches almost to the end of float32 may round up.

    Examples
    --------
    >>> from refquant.core import spec
    >>> import numpy as np
    >>> grid = Grid(scale=np.array([[0.5]]), zero=None)
    >>> decode(np.array([[-7, 3]]), grid, spec("int4", scheme="sym_narrow"))
    array([[-3.5,  1.5]])
    """
    codes = np.asarray(codes)
    if codes.dtype.kind not in "iu":
        raise InputError(f"codes are integers, not {codes.dtype}")
    working = np.dtype(dtype) if dtype is not None else out.dtype if out is not None else grid.working_dtype
    if working not in (np.float32, np.float64):
        raise UsageError(f"codes decode to float32 or float64, not {working}; cast the result")
    if out is not None and (out.dtype != working or out.shape != codes.shape):
        raise UsageError(f"codes of shape {codes.shape} decode into {working} of that shape, not {out.dtype} of shape {out.shape}")
    values = np.empty(codes.shape, dtype=working) if out is None else out
    finite = _cannot_overflow(codes.dtype, grid, spec, working)
    short = _as_bytes(codes, grid, spec) if finite else None
    codes, zeros = short if short is not None else (codes, None)
    for rows, start, scale, zero in _slabs(grid, codes.shape, spec, working, zeros):
        steps = codes[rows] if isinstance(spec.format, IntFormat) else formats.decode(codes[rows], spec.format, working)
        if zeros is not None:
            steps, zero = steps - zero, None
        _decode(steps, scale, zero, values[rows], start, finite)
    return values


def _as_bytes(codes: Array, grid: Grid, spec: QuantSpec) -> tuple[Array, Array] | None:
    """Codes and zero points as int8, if their differences are int8 too: a quarter of the memory to move. None if they are not."""
    zero = grid.zero
    if zero is None or zero.dtype.kind not in "iu" or codes.itemsize > 1 or not codes.size or not isinstance(spec.format, IntFormat):
        return None
    (low, high), (least, most) = ((int(np.min(a)), int(np.max(a))) for a in (codes, zero))
    allowed = np.iinfo(np.int8)
    if min(low, least, low - most) < allowed.min or max(high, most, high - least) > allowed.max:
        return None
    return codes.view(np.int8), zero.astype(np.int8)


def fake_quantize(x: Array, grid: Grid, spec: QuantSpec) -> Array:
    """Quantize and dequantize at once, without the detour over integers.

    Parameters and errors are those of :func:`encode` and :func:`decode`.

    Returns
    -------
    ndarray of float64 if `x` is float64, else float32; the shape of `x`
        Byte for byte ``decode(encode(x, grid, spec), grid, spec, dtype)`` with that dtype.

    Examples
    --------
    >>> from refquant.core import fit_grid, spec
    >>> import numpy as np
    >>> x, s = np.array([[-1.0, 0.4, 0.5, 2.0]]), spec("int2")
    >>> fake_quantize(x, fit_grid(x, s), s)
    array([[-1.,  0.,  0.,  2.]])
    """
    x = as_working(x)
    if not isinstance(spec.format, IntFormat):
        return decode(encode_members(x, grid, spec), grid, spec, x.dtype)
    values = np.empty(x.shape, dtype=x.dtype)
    for rows, start, scale, zero in _slabs(grid, x.shape, spec, x.dtype):
        _decode(real_codes(x[rows], scale, zero, spec, first_row=start), scale, zero, values[rows], start)
    return values


def _slabs(
    grid: Grid, shape: tuple[int, ...], spec: QuantSpec, dtype: np.dtype[np.floating], zeros: Array | None = None
) -> Iterator[tuple[slice | EllipsisType, int, Array, Array | None]]:
    """Runs of rows, their first row, and the grid expanded over them; `zeros` stand for the grid's zero points in another dtype.

    Every element is computed alone, so the cut changes nothing.
    """
    if (grid.zero is None) != (spec.scheme.zero == "none"):
        raise InputError(f"scheme {spec.scheme.name} has {'no' if grid.zero is not None else 'a'} zero point; the grid does not fit it")
    tiling = spec.tiling
    tiling.require_fit(grid.scale, shape)
    scale, zero = grid.in_dtype(dtype)
    zero = zero if zeros is None else zeros
    if math.prod(shape) <= SLAB or not shape:
        yield ..., 0, tiling.expand(scale, shape), None if zero is None else tiling.expand(zero, shape)
        return
    for rows, tiles in tiling.slabs(shape, SLAB):
        inside = (len(range(*rows.indices(shape[0]))), *shape[1:])
        yield rows, rows.start, tiling.expand(scale[tiles], inside), None if zero is None else tiling.expand(zero[tiles], inside)


def real_codes(x: Array, scale: Array, zero: Array | None, spec: QuantSpec, *, first_row: int = 0) -> Array:
    """Codes as floats (members, for formats other than integers): `x`, `scale` and `zero` broadcast, all in one floating dtype.

    The single place where a number meets its grid. NaN is replaced or refused first, the division (or, if the scheme says so, the
    product with the rounded reciprocal) rounds once, then comes the named rounding, the zero point, and the overflow policy, which
    always acts before any cast. Code 0 is always +0. The arguments are not written to. `first_row` is added to indices in messages.

    Raises
    ------
    InputError, NumericalError
        As :func:`encode`.
    """
    if not isinstance(spec.format, IntFormat):
        return formats.decode(member_codes(x, scale, spec, first_row=first_row), spec.format, x.dtype)
    codes = _integer_codes(x, scale, zero, spec, first_row)
    codes += codes.dtype.type(0)  # makes +0 of -0
    return codes


def _integer_codes(x: Array, scale: Array, zero: Array | None, spec: QuantSpec, first_row: int) -> Array:
    """What :func:`real_codes` returns for integers, but that zeros may have either sign."""
    missing = np.isnan(x)
    if missing.any():
        if spec.nan == "raise":
            raise InputError(f"NaN at index {_first(missing, first_row)}; quantize finite numbers, or choose nan='zero'")
        x = np.where(missing, x.dtype.type(0), x)
    with np.errstate(over="ignore", under="ignore"):  # a huge value over a tiny scale may become infinite, and then saturates
        steps = np.asarray(x * _reciprocal(scale) if spec.scheme.reciprocal else x / scale)
    if zero is not None and spec.scheme.zero in BEFORE_ROUNDING:
        steps = steps + zero
        zero = None
    codes = np.rint(steps, out=steps) if spec.rounding == Rounding.HALF_EVEN else round_to_integer(steps, Rounding(spec.rounding))
    if zero is not None:
        codes += zero
    return _apply_overflow(codes, spec, first_row)


def encode_members(x: Array, grid: Grid, spec: QuantSpec) -> Array:
    """Codes of a format other than integers, slab by slab; parameters and errors as :func:`encode`, `x` float32 or float64."""
    factors = grid if grid.multiplier is None else Grid(scale=grid.multiplier, zero=None)
    codes = np.empty(x.shape, dtype=spec.format.dtype)
    for rows, start, factor, _ in _slabs(factors, x.shape, spec, x.dtype):
        codes[rows] = member_codes(x[rows], factor, spec, first_row=start, multiply=grid.multiplier is not None)
    return codes


def member_codes(x: Array, scale: Array, spec: QuantSpec, *, first_row: int = 0, multiply: bool = False) -> Array:
    """Codes of a floating-point format or codebook: `x` is divided by `scale` (or multiplied), rounded once, then coded.

    Raises
    ------
    InputError, NumericalError
        As :func:`encode`.
    """
    missing = np.isnan(x)
    if missing.any():
        if spec.nan == "raise":
            raise InputError(f"NaN at index {_first(missing, first_row)}; quantize finite numbers, or choose nan='zero'")
        x = np.where(missing, x.dtype.type(0), x)
    with np.errstate(over="ignore", under="ignore"):
        steps = x * scale if multiply else x * _reciprocal(scale) if spec.scheme.reciprocal else x / scale
    return formats.encode(np.asarray(steps), spec.format, spec.rounding, overflow="raise" if spec.overflow == "raise" else "saturate")


def codes_of(steps: Array, spec: QuantSpec) -> Array:
    """Codes of what :func:`real_codes` returned: integers as they are, members by their codes.

    Examples
    --------
    >>> from refquant.core import spec
    >>> import numpy as np
    >>> codes_of(np.array([-1.0, 0.0, 6.0]), spec("mxfp4"))
    array([10,  0,  7], dtype=uint8)
    """
    return steps.astype(spec.format.dtype) if isinstance(spec.format, IntFormat) else formats.encode(steps, spec.format)


def _reciprocal(scale: Array) -> Array:
    reciprocal = np.asarray(scale.dtype.type(1) / scale)
    if not np.isfinite(reciprocal).all():
        smallest = float(np.min(scale))
        raise NumericalError(f"the reciprocal of scale {smallest:g} overflows {scale.dtype.name}; use a scheme that divides, or float64")
    return reciprocal


def _apply_overflow(codes: Array, spec: QuantSpec, first_row: int) -> Array:
    lo, hi = spec.integers.lo, spec.integers.hi
    if spec.overflow == "saturate":
        return np.clip(codes, lo, hi, out=codes)
    outside = (codes < lo) | (codes > hi)
    if not outside.any():
        return codes
    if spec.overflow == "raise" or not np.isfinite(codes).all():
        index = _first(outside)
        raise NumericalError(
            f"code {float(codes[index]):g} at index {_first(outside, first_row)} lies outside {spec.format.name} ({lo}..{hi})"
        )
    members = hi - lo + 1
    # The remainder is exact, the difference with a large code would not be: take it twice.
    return np.asarray(np.remainder(np.remainder(codes, members) - lo, members) + lo)


def _cannot_overflow(codes: np.dtype[np.integer], grid: Grid, spec: QuantSpec, working: np.dtype[np.floating]) -> bool:
    """Whether no integer of one or two bytes can leave `working`: then nobody has to look at every product."""
    if codes.itemsize > 2 or not isinstance(spec.format, IntFormat):
        return False
    scale, zero = grid.in_dtype(working)
    reach = working.type(1 << 8 * codes.itemsize)  # rounding keeps order, so what the largest does not do none does
    with np.errstate(over="ignore"):
        widest = np.abs(scale) * (reach if zero is None else reach + np.abs(zero))
    return bool(np.isfinite(widest).all())


def _decode(codes: Array, scale: Array, zero: Array | None, values: Array, first_row: int, finite: bool = False) -> None:
    """Write ``scale * (codes - zero)`` to `values`; `finite` says that no product can overflow."""
    np.copyto(values, codes)
    with np.errstate(over="ignore", under="ignore"):
        if zero is not None:
            values -= zero
        values *= scale
    if not finite and not np.isfinite(values).all():
        wrong = ~np.isfinite(values)
        where = _first(wrong, first_row)
        raise NumericalError(
            f"code {float(codes[_first(wrong)]):g} at index {where} times its scale overflows {values.dtype.name}; decode it to float64"
        )


def _first(where: Array, first_row: int = 0) -> tuple[int, ...]:
    index = tuple(int(i) for i in np.argwhere(where)[0])
    return (index[0] + first_row, *index[1:]) if index else ()
