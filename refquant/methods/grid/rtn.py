"""RTN: round to nearest, the baseline that every method has to beat.

[RTN-1]  fit scale and zero of every tile from its extremes (or by clip search), by the scheme of the spec.
[RTN-2]  code = clip(round(x / s) + z);  x_hat = s (code - z).

No calibration data. Departures: none, there is no one paper; the schemes say whose arithmetic each is.
"""

from __future__ import annotations

from refquant.core.coding import encode
from refquant.core.fitting import fit_grid
from refquant.core.qtensor import Origin, QTensor
from refquant.core.spec import QuantSpec
from refquant.methods.card import Card, Equation
from refquant.numerics import FAST, Arithmetic
from refquant.numerics.arrays import Array
from refquant.numerics.casting import as_working

CARD = Card(
    name="rtn",
    title="Round to nearest",
    paper="folklore; each scheme names the code whose arithmetic it is",
    inputs=("weight [out, in]", "spec"),
    equations=(
        Equation("RTN-1", "scale and zero of every tile from its extremes, by the scheme"),
        Equation("RTN-2", "code = clip(round(x / s) + z), x_hat = s (code - z)"),
    ),
    departures=(),
    guarantees=(
        "inside the range the error is at most half a step (plus the rounding of the zero point)",
        "exact in every working dtype: the same bytes on every machine, unless the clip search is on",
    ),
    lane="exact (bounded with clip search)",
    cost="one pass over the weight; 80 with clip search",
    oracle="refquant.oracle.uniform; IST-DASLab/gptq's quantizer",
    laws=tuple(
        (
            "finite codes_in_range decoding half_step nearest_level monotone idempotence same_grid_idempotence sign_symmetry scaling "
            "zero_kept signed_zero row_permutation column_permutation batch_independence chunk_independence determinism "
            "inputs_untouched layout_independence nan_policy infinity_policy"
        ).split()
    ),
)


def rtn(weight: Array, spec: QuantSpec, arithmetic: Arithmetic = FAST) -> QTensor:
    """Quantize a tensor by rounding every element to its nearest code.

    Parameters
    ----------
    weight : ndarray of float16, bfloat16, float32 or float64, any shape that the tiling fits
    spec : QuantSpec
    arithmetic : Arithmetic
        Used by the clip search only.

    Returns
    -------
    QTensor

    Raises
    ------
    InputError
        If the weight holds NaN or infinities, or does not fit the tiling.
    NumericalError
        If a scale overflows its format.

    Examples
    --------
    >>> import numpy as np
    >>> from refquant.core import spec
    >>> q = rtn(np.array([[-1.0, 0.1, 0.9, 2.0]]), spec("int4"))
    >>> q.codes
    array([[ 0,  5,  9, 15]], dtype=uint8)
    """
    x = as_working(weight, "the weight")
    grid = fit_grid(x, spec, arithmetic)  # [RTN-1]
    codes = encode(x, grid, spec)  # [RTN-2]
    return QTensor(codes=codes, scale=grid.scale, zero=grid.zero, spec=spec, origin=Origin(method="rtn"), coded=grid.coded)
