"""Interaction-aware quantization of attention values (DLLMQuant, IA-AQ): the loss as a plain norm, and the search of the scale."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from refquant.errors import InputError
from refquant.oracle.ieee import exact
from refquant.oracle.nearest import round_to_integer
from refquant.oracle.rational import Matrix, Row
from refquant.oracle.uniform import Rounding, UniformGrid


def attention_loss(attention: Matrix, values: Matrix, quantized: Matrix) -> Fraction:
    """Return ``||A (V_hat - V)||_F^2`` for one head.

    Parameters
    ----------
    attention : list of rows, ``[queries, tokens]``
        Softmax output.
    values : list of rows, ``[tokens, features]``
        As they should be.
    quantized : list of rows, ``[tokens, features]``
        As they are.

    Returns
    -------
    Fraction

    Raises
    ------
    InputError
        If the shapes do not agree.

    Examples
    --------
    >>> half = Fraction(1, 2)
    >>> attention_loss([[half, half]], [[Fraction(0)], [Fraction(0)]], [[Fraction(1)], [Fraction(2)]])
    Fraction(9, 4)
    """
    if len(values) != len(quantized) or any(len(line) != len(values) for line in attention):
        raise InputError(f"attention over {len(values)} tokens needs that many values, columns, and quantized values")
    total = Fraction(0)
    for line in attention:
        for feature in range(len(values[0])):
            moved = Fraction(0)
            for token in range(len(values)):
                moved += line[token] * (quantized[token][feature] - values[token][feature])
            total += moved * moved
    return total


@dataclass(frozen=True, slots=True)
class ValueScale:
    """What the search found: the index of the winning factor, its grid, and the loss of every factor."""

    index: int
    grid: UniformGrid
    losses: Row


def search_value_scale(
    samples: Sequence[tuple[Matrix, Matrix]],
    bits: int,
    factors: Sequence[Fraction] | None = None,
    rounded: Rounding = exact,
) -> ValueScale:
    """Search one scale for the values of a head over all samples.

    The range is the extremes of all values, not widened to hold 0: ``s0 = (max - min) / (2^b - 1)`` and ``z = rn(-min
    / s0)``, not limited. The scale is ``s0`` times the factor; the zero stays, because both ends of the range shrink
    together. Equal losses: the larger factor.

    Parameters
    ----------
    samples : sequence of (attention, values)
        As for :func:`attention_loss`.
    bits : int
        Width of the codes ``0 .. 2^b - 1``.
    factors : sequence of Fraction, optional
        Increasing; 0.80, 0.81, ..., 1.00 by default.
    rounded : callable
        Rounds every operation on scale and codes; the loss is exact.

    Returns
    -------
    ValueScale

    Raises
    ------
    InputError
        If there are no samples, or all values are equal: there is no range to search.

    Examples
    --------
    >>> attention = [[Fraction(1), Fraction(0), Fraction(0)]]
    >>> values = [[Fraction(1)], [Fraction(0)], [Fraction(16, 5)]]
    >>> search_value_scale([(attention, values)], bits=2).index
    14
    """
    if factors is None:
        factors = [Fraction(n, 100) for n in range(80, 101)]
    numbers = [number for _, values in samples for line in values for number in line]
    if not numbers or min(numbers) == max(numbers):
        raise InputError("the values have no range, at least two different ones are needed")
    start = rounded(rounded(max(numbers) - min(numbers)) / (2**bits - 1))
    zero = round_to_integer(rounded(-min(numbers) / start))
    grids = [UniformGrid(rounded(start * rounded(factor)), zero, 0, 2**bits - 1) for factor in factors]
    losses = []
    for grid in grids:
        loss = Fraction(0)
        for attention, values in samples:
            loss += attention_loss(attention, values, [[_quantized(x, grid, rounded) for x in line] for line in values])
        losses.append(loss)
    index = max(index for index, loss in enumerate(losses) if loss == min(losses))
    return ValueScale(index, grids[index], losses)


def _quantized(x: Fraction, grid: UniformGrid, rounded: Rounding) -> Fraction:
    code = min(max(round_to_integer(rounded(x / grid.scale)) + grid.zero, grid.lo), grid.hi)
    return rounded(grid.scale * (code - grid.zero))
