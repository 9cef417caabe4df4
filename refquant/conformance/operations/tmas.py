"""TMAS: how many calibration states each bin gives, and which."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

import numpy as np

from refquant.conformance.case import Case
from refquant.conformance.operation import Arrays, Operation, Parameter, Parameters, Part
from refquant.conformance.replayed_words import generator_of
from refquant.conformance.streams import words
from refquant.methods.diffusion.tmas import PROPORTIONS, RecordedState, capped_quotas, tmas
from refquant.numerics import FAST, Arithmetic
from refquant.numerics.arrays import Array
from refquant.oracle import quotas
from refquant.oracle.state_draw import State, balanced_draw

QUOTAS, DRAW = "tmas.quotas", "tmas.draw"
COLUMNS = ("prompt", "step", "steps", "block", "block_masked", "block_length", "masked", "response")


def quotas_reference(inputs: Arrays, parameters: Parameters, *, arithmetic: Arithmetic = FAST) -> dict[str, Array]:
    """Split."""
    taken = capped_quotas(parameters["proportions"], parameters["samples"], inputs["available"].tolist())
    return {"quotas": np.array(taken, dtype=np.int64)}


def draw_reference(inputs: Arrays, parameters: Parameters, *, arithmetic: Arithmetic = FAST) -> dict[str, Array]:
    """Draw."""
    states = [RecordedState(**dict(zip(COLUMNS, line, strict=True))) for line in inputs["states"].tolist()]
    rng = generator_of(inputs["words"])
    chosen = tmas(
        states,
        parameters["samples"],
        rng,
        proportions=parameters["proportions"],
        bins=parameters["bins"],
        joint=parameters["joint"],
    )
    return {"chosen": np.array(chosen, dtype=np.int64)}


def quotas_cases() -> Iterator[Case]:
    """The paper's shares and others, bins that are large enough and bins that are not."""
    even, usual = [1.0, 1.0, 1.0], list(PROPORTIONS)
    choices: list[tuple[str, tuple[str, ...], list[float], int, list[int]]] = [
        ("usual-128", ("ordinary", "remainder"), usual, 128, [1000] * 4),
        ("usual-16", ("remainder",), usual, 16, [1000] * 4),
        ("usual-1", ("remainder", "equal-remainder"), usual, 1, [9] * 4),
        ("usual-10", ("ordinary",), usual, 10, [10] * 4),
        ("decimal-5", ("equal-remainder", "decimal"), [0.7, 0.2, 0.1], 5, [9] * 3),
        ("even-10", ("remainder", "equal-remainder"), even, 10, [10] * 3),
        ("even-11", ("remainder", "equal-remainder"), even, 11, [10] * 3),
        ("short", ("shortfall",), usual, 128, [1000, 10, 1000, 1000]),
        ("short-twice", ("shortfall",), usual, 40, [100, 7, 2, 14]),
        ("short-empty", ("shortfall",), usual, 12, [0, 5, 0, 20]),
        ("all", ("shortfall",), usual, 20, [3, 9, 7, 1]),
        ("no-share", ("remainder",), [0.5, 0.0, 0.25, 0.25], 13, [20] * 4),
    ]
    for slug, flags, proportions, samples, available in choices:
        shares = [Fraction(str(share)) for share in proportions]
        yield Case(
            operation=QUOTAS,
            slug=slug,
            parameters={"proportions": proportions, "samples": samples},
            inputs={"available": np.array(available, dtype=np.int64)},
            expected={"quotas": np.array(quotas(shares, samples, available), dtype=np.int64)},
            flags=flags,
            lane="exact",
        )


def _rollouts(prompts: int, blocks: int, length: int) -> list[list[int]]:
    """States of complete rollouts: a block after the other, one or two tokens a step."""
    states, response = [], blocks * length
    for prompt in range(prompts):
        masked, step, found = response, 0, []
        while masked:
            block = (response - masked) // length
            block_masked = masked - (blocks - 1 - block) * length
            found.append([prompt, step, 0, block, block_masked, length, masked, response])
            masked -= min(1 + (step + prompt) % 2, block_masked)
            step += 1
        states += [[*line[:2], step, *line[3:]] for line in found]
    return states


