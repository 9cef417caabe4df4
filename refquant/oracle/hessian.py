"""The weighted Hessian, and the token weights of certainty-guided quantization (DLLMQuant, CGQ)."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from refquant.errors import InputError, UsageError
from refquant.oracle.ieee import BINARY64, Binary
from refquant.oracle.rational import Matrix, Row


def weighted_hessian(inputs: Matrix, weights: Sequence[Fraction] | None = None) -> Matrix:
    """Return ``H = sum_t w_t x_t x_t^T``, exactly.

    Parameters
    ----------
    inputs : list of rows, ``[tokens, features]``
        At least one token.
    weights : sequence of Fraction, optional
        One for each token, not negative; all 1 by default.

    Returns
    -------
    list of rows, ``[features, features]``

    Raises
    ------
    InputError
        If there are no tokens, a weight is negative, or the numbers of weights and tokens differ.

    Examples
    --------
    >>> h = weighted_hessian([[Fraction(1), Fraction(2)], [Fraction(3), Fraction(0)]], [Fraction(4), Fraction(0)])
    >>> [[int(x) for x in line] for line in h]
    [[4, 8], [8, 16]]
    """
    if not inputs:
        raise InputError("no tokens, at least one is needed")
    if weights is None:
        weights = [Fraction(1)] * len(inputs)
    if len(weights) != len(inputs) or any(weight < 0 for weight in weights):
        raise InputError(f"{len(weights)} weights for {len(inputs)} tokens: as many are needed, and none may be negative")
    size = len(inputs[0])
    total = [[Fraction(0)] * size for _ in range(size)]
    for token, weight in zip(inputs, weights, strict=True):
        for i in range(size):
            for j in range(size):
                total[i][j] += weight * token[i] * token[j]
    return total


def token_weights(
    masked: Sequence[bool],
    confidence: Sequence[Fraction],
    padding: Sequence[bool] | None = None,
    *,
    visible: Fraction = Fraction(7, 10),
    mask: Fraction = Fraction(1),
    power: int = 2,
    visible_confidence: str = "zero",
    rounded: Binary = BINARY64,
) -> Row:
    """Return the weight of every token in the Hessian: ``c_t ** power`` with ``c_t = (mask or visible) + sqrt(s_t)``.

    Square root, sum and square are rounded once each to `rounded`, as an IEEE machine would do it; 7/10 is rounded
    first.

    Parameters
    ----------
    masked : sequence of bool
        Whether the token is a mask.
    confidence : sequence of Fraction
        Probabilities ``s_t`` of the model, 0 to 1.
    padding : sequence of bool, optional
        Tokens of weight 0.
    visible, mask : Fraction
        First term of ``c_t`` of visible and of masked tokens.
    power : {1, 2}
        2: the multiplier sits on the inputs. 1: on the Hessian.
    visible_confidence : {"zero", "model", "one"}
        What ``s_t`` is for visible tokens.
    rounded : Binary
        The format computed in.

    Returns
    -------
    list of Fraction

    Raises
    ------
    UsageError
        If `power` or `visible_confidence` is not allowed.
    InputError
        If lengths differ or a confidence is not within 0 and 1.

    Examples
    --------
    >>> [float(w) for w in token_weights([True, False], [Fraction(1, 4), Fraction(1)])]
    [2.25, 0.48999999999999994]
    """
    if power not in (1, 2) or visible_confidence not in ("zero", "model", "one"):
        raise UsageError(f"power {power}, visible_confidence {visible_confidence!r}: allowed are 1, 2 and zero, model, one")
    padding = [False] * len(masked) if padding is None else padding
    if not len(masked) == len(confidence) == len(padding):
        raise InputError(f"{len(masked)} tokens, {len(confidence)} confidences, {len(padding)} marks of padding: as many are needed")
    found = []
    for index, (is_mask, certainty, is_padding) in enumerate(zip(masked, confidence, padding, strict=True)):
        if is_padding:
            found.append(Fraction(0))
            continue
        if not is_mask:
            certainty = {"zero": Fraction(0), "model": certainty, "one": Fraction(1)}[visible_confidence]
        if not 0 <= certainty <= 1:
            raise InputError(f"token {index} has confidence {float(certainty):g}, 0 to 1 is allowed")
        multiplier = rounded(rounded(mask if is_mask else visible) + rounded.sqrt(certainty))
        found.append(multiplier if power == 1 else rounded(multiplier * multiplier))
    return found
