"""The transformer in plain loops over numbers of as many digits as one likes; rounded once, at the very end.

`numbers` is an mpmath context (``mpmath.mp`` or an ``MPContext``), handed in by the caller: the oracle itself does not need the package.
Everything else is lists: a token is a list of features, a sequence a list of tokens. What is computed is what the definitions say, not what
a program in float32 does; errors of the context are far below the last bit of float64 at the 200 bits that callers choose.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

from refquant.oracle.ieee import Binary

Number = Any  # an mpf: mpmath has no types
Row = list[Number]
Rows = list[Row]


def lift(numbers: Any, values: Any) -> Any:
    """Nested sequences of floats as the context's numbers, exactly; infinities stay what they are.

    Examples
    --------
    >>> from mpmath import mp
    >>> lift(mp, [[0.5, 2]])
    [[mpf('0.5'), mpf('2.0')]]
    """
    if isinstance(values, Sequence):
        return [lift(numbers, value) for value in values]
    return numbers.mpf(values)


def rounded(value: Number, form: Binary) -> float:
    """The nearest number of a binary format, ties to even; a zero has no sign.

    Examples
    --------
    >>> from mpmath import mp
    >>> from refquant.oracle import BINARY32
    >>> rounded(mp.mpf(1) / 3, BINARY32)
    0.3333333432674408
    """
    mantissa, exponent = value.man_exp
    sign = -1 if value < 0 else 1
    return float(form(sign * Fraction(abs(int(mantissa))) * Fraction(2) ** int(exponent)))


def matvec(weight: Rows, x: Row, bias: Row | None = None) -> Row:
    """``W x + b``; the weight's rows are outputs."""
    found = [sum(w * v for w, v in zip(line, x, strict=True)) for line in weight]
    return found if bias is None else [value + b for value, b in zip(found, bias, strict=True)]


def rms_norm(numbers: Any, x: Row, gain: Row, eps: Number) -> Row:
    """``x / sqrt(mean(x^2) + eps) * gain``.

    Examples
    --------
    >>> from mpmath import mp
    >>> [float(y) for y in rms_norm(mp, lift(mp, [3, 4]), lift(mp, [5, 10]), mp.mpf(12.5))]
    [3.0, 8.0]
    """
    root = numbers.sqrt(sum(value * value for value in x) / len(x) + eps)
    return [value / root * g for value, g in zip(x, gain, strict=True)]


def softmax(numbers: Any, scores: Row) -> Row:
    """``exp(s) / sum(exp(s))``; a score of minus infinity has the probability 0."""
    weights = [numbers.exp(score) for score in scores]
    total = sum(weights)
    return [weight / total for weight in weights]


def silu(numbers: Any, x: Number) -> Number:
    """``x / (1 + exp(-x))``."""
    return x / (1 + numbers.exp(-x))


def swiglu(numbers: Any, gate: Row, up: Row) -> Row:
    """``silu(gate) * up``."""
    return [silu(numbers, g) * u for g, u in zip(gate, up, strict=True)]


