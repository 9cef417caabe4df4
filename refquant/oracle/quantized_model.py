"""Quantizing a whole model of LLaDA's kind by GPTQ, in loops over numbers of many digits and exact fractions.

Every linear is calibrated behind all that is already quantized: the inputs that make its Hessian are those of the model with the codes of
the linears before it. Linears that share an input are quantized together. Weights only; whole rows share a scale.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

from refquant.oracle.gptq import GptqResult, gptq
from refquant.oracle.ieee import BINARY64
from refquant.oracle.rational import Matrix, matrix
from refquant.oracle.transformer import Number, Rows, attention, lift, matvec, rms_norm, rotate, rounded, swiglu
from refquant.oracle.uniform import Uniform, UniformGrid


def quantize_weights(
    numbers: Any,
    sequences: Sequence[Sequence[int]],
    weights: Mapping[str, Any],
    heads: int,
    kv_heads: int,
    theta: Number,
    eps: Number,
    scheme: Uniform,
    percdamp: Fraction,
) -> list[dict[str, tuple[GptqResult, list[UniformGrid]]]]:
    """Quantize all linears of all blocks.

    Parameters
    ----------
    numbers : mpmath context
    sequences : lists of tokens
        What calibrates; every token counts alike.
    weights : mapping
        As of :func:`refquant.oracle.transformer.forward`, numbers of binary64.
    heads, kv_heads, theta, eps
        As there.
    scheme : Uniform
    percdamp : Fraction

    Returns
    -------
    list of dict
        By block: name of the linear to what GPTQ decided, and the grid of each row.
    """
    states = [[weights["embedding"][token] for token in ids] for ids in sequences]
    found = []
    for index in range(len(weights["q"])):
        own = {name: stack[index] for name, stack in weights.items() if name not in ("embedding", "last_norm", "head")}
        block = _Block(numbers, own, heads, kv_heads, theta, eps, scheme, percdamp)
        states = block.run(states)
        found.append(block.found)
    return found


class _Block:
    """One block on its way from float to codes."""

    def __init__(
        self, numbers: Any, own: dict[str, Any], heads: int, kv_heads: int, theta: Number, eps: Number, scheme: Uniform, percdamp: Fraction
    ) -> None:
        self.numbers, self.own, self.heads, self.kv_heads = numbers, own, heads, kv_heads
        self.theta, self.eps, self.scheme, self.percdamp = theta, eps, scheme, percdamp
        self.found: dict[str, tuple[GptqResult, list[UniformGrid]]] = {}

    def run(self, states: list[Rows]) -> list[Rows]:
        """Quantize in the order of execution; the residual streams behind the block."""
        normed = [[rms_norm(self.numbers, token, self.own["attn_norm"], self.eps) for token in x] for x in states]
        self._quantize(("q", "k", "v"), normed)
        mixed = [self._mixed(x) for x in normed]
        self._quantize(("attn_out",), mixed)
        middle = [self._added(x, [matvec(self.own["attn_out"], token) for token in m]) for x, m in zip(states, mixed, strict=True)]
        inner = [[rms_norm(self.numbers, token, self.own["ff_norm"], self.eps) for token in x] for x in middle]
        self._quantize(("gate", "up"), inner)
        hidden = [[swiglu(self.numbers, matvec(self.own["gate"], t), matvec(self.own["up"], t)) for t in x] for x in inner]
        self._quantize(("down",), hidden)
        return [self._added(x, [matvec(self.own["down"], token) for token in h]) for x, h in zip(middle, hidden, strict=True)]

    def _added(self, x: Rows, y: Rows) -> Rows:
        return [[a + b for a, b in zip(left, right, strict=True)] for left, right in zip(x, y, strict=True)]

    def _mixed(self, normed: Rows) -> Rows:
        projected = {}
        for name, count in (("q", self.heads), ("k", self.kv_heads), ("v", self.kv_heads)):
            rows = [matvec(self.own[name], token, self.own[name + "_bias"]) for token in normed]
            width = len(rows[0]) // count
            cut = [[row[i * width : (i + 1) * width] for row in rows] for i in range(count)]
            turns = name != "v"
            projected[name] = [[rotate(self.numbers, h, t, self.theta) if turns else h for t, h in enumerate(rows)] for rows in cut]
        _, mixed = attention(self.numbers, projected["q"], projected["k"], projected["v"], [self.numbers.mpf(0)] * len(normed))
        return [[value for head in mixed for value in head[t]] for t in range(len(normed))]

    def _quantize(self, names: Sequence[str], inputs: list[Rows]) -> None:
        """Put the decoded codes of linears that share these inputs in the place of their weights."""
        tokens = [token for x in inputs for token in x]
        size = len(tokens[0])
        # Rounded to binary64, which loses nothing that a decision could see, so that fractions stay short.
        hessian: Matrix = matrix(
            [[rounded(sum(token[i] * token[j] for token in tokens), BINARY64) for j in range(size)] for i in range(size)]
        )
        for name in names:
            lines = matrix([[float(value) for value in row] for row in self.own[name]])
            grids = [self.scheme.fit(line) for line in lines]
            result = gptq(lines, hessian, [[grid] for grid in grids], percdamp=self.percdamp)
            self.found[name] = result, grids
            self.own[name] = [lift(self.numbers, [float(value) for value in row]) for row in result.values]
