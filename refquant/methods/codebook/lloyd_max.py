"""Lloyd-Max codebooks of the normal distribution, and tiles coded with them (Max 1960, Lloyd 1957/1982; SoloQ, arXiv 2610.07121).

The codebook of N levels with the least mean squared error for a standard normal number. A rotated vector is close to normal, so its
root mean square is its scale, and no extreme has to be looked at.

[LLOYD-1]  a number goes to the nearest level: borders are  t_i = (c_i + c_{i+1}) / 2.
[LLOYD-2]  a level is the mean of what goes to it:  c_i = (phi(t_{i-1}) - phi(t_i)) / (Phi(t_i) - Phi(t_{i-1})).
[LLOYD-3]  of a tile z:  s = sqrt(mean(z^2)),  q(z) = s c[nearest(z / s)].
[LLOYD-4]  corrected scale (SoloQ):  s' = s |z|^2 / <q(z), z>,  so that  <z', z> = |z|^2:  z' is unbiased along z.

Departures and readings:

* SoloQ-C takes an E8 lattice code for weights, which is left out; scalar codes serve both sides. Its scales are per token and per group
  here; the paper's tiles are not known to us in detail.
* `correction=False` leaves [LLOYD-4] out, which has the smaller squared error, but shrinks.
* Levels are rounded to float32, as all codebooks are.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from refquant.core.coding import encode
from refquant.core.grid import Grid
from refquant.core.qtensor import Origin, QTensor
from refquant.core.spec import QuantSpec, spec
from refquant.errors import InputError, NumericalError, UsageError
from refquant.formats import Codebook, decode
from refquant.methods.card import Card, Equation
from refquant.numerics import FAST, Arithmetic
from refquant.numerics.arrays import Array, Float64Array
from refquant.numerics.casting import as_working, float_dtype, round_scale

MOST_BITS = 8
TURNS = 100
SETTLED = 1e-9  # Newton's next step is its square: below the rounding of the integrals

CARD = Card(
    name="lloyd_max",
    title="Lloyd-Max codebooks of the normal distribution, with scale correction",
    paper="Max, IRE Trans. Inf. Theory 6 (1960); Lloyd, IEEE Trans. Inf. Theory 28 (1982); SoloQ, arXiv 2610.07121",
    inputs=("an array", "bits"),
    equations=(
        Equation("LLOYD-1", "borders halfway between levels"),
        Equation("LLOYD-2", "each level the mean of the normal distribution between its borders"),
        Equation("LLOYD-3", "scale = root mean square of the tile; code = nearest level of z / s"),
        Equation("LLOYD-4", "corrected scale = s |z|^2 / <q(z), z>"),
    ),
    departures=(
        "SoloQ-C's E8 code for weights is left out; scalar codes on both sides",
        "correction=False leaves the corrected scale out",
    ),
    guarantees=(
        "<z', z> = |z|^2 up to the rounding of the scale (correction=True)",
        "codes of c z are those of z for c a power of two; of -z the mirrored ones",
    ),
    lane="ordered in ORDERED, bounded in FAST",
    cost="the codebook once; two sums and one comparison per level and element",
    oracle="Max's published tables; mpmath; the distortion integral",
    laws=tuple(
        (
            "finite nearest_level monotone sign_symmetry scaling signed_zero row_permutation batch_independence determinism "
            "inputs_untouched layout_independence nan_policy infinity_policy"
        ).split()
    ),
)


def lloyd_max_levels(bits: int, arithmetic: Arithmetic = FAST) -> Float64Array:
    """Levels of the codebook, ascending, float64 ``[2^bits]``; symmetric about 0.

    Newton's method on [LLOYD-2] for the positive half, whose Jacobian has three diagonals; from borders spaced as the cube root of the
    density would have them, it takes a handful of turns.

    Raises
    ------
    UsageError
        Unless there are 1 to 8 bits.

    Examples
    --------
    >>> lloyd_max_levels(2).round(4).tolist()
    [-1.5104, -0.4528, 0.4528, 1.5104]
    """
    if isinstance(bits, bool) or not isinstance(bits, int) or not 1 <= bits <= MOST_BITS:
        raise UsageError(f"a Lloyd-Max codebook has 1 to {MOST_BITS} bits, not {bits!r}")
    half = _start(1 << (bits - 1), arithmetic)
    for _ in range(TURNS):
        step = _newton_step(half, arithmetic)
        half = half - step
        if not (half > 0).all() or not (np.diff(half) > 0).all():
            raise NumericalError(f"the levels of {bits} bits left their order while they were looked for")
        if np.abs(step).max() <= SETTLED * half[-1]:
            return np.concatenate([-half[::-1], half])
    raise NumericalError(f"the levels of {bits} bits did not settle in {TURNS} turns")


def gaussian_codebook(bits: int, arithmetic: Arithmetic = FAST) -> Codebook:
    """The levels as a codebook of float32 numbers, ``lloyd_max1`` to ``lloyd_max8``.

    Examples
    --------
    >>> gaussian_codebook(1).table
    (-0.7978845834732056, 0.7978845834732056)
    """
    return _codebook(bits, arithmetic)


@lru_cache(maxsize=2 * MOST_BITS)  # a pure function; whoever quantizes every token of every layer asks for it each time
def _codebook(bits: int, arithmetic: Arithmetic) -> Codebook:
    table = lloyd_max_levels(bits, arithmetic).astype(np.float32)
    return Codebook(name=f"lloyd_max{bits}", bits=bits, table=tuple(table.tolist()))


def lloyd_max_spec(bits: int, group_size: int = -1, scale_format: str | None = None, arithmetic: Arithmetic = FAST) -> QuantSpec:
    """The spec of a matrix whose rows, or groups along them, are tiles: a scale each, no zero point."""
    return spec(gaussian_codebook(bits, arithmetic), group_size=group_size, scheme="absmax", scale_format=scale_format)


def lloyd_max(x: Array, spec: QuantSpec, *, correction: bool = True, arithmetic: Arithmetic = FAST) -> QTensor:
    """Code an array with a codebook on scales from its root mean squares.

    Parameters
    ----------
    x : ndarray of float16, bfloat16, float32 or float64
    spec : QuantSpec
        As :func:`lloyd_max_spec` makes it; any tiling.
    correction : bool
        Whether the scale that is stored is that of [LLOYD-4].
    arithmetic : Arithmetic

    Returns
    -------
    QTensor
        The codebook has no level 0: a tile of zeros gets the smallest scale that there is, and decodes to numbers next to 0.

    Raises
    ------
    InputError
        If `x` holds NaN or infinities.
    NumericalError
        If a scale overflows its format.

    Examples
    --------
    >>> q = lloyd_max(np.array([[3.0, -1.0, 1.0, -3.0]]), lloyd_max_spec(1))
    >>> q.codes.tolist(), q.dequantize().round(12).tolist()
    ([[1, 0, 1, 0]], [[2.5, -2.5, 2.5, -2.5]])
    """
    x = as_working(x)
    if not np.isfinite(x).all():
        raise InputError("NaN or infinities have no root mean square; a Lloyd-Max code needs finite numbers")
    stored = float_dtype(spec.scale_format) if spec.scale_format else x.dtype
    z = spec.tiling.by_tile(x.astype(np.float64), 0.0)
    peak = np.abs(z).max(axis=-1, initial=0.0)
    _, exponent = np.frexp(peak)  # squares of numbers next to 1 neither overflow nor vanish
    z = np.ldexp(z, -exponent[..., None])
    counts = np.count_nonzero(spec.tiling.by_tile(np.ones(x.shape, dtype=bool), False), axis=-1)
    power = arithmetic.sum(z * z, axis=-1)
    root = np.sqrt(power / np.maximum(counts, 1))  # [LLOYD-3]
    grid = Grid(scale=_to_scale(root, exponent, stored), zero=None)
    codes = encode(x, grid, spec)
    if correction:
        levels = decode(spec.tiling.by_tile(codes, 0), spec.format, np.dtype(np.float64))
        overlap = arithmetic.sum(levels * z, axis=-1)
        corrected = np.where(overlap > 0, power / np.where(overlap > 0, overlap, 1.0), root)  # [LLOYD-4]
        grid = Grid(scale=_to_scale(corrected, exponent, stored), zero=None)
    origin = Origin(method="lloyd_max", parameters={"correction": correction})
    return QTensor(codes=codes, scale=grid.scale, zero=None, spec=spec, origin=origin)


def _to_scale(scale: Float64Array, exponent: Array, stored: np.dtype[np.floating]) -> Array:
    with np.errstate(over="ignore", under="ignore"):
        return round_scale(np.ldexp(scale, exponent), stored, "lloyd_max")


def _start(count: int, arithmetic: Arithmetic) -> Float64Array:
    """Levels of the positive half as a density of the cube root of the normal one would have them, by bisection (Panter and Dite 1951)."""
    wanted = 0.5 + (np.arange(count) + 0.5) / (2 * count)
    below, above = np.zeros(count), np.full(count, 8.0)
    for _ in range(50):
        middle = (below + above) / 2
        less = _normal_up_to(middle, arithmetic) < wanted
        below, above = np.where(less, middle, below), np.where(less, above, middle)
    return np.asarray(math.sqrt(3) * below)


def _newton_step(half: Float64Array, arithmetic: Arithmetic) -> Float64Array:
    """``J^-1 F`` for ``F_i = c_i - mean of cell i``, J having three diagonals: elimination from the first row, then back."""
    count = len(half)
    inner = (half[1:] + half[:-1]) / 2  # [LLOYD-1]
    left, right = np.concatenate([[0.0], inner]), np.concatenate([inner, [np.inf]])
    density = arithmetic.exp(-0.5 * (left * left)) / math.sqrt(2 * math.pi)
    density_right = np.append(density[1:], 0.0)
    mass = np.append(_normal_up_to(inner, arithmetic), 1.0) - _normal_up_to(left, arithmetic)
    mean = (density - density_right) / mass  # [LLOYD-2]
    by_left = density * (mean - left) / mass
    by_left[0] = 0  # 0 is a border whatever the levels
    by_right = density_right * (np.where(np.isfinite(right), right, mean) - mean) / mass
    diagonal, value = 1 - (by_left + by_right) / 2, half - mean
    for i in range(1, count):
        factor = by_left[i] / 2 / diagonal[i - 1]
        diagonal[i] -= factor * by_right[i - 1] / 2
        value[i] += factor * value[i - 1]
    step = np.empty(count)
    step[-1] = value[-1] / diagonal[-1]
    for i in range(count - 2, -1, -1):
        step[i] = (value[i] + by_right[i] / 2 * step[i + 1]) / diagonal[i]
    return step


def _normal_up_to(x: Float64Array, arithmetic: Arithmetic) -> Float64Array:
    """Phi of the standard normal distribution."""
    return np.asarray((1 + arithmetic.erf(x / math.sqrt(2))) / 2)
