"""A linear on integer codes: sums as Python integers, scales by operations that are rounded one by one."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from refquant.oracle.ieee import Binary
from refquant.oracle.rational import Matrix, Row

Codes = Sequence[Sequence[int]]


def integer_linear(
    codes: Codes,
    scales: Matrix,
    zeros: Codes,
    weight_codes: Codes,
    weight_scales: Matrix,
    weight_zeros: Codes,
    rounded: Binary,
    *,
    group: int | None = None,
    activation_group: int | None = None,
    bias: Row | None = None,
) -> tuple[list[list[list[int]]], Matrix]:
    """Return the corrected sums of every segment and the outputs.

    A segment is a run of columns with one activation group and one weight group. Its sum is that of ``(a - z_a)(w - z_w)``. Times the
    weight's scale, segments are added one after the other from zero; that, times the activation's scale, group of features after group;
    the bias last. Each product and sum is rounded.

    Parameters
    ----------
    codes : ``[tokens][in]``
    scales, zeros : ``[tokens][activation groups]``
    weight_codes : ``[out][in]``
    weight_scales, weight_zeros : ``[out][weight groups]``
    rounded : Binary
        The format computed in.
    group, activation_group : int, optional
        Columns that share a scale; all by default.
    bias : list of Fraction, optional

    Returns
    -------
    tuple of (``[segments][tokens][out]`` of int, ``[tokens][out]`` of Fraction)

    Examples
    --------
    >>> from refquant.oracle.ieee import BINARY32
    >>> one = Fraction(1)
    >>> sums, outputs = integer_linear([[3, 1]], [[one]], [[1]], [[2, 5]], [[one / 2]], [[4]], BINARY32)
    >>> sums, [[float(y) for y in line] for line in outputs]
    ([[[-4]]], [[-2.0]])
    """
    columns = len(weight_codes[0])
    width, reach = group or columns, activation_group or columns
    keys = sorted({(k // reach, k // width) for k in range(columns)})
    sums = []
    for h, g in keys:
        inside = [k for k in range(columns) if (k // reach, k // width) == (h, g)]
        sums.append(
            [
                [sum((a[k] - z[h]) * (w[k] - offset[g]) for k in inside) for w, offset in zip(weight_codes, weight_zeros, strict=True)]
                for a, z in zip(codes, zeros, strict=True)
            ]
        )
    outputs = []
    for t in range(len(codes)):
        line = []
        for o in range(len(weight_codes)):
            total = Fraction(0)
            for h in range(1 + (columns - 1) // reach):
                inner = Fraction(0)
                for (of, g), segment in zip(keys, sums, strict=True):
                    if of == h:
                        inner = rounded(inner + rounded(weight_scales[o][g] * rounded(Fraction(segment[t][o]))))
                total = rounded(total + rounded(scales[t][h] * inner))
            line.append(total if bias is None else rounded(total + bias[o]))
        outputs.append(line)
    return sums, outputs