def angles(numbers: Any, position: int, head_dim: int, theta: Number) -> Row:
    """``position * theta^(-2j / h)`` for ``j < h / 2``."""
    return [position * numbers.power(theta, -numbers.mpf(2 * j) / head_dim) for j in range(head_dim // 2)]


def rotate(numbers: Any, head: Row, position: int, theta: Number) -> Row:
    """Turn the pairs ``(x[j], x[j + h / 2])`` of one head by the angles of a position."""
    half = len(head) // 2
    turned = list(head)
    for j, angle in enumerate(angles(numbers, position, len(head), theta)):
        cos, sin = numbers.cos(angle), numbers.sin(angle)
        turned[j] = head[j] * cos - head[j + half] * sin
        turned[j + half] = head[j + half] * cos + head[j] * sin
    return turned


def attention(numbers: Any, q: list[Rows], k: list[Rows], v: list[Rows], key_bias: Row) -> tuple[list[Rows], list[Rows]]:
    """Attention of every position to every other one.

    Parameters
    ----------
    numbers : mpmath context
    q : [H][T][h]
    k, v : [K][T][h]
        Head ``i`` of the queries looks at head ``i // (H / K)`` of these.
    key_bias : [T]
        Added to all scores of a key.

    Returns
    -------
    probabilities : [H][T][T]
    mixed : [H][T][h]
    """
    each = len(q) // len(k)
    probabilities, mixed = [], []
    for i, queries in enumerate(q):
        keys, values = k[i // each], v[i // each]
        root = numbers.sqrt(len(queries[0]))
        scores = [[score / root + bias for score, bias in zip(matvec(keys, query), key_bias, strict=True)] for query in queries]
        probabilities.append([softmax(numbers, line) for line in scores])
        mixed.append([matvec(transposed(values), line) for line in probabilities[-1]])
    return probabilities, mixed


def transposed(rows: Rows) -> Rows:
    """Columns as rows."""
    return [list(column) for column in zip(*rows, strict=True)]


def block(numbers: Any, x: Rows, weights: Mapping[str, Any], heads: int, kv_heads: int, theta: Number, eps: Number) -> Rows:
    """One block of LLaDA with SwiGLU: the residual stream [T][d] in and out.

    `weights` holds ``attn_norm``, ``q``, ``k``, ``v``, ``q_bias``, ``k_bias``, ``v_bias``, ``attn_out``, ``ff_norm``, ``gate``, ``up``,
    ``down``; no other linear has a bias.
    """
    normed = [rms_norm(numbers, token, weights["attn_norm"], eps) for token in x]
    projected = {}
    for name, count in (("q", heads), ("k", kv_heads), ("v", kv_heads)):
        rows = [matvec(weights[name], token, weights[name + "_bias"]) for token in normed]
        width = len(rows[0]) // count
        projected[name] = [[row[i * width : (i + 1) * width] for row in rows] for i in range(count)]
    for name in ("q", "k"):
        projected[name] = [[rotate(numbers, head, t, theta) for t, head in enumerate(rows)] for rows in projected[name]]
    _, mixed = attention(numbers, projected["q"], projected["k"], projected["v"], [numbers.mpf(0)] * len(x))
    found = []
    for t, token in enumerate(x):
        joined = [value for head in mixed for value in head[t]]
        middle = [a + b for a, b in zip(token, matvec(weights["attn_out"], joined), strict=True)]
        inner = rms_norm(numbers, middle, weights["ff_norm"], eps)
        hidden = swiglu(numbers, matvec(weights["gate"], inner), matvec(weights["up"], inner))
        found.append([a + b for a, b in zip(middle, matvec(weights["down"], hidden), strict=True)])
    return found


def forward(
    numbers: Any, ids: Sequence[int], weights: Mapping[str, Any], heads: int, kv_heads: int, theta: Number, eps: Number
) -> tuple[list[Rows], Rows]:
    """The whole pass: input of every block and output of the last norm; and logits.

    Parameters
    ----------
    numbers : mpmath context
    ids : [T]
    weights : mapping
        Of :func:`block`, stacked over blocks; and ``embedding`` [V][d], ``last_norm`` [d], ``head`` [V][d].
    heads, kv_heads : int
    theta, eps : numbers

    Returns
    -------
    states : [L + 1][T][d]
    logits : [T][V]
    """
    outside = ("embedding", "last_norm", "head")
    x = [weights["embedding"][token] for token in ids]
    states = []
    for index in range(len(weights["q"])):
        states.append(x)
        own = {name: stack[index] for name, stack in weights.items() if name not in outside}
        x = block(numbers, x, own, heads, kv_heads, theta, eps)
    states.append([rms_norm(numbers, token, weights["last_norm"], eps) for token in x])
    return states, [matvec(weights["head"], token) for token in states[-1]]
