"""Dynamic per-token activation quantization: every token gets its own scale at run time.

[TOK-1]  scale (and zero) of a token from its own extremes, by the scheme; QuaRot's is ``sym_full`` with scale 1 for an all-zero token.
[TOK-2]  x_hat = s (clip(round(x / s) + z) - z).

Departures from QuaRot's code: none for symmetric grids. Its grouped asymmetric grids do not widen the range to 0, so that a constant
group gives scale 0 and NaN there; ours (``asym_incl0``) does widen it.
"""

from __future__ import annotations

from refquant.core.coding import fake_quantize
from refquant.core.fitting import fit_grid
from refquant.core.spec import QuantSpec
from refquant.core.tiling import Tiling
from refquant.errors import InputError
from refquant.methods.card import Card, Equation
from refquant.numerics import FAST, Arithmetic
from refquant.numerics.arrays import Array

CARD = Card(
    name="per_token",
    title="Dynamic per-token activation quantization",
    paper="folklore; QuaRot, arXiv 2404.00456, for the defaults",
    inputs=("activations [..., features]", "spec"),
    equations=(
        Equation("TOK-1", "scale and zero of a token (or of a group of its features) from its own extremes"),
        Equation("TOK-2", "code = clip(round(x / s) + z)"),
    ),
    departures=("grouped asymmetric grids are widened to hold 0; QuaRot's code is not, and gives NaN for a constant group",),
    guarantees=("a token's result depends on that token alone, not on the batch", "exact: the same bytes on every machine"),
    lane="exact",
    cost="two passes over the activations",
    oracle="refquant.oracle.uniform; QuaRot's ActQuantizer",
    laws=tuple(
        (
            "finite nearest_level monotone idempotence sign_symmetry scaling zero_kept signed_zero row_permutation column_permutation "
            "batch_independence chunk_independence determinism inputs_untouched layout_independence nan_policy infinity_policy"
        ).split()
    ),
)


def quantize_per_token(x: Array, spec: QuantSpec, arithmetic: Arithmetic = FAST) -> Array:
    """Quantize and dequantize activations with scales taken from each token.

    Parameters
    ----------
    x : floating ndarray ``[..., features]``
    spec : QuantSpec
        Its tiling cuts tokens one by one: ``(1, None)`` or ``(1, group_size)``.
    arithmetic : Arithmetic
        Matters to a clip search only.

    Returns
    -------
    ndarray of the same shape, float32 or float64 as `x` is worked in

    Raises
    ------
    InputError
        If the tiling lets tokens share a scale, or `x` holds NaN or infinities.

    Examples
    --------
    >>> import numpy as np
    >>> from refquant.core import spec
    >>> quantize_per_token(np.array([[7.0, -3.4], [0.0, 0.0]]), spec("int4", scheme="sym_full", empty="unit_scale"))
    array([[ 7., -3.],
           [ 0.,  0.]])
    """
    if len(spec.tiling.extents) != 2 or spec.tiling.extents[0] != 1:
        raise InputError(f"per-token quantization needs a tiling (1, None) or (1, group size), not {spec.tiling.extents}")
    spec = spec.with_tiling(Tiling((1,) * (x.ndim - 2) + spec.tiling.extents)) if x.ndim > 2 else spec
    return fake_quantize(x, fit_grid(x, spec, arithmetic), spec)  # [TOK-1] [TOK-2]
