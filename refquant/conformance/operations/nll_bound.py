"""The bound on the likelihood: which tokens are masked, and what their losses come to."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from types import SimpleNamespace
from typing import Any, cast

import numpy as np

from model import Transformer
from model.likelihood import masked_copies, masked_losses
from refquant.conformance.case import Case
from refquant.conformance.exact_values import context, lifted, nearest, spread
from refquant.conformance.operation import Arrays, Operation, Parameter, Parameters, Part
from refquant.conformance.replayed_words import generator_of
from refquant.conformance.rules import scaled
from refquant.conformance.streams import words
from refquant.numerics import FAST, Arithmetic
from refquant.numerics.arrays import Array
from refquant.oracle import sampling

MASKS, TERMS = "likelihood.masks", "likelihood.terms"
VOCABULARY = 9
MASK = VOCABULARY - 1
BOUND = scaled(1e-13)


def _named(logits: Array, mask: int, arithmetic: Arithmetic) -> Transformer:
    """An object that says `logits`, in the place of a model."""
    config = SimpleNamespace(embedding_rows=logits.shape[-1], mask_token_id=mask)
    said: Any = SimpleNamespace(arithmetic=arithmetic, config=config, logits=lambda x, attention_mask=None: logits)
    return cast(Transformer, said)


def draw_masks(inputs: Arrays, parameters: Parameters, *, arithmetic: Arithmetic = FAST) -> dict[str, Array]:
    """Draw masked copies."""
    nobody = _named(np.zeros((1, 1, parameters["mask"] + 1)), parameters["mask"], arithmetic)
    batch = parameters["batch_size"]
    copies, share = masked_copies(
        nobody, inputs["prompt"], inputs["answer"], mc_num=parameters["copies"], batch_size=batch, rng=generator_of(inputs["words"])
    )
    return {"copies": copies, "share": np.ascontiguousarray(share[:, :, 0])}


def sum_terms(inputs: Arrays, parameters: Parameters, *, arithmetic: Arithmetic = FAST) -> dict[str, Array]:
    """Sum up what the masked tokens cost."""
    m = _named(inputs["logits"], parameters["mask"], arithmetic)
    share = np.broadcast_to(inputs["share"][:, None], inputs["copies"].shape)
    losses = masked_losses(m, inputs["copies"], share, inputs["tokens"], 0)
    return {"losses": losses, "bound": np.atleast_1d(arithmetic.mean(losses))}


DRAWS: dict[str, tuple[tuple[str, ...], int, int, int, int]] = {
    # flags, prompt, answer, copies, copies a batch
    "ordinary": (("ordinary", "drawn"), 3, 7, 8, 4),
    "no-prompt": (("drawn",), 0, 5, 4, 2),
    "one-token": (("mask-share",), 2, 1, 2, 1),
    "wrapped": (("wrap-around", "tie"), 1, 6, 8, 8),
    "halves": (("tie",), 1, 5, 6, 2),
}


def _mask_cases() -> Iterator[Case]:
    for slug, (flags, prompt, answer, copies, batch) in DRAWS.items():
        drawn = words(60 + answer, 0, copies * (answer + 1) + 4)
        yield _mask_case(slug, flags, prompt, answer, copies, batch, drawn)
    # 2^64 is 2 modulo 7: the two highest words favour remainders of 7, and are thrown away.
    high = np.array([2**64 - 1, 2**64 - 2, 5, 2**64 - 1, 2**63 + 3, 2**64 - 4, 11, 2**40 + 6, 2**64 - 1, *range(20, 40)], np.uint64)
    yield _mask_case("rejected", ("rejected-word", "drawn"), 1, 7, 2, 2, high)


def _mask_case(slug: str, flags: tuple[str, ...], prompt: int, answer: int, copies: int, batch: int, drawn: Array) -> Case:
    tokens = [(3 * i + 1) % MASK for i in range(prompt + answer)]
    source = iter(drawn.tolist())
    found, shares = [], []
    for _ in range(copies // batch):
        counts = sampling.stratified_counts(1 + sampling.below(source, answer), answer, batch)
        hidden = [sampling.masked_positions(source, answer, count) for count in counts]
        found.append([[MASK if i - prompt in places else token for i, token in enumerate(tokens)] for places in hidden])
        shares.append([float(Fraction(count, answer)) for count in counts])
    return Case(
        operation=MASKS,
        slug=slug,
        parameters={"mask": MASK, "copies": copies, "batch_size": batch},
        inputs={"prompt": np.array(tokens[:prompt], np.int64), "answer": np.array(tokens[prompt:], np.int64), "words": drawn},
        expected={"copies": np.array(found, np.int64), "share": np.array(shares)},
        flags=flags,
        lane="exact",
    )


TABLES: dict[str, tuple[tuple[str, ...], list[int]]] = {
    "ordinary": (("ordinary", "mask-share"), [1, 3, 6]),
    "one-each": (("mask-share",), [1, 1, 1]),
    "sure": (("overflow",), [2, 5, 6]),
}
"""Flags, and how many tokens of each copy are masked."""


def _term_cases() -> Iterator[Case]:
    length = 6
    for slug, (flags, counts) in TABLES.items():
        for dtype in ("float32", "float64"):
            numbers = context()
            tokens = [(5 * i + 2) % MASK for i in range(length + 2)]
            logits = spread(70, (len(counts), length + 2, VOCABULARY), 900.0 if slug == "sure" else 5.0).astype(dtype)
            hidden = [[2 + (3 * row + 5 * i) % length for i in range(count)] for row, count in enumerate(counts)]
            copies = [[MASK if t in places else token for t, token in enumerate(tokens)] for places in hidden]
            shares = [Fraction(count, length) for count in counts]
            losses = [
                sampling.masked_loss(numbers, lines, tokens, [token == MASK for token in copy], share)
                for lines, copy, share in zip(lifted(numbers, logits), copies, shares, strict=True)
            ]
            yield Case(
                operation=TERMS,
                slug=f"{slug}-{dtype}",
                parameters={"mask": MASK},
                inputs={
                    "tokens": np.array(tokens, np.int64),
                    "copies": np.array(copies, np.int64),
                    "share": np.array([float(share) for share in shares]),
                    "logits": logits,
                },
                expected={"losses": nearest(losses, "float64"), "bound": nearest([sum(losses) / len(losses)], "float64")},
                flags=flags,
                lane="bounded",
                rules={"losses": BOUND, "bound": BOUND},
            )


DRAWING = Operation(
    name=MASKS,
    level="model",
    doc="Of an answer of L tokens behind a prompt, batches of masked copies. For each batch, a number below L plus 1 is the first count; "
    "count i of b is first + i L / b, rounded half to even, and wrapped around into 1..L. For each copy in turn, so many places of the "
    "answer are drawn and masked: place i, from 0, is exchanged with place i plus a number below L - i, and the first ones are taken. "
    "A number below n is the next word modulo n, words of at least 2^64 - 2^64 mod n being thrown away.",
    inputs=(
        Part("prompt", "tokens that are never masked", "int64", "[P]"),
        Part("answer", "tokens", "int64", "[L]"),
        Part("words", "raw words, more than are needed", "uint64", "[words]"),
    ),
    outputs=(
        Part("copies", "masked copies of prompt and answer", "int64", "[copies / batch_size, batch_size, P + L]"),
        Part("share", "masked tokens over L", "float64", "[copies / batch_size, batch_size]"),
    ),
    parameters=(
        Parameter("mask", "the token that masks"),
        Parameter("copies", "how many, over all batches"),
        Parameter("batch_size", "copies that share one draw of the count"),
    ),
    reference=draw_masks,
    cases=_mask_cases,
)
SUMMING = Operation(
    name=TERMS,
    level="model",
    doc="losses: over the masked positions of a copy, the sum of -ln softmax(logits)[true token], in float64, divided by the copy's share. "
    "bound: the mean over copies.",
    inputs=(
        Part("tokens", "prompt and answer as they are", "int64", "[tokens]"),
        Part("copies", "masked copies", "int64", "[copies, tokens]"),
        Part("share", "masked share of the answer", "float64", "[copies]"),
        Part("logits", "what the model says of each copy", "float32 or float64", "[copies, tokens, V]"),
    ),
    outputs=(Part("losses", "nats", "float64", "[copies]"), Part("bound", "nats", "float64", "[1]")),
    parameters=(Parameter("mask", "the token that masks"),),
    reference=sum_terms,
    cases=_term_cases,
)
