"""Why a vector exists: what its flags mean, and which bug each of them catches.

A flag is a promise: the case holds inputs of this kind, and an implementation with the bug gives another answer on at least one of them.
Mutants hold the promise (see `refquant.conformance.mutants`).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Flag:
    """What the inputs of a case are like, and the bug that shows on them."""

    meaning: str
    bug: str


FLAGS: dict[str, Flag] = {
    "ordinary": Flag("nothing special: values of both signs, no ties", "anything that is wrong everywhere"),
    "tie": Flag("numbers exactly halfway between two codes", "rounding half away from zero or up, where it is half to even"),
    "near-tie": Flag(
        "numbers one unit in the last place beside a tie",
        "multiplying with a reciprocal, adding 0.5 and truncating, computing in another precision",
    ),
    "negative": Flag("numbers below zero that round", "truncation, which is the floor for positive numbers only"),
    "negative-zero": Flag("-0.0, or a negative number that rounds to zero", "losing the sign of zero, or storing it in codes"),
    "not-finite": Flag("infinities and NaN", "casting them to integers, which is undefined"),
    "large": Flag("numbers so large that all of them are integers", "adding 0.5, which rounds to the next even integer"),
    "zero-range": Flag("a tile whose range is empty: all zero", "a scale of 0, and then NaN"),
    "constant": Flag("a tile of one value that is not zero", "a range without width where the scheme does not include zero"),
    "one-sided": Flag("no entry of the other sign", "leaving zero out of the range, or halving a symmetric range"),
    "outlier": Flag("one value takes the whole range", "a scale from a mean or percentile, clipping"),
    "saturation": Flag("values beyond the last code", "wrapping around: the cast comes before the clip"),
    "subnormal-scale": Flag("a scale below the normal numbers of its format", "flushing subnormal numbers to zero"),
    "tiny": Flag("ranges below the floors of 1e-5 that some schemes have", "another scheme's floor, or none"),
    "stored-scale": Flag("scales that are rounded to a narrower format", "zero points and codes from the scale before it is rounded"),
    "group-boundary": Flag("neighbouring groups of very different size", "a group boundary off by one"),
    "group-statistics": Flag("groups and rows of very different size", "using the statistics of the group or row before"),
    "ragged-group": Flag("a last group with fewer elements", "leaving the tail out, or padding that enters the range"),
    "zero-point": Flag("zero points that are rounded, at ties or at an end of the codes", "zero points off by one, or truncated"),
    "lowest-code": Flag("values that would take the lowest signed code", "a narrow range where the full one is meant, or vice versa"),
    "shared-range": Flag("one scale for several rows", "one scale for each row"),
    "clip-search": Flag("a shrunken range has the least error", "leaving out the search, or another exponent"),
    "search-tie": Flag("several shrinkages have the same error", "taking the last of equal errors instead of the first"),
    "compensation": Flag("inputs that depend on each other: errors move to other columns", "leaving compensation out, or a wrong factor"),
    "dead-column": Flag("an input that is always zero", "dividing by zero, or damping before the diagonal is set to 1"),
    "rank-deficient": Flag("fewer tokens than inputs, or equal inputs: only damping makes the Hessian positive", "missing damping"),
    "equal-diagonal": Flag("two inputs of the same size", "an unstable sort, which exchanges them"),
    "act-order": Flag("columns are quantized by descending diagonal", "codes or grids in the wrong order of columns"),
}
"""By name. A flag that no case carries is a finding of `refquant golden lint`."""
