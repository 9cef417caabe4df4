"""LLaDA's sampler, step by step, on logits that stand in the vector."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast

import numpy as np

from model import Transformer, denoise
from refquant.conformance.case import Case
from refquant.conformance.exact_values import context, lifted, nearest, spread
from refquant.conformance.operation import Arrays, Operation, Parameter, Parameters, Part
from refquant.conformance.replayed_words import Uniforms
from refquant.conformance.rules import BYTES, ulp
from refquant.conformance.streams import words
from refquant.errors import InputError
from refquant.numerics import FAST, Arithmetic
from refquant.numerics.arrays import Array
from refquant.oracle import sampling

NAME = "sampler.llada"
VOCABULARY = 7
MASK = VOCABULARY - 1


class _Said:
    """What a model says at each step, in the place of a model."""

    def __init__(self, logits: Array, mask: int, arithmetic: Arithmetic) -> None:
        self._steps = iter(logits)
        self.arithmetic = arithmetic
        self.config = SimpleNamespace(embedding_rows=logits.shape[-1], mask_token_id=mask, eos_token_id=0)

    def logits(self, x: Array, attention_mask: Array | None = None) -> Array:
        """The next step's."""
        found = next(self._steps, None)
        if found is None or found.shape[:2] != x.shape:
            raise InputError("the vector holds no logits for another step, or of another shape")
        return np.asarray(found)


def reference(inputs: Arrays, parameters: Parameters, *, arithmetic: Arithmetic = FAST) -> dict[str, Array]:
    """Denoise."""
    said = _Said(inputs["logits"], parameters["mask"], arithmetic)
    drawing = parameters["temperature"] > 0 or parameters["remasking"] == "random"
    steps = list(
        denoise(
            cast(Transformer, said),
            inputs["prompt"],
            gen_length=inputs["logits"].shape[2] - inputs["prompt"].shape[1],
            block_length=parameters["block_length"],
            steps=len(inputs["logits"]),
            temperature=parameters["temperature"],
            remasking=parameters["remasking"],
            rng=Uniforms(inputs["words"]) if drawing else None,
        )
    )
    found = {"predicted": np.int64, "confidence": np.float64, "committed": np.uint8, "after": np.int64}
    dtype = np.dtype(np.float32) if parameters["remasking"] == "random" else inputs["logits"].dtype
    outputs = {name: np.stack([getattr(step, name) for step in steps]).astype(kind) for name, kind in found.items()}
    return outputs | {"confidence": outputs["confidence"].astype(dtype)}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    """Settings of one case; the prompt may hold masks, which compete with the first block."""

    flags: tuple[str, ...]
    prompt: tuple[int, ...] = (1, 2)
    length: int = 6
    block: int = 6
    steps: int = 6
    temperature: float = 0.0
    remasking: str = "low_confidence"
    seed: int = 40
    equal: bool = False


RUNS = {
    "one-block": _Run(flags=("ordinary",)),
    "two-blocks": _Run(flags=("blocks",), block=3),
    "three-blocks-two-each": _Run(flags=("blocks",), block=2, steps=3, seed=41),
    "uneven": _Run(flags=("uneven-steps",), length=7, block=7, steps=3),
    "more-steps": _Run(flags=("uneven-steps",), length=4, block=2, steps=6),
    "equal": _Run(flags=("confidence-tie",), equal=True),
    "mask-in-prompt": _Run(flags=("blocks",), prompt=(1, MASK, 2), block=3, steps=4),
    "temperature": _Run(flags=("drawn",), temperature=0.5, steps=3),
    "temperature-one": _Run(flags=("drawn",), temperature=1.0, block=3, steps=2, seed=43),
    "random-remasking": _Run(flags=("drawn",), remasking="random", steps=3),
    "both-drawn": _Run(flags=("drawn",), remasking="random", temperature=1.0, steps=2, seed=44),
}


def _logits(run: _Run, dtype: str) -> Array:
    """Scores of every step; equal ones where ties are wanted: pairs of positions, and pairs of tokens."""
    total = len(run.prompt) + run.length
    logits = spread(run.seed, (run.steps, 1, total, VOCABULARY), 6.0)
    logits[..., MASK] = -8.0
    if run.equal:
        logits[:, :, 1::2] = logits[:, :, 0 : total - 1 : 2]
        logits[:, :, 2:4, 5] = logits[:, :, 2:4, 1] = 7.0
    return logits.astype(dtype)


