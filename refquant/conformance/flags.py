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
    "block-tile": Flag("tiles of several rows and columns", "tiles of one row, ragged ends below, scales by columns of tiles"),
    "clip-search": Flag("a shrunken range has the least error", "leaving out the search, or another exponent"),
    "search-tie": Flag("several shrinkages have the same error", "taking the last of equal errors instead of the first"),
    "compensation": Flag("inputs that depend on each other: errors move to other columns", "leaving compensation out, or a wrong factor"),
    "dead-column": Flag("an input that is always zero", "dividing by zero, or damping before the diagonal is set to 1"),
    "rank-deficient": Flag("fewer tokens than inputs, or equal inputs: only damping makes the Hessian positive", "missing damping"),
    "equal-diagonal": Flag("two inputs of the same size", "an unstable sort, which exchanges them"),
    "out-of-range": Flag("numbers beyond the largest of a format, and where rounding begins to leave it", "saturating early, wrapping"),
    "subnormal": Flag("numbers below the smallest normal one of a format, or codes of such", "flushing them, or an implicit one"),
    "binade": Flag("numbers that round up to the next power of two", "a carry out of the mantissa that gets lost"),
    "special-codes": Flag("codes that are NaN, infinity or a number in one format and not in another", "reading them as the other does"),
    "shared-exponent": Flag("largest magnitudes at powers of two and one ulp beside them", "another rule, log2 in float32"),
    "exponent-limit": Flag("blocks whose exponent would lie beyond those that can be stored", "an exponent that wraps around"),
    "nested-scale": Flag("scales that are codes, with a scale of their own", "leaving a level out, or computing with unrounded scales"),
    "act-order": Flag("columns are quantized by descending diagonal", "codes or grids in the wrong order of columns"),
    "large-argument": Flag("arguments of many periods or powers of two", "reducing them with one rounded constant, or not at all"),
    "subnormal-result": Flag("subnormal arguments or results", "flushing them to zero"),
    "rounded-intermediate": Flag("results that lose digits by a careless step", "exp(y log x) for a power, sin(x + pi/2) for a cosine"),
    "overflow": Flag("a careless step leaves the finite numbers", "exp without subtracting the maximum, squares in float16"),
    "eps": Flag("features as small as the square root of eps", "eps outside the root, another eps, or none"),
    "mean": Flag("features with a mean far from zero", "LayerNorm in the place of RMSNorm"),
    "zero-position": Flag("tokens at position 0, which no rotation moves", "positions counted from 1"),
    "position": Flag("tokens at positions in any order", "interleaved pairs, another sense of rotation, the row's number for the position"),
    "grouped-heads": Flag("fewer key heads than query heads", "key heads repeated in turn (tiled) instead of each one next to itself"),
    "bidirectional": Flag("later positions matter to earlier ones", "a causal mask where none belongs"),
    "padding": Flag("keys hidden by minus infinity", "hiding them after the softmax, or not at all"),
    "key-bias": Flag("finite numbers added to the scores of keys", "leaving them out, or adding them before the scores are divided"),
    "residual": Flag("what a block adds to its input", "a sum left out, or an MLP beside attention instead of behind it"),
    "confidence-tie": Flag("equally confident positions or equally likely tokens", "committing the last of equals"),
    "blocks": Flag("several blocks, filled from left to right", "committing beyond the block, or counting the masks of all blocks"),
    "uneven-steps": Flag("a number of masks that the steps do not divide", "the larger shares last, or a remainder lost"),
    "drawn": Flag("uniform numbers made of raw words", "draws used in another order, or other bits of the words"),
    "mask-share": Flag("copies with different shares of masks", "leaving out the division by the share, or dividing by another length"),
    "rejected-word": Flag("a raw word that favours remainders", "taking it instead of the next one"),
    "propagation": Flag("layers behind layers that are quantized", "calibrating all layers on the inputs of the float model"),
    "certainty": Flag("masked tokens that the model is more or less sure of", "counting all tokens alike"),
    "wrap-around": Flag("counts that run over the end of 1..length", "clipping them to the end"),
    "token-weight": Flag("tokens of different weight", "weights left out, squared once too often or too seldom, or normalized"),
    "ignored-token": Flag("tokens that do not count: padding, weight 0", "counting them, or multiplying what they hold by 0"),
    "visible-confidence": Flag("visible tokens are weighed by confidence, too", "leaving the option out"),
    "accumulation": Flag("sums that a narrow accumulator does not hold", "summing in the format of the terms"),
    "remainder": Flag("shares that do not divide the samples", "rounding each share by itself, or giving the rest to some fixed bin"),
    "equal-remainder": Flag("equal fractional parts of shares", "another order among equals"),
    "decimal": Flag("shares such as 0.1 that are no binary numbers", "fractional parts that are equal as decimals and differ in binary"),
    "shortfall": Flag("bins with fewer states than their share", "drawing fewer, drawing some twice, or filling up from the wrong bins"),
    "balance": Flag("several prompts and blocks in a bin", "drawing some of them more often than others"),
    "interaction": Flag("errors of values that attention mixes", "weighing errors without attention, or with another product"),
    "query-rows": Flag("rows of attention that do not count", "counting them"),
    "per-feature": Flag("a scale for every feature", "one scale for all"),
    "calibration": Flag("calibration data in several parts of different range", "the range of one part, or the mean of ranges"),
    "probability": Flag("numbers from 0 to 1 that add up to 1", "a grid for numbers of both signs, or one with 2^b steps"),
    "row-range": Flag("every row has a range of its own", "a fixed range, or one for all rows"),
    "exponent": Flag("exponents other than one half", "exchanging the two exponents, or ignoring the one asked for"),
    "transform": Flag("an orthogonal transform", "another normalization or order of rows"),
    "transform-base": Flag("a factor that is not symmetric", "the transpose, or the factors of a Kronecker product exchanged"),
    "honest-tie": Flag(
        "decisions within a rounding error of a tie, in a method that feeds errors back",
        "taking a far code there, or not living with the one taken",
    ),
    "rounded-sums": Flag("sums of several rounded terms in a stated order", "another order, a fused operation, or a wider format"),
    "bias": Flag("a bias is added", "leaving it out, scaling it, or adding it first"),
    "nibble-order": Flag("two codes of 4 bits in a byte or word that differ", "the halves of bytes exchanged"),
    "byte-order": Flag("words and scales whose bytes differ", "big-endian words, fields that begin at the top"),
    "interleave": Flag("neighbouring codes that do not lie side by side", "another order, its inverse, or none"),
    "packing-axis": Flag("square matrices of codes", "packing along the other axis, or not transposing"),
    "zero-minus-one": Flag("zero points of files that have them less one, and of files that do not", "subtracting never, twice or always"),
    "borrow": Flag("zero points of 0, less one", "keeping to the field where the writer runs into its neighbours, or vice versa"),
    "straddling-field": Flag("codes that lie in two bytes or words", "losing what runs over, or beginning anew in every word"),
    "bit-planes": Flag("widths whose low and high bits are kept apart", "one stream, or the planes in another order"),
    "ragged-row": Flag("rows that do not fill their last byte or word", "running on into the next row, padding that is not 0"),
    "top-bit": Flag("words and codes with the highest bit set", "words clipped to the signed range, or short of their last bit"),
    "signed-codes": Flag("negative codes", "sign bits that are not masked, two's complement where an offset is meant, or vice versa"),
    "activation-scales": Flag("input channels of very different size", "another measure of size, another normalization of factors"),
}
"""By name. A flag that no case carries is a finding of `refquant golden lint`."""
