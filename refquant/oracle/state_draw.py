"""Which recorded states are drawn (DLLMQuant, TMAS), from 64-bit words that are dealt one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

from refquant.errors import InputError
from refquant.oracle.quotas import quotas

WORDS = 2**64


@dataclass(frozen=True, slots=True)
class State:
    """A state of a rollout: `seen` is its share of the way, 0 to 1, by which it is binned; `quarter` that of its block's masks."""

    prompt: int
    block: int
    seen: Fraction
    quarter: Fraction


def below(bound: int, words: Iterator[int]) -> int:
    """Return the next word modulo `bound`; words past the last whole multiple of it are skipped.

    Raises
    ------
    InputError
        If no word is left.

    Examples
    --------
    >>> below(10, iter([2**64 - 1, 23]))
    3
    """
    for word in words:
        if word < WORDS // bound * bound:
            return word % bound
    raise InputError("no word is left to draw from")


def shuffled(count: int, words: Iterator[int]) -> list[int]:
    """Return ``0 .. count-1`` shuffled from the front: place `i` is exchanged with one of the places ``i .. count-1``.

    Examples
    --------
    >>> shuffled(3, iter([2, 0, 5]))
    [2, 1, 0]
    """
    order = list(range(count))
    for place in range(count):
        other = place + below(count - place, words)
        order[place], order[other] = order[other], order[place]
    return order


def balanced_draw(
    states: Sequence[State],
    words: Sequence[int],
    samples: int,
    shares: Sequence[Fraction],
    joint: bool = False,
) -> tuple[list[int], list[int]]:
    """Draw states bin by bin.

    A bin is shuffled first. Then its blocks (with `joint`: pairs of block and quarter), in rising order, give one state each in
    turn until the quota is full; each gives the first, in shuffled order, of those whose prompt was drawn least so far, over all bins.

    Parameters
    ----------
    states : sequence of State
    words : sequence of int
        Dealt in order; one for every state of every bin, and one more for each that is skipped.
    samples : int
        At most as many as states in bins with a share.
    shares : sequence of Fraction
        Of the bins; their number is the number of bins.
    joint : bool

    Returns
    -------
    tuple of (list of int, list of int)
        What was drawn, rising, and how many of each bin.

    Raises
    ------
    InputError
        If words or states do not suffice.

    Examples
    --------
    >>> states = [State(prompt, 0, Fraction(step, 2), Fraction(0)) for prompt in (0, 1) for step in (0, 1)]
    >>> balanced_draw(states, [0] * 4, 2, [Fraction(1), Fraction(1)])
    ([0, 3], [1, 1])
    """
    count = len(shares)
    bins: list[list[int]] = [[] for _ in shares]
    for index, state in enumerate(states):
        bins[_part(state.seen, count)].append(index)
    taken = quotas(shares, samples, [len(members) for members in bins])
    if sum(taken) < samples:
        raise InputError(f"{samples} states were asked for, {sum(taken)} can be given")
    dealt = iter(words)
    drawn: list[int] = []
    for members, quota in zip(bins, taken, strict=True):
        mixed = [members[place] for place in shuffled(len(members), dealt)]
        drawn += _in_turn(states, mixed, quota, drawn, lambda s: (s.block, _part(s.quarter, 4) if joint else 0))
    return sorted(drawn), taken


def _part(share: Fraction, parts: int) -> int:
    return min(int(share * parts), parts - 1)


def _in_turn(states: Sequence[State], mixed: list[int], quota: int, before: list[int], key: Callable[[State], object]) -> list[int]:
    left = list(mixed)
    chosen: list[int] = []
    keys = sorted({key(states[index]) for index in mixed})  # type: ignore[type-var]
    while len(chosen) < quota:
        for one in keys:
            queue = [index for index in left if key(states[index]) == one]
            if not queue or len(chosen) == quota:
                continue
            prompts = [states[index].prompt for index in before + chosen]
            # min() takes the first of equals.
            chosen.append(min(queue, key=lambda index: prompts.count(states[index].prompt)))
            left.remove(chosen[-1])
    return chosen
