"""The arithmetic of a block, one function an operation. Shapes stand at the line's end.

B batch, T tokens, d model width, H query heads, K key-value heads, h head width, m MLP width.

Each function returns a new array and never writes into its arguments; inside, it works in place on what it has allocated itself.
Everything is computed in the dtype of the arguments: a float64 model has float64 norms, rotary tables and softmax throughout, which
the public code does not (it drops to float32 inside norms and rotary embedding whatever the weights are).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from model.runs import in_runs
from refquant.numerics import Arithmetic
from refquant.numerics.arrays import Array


def rms_norm(x: Array, gain: Array | None, bias: Array | None, eps: float, arithmetic: Arithmetic) -> Array:
    """Root-mean-square norm: ``x / sqrt(mean(x^2) + eps)``, then gain and bias.

    The gain comes last, after everything that mixes features; ``gemma_rms`` differs only in that its gain is one plus the weight.
    """
    scale = 1 / np.sqrt(arithmetic.mean(x * x, axis=-1, keepdims=True) + eps)  # [..., 1]
    return _affine(x * scale, gain, bias)


def layer_norm(x: Array, gain: Array | None, bias: Array | None, eps: float, arithmetic: Arithmetic) -> Array:
    """LayerNorm with the biased variance: ``(x - mean) / sqrt(var + eps)``, then gain and bias."""
    centred = x - arithmetic.mean(x, axis=-1, keepdims=True)
    centred /= np.sqrt(arithmetic.mean(centred * centred, axis=-1, keepdims=True) + eps)
    return _affine(centred, gain, bias)


def _affine(fresh: Array, gain: Array | None, bias: Array | None) -> Array:
    if gain is not None:
        fresh *= gain
    if bias is not None:
        fresh += bias
    return fresh


def silu(x: Array, arithmetic: Arithmetic) -> Array:
    """``x * sigmoid(x)``, as ``x / (1 + exp(-x))``."""
    with np.errstate(over="ignore"):  # exp(-x) = inf far on the left, where x / inf = -0 is the right limit
        bottom = arithmetic.exp(-x)
    bottom += 1
    return np.divide(x, bottom, out=bottom)


def gelu(x: Array, arithmetic: Arithmetic) -> Array:
    """``x * Phi(x)`` with the exact normal distribution function (not the tanh fit)."""
    phi = arithmetic.erf(x * math.sqrt(0.5))
    phi += 1
    phi *= x
    phi *= 0.5
    return phi


def relu(x: Array, arithmetic: Arithmetic) -> Array:
    """``max(x, 0)``."""
    return np.maximum(x, 0)


def swiglu(x: Array, arithmetic: Arithmetic) -> Array:
    """Value times gate out of one array: the FIRST half is the value, the second one goes through :func:`silu`.

    Examples
    --------
    >>> import numpy as np
    >>> from refquant.numerics import FAST
    >>> swiglu(np.array([3.0, 100.0]), FAST)
    array([300.])
    """
    value, gate = np.split(x, 2, axis=-1)
    out = silu(gate, arithmetic)
    out *= value
    return out


ACTIVATION: dict[str, Callable[[Array, Arithmetic], Array]] = {
    "silu": silu,
    "gelu": gelu,
    "relu": relu,
    "swiglu": swiglu,
}


def gated(activation: str, gate: Array, up: Array | None, arithmetic: Arithmetic) -> Array:
    """Activation of the gate [..., m], times `up` if there is one: what the MLP's down projection gets, [..., m], or m / 2 with swiglu.

    It is written over the gate where it is as wide: fresh memory would cost more than the arithmetic.

    Examples
    --------
    >>> import numpy as np
    >>> from refquant.numerics import FAST
    >>> gated("relu", np.array([[1.0, -1.0]]), np.array([[5.0, 7.0]]), FAST)
    array([[5., 0.]])
    """

    def rows(gate: Array, *up: Array) -> Array:
        hidden = ACTIVATION[activation](gate, arithmetic)
        if up:
            hidden *= up[0]
        return hidden

    in_place = activation != "swiglu" and gate.flags.c_contiguous and gate.flags.writeable
    return in_runs(rows, gate, *(() if up is None else (up,)), out=gate if in_place else None)


def rope_tables(length: int, head_dim: int, theta: float, dtype: np.dtype[np.floating], arithmetic: Arithmetic) -> tuple[Array, Array]:
    """Cosines and sines of ``position * theta^(-2j / head_dim)`` for ``j < head_dim / 2``.

    Parameters
    ----------
    length : int
        Number of positions, counted from 0.
    head_dim : int
        Even width of a head.
    theta : float
        Base of the frequencies.
    dtype : dtype
        float32 or float64: the dtype of *every* step, because a float32 model's angles carry float32 errors that its logits show.

    Returns
    -------
    (ndarray [length, head_dim / 2], ndarray [length, head_dim / 2])
        Each row is the first half of the public code's table, whose second half repeats it.

    Examples
    --------
    >>> import numpy as np
    >>> from refquant.numerics import FAST
    >>> cos, sin = rope_tables(2, 4, 10000.0, np.dtype("float64"), FAST)
    >>> np.round(sin[1], 6)
    array([0.841471, 0.01    ])
    """
    return rope_at(np.arange(length), head_dim, theta, dtype, arithmetic)


def rope_at(positions: Array, head_dim: int, theta: float, dtype: np.dtype[np.floating], arithmetic: Arithmetic) -> tuple[Array, Array]:
    """Cosines and sines [..., h / 2] as in :func:`rope_tables`, for any positions [...]."""
    exponents = np.arange(0, head_dim, 2, dtype=dtype) / np.asarray(head_dim, dtype=dtype)  # [h / 2]
    frequencies = 1 / arithmetic.power(np.full_like(exponents, theta), exponents)
    angles = positions.astype(dtype)[..., None] * frequencies  # [..., T, h / 2]
    return arithmetic.cos(angles), arithmetic.sin(angles)


def rope_rows(cos: Array, sin: Array, heads: int) -> tuple[Array, Array]:
    """Lay the tables out as :func:`rotate` wants them: a factor for every feature of all `heads` side by side.

    Parameters
    ----------
    cos, sin : ndarray [T, h / 2] or [B, T, h / 2]
    heads : int

    Returns
    -------
    (ndarray [1 or B, T, heads * h], ndarray [1 or B, T, heads * h])
        The sine is negated in the first half of each head.
    """
    rows = np.concatenate([cos, cos], axis=-1), np.concatenate([-sin, sin], axis=-1)
    return np.tile(rows[0], (1, 1, heads)), np.tile(rows[1], (1, 1, heads))


def rotate(x: Array, cos: Array, sin: Array, head_dim: int) -> Array:
    """Turn the pairs ``(x[j], x[j + h / 2])`` of each head by the angles of their position.

    The halves are split, not interleaved: with ``x = [a | b]`` the result is ``[a cos - b sin | b cos + a sin]``.

    Parameters
    ----------
    x : ndarray [B, T, heads * h]
    cos, sin : ndarray [B or 1, T, at least heads * h]
        From :func:`rope_rows`.
    head_dim : int
        h.

    Returns
    -------
    ndarray [B, T, heads * h]
    """
    width = x.shape[-1]
    turned = np.empty(x.shape, dtype=x.dtype)
    for index, sequence in enumerate(x):  # the tables of one position serve all sequences, unless each has its own
        tables = (table[index % len(table), :, :width] for table in (cos, sin))
        in_runs(lambda part, cos, sin: _turned(part, cos, sin, head_dim), sequence, *tables, out=turned[index])
    return turned


def _turned(x: Array, cos: Array, sin: Array, head_dim: int) -> Array:
    """``x * cos + (x with the halves exchanged) * sin``, [T, heads * h], all heads at once: long rows are what NumPy is fast on."""
    halves = (len(x), x.shape[-1] // head_dim, 2, head_dim // 2)
    turned = (x.reshape(halves)[..., ::-1, :] * sin.reshape(halves)).reshape(x.shape)
    turned += x * cos
    return turned


def rotate_heads(x: Array, cos: Array, sin: Array, head_dim: int, rotary_dim: int) -> Array:
    """Rotate the first `rotary_dim` features of each head, among themselves, and pass the others on.

    Parameters
    ----------
    x : ndarray [B, T, heads * h]
    cos, sin : ndarray [B or 1, T, at least heads * rotary_dim]
        From :func:`rope_rows`.
    head_dim, rotary_dim : int
        h, and an even number up to it.

    Returns
    -------
    ndarray [B, T, heads * h]
    """
    if rotary_dim == head_dim:
        return rotate(x, cos, sin, head_dim)
    heads = x.reshape(*x.shape[:2], -1, head_dim).copy()  # [B, T, heads, h]
    first = heads[..., :rotary_dim]
    heads[..., :rotary_dim] = rotate(first.reshape(*x.shape[:2], -1), cos, sin, rotary_dim).reshape(first.shape)
    return heads.reshape(x.shape)


def split_heads(x: Array, head_dim: int) -> Array:
    """View ``[B, T, heads * h]`` as ``[B, heads, T, h]``: a head is a run of consecutive features."""
    batch, length, width = x.shape
    return x.reshape(batch, length, width // head_dim, head_dim).transpose(0, 2, 1, 3)


def attention_probabilities(q: Array, k: Array, key_bias: Array | None, arithmetic: Arithmetic) -> Array:
    """``softmax(q k^T / sqrt(h) + bias)`` over all keys: unless the bias says otherwise every position sees every other one.

    Parameters
    ----------
    q : ndarray [B, H, T, h]
    k : ndarray [B, K, T, h]
        Each key head serves H / K consecutive query heads.
    key_bias : ndarray broadcastable to [B, H, T, T], or None

    Returns
    -------
    ndarray [B, H, T, T]
    """
    batch, heads, length, head_dim = q.shape
    stacked = (q * (1 / math.sqrt(head_dim))).reshape(batch, k.shape[1], -1, head_dim)  # [B, K, H/K * T, h]
    scores = arithmetic.matmul(stacked, k.swapaxes(-1, -2)).reshape(batch, heads, length, length)
    if key_bias is not None:
        scores += key_bias
    scores = np.ascontiguousarray(scores)
    return in_runs(arithmetic.softmax, scores, out=scores)