def _uniforms(numbers: Any, run: _Run, given: Array) -> Callable[[], Any]:
    """The oracle's next number of the words; in each step those for tokens have 53 bits, those for positions 24."""
    total = len(run.prompt) + run.length
    per_step = [53] * (total * VOCABULARY if run.temperature else 0) + [24] * (total if run.remasking == "random" else 0)
    bits = iter(per_step * run.steps)
    upper = iter(given.tolist())

    def draw() -> Any:
        width = next(bits)
        return numbers.mpf(next(upper) >> (64 - width)) / 2**width

    return draw


def _case(slug: str, run: _Run, dtype: str) -> Case:
    numbers = context()
    logits = _logits(run, dtype)
    total, drawing = logits.shape[2], run.temperature > 0 or run.remasking == "random"
    count = run.steps * total * ((VOCABULARY if run.temperature else 0) + (run.remasking == "random"))
    drawn = words(run.seed + 100, 0, count)
    found = list(
        sampling.denoise(
            numbers,
            [*run.prompt, *[MASK] * run.length],
            lifted(numbers, logits[:, 0]),
            _uniforms(numbers, run, drawn) if drawing else None,
            mask=MASK,
            prompt=len(run.prompt),
            block=run.block,
            steps=run.steps,
            temperature=numbers.mpf(run.temperature),
            random=run.remasking == "random",
        )
    )
    shown = "float32" if run.remasking == "random" else dtype
    return Case(
        operation=NAME,
        slug=f"{slug}-{dtype}",
        parameters={"mask": MASK, "block_length": run.block, "temperature": run.temperature, "remasking": run.remasking},
        inputs={"prompt": np.array([run.prompt], np.int64), "logits": logits, "words": drawn},
        expected={
            "predicted": np.array([[step.predicted] for step in found], np.int64),
            "confidence": nearest([[step.confidence] for step in found], shown),
            "committed": np.array([[step.committed] for step in found], np.uint8),
            "after": np.array([[step.after] for step in found], np.int64),
        },
        flags=run.flags,
        lane="bounded",
        rules={"confidence": BYTES if run.remasking == "random" else ulp(8)},
    )


def cases() -> Iterator[Case]:
    """One block and several, few steps and many, ties, noise, chance. No two candidates that are unequal are nearly equal."""
    for slug, run in RUNS.items():
        for dtype in ("float32", "float64"):
            yield _case(slug, run, dtype)


OPERATION = Operation(
    name=NAME,
    level="model",
    doc="The sequence is the prompt with gen_length masks behind it, filled block by block from the left, steps / blocks steps each. "
    "When a block begins, its own masks are counted; step i of its n commits count // n + (i < count % n) tokens. In a step "
    "every position predicts its likeliest token (the first of equals); with a temperature, the largest of "
    "exp(logit) / (-ln U)^temperature in float64, one U for each entry of the step's logits. Its confidence is the softmax probability "
    "of that token, without noise; or, with random remasking, one U for each position. Of all masks up to the block's end, the prompt's "
    "too, the most confident are committed (the lower index of equals). U is made of the next word: its upper 53 bits over 2^53, for "
    "positions its upper 24 over 2^24; in each step those of the logits come first, in C order.",
    inputs=(
        Part("prompt", "tokens, possibly masks among them", "int64", "[batch, P]"),
        Part("logits", "what the model says at each step", "float32 or float64", "[steps, batch, P + gen_length, V]"),
        Part("words", "raw words for the draws; none if there are no draws", "uint64", "[words]"),
    ),
    outputs=(
        Part("predicted", "the chosen token at every position", "int64", "[steps, batch, tokens]"),
        Part("confidence", "what ranks positions", "that of logits; float32 with random remasking", "[steps, batch, tokens]"),
        Part("committed", "1 where the prediction is written", "uint8", "[steps, batch, tokens]"),
        Part("after", "the sequence behind the step", "int64", "[steps, batch, tokens]"),
    ),
    parameters=(
        Parameter("mask", "the token that masks"),
        Parameter("block_length", "tokens a block; divides gen_length"),
        Parameter("temperature", "of the noise; 0 is none"),
        Parameter("remasking", "low_confidence or random"),
    ),
    reference=reference,
    cases=cases,
)
