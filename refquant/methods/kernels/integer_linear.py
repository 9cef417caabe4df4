"""A linear that multiplies integer codes, and scales the sums afterwards.

A fake-quantized linear turns codes back into numbers and multiplies those. A kernel on hardware multiplies the codes and touches floating
point once per group of weights. With activation codes ``a`` (scale ``s_a[t, h]``, zero ``z_a[t, h]``; ``h`` counts groups of features,
one for whole tokens) and weight codes ``w`` (``s_w[o, g]``, ``z_w[o, g]``; ``g`` counts groups of columns), a *segment* is the set of
columns with one ``h`` and one ``g``. For every segment, ``n`` columns long, and with every scale in the working format F (float32 or
float64, the model's):

[INT-1]  acc[t,o] = sum of a[t,k] w[o,k] over the segment, exactly, in an int32; n max|a| max|w| <= 2^31 - 1 by the formats' ends.
[INT-2]  D[t,o] = acc[t,o] - z_w[o] sum_k a[t,k] - z_a[t] (sum_k w[o,k] - n z_w[o]), exactly; it is sum_k (a - z_a)(w - z_w).
[INT-3]  r[t,o,h] = sum over g, in increasing order and beginning with +0, of s_w[o,g] F(D[t,o]): F rounds the integer once, the product
rounds once, each addition rounds once.
[INT-4]  y[t,o] = sum over h, in increasing order and beginning with +0, of s_a[t,h] r[t,o,h]; each product and addition rounds once.
[INT-5]  y[t,o] + bias[o], if there is a bias, rounds once.
[INT-6]  |y - y_fake| <= (gamma_(n+3) + gamma_(G+H+2)) (S + |bias|) + an underflow term, with y_fake the fake-quantized linear's result in
the same format, n all its columns, G groups of weight columns within one of H groups of features, S = sum_k |s_a (a - z_a) s_w (w - z_w)|.
It is proved in :mod:`refquant.methods.kernels.integer_bound`.

All roundings are IEEE 754's to nearest, ties to even, nothing is fused: the result has one value, on every machine. The sums of weight
codes in [INT-2] are taken once, when the weight is prepared; those of activation codes only where a weight has a zero point. Corrections
are kept in 64 bits here; a kernel that keeps them modulo 2^32 gets the same D wherever D itself fits an int32, which it does for zero
points that are codes themselves, as all of ``none``, ``midpoint`` and ``integer`` are.

With an activation order (``QTensor.permutation``) the columns of a group lie apart; they are gathered, and the order inside an exact sum
is of no consequence. Attention products are not touched by any of this: softmax output and V stay fake-quantized.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from refquant.core import Grid, QuantSpec, encode, fit_grid
from refquant.errors import InputError, NumericalError, UsageError
from refquant.methods.card import Card, Equation
from refquant.methods.kernels.integer_matmul import FLOAT64_INTEGERS, largest_magnitude
from refquant.methods.kernels.integer_weight import IntegerWeight, Segment, widest
from refquant.numerics import FAST, Arithmetic
from refquant.numerics.arrays import Array

CARD = Card(
    name="integer_linear",
    title="A linear on integer codes with int32 accumulators",
    paper="folklore; Jacob et al., arXiv 1712.05877, for the zero-point corrections",
    inputs=("activations [..., in]", "their spec, and their grid if it is static", "weight as a QTensor [out, in]"),
    equations=(
        Equation("INT-1", "one exact int32 sum of products of codes for each group of columns"),
        Equation("INT-2", "zero points are corrected in integers by sums of activation codes and of weight codes"),
        Equation("INT-3", "corrected sums, each rounded once to the working format and times the weight's scale, are added group by group"),
        Equation("INT-4", "the result times the activation's scale, group of features by group of features"),
        Equation("INT-5", "the bias is added last"),
        Equation("INT-6", "the distance to the fake-quantized linear is at most the rounding errors that both can make"),
    ),
    departures=(
        "scales are the working format's (float32 or float64), not a fixed-point multiplier with a shift as in the paper; the output is "
        "not quantized",
        "real zero points and groups of one activation shared by several tokens are refused",
    ),
    guarantees=(
        "accumulators cannot overflow: the bound is checked for the formats' ends before anything is multiplied",
        "exact: the same bytes on every machine, whatever BLAS does",
        "within a proved distance of the fake-quantized linear, element by element (refquant.methods.kernels.integer_bound)",
    ),
    lane="exact",
    cost="the multiplications of the linear, and two passes over [tokens, out] for each group of columns",
    oracle="loops over Python integers and fractions, each operation rounded by refquant.oracle.ieee",
    laws=tuple(
        (
            "finite sign_symmetry scaling signed_zero row_permutation batch_independence determinism inputs_untouched "
            "layout_independence nan_policy infinity_policy"
        ).split()
    ),
)


def activation_codes(x: Array, spec: QuantSpec, grid: Grid | None = None, arithmetic: Arithmetic = FAST) -> tuple[Array, Grid]:
    """Codes of activations, and their grid: those of a fake-quantized linear.

    Parameters
    ----------
    x : float32 or float64 ndarray ``[tokens, in]``
    spec : QuantSpec
        Without `grid` its tiling cuts tokens one by one; with `grid`, not at all.
    grid : Grid, optional
        A static one; without it every token's is fitted to the token.
    arithmetic : Arithmetic
        Matters to a clip search only.

    Raises
    ------
    InputError
        If the tiling fits neither, or `x` holds NaN or infinities where they have no code.

    Examples
    --------
    >>> from refquant.core import spec
    >>> codes, grid = activation_codes(np.array([[7.0, -3.4]]), spec("int4", scheme="sym_full"))
    >>> codes, grid.scale
    (array([[ 7, -3]], dtype=int8), array([[1.]]))
    """
    wanted = 1 if grid is None else None
    if len(spec.tiling.extents) != 2 or spec.tiling.extents[0] != wanted:
        kind = "per-token activations need a tiling (1, ...)" if grid is None else "a static grid needs a tiling (None, ...)"
        raise InputError(f"{kind}, not {spec.tiling.extents}")
    grid = fit_grid(x, spec, arithmetic) if grid is None else grid
    return encode(x, grid, spec), grid


def integer_linear(codes: Array, grid: Grid, weight: IntegerWeight, bias: Array | None = None, arithmetic: Arithmetic = FAST) -> Array:
    """Multiply activation codes by weight codes, and scale.

    Parameters
    ----------
    codes : integer ndarray ``[tokens, in]``
        As :func:`activation_codes` gives them.
    grid : Grid
        Scales and zeros ``[tokens, groups]``, or ``[1, groups]`` for all tokens.
    weight : IntegerWeight
    bias : ndarray ``[out]`` of the working dtype, optional
    arithmetic : Arithmetic
        Its product alone, of integers, which is exact.

    Returns
    -------
    ndarray ``[tokens, out]`` of the weight's working dtype

    Raises
    ------
    InputError
        If codes, grid or bias do not fit the weight, or codes lie outside the format for which the bound was proved.
    UsageError
        If zero points are so large that a corrected sum might exceed ``2^53``.
    NumericalError
        If a scaled sum overflows the working dtype.

    Examples
    --------
    >>> from refquant.core import spec
    >>> from refquant.methods.grid.rtn import rtn
    >>> from refquant.methods.kernels.integer_weight import prepare_weight
    >>> how = spec("int8", scheme="sym_full")
    >>> weight = rtn(np.array([[-1.0, 0.0, 2.0], [4.0, 4.0, 3.0]]), spec("int4"))
    >>> codes, grid = activation_codes(np.array([[1.0, 0.0, -127.0]]), how)
    >>> integer_linear(codes, grid, prepare_weight(weight, how, np.dtype(np.float64)))
    array([[-255.        , -368.53333333]])
    """
    check_activations(codes, grid, weight, bias)
    scale, zero = _token_grid(grid, weight.dtype)
    y = np.zeros((codes.shape[0], weight.shape[0]), dtype=weight.dtype)
    with np.errstate(over="ignore", invalid="ignore"):  # looked for below
        inner = np.zeros_like(y)
        for segment, last, sums in corrected_sums(codes, zero, weight, arithmetic):
            inner += segment.scale * sums.astype(weight.dtype)  # [INT-3]
            if last:
                y += scale[:, segment.activation_group, None] * inner  # [INT-4]
                inner[:] = 0
        if bias is not None:
            y += bias  # [INT-5]
    if not np.isfinite(y).all():
        token, output = np.argwhere(~np.isfinite(y))[0].tolist()
        raise NumericalError(f"output {output} of token {token} is {y[token, output]:g} in {y.dtype.name}; compute in float64 or rescale")
    return y


def corrected_sums(
    codes: Array, zero: Array | None, weight: IntegerWeight, arithmetic: Arithmetic
) -> Iterator[tuple[Segment, bool, Array]]:
    """Every segment, whether it is the last of its activation group, and its ``D`` as int64 ``[tokens, out]`` [INT-1] [INT-2].

    `zero` is int64 ``[tokens or 1, groups]``, or None.
    """
    ordered = np.ascontiguousarray(weight.ordered(codes), dtype=weight.codes.dtype)
    for index, segment in enumerate(weight.segments):
        inside = ordered[:, segment.columns]
        # Exact in this dtype, and within an int32, as was proved of the formats.
        sums = arithmetic.matmul(inside, weight.codes[segment.columns]).astype(np.int32).astype(np.int64)  # [INT-1]
        if segment.zero is not None:
            of_codes = arithmetic.matmul(inside, np.ones((inside.shape[1], 1), dtype=inside.dtype)).astype(np.int64)
            sums -= of_codes * segment.zero  # [INT-2]
        if zero is not None:
            sums -= zero[:, segment.activation_group, None] * segment.sums  # [INT-2]
        following = weight.segments[index + 1 : index + 2]
        yield segment, not following or following[0].activation_group != segment.activation_group, sums


def _token_grid(grid: Grid, dtype: np.dtype[Any]) -> tuple[Array, Array | None]:
    return grid.in_dtype(dtype)[0], None if grid.zero is None else grid.zero.astype(np.int64)


def check_activations(codes: Array, grid: Grid, weight: IntegerWeight, bias: Array | None) -> None:
    """Refuse operands that do not fit together; errors as :func:`integer_linear`."""
    if codes.ndim != 2 or codes.dtype.kind not in "iu" or codes.shape[1] != weight.shape[1]:
        raise InputError(f"activation codes are integers [tokens, {weight.shape[1]}], not {codes.dtype} of shape {codes.shape}")
    fmt = weight.activation.format
    if codes.size and not (fmt.lo <= int(codes.min()) and int(codes.max()) <= fmt.hi):
        raise InputError(f"activation codes of {fmt.name} lie in {fmt.lo}..{fmt.hi}; found {int(codes.min())}..{int(codes.max())}")
    if grid.scale.shape not in ((len(codes), weight.activation_groups), (1, weight.activation_groups)):
        allowed = f"({len(codes)}, {weight.activation_groups}) or (1, {weight.activation_groups})"
        raise InputError(f"the activations' scales have shape {grid.scale.shape}; allowed: {allowed}")
    if grid.zero is not None and grid.zero.dtype.kind not in "iu":
        raise UsageError(f"the activations' zero points are {grid.zero.dtype}; integer arithmetic needs integer ones or none")
    if bias is not None and (np.shape(bias) != weight.shape[:1] or bias.dtype != weight.dtype):
        allowed = f"{weight.dtype} of shape {weight.shape[:1]}"
        raise InputError(f"the bias is {bias.dtype} of shape {np.shape(bias)}; allowed beside this weight: {allowed}")
    reach = widest(weight.activation) + (0 if grid.zero is None else largest_magnitude(grid.zero))
    corrected = weight.longest * reach * weight.reach
    if corrected > FLOAT64_INTEGERS:
        raise UsageError(
            f"codes are up to {reach} and {weight.reach} from their zero points; {weight.longest} products may sum to {corrected}; "
            "sums up to 2^53 are exact: use zero points inside the codes"
        )
