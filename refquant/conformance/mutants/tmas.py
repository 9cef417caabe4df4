"""TMAS with one fault to choose: quotas of bins, and the draw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from functools import partial

import numpy as np

from refquant.conformance.mutants.mutant import Mutant
from refquant.conformance.operation import Arrays, Parameters
from refquant.numerics.arrays import Array

QUOTA_FAULTS: dict[str, tuple[str, str]] = {
    "floor": ("remainder", "whole parts only: fewer samples than asked for"),
    "ceiling": ("remainder", "every part is rounded up: more samples than asked for"),
    "nearest": ("remainder", "every part is rounded to nearest, whatever the sum"),
    "rest_to_first": ("remainder", "what whole parts leave goes to the first bin"),
    "rest_to_last": ("remainder", "what whole parts leave goes to the last bin"),
    "rest_in_order": ("remainder", "what whole parts leave goes to the bins from the first, one each"),
    "smallest_remainder": ("remainder", "the smallest fractional parts get one more"),
    "ties_to_higher": ("equal-remainder", "of equal fractional parts the higher bin gets one more"),
    "even": ("ordinary", "all bins give the same"),
    "binary_shares": ("decimal", "shares are the binary numbers, in floating point"),
    "short_of_samples": ("shortfall", "what a bin lacks is lost"),
    "beyond_available": ("shortfall", "a bin is asked for more than it has"),
    "to_next_bin": ("shortfall", "what a bin lacks is taken from the next"),
}
DRAW_FAULTS: dict[str, tuple[str, str]] = {
    "floor": ("shortfall", "quotas are whole parts only, and nothing is passed on"),
    "equal_quotas": ("ordinary", "all bins give the same"),
    "masked_share": ("ordinary", "bins count the masked share, not the unmasked one"),
    "nearest_bin": ("ordinary", "bins are rounded, not cut off"),
    "with_replacement": ("balance", "a state can be drawn again"),
    "no_rejection": ("rejected-word", "words past the last multiple are used, too"),
    "shuffled_from_behind": ("ordinary", "the shuffle runs from the last place to the first"),
    "scaled_words": ("ordinary", "integers are had by multiplying the word, not by its remainder"),
    "last_place_free": ("ordinary", "no word is used for the last place of a shuffle"),
    "not_shuffled": ("ordinary", "the states of a bin are taken as they stand"),
    "prompts_ignored": ("balance", "each block gives its first state, whatever its prompt"),
    "counts_by_bin": ("balance", "how often a prompt was drawn is counted within the bin only"),
    "blocks_ignored": ("balance", "blocks do not take turns"),
    "block_by_block": ("balance", "a block gives all it has before the next one is asked"),
    "as_drawn": ("ordinary", "indices are left in the order of the draw"),
}
"""``name: (flag that must catch it, what is wrong)``."""


def split(proportions: Sequence[float], samples: int, available: Sequence[int], fault: str = "") -> list[int]:
    """Quotas of bins; wrong in one way if a fault is named."""
    shares = [Fraction(p) if fault == "binary_shares" else Fraction(repr(p)) for p in proportions]
    if fault == "even":
        shares = [Fraction(1)] * len(shares)
    if fault in ("beyond_available", "floor", "ceiling", "nearest"):
        return _largest_remainder(shares, samples, fault)
    if fault == "to_next_bin":
        found, rest = _largest_remainder(shares, samples, fault), 0
        for i, room in enumerate(available):
            found[i], rest = min(found[i] + rest, room), max(found[i] + rest - room, 0)
        return found
    taken = [0] * len(shares)
    while sum(taken) < samples:
        still = [share if t < a else Fraction(0) for share, t, a in zip(shares, taken, available, strict=True)]
        more = _largest_remainder(still, samples - sum(taken), fault)
        before, taken = taken, [min(t + m, a) for t, m, a in zip(taken, more, available, strict=True)]
        if fault == "short_of_samples" or taken == before:  # a fault that gives to full bins only would never end
            break
    return taken


def _largest_remainder(shares: Sequence[Fraction], samples: int, fault: str) -> list[int]:
    exact = [share * samples / sum(shares, Fraction(0)) for share in shares]
    if fault == "nearest":
        return [round(part) for part in exact]
    whole = [int(part) for part in exact]
    if fault == "ceiling":
        return [w + (part > w) for part, w in zip(exact, whole, strict=True)]
    rest = samples - sum(whole)
    if fault == "floor":
        return whole
    if fault.startswith("rest_to"):
        whole[0 if fault == "rest_to_first" else -1] += rest
        return whole
    sign = -1 if fault == "smallest_remainder" else 1
    order = sorted(range(len(whole)), key=lambda i: (sign * (whole[i] - exact[i]), -i if fault == "ties_to_higher" else i))
    for i in list(range(rest)) if fault == "rest_in_order" else order[:rest]:
        whole[i] += 1
    return whole


def quotas(inputs: Arrays, parameters: Parameters, *, fault: str = "") -> Mapping[str, Array]:
    """Quotas of bins as an operation."""
    found = split(parameters["proportions"], parameters["samples"], inputs["available"].tolist(), fault)
    return {"quotas": np.array(found, dtype=np.int64)}


class _Words:
    """Deals words; from the beginning again where a fault uses up too many."""

    def __init__(self, given: Array, fault: str) -> None:
        self.given, self.fault, self.used = [int(word) for word in given], fault, 0

    def below(self, bound: int) -> int:
        while True:
            word = self.given[self.used % len(self.given)]
            self.used += 1
            if self.fault == "scaled_words":
                return word * bound >> 64
            if word < 2**64 - 2**64 % bound or self.fault == "no_rejection":
                return word % bound

    def shuffle(self, items: list[int]) -> list[int]:
        items, n = list(items), len(items)
        if self.fault == "not_shuffled":
            return items
        for i in range(n - 1 if self.fault == "last_place_free" else n):
            if self.fault == "shuffled_from_behind":
                place = n - 1 - i
                other = self.below(place + 1)
            else:
                place, other = i, i + self.below(n - i)
            items[place], items[other] = items[other], items[place]
        return items


def draw(inputs: Arrays, parameters: Parameters, *, fault: str = "") -> Mapping[str, Array]:
    """The draw; wrong in one way if a fault is named."""
    states, count = inputs["states"].tolist(), len(parameters["proportions"])
    members: list[list[int]] = [[] for _ in range(count)]
    for index, state in enumerate(states):
        members[_bin(state, str(parameters["bins"]), count, fault)].append(index)
    how = {"equal_quotas": "even", "floor": "floor"}.get(fault, "")
    available = [len(states)] * count if fault == "with_replacement" else [len(m) for m in members]
    taken = split(parameters["proportions"], int(parameters["samples"]), available, how)
    words, times, chosen = _Words(inputs["words"], fault), [0] * (1 + max(state[0] for state in states)), []
    for quota, found in zip(taken, members, strict=True):
        if fault == "counts_by_bin":
            times = [0] * len(times)
        chosen += _take(states, words.shuffle(found), quota, times, bool(parameters["joint"]), fault)
    return {"chosen": np.array(chosen if fault == "as_drawn" else sorted(chosen), dtype=np.int64)}


def _bin(state: list[int], rule: str, count: int, fault: str) -> int:
    _, step, steps, _, block_masked, block_length, masked, response = state
    part, whole = {"time": (step, steps), "mask_ratio": (masked, response), "block_ratio": (block_masked, block_length)}[rule]
    if (rule != "time") != (fault == "masked_share"):
        part = whole - part
    place = round(Fraction(part * count, whole)) if fault == "nearest_bin" else part * count // whole
    return min(place, count - 1)


def _take(states: list[list[int]], mixed: list[int], quota: int, times: list[int], joint: bool, fault: str) -> list[int]:
    queues: dict[tuple[int, int], list[int]] = {}
    for index in mixed:
        block, block_masked, length = states[index][3], states[index][4], states[index][5]
        key = (0 if fault == "blocks_ignored" else block, min(4 * (length - block_masked) // length, 3) if joint else 0)
        queues.setdefault(key, []).append(index)
    chosen: list[int] = []
    while len(chosen) < quota and any(queues.values()):
        for key in sorted(queues):
            while queues[key] and len(chosen) < quota:
                counts = [times[states[index][0]] for index in queues[key]]
                place = 0 if fault == "prompts_ignored" else counts.index(min(counts))
                chosen.append(queues[key][place] if fault == "with_replacement" else queues[key].pop(place))
                times[states[chosen[-1]][0]] += 1
                if fault != "block_by_block":
                    break
    return chosen


MUTANTS = tuple(
    Mutant(name=f"{name}-{fault}", operation=operation, flag=flag, what=what, run=partial(run, fault=fault))
    for name, operation, run, faults in (
        ("tmas_quotas", "tmas.quotas", quotas, QUOTA_FAULTS),
        ("tmas_draw", "tmas.draw", draw, DRAW_FAULTS),
    )
    for fault, (flag, what) in faults.items()
)
RIGHT = {"tmas.quotas": quotas, "tmas.draw": draw}
