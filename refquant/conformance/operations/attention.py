"""Attention of every position to every other one, with grouped heads."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from model import DenseAttentionProduct, ops
from refquant.conformance.case import Case
from refquant.conformance.exact_values import context, lifted, nearest, spread
from refquant.conformance.operation import Arrays, Operation, Parameters, Part
from refquant.conformance.rules import scaled
from refquant.numerics import FAST, Arithmetic
from refquant.numerics.arrays import Array
from refquant.oracle.transformer import attention

NAME = "transformer.attention"
BOUND = {"float32": scaled(1e-6), "float64": scaled(1e-14)}
SHAPES = {"mha": (("ordinary", "bidirectional"), 2, 2), "gqa": (("grouped-heads",), 4, 2), "mqa": (("grouped-heads",), 3, 1)}
LENGTH, HEAD_DIM = 5, 8
BIASES = {
    "none": ((), [0.0] * LENGTH),
    "left-padding": (("padding",), [-np.inf, -np.inf, 0.0, 0.0, 0.0]),
    "finite": (("key-bias",), [0.5, -1.0, 0.0, 2.0, -0.25]),
}


def reference(inputs: Arrays, parameters: Parameters, *, arithmetic: Arithmetic = FAST) -> dict[str, Array]:
    """Mix values."""
    bias = inputs["key_bias"]
    probabilities = ops.attention_probabilities(inputs["q"], inputs["k"], bias[:, None, None, :], arithmetic)
    return {"probabilities": probabilities, "mixed": DenseAttentionProduct(arithmetic)(probabilities, inputs["v"])}


def cases() -> Iterator[Case]:
    """Full, grouped and single key heads; no bias, padding, a bias; small and large scores."""
    numbers = context()
    for shape, (flags, heads, kv_heads) in SHAPES.items():
        for slug, (more, bias) in BIASES.items():
            for dtype in ("float32", "float64"):
                q = spread(5, (1, heads, LENGTH, HEAD_DIM), 4.0).astype(dtype)
                k, v = (spread(seed, (1, kv_heads, LENGTH, HEAD_DIM), 2.0).astype(dtype) for seed in (6, 7))
                queries, keys, values = (lifted(numbers, array[0]) for array in (q, k, v))
                probabilities, mixed = attention(numbers, queries, keys, values, lifted(numbers, np.array(bias)))
                yield Case(
                    operation=NAME,
                    slug=f"{shape}-{slug}-{dtype}",
                    parameters={},
                    inputs={"q": q, "k": k, "v": v, "key_bias": np.array([bias], dtype=dtype)},
                    expected={"probabilities": nearest([probabilities], dtype), "mixed": nearest([mixed], dtype)},
                    flags=flags + more,
                    lane="bounded",
                    rules={"probabilities": BOUND[dtype], "mixed": BOUND[dtype]},
                )


OPERATION = Operation(
    name=NAME,
    level="model",
    doc="probabilities = softmax(q k^T / sqrt(h) + key_bias) over all keys, later ones too; mixed = probabilities v. Query head i looks at "
    "key and value head floor(i / (H / K)): consecutive query heads share one.",
    inputs=(
        Part("q", "queries, rotated", "float32 or float64", "[batch, H, tokens, h]"),
        Part("k", "keys, rotated", "that of q", "[batch, K, tokens, h]"),
        Part("v", "values", "that of q", "[batch, K, tokens, h]"),
        Part("key_bias", "added to all scores of a key; minus infinity hides it", "that of q", "[batch, tokens]"),
    ),
    outputs=(
        Part("probabilities", "attention of each query to each key", "that of q", "[batch, H, tokens, tokens]"),
        Part("mixed", "values mixed by them", "that of q", "[batch, H, tokens, h]"),
    ),
    reference=reference,
    cases=cases,
)