def _seen(line: list[int], bins: str) -> Fraction:
    _, step, steps, _, block_masked, block_length, masked, response = line
    shares = {
        "time": (step, steps),
        "mask_ratio": (response - masked, response),
        "block_ratio": (block_length - block_masked, block_length),
    }
    return Fraction(*shares[bins])


def draw_cases() -> Iterator[Case]:
    """Three prompts of three blocks; words that are rejected among the others."""
    states = _rollouts(3, 3, 5)
    reversed_prompts = [[7 - line[0], *line[1:]] for line in states]
    ordinary = words(31, 0, 3 * len(states))
    high = ordinary.copy()
    high[::4] = 2**64 - 1  # above the last multiple of every bound but powers of two
    choices: list[tuple[str, tuple[str, ...], list[list[int]], Array, int, str, bool]] = [
        (f"{bins.replace('_', '-')}-{samples}{'-joint' if joint else ''}", ("ordinary", "balance"), states, ordinary, samples, bins, joint)
        for bins in ("time", "mask_ratio", "block_ratio")
        for samples, joint in ((8, False), (16, False), (12, True))
    ]
    choices += [
        ("rejected-words", ("rejected-word",), states, high, 12, "time", False),
        ("prompts-reversed", ("balance",), reversed_prompts, ordinary, 10, "time", False),
        ("most", ("shortfall", "balance"), states[:14], ordinary, 12, "mask_ratio", False),
    ]
    shares = [Fraction(str(share)) for share in PROPORTIONS]
    for slug, flags, lines, drawn, samples, bins, joint in choices:
        as_states = [State(line[0], line[3], _seen(line, bins), 1 - Fraction(line[4], line[5])) for line in lines]
        chosen, _ = balanced_draw(as_states, [int(word) for word in drawn], samples, shares, joint)
        yield Case(
            operation=DRAW,
            slug=slug,
            parameters={"samples": samples, "proportions": list(PROPORTIONS), "bins": bins, "joint": joint},
            inputs={"states": np.array(lines, dtype=np.int64), "words": drawn},
            expected={"chosen": np.array(chosen, dtype=np.int64)},
            flags=flags,
            lane="exact",
        )


_SHARES = (
    Parameter("proportions", "shares of the bins, read as the decimal numbers that they print as: 0.3 is 3/10"),
    Parameter("samples", "how many are drawn"),
)
QUOTAS_OPERATION = Operation(
    name=QUOTAS,
    level="methods",
    doc="Samples are split over bins in proportion to their shares, in exact arithmetic: whole parts first, then one each to the largest "
    "fractional parts, equal ones to the lower bin. Bins that have nothing are left out from the beginning. A bin gives at most what is "
    "available; what is missing then is split in the same way over the bins with a share that have more to give, until nothing is missing.",
    inputs=(Part("available", "states in each bin", "int64", "[bins]"),),
    outputs=(Part("quotas", "states to draw from each bin", "int64", "[bins]"),),
    parameters=_SHARES,
    reference=quotas_reference,
    cases=quotas_cases,
)
DRAW_OPERATION = Operation(
    name=DRAW,
    level="methods",
    doc="A state lies in bin min(floor(share * bins), bins - 1), share = step / steps (time), the unmasked share of the response "
    "(mask_ratio) or of the current block (block_ratio). tmas.quotas says how many states each bin gives. Bin after bin: its states, "
    "in the order given, are shuffled: for i = 0, 1, ..., n-1, place i is exchanged with place i + (next word mod n-i); a word w >= "
    "floor(2^64 / (n-i)) (n-i) is skipped and the next taken (a word is used for n-i = 1, too). Then the generation blocks in rising "
    "order (with joint: pairs of block and min(floor(4 * unmasked share of the block), 3), in rising order) give one state each in "
    "turn, until the quota is full: the first in shuffled order of those whose prompt was drawn least often so far, in all bins. "
    "Chosen are the indices of all, in rising order.",
    inputs=(
        Part("states", f"columns {', '.join(COLUMNS)}", "int64", "[states, 8]"),
        Part("words", "random 64-bit words, taken one after the other", "uint64", "[words]"),
    ),
    outputs=(Part("chosen", "indices of states, rising", "int64", "[samples]"),),
    parameters=(
        *_SHARES,
        Parameter("bins", "time, mask_ratio or block_ratio"),
        Parameter("joint", "true: quarters of the block's masks in turn, too"),
    ),
    reference=draw_reference,
    cases=draw_cases,
)
