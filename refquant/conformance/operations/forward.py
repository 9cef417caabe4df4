"""A whole pass of a tiny model."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from refquant.conformance.case import Case
from refquant.conformance.exact_values import context, lifted, nearest
from refquant.conformance.operation import Arrays, Operation, Parameter, Parameters, Part
from refquant.conformance.rules import scaled
from refquant.conformance.tiny_model import Sizes, build, weight_parts, weights_of
from refquant.numerics import FAST, ORDERED, Arithmetic
from refquant.numerics.arrays import Array
from refquant.oracle.transformer import forward

NAME = "transformer.forward"
BOUND = {"float32": scaled(5e-6), "float64": scaled(5e-14)}
ONE = Sizes(blocks=1, width=8, heads=2, kv_heads=2, hidden=12, vocabulary=11)
TWO = Sizes(blocks=2, width=16, heads=4, kv_heads=2, hidden=20, vocabulary=13)
FOUR = Sizes(blocks=4, width=32, heads=4, kv_heads=1, hidden=48, vocabulary=24)
FLAGS = ("ordinary", "bidirectional", "residual", "position")
HOW = {"theta": 10000.0, "eps": 1e-5}


def reference(inputs: Arrays, parameters: Parameters, *, arithmetic: Arithmetic = FAST) -> dict[str, Array]:
    """Run the model."""
    m = build(inputs, parameters, arithmetic)
    return {"states": np.stack(m.hidden_states(inputs["ids"])), "logits": m.logits(inputs["ids"])}


def _ids(sizes: Sizes, batch: int, length: int) -> Array:
    """Tokens, every third of them the mask."""
    ids = (np.arange(batch * length, dtype=np.int64) * 7 + 3).reshape(batch, length) % (sizes.vocabulary - 1)
    return np.where(np.arange(length) % 3 == 2, sizes.vocabulary - 1, ids)


def _given(sizes: Sizes, dtype: str, batch: int, length: int) -> tuple[dict[str, Array], Parameters]:
    return (
        {"ids": _ids(sizes, batch, length), **weights_of(sizes, dtype)},
        {"heads": sizes.heads, "kv_heads": sizes.kv_heads, **HOW},
    )


def _oracle(slug: str, sizes: Sizes, dtype: str, batch: int, length: int) -> Case:
    inputs, parameters = _given(sizes, dtype, batch, length)
    numbers = context()
    weights = {name: lifted(numbers, array) for name, array in inputs.items() if name != "ids"}
    theta, eps = numbers.mpf(parameters["theta"]), numbers.mpf(parameters["eps"])
    found = [forward(numbers, ids, weights, sizes.heads, sizes.kv_heads, theta, eps) for ids in inputs["ids"].tolist()]
    states = [[sequence[0][index] for sequence in found] for index in range(sizes.blocks + 1)]
    return Case(
        operation=NAME,
        slug=f"{slug}-{dtype}",
        parameters=parameters,
        inputs=inputs,
        expected={"states": nearest(states, dtype), "logits": nearest([logits for _, logits in found], dtype)},
        flags=FLAGS + ("grouped-heads",) * (sizes.heads != sizes.kv_heads),
        lane="bounded",
        rules={"states": BOUND[dtype], "logits": BOUND[dtype]},
    )


def cases() -> Iterator[Case]:
    """One block and two from the oracle; four in the ordered arithmetic, whose bytes they are."""
    for dtype in ("float32", "float64"):
        yield _oracle("one-block", ONE, dtype, 1, 5)
        yield _oracle("two-blocks", TWO, dtype, 2, 7)
        inputs, parameters = _given(FOUR, dtype, 2, 24)
        yield Case(
            operation=NAME,
            slug=f"four-blocks-{dtype}",
            parameters=parameters,
            inputs=inputs,
            expected=reference(inputs, parameters, arithmetic=ORDERED),
            flags=(*FLAGS, "grouped-heads"),
            note="The ordered arithmetic gives these bytes on every machine.",
            lane="ordered",
            source="ordered",
            twin=f"{NAME}/two-blocks-{dtype}",
            rules={"states": BOUND[dtype], "logits": BOUND[dtype]},
        )


OPERATION = Operation(
    name=NAME,
    level="model",
    doc="LLaDA's pass. x = embedding[ids]. In every block: a = rms_norm(x, attn_norm); queries, keys and values are a times q, k, v plus "
    "biases, cut into heads of d / heads consecutive features, queries and keys rotated by their position 0, 1, ..; "
    "x += attention(...) attn_out, heads side by side; f = rms_norm(x, ff_norm); x += swiglu(f gate, f up) down. "
    "logits = rms_norm(x, last_norm) head. No mask: every position sees every other. Parts as in transformer.rms_norm, rope, attention "
    "and swiglu; linears are x W^T. states are the inputs of all blocks, and last the output of the last norm.",
    inputs=(Part("ids", "tokens, masks among them", "int64", "[batch, tokens]"), *weight_parts()),
    outputs=(
        Part("states", "input of each block, then the output of the last norm", "that of the weights", "[L + 1, batch, tokens, d]"),
        Part("logits", "scores of all tokens at every position", "that of the weights", "[batch, tokens, V]"),
    ),
    parameters=(
        Parameter("heads", "query heads"),
        Parameter("kv_heads", "key and value heads"),
        Parameter("theta", "the base of the rotary frequencies"),
        Parameter("eps", "of all norms"),
    ),
    reference=reference,
    cases=cases,
)
