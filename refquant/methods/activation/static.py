"""Static activation quantization: one grid, calibrated beforehand, for all inputs to come.

[STAT-1]  extremes of every feature over all calibration tokens; they can be gathered in any grouping.
[STAT-2]  scale and zero from the extremes of a tile of features, by the scheme.
[STAT-3]  x_hat = s (clip(round(x / s) + z) - z): later values outside the calibrated range saturate.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from refquant.core.coding import fake_quantize
from refquant.core.fitting import fit_grid
from refquant.core.grid import Grid
from refquant.core.spec import QuantSpec
from refquant.errors import InputError, UsageError
from refquant.methods.card import Card, Equation
from refquant.numerics.arrays import Array, read_only
from refquant.numerics.frozen import by_constructor

CARD = Card(
    name="static",
    title="Static activation quantization",
    paper="folklore; per-tensor static grids as in SmoothQuant O3, arXiv 2211.10438",
    inputs=("extremes of calibration inputs", "spec"),
    equations=(
        Equation("STAT-1", "extremes of every feature over calibration tokens"),
        Equation("STAT-2", "scale and zero from the extremes, by the scheme"),
        Equation("STAT-3", "code = clip(round(x / s) + z), with saturation outside the calibrated range"),
    ),
    departures=(),
    guarantees=("the grid does not depend on how calibration data was cut into batches",),
    lane="exact",
    cost="two comparisons an element while calibrating",
    oracle="refquant.oracle.uniform",
    laws=tuple(
        (
            "finite nearest_level monotone idempotence zero_kept signed_zero row_permutation column_permutation batch_independence "
            "chunk_independence determinism inputs_untouched layout_independence nan_policy infinity_policy merge_associativity "
            "merge_commutativity token_permutation"
        ).split()
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Extremes:
    """Smallest and largest value of every feature over the tokens seen so far.

    Parameters
    ----------
    lo, hi : ndarray of the same shape ``[..., features]``
    """

    lo: Array
    hi: Array

    __reduce__ = by_constructor

    def __post_init__(self) -> None:
        object.__setattr__(self, "lo", read_only(self.lo))
        object.__setattr__(self, "hi", read_only(self.hi))

    @classmethod
    def of(cls, x: Array, axis: int | tuple[int, ...]) -> Extremes:
        """Extremes of `x` along the token axes [STAT-1].

        Raises
        ------
        InputError
            If there is no token.
        """
        if not np.size(x):
            raise InputError(f"extremes need at least one value; the array has shape {np.shape(x)}")
        return cls(lo=np.min(x, axis=axis), hi=np.max(x, axis=axis))  # [STAT-1]

    def merge(self, other: Extremes) -> Extremes:
        """Extremes over both sets of tokens."""
        if self.lo.shape != other.lo.shape:
            raise InputError(f"cannot merge extremes of shapes {self.lo.shape} and {other.lo.shape}")
        return Extremes(lo=np.minimum(self.lo, other.lo), hi=np.maximum(self.hi, other.hi))


def static_grid(extremes: Extremes, spec: QuantSpec) -> Grid:
    """Fit a grid to extremes as if they were two tokens [STAT-2].

    Parameters
    ----------
    extremes : Extremes of shape ``[features]``
    spec : QuantSpec
        A tiling of ``[tokens, features]`` that does not cut the token axis, such as ``Tiling.tensor()`` or ``Tiling((None, 1))``.

    Returns
    -------
    Grid with a token axis of length 1

    Raises
    ------
    InputError
        If the tiling cuts the token axis, or an extreme is NaN or infinite.
    UsageError
        If the spec asks for a clip search, which needs the values themselves.

    Examples
    --------
    >>> from refquant.core import spec
    >>> seen = Extremes.of(np.array([[-1.0, 0.5], [0.5, 2.0]]), axis=0)
    >>> grid = static_grid(seen, spec("int4", granularity="tensor"))
    >>> float(grid.scale[0, 0]), int(grid.zero[0, 0])
    (0.2, 5)
    """
    tokens = len(spec.tiling.extents) - 2
    if spec.tiling.extents[tokens] is not None:
        raise InputError(f"a static grid is shared by all tokens; the tiling {spec.tiling.extents} cuts the token axis")
    check_range_only(spec)
    both = np.stack([extremes.lo, extremes.hi], axis=-2)
    if not np.isfinite(both.astype(np.float64)).all():  # whatever spec.nan says: the range of the other values is lost
        raise InputError("the extremes of the calibration inputs are not finite; a static grid needs finite numbers")
    return fit_grid(both, spec)  # [STAT-2]


def check_range_only(spec: QuantSpec) -> None:
    """Refuse a spec whose grid cannot be had from extremes alone.

    Raises
    ------
    UsageError
        If it asks for a clip search.
    """
    if spec.clip_search is not None:
        raise UsageError("a clip search needs all values; a grid from calibrated extremes takes mse=False")


def quantize_static(x: Array, grid: Grid, spec: QuantSpec) -> Array:
    """Quantize and dequantize `x` ``[tokens, features]`` on a calibrated grid [STAT-3]; the working dtype of `x` is kept.

    No tokens give none: an expert to which nothing is sent has nothing to quantize.

    Raises
    ------
    InputError
        If the grid does not fit the features, or as :func:`refquant.core.fake_quantize`.

    Examples
    --------
    >>> from refquant.core import spec
    >>> how = spec("int4", granularity="tensor")
    >>> grid = static_grid(Extremes.of(np.array([[-1.0, 2.0]]), axis=0), how)
    >>> quantize_static(np.array([[0.31, 9.0]]), grid, how).tolist(), quantize_static(np.zeros((0, 2)), grid, how).shape
    ([[0.4, 2.0]], (0, 2))
    """
    if np.ndim(x) > 1 and not np.shape(x)[-2]:
        # One token in the place of none, so that a grid that does not fit is still found.
        one = np.zeros((*np.shape(x)[:-2], 1, np.shape(x)[-1]), dtype=np.asarray(x).dtype)
        return fake_quantize(one, grid, spec)[..., :0, :]
    return fake_quantize(x, grid, spec)  # [STAT-3]
