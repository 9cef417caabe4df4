"""LLaDA's sampler and its likelihood bound in plain loops; see `refquant.oracle.transformer` for `numbers`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from refquant.errors import NumericalError
from refquant.oracle.nearest import round_to_integer
from refquant.oracle.transformer import Number, Row, Rows, softmax

LEAST = 1e-6
"""Two things that are not equal and closer than this relatively are no fair question: float32 could not tell them apart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SampledStep:
    """One step: chosen tokens, what ranks them, what was written, and the sequence behind it; all [T]."""

    predicted: list[int]
    confidence: Row
    committed: list[bool]
    after: list[int]


def shares(masks: int, steps: int) -> list[int]:
    """How many masks each step fills: as equal as can be, the larger shares first.

    Examples
    --------
    >>> shares(8, 3), shares(1, 3)
    ([3, 3, 2], [1, 0, 0])
    """
    return [masks // steps + (1 if step < masks % steps else 0) for step in range(steps)]


def first_largest(values: Sequence[Number]) -> int:
    """Index of the largest value, the first of equals; raises NumericalError if the runner-up is too near to be told apart."""
    order = sorted(range(len(values)), key=lambda index: (-values[index], index))
    best, *others = (values[index] for index in order)
    for other in others:
        if other != best:
            if best - other < LEAST * abs(best):
                raise NumericalError(f"two candidates are within {LEAST:g} of each other; choose other inputs")
            break
    return order[0]


def denoise(
    numbers: Any,
    ids: Sequence[int],
    logits: Sequence[Rows],
    draw: Callable[[], Number] | None,
    *,
    mask: int,
    prompt: int,
    block: int,
    steps: int,
    temperature: Number,
    random: bool,
) -> Iterator[SampledStep]:
    """Fill the masks of one sequence, step by step.

    Parameters
    ----------
    numbers : mpmath context
    ids : [T]
        Prompt, and masks behind it.
    logits : [steps][T][V]
        What the model says at each step.
    draw : callable, optional
        The next uniform number. First V for each of T positions if there is a temperature, then T if remasking is random.
    mask, prompt, block, steps : int
        Token of the mask; length of the prompt; length of a block; steps over all blocks.
    temperature : number
    random : bool
        Rank positions by chance instead of confidence.
    """
    x, blocks = list(ids), (len(ids) - prompt) // block
    for index in range(blocks):
        end = prompt + (index + 1) * block
        counts = shares(sum(token == mask for token in x[end - block : end]), steps // blocks)
        for inner, count in enumerate(counts):
            said = logits[index * (steps // blocks) + inner]
            predicted = [first_largest(_noisy(numbers, line, draw, temperature)) for line in said]
            if random and draw is not None:
                confidence = [draw() for _ in x]
            else:
                confidence = [softmax(numbers, line)[token] for line, token in zip(said, predicted, strict=True)]
            candidates = [t for t in range(end) if x[t] == mask]
            chosen = _highest(candidates, confidence, count)
            x = [predicted[t] if t in chosen else token for t, token in enumerate(x)]
            yield SampledStep(predicted=predicted, confidence=confidence, committed=[t in chosen for t in range(len(x))], after=list(x))


def _noisy(numbers: Any, line: Row, draw: Callable[[], Number] | None, temperature: Number) -> Row:
    """``exp(logit) / (-ln U)^temperature``: its largest entry is that of logit plus Gumbel noise."""
    if temperature == 0 or draw is None:
        return line
    return [numbers.exp(value) / numbers.power(-numbers.log(draw()), temperature) for value in line]


def _highest(candidates: Sequence[int], confidence: Row, count: int) -> set[int]:
    order = sorted(candidates, key=lambda t: (-confidence[t], t))
    if 0 < count < len(order):
        last, after = confidence[order[count - 1]], confidence[order[count]]
        if last != after and last - after < LEAST * abs(last):
            raise NumericalError(f"two confidences are within {LEAST:g} of each other; choose other inputs")
    return set(order[:count])


def stratified_counts(first: int, length: int, batch: int) -> list[int]:
    """Mask counts 1..length of a batch: evenly spread from `first` on, rounded half to even, wrapped around.

    Examples
    --------
    >>> stratified_counts(3, 8, 4)
    [3, 5, 7, 1]
    """
    spread = [round_to_integer(first + Fraction(index * length, batch), "half_even") for index in range(batch)]
    return [(count - 1) % length + 1 for count in spread]


def below(words: Iterator[int], bound: int) -> int:
    """A number below `bound` from 64-bit words: the remainder, of the first word that favours none."""
    limit = 2**64 - 2**64 % bound
    return next(word for word in words if word < limit) % bound


def masked_positions(words: Iterator[int], length: int, count: int) -> list[int]:
    """`count` of `length` positions without replacement: the front of a Fisher-Yates shuffle, drawn from the front."""
    places = list(range(length))
    for index in range(count):
        other = index + below(words, length - index)
        places[index], places[other] = places[other], places[index]
    return places[:count]


def masked_loss(numbers: Any, logits: Rows, targets: Sequence[int], masked: Sequence[bool], share: Fraction) -> Number:
    """Cross-entropy of the masked tokens of one copy, divided by the masked share of the answer."""
    total = numbers.mpf(0)
    for line, target, hidden in zip(logits, targets, masked, strict=True):
        if hidden:
            total += -numbers.log(softmax(numbers, line)[target])
    return total * share.denominator / share.numerator
