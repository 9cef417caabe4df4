"""HQQ: a zero point between the codes, moved so that a robust norm of the weight error falls; no calibration data.

Badri and Shaji, "Half-Quadratic Quantization of Large Machine Learning Models" (2023).

[HQQ-1]  t = min((2^b - 1) / (hi - lo), 2e4) steps a unit, 1 where the range is at most 1e-4;  z = -lo t, not rounded.
[HQQ-2]  code = clip(rn(x t + z));  x_hat = (code - z) s  with the scale s = 1 / t.
[HQQ-3]  e = shrink(x - x_hat),  shrink(v) = sign(v) max(|v| - |v|^(p-1) / beta, 0):  the proximal step of the norm p < 1.
[HQQ-4]  z = mean over the tile of (code - (x - e) t);  beta = kappa beta;  stop as soon as the mean of |x - x_hat| no longer falls.

Departures from the authors' code: groups are tiles of the spec (theirs may also be strided over the flat array); the mean error that
stops the iteration is that of the whole tensor, as there; sums are the arithmetic's, so codes at ties may differ from torch's.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from refquant.core.grid import Grid
from refquant.core.qtensor import Origin, QTensor
from refquant.core.scheme import Scheme
from refquant.core.spec import QuantSpec
from refquant.errors import InputError, NumericalError, UsageError
from refquant.methods.card import Card, Equation
from refquant.numerics import FAST, Arithmetic
from refquant.numerics.arrays import Array
from refquant.numerics.casting import as_working
from refquant.numerics.rounding import round_to_integer

MOST_STEPS = 2e4
LEAST_RANGE = 1e-4
SCHEME = Scheme(name="hqq", range="minmax", steps="levels", zero="real", empty="unit_scale", signed=False)

CARD = Card(
    name="hqq",
    title="Half-quadratic quantization",
    paper="Badri and Shaji (2023), Half-Quadratic Quantization of Large Machine Learning Models",
    inputs=("weight [out, in]", "spec of unsigned integers"),
    equations=(
        Equation("HQQ-1", "steps a unit t = (2^b - 1) / (hi - lo), zero point -lo t, unrounded"),
        Equation("HQQ-2", "code = clip(rn(x t + z)), x_hat = (code - z) / t"),
        Equation("HQQ-3", "e = shrink(x - x_hat), the proximal step of a norm below 1"),
        Equation("HQQ-4", "z = mean(code - (x - e) t), while the mean error falls"),
    ),
    departures=("groups are tiles of the spec, not strides over the flat array", "sums are the arithmetic's, not torch's"),
    guarantees=("without iterations: the authors' bytes; with them: the mean error is that of the best iteration within one step",),
    lane="ordered in ORDERED, bounded in FAST",
    cost="one pass, and two powers a weight an iteration",
    oracle="hqq 0.2.8",
    laws=tuple(
        (
            "finite codes_in_range decoding half_step nearest_level monotone signed_zero "
            "determinism inputs_untouched layout_independence nan_policy infinity_policy"
        ).split()
    ),
)


def hqq(
    weight: Array,
    spec: QuantSpec,
    *,
    iterations: int = 20,
    norm: float = 0.7,
    beta: float = 10.0,
    kappa: float = 1.01,
    round_zero: bool = False,
    arithmetic: Arithmetic = FAST,
) -> QTensor:
    """Quantize with real zero points that are fitted to a robust norm of the error.

    Parameters
    ----------
    weight : ndarray of float16, bfloat16, float32 or float64
    spec : QuantSpec
        Format and tiling count; the scheme becomes :data:`SCHEME`.
    iterations : int
        At most this many; 0 leaves the grid as the range gives it.
    norm, beta, kappa : float
        p, the first beta and its growth.
    round_zero : bool
        Round the first zero point to an integer, as the authors do for 4 bits.
    arithmetic : Arithmetic
        For the power and the means.

    Returns
    -------
    QTensor

    Raises
    ------
    UsageError
        If the format is no unsigned integer, or an option has no meaning.
    InputError
        If the weight holds NaN or infinities.
    NumericalError
        If a range or a sum of the iteration overflows the working dtype.

    Examples
    --------
    >>> import numpy as np
    >>> from refquant.core import spec
    >>> q = hqq(np.array([[0.0, 0.5, 1.0, 1.5]], dtype=np.float32), spec("int2"))
    >>> q.codes.tolist(), q.zero.tolist()
    ([[0, 1, 2, 3]], [[0.0]])
    """
    if spec.integers.signed:
        raise UsageError(f"hqq has unsigned codes; {spec.format.name} is signed")
    if isinstance(iterations, bool) or iterations < 0 or not 0 < norm <= 1 or beta <= 0 or kappa <= 0:
        raise UsageError(
            f"hqq takes iterations >= 0, 0 < norm <= 1, beta > 0 and kappa > 0; got {iterations!r}, {norm!r}, {beta!r}, {kappa!r}"
        )
    x = as_working(weight)
    if not np.isfinite(x).all():
        raise InputError("hqq needs finite weights; found NaN or an infinity")
    kind = x.dtype.type
    tiles, inside = spec.tiling.by_tile(x, 0.0), spec.tiling.by_tile(np.ones(x.shape, dtype=bool), False)
    lo = np.where(inside, tiles, np.inf).min(axis=-1, keepdims=True)
    hi = np.where(inside, tiles, -np.inf).max(axis=-1, keepdims=True)
    top = kind(spec.integers.hi)
    with np.errstate(over="ignore"):
        width = hi - lo
    if not np.isfinite(width[np.isfinite(lo)]).all():  # a tile without elements has no range
        raise NumericalError(f"a range is wider than {x.dtype.name} can hold; rescale the weight, or widen it to float64")
    with np.errstate(divide="ignore", over="ignore"):
        # The quotient is a product with a reciprocal there: torch divides a number by a tensor so.
        steps = np.where(width <= LEAST_RANGE, kind(1), np.minimum(kind(1) / width * top, kind(MOST_STEPS)))
    zero = np.asarray(-lo * steps)  # [HQQ-1]
    if round_zero:
        zero = round_to_integer(zero)
    if iterations:
        zero = _moved_zero(tiles, inside, steps, zero, top, (iterations, norm, beta, kappa), arithmetic)
    scale = np.asarray(kind(1) / steps)[..., 0]
    found = replace(spec, scheme=SCHEME, scale_format=None, clip_search=None, scales=None)
    grid = Grid(scale=scale, zero=zero[..., 0])
    wide, wide_zero = (spec.tiling.expand(part[..., 0], x.shape) for part in (steps, zero))
    codes = np.clip(round_to_integer(x * wide + wide_zero), kind(0), top)  # [HQQ-2]
    options = {"iterations": iterations, "norm": norm, "beta": beta, "kappa": kappa, "round_zero": round_zero}
    origin = Origin(method="hqq", parameters=options)
    return QTensor(codes=codes.astype(spec.format.dtype), scale=grid.scale, zero=grid.zero, spec=found, origin=origin)


def _moved_zero(
    x: Array,
    inside: Array,
    steps: Array,
    zero: Array,
    top: np.floating,
    options: tuple[int, float, float, float],
    arithmetic: Arithmetic,
) -> Array:
    """The zero points after the half-quadratic iteration."""
    iterations, norm, beta, kappa = options
    kind, best, count = x.dtype.type, np.inf, np.count_nonzero(inside, axis=-1, keepdims=True)
    for _ in range(iterations):
        codes = np.clip(round_to_integer(x * steps + zero), kind(0), top)
        error = np.where(inside, x - (codes - zero) / steps, kind(0))
        size = np.abs(error)
        with np.errstate(divide="ignore", over="ignore"):
            # 0 to a negative power is infinite, and what is subtracted from it is cut off at 0.
            power = np.where(size > 0, arithmetic.power(np.where(size > 0, size, kind(1)), norm - 1), np.inf)
        kept = np.copysign(np.maximum(size - power / kind(beta), kind(0)), error)  # [HQQ-3]
        target = np.where(inside, codes - (x - kept) * steps, kind(0))
        with np.errstate(over="ignore"):
            zero = np.asarray(arithmetic.sum(target, axis=-1)[..., None] / count).astype(x.dtype)  # [HQQ-4]
        if not np.isfinite(zero).all():
            raise NumericalError(f"a sum over a tile overflows {x.dtype.name}; rescale the weight, or widen it to float64")
        beta *= kappa
        now = float(arithmetic.sum(size.reshape(-1).astype(np.float64), axis=-1)) / max(int(np.count_nonzero(inside)), 1)
        if now >= best:
            break
        best = now
    return zero
