"""How far an integer linear may be from the fake-quantized one: a bound for every element, from the codes alone.

Both compute the same real number. With the scales as the working format F holds them, it is

    Y[t,o] = sum_k x_k v_k + bias[o],   x_k = s_a (a_k - z_a),   v_k = s_w (w_k - z_w).

F has the unit roundoff u (2^-24 for float32, 2^-53 for float64) and the smallest positive number e. A rounded operation returns its exact
result times ``1 + d``, ``|d| <= u``, and a product, if it underflows, that plus at most ``e/2``; sums do not underflow with an error. A
number that has gone through m roundings is its exact self times ``1 + theta``, ``|theta| <= gamma_m = m u / (1 - m u)`` (Higham, Accuracy
and Stability of Numerical Algorithms, lemma 3.1).

*Fake-quantized.* ``a - z`` and ``w - z`` are integers below 2^24, hence exact. ``x_k``, ``v_k`` and their product round once each. BLAS
adds n terms in an order and a blocking of its own, with fused operations or not, from 0: whichever it is, a term passes at most n - 1
additions that round. The bias is one more. That is at most n + 3 roundings of every term:

    |y_fake - Y| <= gamma_(n+3) (S + |bias|) + e (sum_k |x_k| + sum_k |v_k| + n),   S = sum_k |x_k| |v_k|.

The underflow term: an error of e/2 in ``x_k`` counts ``|v_k|`` times, one in ``v_k`` counts ``|x_k|`` times, one in the product once; each
grows by ``1 + gamma`` in what follows, which is below 2 for m u <= 1/2.

*Integer.* A corrected sum D is an integer; rounding it to F, the weight's scale, at most G - 1 additions (G the largest number of weight
groups within one activation group), the activation's scale, H - 1 additions (H activation groups), the bias: G + H + 2 roundings. And
``|D| <= sum |a - z_a| |w - z_w|`` over its segment, so that all magnitudes together are S again:

    |y - Y| <= gamma_(G+H+2) (S + |bias|) + e (sum_h s_a G_h + H).

The triangle inequality adds the two [INT-6]. S is computed with exact integer products and a handful of float64 roundings a segment, which
a factor of 1 + 2^-20 covers; the underflow term is doubled, which covers those of this computation.
"""

from __future__ import annotations

import numpy as np

from refquant.core import Grid
from refquant.errors import UsageError
from refquant.methods.kernels.integer_linear import check_activations
from refquant.methods.kernels.integer_weight import IntegerWeight
from refquant.numerics import FAST, Arithmetic
from refquant.numerics.arrays import Array
from refquant.numerics.casting import smallest_positive

OWN_ROUNDINGS = 1 + 1 / (1 << 20)


def gamma(roundings: int, dtype: np.dtype[np.floating]) -> float:
    """Relative error that so many roundings can make together, ``m u / (1 - m u)``.

    Raises
    ------
    UsageError
        If ``m u`` exceeds 1/2: so many that the bound says nothing.

    Examples
    --------
    >>> gamma(1, np.dtype(np.float32)) > 2**-24
    True
    """
    unit = float(np.finfo(dtype).eps) / 2
    if roundings * unit > 0.5:
        raise UsageError(f"{roundings} roundings in {np.dtype(dtype).name} have no bound; at most {int(0.5 / unit)} have")
    return roundings * unit / (1 - roundings * unit)


def difference_bound(codes: Array, grid: Grid, weight: IntegerWeight, bias: Array | None = None, arithmetic: Arithmetic = FAST) -> Array:
    """Bound on the distance between the integer linear and the fake-quantized one, element by element [INT-6].

    Parameters
    ----------
    codes, grid, weight, bias, arithmetic
        As in :func:`~refquant.methods.kernels.integer_linear.integer_linear`.

    Returns
    -------
    float64 ndarray ``[tokens, out]``
        Infinite where float64 cannot hold it.

    Raises
    ------
    InputError, UsageError
        As :func:`~refquant.methods.kernels.integer_linear.integer_linear`; and if there are so many columns that roundings have no bound.

    Examples
    --------
    >>> from refquant.core import spec
    >>> from refquant.methods.grid.rtn import rtn
    >>> from refquant.methods.kernels.integer_linear import activation_codes
    >>> from refquant.methods.kernels.integer_weight import prepare_weight
    >>> how = spec("int8", scheme="sym_full")
    >>> weight = prepare_weight(rtn(np.ones((1, 2)), spec("int4")), how, np.dtype(np.float64))
    >>> bound = difference_bound(*activation_codes(np.ones((1, 2)), how), weight)
    >>> bool(0 < bound[0, 0] < 1e-14)
    True
    """
    check_activations(codes, grid, weight, bias)
    dtype, groups = weight.dtype, [0] * weight.activation_groups
    scale = grid.in_dtype(dtype)[0].astype(np.float64)
    ordered = weight.ordered(codes).astype(np.float64)
    products = np.zeros((len(codes), weight.shape[0]))  # S
    inputs, weights = np.zeros((len(codes), 1)), np.zeros((1, weight.shape[0]))  # sum |x_k|, sum |v_k|
    with np.errstate(over="ignore", under="ignore"):
        for segment in weight.segments:
            h = segment.activation_group
            a = np.abs(ordered[:, segment.columns] - (0 if grid.zero is None else grid.zero[:, h, None].astype(np.float64)))
            w = np.abs(weight.codes[segment.columns].astype(np.float64) - (0 if segment.zero is None else segment.zero))
            s_a, s_w = scale[:, h, None], segment.scale.astype(np.float64)
            products += s_a * (s_w * arithmetic.matmul(a, w))
            inputs += s_a * arithmetic.sum(a, axis=1, keepdims=True)
            weights += s_w * arithmetic.sum(w, axis=0, keepdims=True)
            groups[h] += 1
        columns = weight.shape[1]
        relative = gamma(columns + 3, dtype) + gamma(max(groups, default=0) + len(groups) + 2, dtype)
        scaled = arithmetic.sum(scale * np.array(groups, dtype=np.float64), axis=1, keepdims=True)  # sum_h s_a G_h
        largest = products if bias is None else products + np.abs(bias.astype(np.float64))
        underflow = 2 * smallest_positive(dtype) * (inputs + weights + scaled + columns + len(groups))
        return np.asarray((relative * largest + underflow) * OWN_ROUNDINGS)  # [INT-6]
