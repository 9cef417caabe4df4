"""LLaDA's sampler and likelihood bound in plain loops, each with one fault to choose."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np

from refquant.conformance.mutants.mutant import Mutant
from refquant.conformance.operation import Arrays, Parameters
from refquant.numerics import FAST
from refquant.numerics.arrays import Array

FAULTS: dict[str, dict[str, tuple[str, str]]] = {
    "sampler.llada": {
        "lowest": ("ordinary", "the least confident positions are committed"),
        "last_position": ("confidence-tie", "the last of equally confident positions is committed"),
        "last_token": ("confidence-tie", "the last of equally likely tokens is predicted"),
        "beyond_block": ("blocks", "positions behind the block compete too"),
        "whole_count": ("blocks", "all masks of the sequence are counted, not the block's"),
        "own_masks_only": ("blocks", "masks in front of the block are left alone"),
        "remainder_last": ("uneven-steps", "the larger shares come last"),
        "remainder_lost": ("uneven-steps", "every step commits count // steps tokens"),
        "raw_confidence": ("ordinary", "the largest logit is the confidence"),
        "largest_probability": ("drawn", "the largest probability is the confidence, not that of the token that noise chose"),
        "noise_sign": ("drawn", "the noise is subtracted"),
        "no_noise": ("drawn", "the temperature is ignored"),
        "words_exchanged": ("drawn", "positions are drawn before tokens, or from the lower half of a word"),
    },
    "likelihood.masks": {
        "biased": ("rejected-word", "the remainder of any word is taken"),
        "clipped": ("wrap-around", "counts beyond the answer are clipped to its length"),
        "half_up": ("tie", "counts that end in a half are rounded up"),
        "from_zero": ("ordinary", "counts run over 0..L-1"),
        "share_of_all": ("mask-share", "the share is of prompt and answer together"),
        "inside_out": ("drawn", "places are drawn from the back of the answer"),
    },
    "likelihood.terms": {
        "no_share": ("mask-share", "losses are not divided by the share: no 1/t"),
        "mean_of_masked": ("mask-share", "the mean over masked tokens"),
        "all_tokens": ("ordinary", "tokens that are not masked count too"),
        "next_position": ("ordinary", "logits are taken for those of the next position, as Dream's"),
        "no_shift": ("overflow", "the maximum is not subtracted before exp"),
        "narrow": ("ordinary", "losses are summed up in float32"),
    },
}
"""``name: (flag that must catch it, what is wrong)`` by operation."""


def sample(inputs: Arrays, parameters: Parameters, *, fault: str = "") -> Mapping[str, Array]:
    """The sampler, one sequence after the other within a step."""
    prompt, logits = np.asarray(inputs["prompt"]), np.asarray(inputs["logits"])
    steps, batch, total, rows = logits.shape
    x = np.full((batch, total), parameters["mask"], dtype=np.int64)
    x[:, : prompt.shape[1]] = prompt
    block, random = int(parameters["block_length"]), parameters["remasking"] == "random"
    each = steps // ((total - prompt.shape[1]) // block)
    draw = _draws(np.asarray(inputs["words"]), fault)
    found: dict[str, list[Array]] = {"predicted": [], "confidence": [], "committed": [], "after": []}
    for step, said in enumerate(logits):
        if step % each == 0:
            end = prompt.shape[1] + (step // each + 1) * block
            window = x if fault == "whole_count" else x[:, end - block : end]
            masks = np.count_nonzero(window == parameters["mask"], axis=1)
        early = draw((batch, total), 24) if fault == "words_exchanged" and random else None
        noisy = _noisy(said, float(parameters["temperature"]), draw, fault)
        predicted = rows - 1 - noisy[..., ::-1].argmax(-1) if fault == "last_token" else noisy.argmax(-1)
        if random:
            confidence = draw((batch, total), 24) if early is None else early
        else:
            confidence = _confidence(said, predicted, fault)
        allowed = x == parameters["mask"]
        if fault != "beyond_block":
            allowed[:, end:] = False
        if fault == "own_masks_only":
            allowed[:, : end - block] = False
        counts = [_share(int(count), each, step % each, fault) for count in masks]
        committed = np.array([_chosen(*row, fault) for row in zip(confidence, allowed, counts, strict=True)])
        x = np.where(committed, predicted, x)
        dtype = np.float32 if random else logits.dtype
        for name, array in (("predicted", predicted), ("confidence", confidence.astype(dtype)), ("committed", committed), ("after", x)):
            found[name].append(array)
    outputs = {name: np.stack(arrays) for name, arrays in found.items()}
    return outputs | {"committed": outputs["committed"].astype(np.uint8)}


def _draws(words: Array, fault: str) -> Callable[[tuple[int, ...], int], Array]:
    upper = iter([int(word) & 0xFFFFFFFF for word in words] if fault == "words_exchanged" else words.tolist())
    width = 32 if fault == "words_exchanged" else 64

    def draw(shape: tuple[int, ...], bits: int) -> Array:
        kept = min(bits, width)
        return np.array([(next(upper) >> (width - kept)) / 2**kept for _ in range(math.prod(shape))]).reshape(shape)

    return draw


def _noisy(said: Array, temperature: float, draw: Callable[[tuple[int, ...], int], Array], fault: str) -> Array:
    if temperature == 0:
        return said
    uniform = draw(said.shape, 53)
    if fault == "no_noise":
        return said
    with np.errstate(all="ignore"):
        noise = -FAST.log(-FAST.log(uniform))
    return np.asarray(said + (-temperature if fault == "noise_sign" else temperature) * noise)


def _confidence(said: Array, predicted: Array, fault: str) -> Array:
    if fault == "raw_confidence":
        return np.asarray(said.max(-1))
    weights = FAST.exp(said - said.max(-1, keepdims=True))
    probabilities = weights / FAST.sum(weights, -1, keepdims=True)
    if fault == "largest_probability":
        return np.asarray(probabilities.max(-1))
    return np.take_along_axis(probabilities, predicted[..., None], axis=-1)[..., 0]


def _share(masks: int, steps: int, step: int, fault: str) -> int:
    if fault == "remainder_lost":
        return masks // steps
    extra = step >= steps - masks % steps if fault == "remainder_last" else step < masks % steps
    return masks // steps + int(extra)


def _chosen(confidence: Array, allowed: Array, count: int, fault: str) -> Array:
    sign = 1 if fault == "lowest" else -1
    tie = -1 if fault == "last_position" else 1
    order = sorted(np.flatnonzero(allowed), key=lambda t: (sign * confidence[t], tie * t))
    marked = np.zeros(len(allowed), dtype=bool)
    marked[order[:count]] = True
    return marked


def masks(inputs: Arrays, parameters: Parameters, *, fault: str = "") -> Mapping[str, Array]:
    """Masked copies of prompt and answer."""
    prompt, answer = np.asarray(inputs["prompt"]).tolist(), np.asarray(inputs["answer"]).tolist()
    length, batch, source = len(answer), int(parameters["batch_size"]), iter(np.asarray(inputs["words"]).tolist())
    copies, share = [], []
    for _ in range(int(parameters["copies"]) // batch):
        first = _below(source, length, fault) + (fault != "from_zero")
        counts = [_count(first + row * length / batch, length, fault) for row in range(batch)]
        copies.append([_copy(prompt, answer, _places(source, length, count, fault), int(parameters["mask"])) for count in counts])
        share.append([count / (length + len(prompt) * (fault == "share_of_all")) for count in counts])
    return {"copies": np.array(copies, np.int64), "share": np.array(share)}


def _below(source: Iterator[int], bound: int, fault: str) -> int:
    word = next(source)
    while fault != "biased" and word >= 2**64 - 2**64 % bound:
        word = next(source)
    return word % bound


def _count(spread: float, length: int, fault: str) -> int:
    count = math.floor(spread + 0.5) if fault == "half_up" else round(spread)
    if fault == "clipped":
        return min(count, length)
    return count % length if fault == "from_zero" else (count - 1) % length + 1


def _places(source: Iterator[int], length: int, count: int, fault: str) -> list[int]:
    places = list(range(length))
    for i in range(count):
        other = _below(source, length - i, fault)
        here, there = (length - 1 - i, other) if fault == "inside_out" else (i, i + other)
        places[here], places[there] = places[there], places[here]
    return places[length - count :] if fault == "inside_out" else places[:count]


def _copy(prompt: list[int], answer: list[int], places: list[int], mask: int) -> list[int]:
    return prompt + [mask if i in places else token for i, token in enumerate(answer)]


def terms(inputs: Arrays, parameters: Parameters, *, fault: str = "") -> Mapping[str, Array]:
    """What the masked tokens cost."""
    copies, tokens = np.asarray(inputs["copies"]), np.asarray(inputs["tokens"])
    logits = np.asarray(inputs["logits"]).astype(np.float64)
    if fault == "next_position":
        logits = np.concatenate([logits[:, :1], logits[:, :-1]], axis=1)
    top: Any = 0 if fault == "no_shift" else logits.max(-1, keepdims=True)
    with np.errstate(all="ignore"):
        log_sum = FAST.log(FAST.sum(FAST.exp(logits - top), -1)) + (0 if fault == "no_shift" else top[..., 0])
        costs = log_sum - np.take_along_axis(logits, np.broadcast_to(tokens, copies.shape)[..., None], axis=-1)[..., 0]
    masked = np.ones(copies.shape, dtype=bool) if fault == "all_tokens" else copies == parameters["mask"]
    if fault == "narrow":
        costs = costs.astype(np.float32)
    losses = FAST.sum(np.where(masked, costs, costs.dtype.type(0)), axis=1)
    if fault == "mean_of_masked":
        losses = losses / np.count_nonzero(masked, axis=1)
    elif fault != "no_share":
        losses = losses / np.asarray(inputs["share"])
    return {"losses": losses.astype(np.float64), "bound": np.atleast_1d(FAST.mean(losses)).astype(np.float64)}


PROGRAMS: dict[str, Callable[..., Mapping[str, Array]]] = {"sampler.llada": sample, "likelihood.masks": masks, "likelihood.terms": terms}
MUTANTS = tuple(
    Mutant(
        name=f"{operation.partition('.')[2]}-{fault}",
        operation=operation,
        flag=flag,
        what=what,
        run=partial(PROGRAMS[operation], fault=fault),
    )
    for operation, faults in FAULTS.items()
    for fault, (flag, what) in faults.items()
)
RIGHT = dict(PROGRAMS)
