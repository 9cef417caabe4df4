"""Attention of one block's heads: which keys a query sees, and values mixed by what it makes of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from model import ops
from model.layers import AttentionProduct, DenseAttentionProduct
from model.taps import Observer, show
from refquant.numerics import Arithmetic
from refquant.numerics.arrays import Array

SCORES = 1 << 18
"""Attention scores that are there at a time where nobody looks at them: 1 MiB of float32."""


@dataclass(frozen=True, slots=True)
class AttentionContext:
    """What all blocks of one forward pass share: rotary tables and what the attention mask comes to."""

    cos: Array  # [1 or B, T, H r], see ops.rope_rows
    sin: Array  # [1 or B, T, H r]
    key_bias: Array | None  # [1 or B, 1, 1 or T, T]
    sighted: Array | None = None  # [1 or B, 1, T, 1] 0 for queries that may see nothing: their attention is zero


def mix_values(
    q: Array,
    k: Array,
    v: Array,
    context: AttentionContext,
    product: AttentionProduct,
    arithmetic: Arithmetic,
    observer: Observer | None = None,
    name: str = "probabilities",
) -> Array:
    """Values mixed by attention.

    Heads do not know of each other. Where nobody looks at their probabilities or quantizes them, only as many heads are computed at a
    time as stay in the processor's cache; what they give is the same.

    Parameters
    ----------
    q : ndarray [B, H, T, h]
    k, v : ndarray [B, K, T, h]
        Each of these heads serves H / K consecutive heads of `q`.
    context : AttentionContext
    product : AttentionProduct
        Of probabilities and values.
    arithmetic : Arithmetic
    observer : Observer, optional
        Is shown the probabilities [B, H, T, T] of all heads, under `name`.
    name : str

    Returns
    -------
    ndarray [B, T, H h]

    Examples
    --------
    >>> from refquant.numerics import FAST
    >>> q, v = np.zeros((1, 1, 2, 2)), np.array([[[[1.0, 2.0], [3.0, 6.0]]]])
    >>> context = AttentionContext(q, q, key_bias=None)
    >>> mix_values(q, q, v, context, DenseAttentionProduct(), FAST)
    array([[[2., 4.],
            [2., 4.]]])
    """
    (batch, heads, length, head_dim), kv_heads = q.shape, k.shape[1]
    served = heads // kv_heads
    all_at_once = observer is not None or not isinstance(product, DenseAttentionProduct)
    together = kv_heads if all_at_once else max(1, SCORES // max(1, batch * served * length * length))
    mixed = np.empty((batch, length, heads, head_dim), dtype=v.dtype)
    for first in range(0, kv_heads, together):
        keys, queries = slice(first, first + together), slice(first * served, (first + together) * served)
        probabilities = ops.attention_probabilities(q[:, queries], k[:, keys], context.key_bias, arithmetic)
        if context.sighted is not None:
            probabilities *= context.sighted
        show(observer, name, probabilities)
        mixed[:, :, queries] = product(probabilities, v[:, keys]).transpose(0, 2, 1, 3)
    return mixed.reshape(batch, length, heads * head_dim)
