"""IA-AQ: the loss of every candidate scale of attention values, and the choice."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np

from refquant.conformance.case import Case
from refquant.conformance.numbers import counted
from refquant.conformance.operation import Arrays, Operation, Parameter, Parameters, Part
from refquant.conformance.rules import scaled
from refquant.core import spec
from refquant.methods.diffusion.ia_aq import ALPHAS, AttentionSample, ia_aq
from refquant.numerics import FAST, Arithmetic
from refquant.numerics.arrays import Array
from refquant.oracle import BINARY64, Uniform, UniformGrid, attention_loss, matrix, round_to_integer
from refquant.oracle.rational import Matrix

NAME = "ia_aq.search"
SAMPLES, HEADS, KV_HEADS, TOKENS, FEATURES = 2, 4, 2, 5, 3


def reference(inputs: Arrays, parameters: Parameters, *, arithmetic: Arithmetic = FAST) -> dict[str, Array]:
    """Search."""
    samples = [
        AttentionSample(probabilities=a, values=v, query_rows=rows)
        for a, v, rows in zip(inputs["probabilities"], inputs["values"], inputs["query_rows"], strict=True)
    ]
    found = ia_aq(
        samples,
        spec(f"int{parameters['bits']}", scheme=parameters["scheme"]),
        alphas=parameters["alphas"],
        per=parameters["per"],
        gram=parameters["gram"],
        arithmetic=arithmetic,
    )
    zero = np.zeros(found.grid.scale.shape) if found.grid.zero is None else found.grid.zero
    return {
        "losses": found.losses,
        "chosen": found.chosen.astype(np.int64),
        "scale": found.grid.scale[:, 0],
        "zero": zero[:, 0].astype(np.int32),
    }


def _quantized(x: Fraction, grid: UniformGrid) -> Fraction:
    code = min(max(round_to_integer(x / grid.scale) + grid.zero, grid.lo), grid.hi)
    return grid.scale * (code - grid.zero)


def _loss(rows: Matrix, values: Matrix, grid: UniformGrid, gram: str) -> Fraction:
    """One sample, the values of one tile."""
    quantized = [[_quantized(x, grid) for x in line] for line in values]
    if gram == "exact":
        return attention_loss(rows, values, quantized)
    masses = [sum((line[token] for line in rows), Fraction(0)) for token in range(len(values))]
    errors = [sum(((q - x) * (q - x) for q, x in zip(a, b, strict=True)), Fraction(0)) for a, b in zip(quantized, values, strict=True)]
    return sum((mass * error for mass, error in zip(masses, errors, strict=True)), Fraction(0))


def _expected(inputs: Arrays, parameters: Parameters) -> dict[str, Array]:
    """By loops over heads, tiles and candidates; scales are exact multiples of the widest one, which is rounded once."""
    scheme = Uniform(parameters["scheme"], parameters["bits"], BINARY64)
    features = [[i] for i in range(FEATURES)] if parameters["per"] == "feature" else [list(range(FEATURES))]
    shared = HEADS // KV_HEADS
    losses, chosen, scales, zeros = [], [], [], []
    for head in range(KV_HEADS):
        for tile in features:
            samples = []
            for a, v, counts in zip(inputs["probabilities"], inputs["values"], inputs["query_rows"], strict=True):
                rows = [line for one in a[head * shared : (head + 1) * shared] for line in one[counts]]
                samples.append((matrix(rows), matrix(v[head][:, tile])))
            numbers = [x for _, values in samples for line in values for x in line]
            widest = scheme.fit([min(numbers), max(numbers)])
            grids = [UniformGrid(widest.scale * Fraction(str(alpha)), widest.zero, widest.lo, widest.hi) for alpha in parameters["alphas"]]
            found = [sum((_loss(a, v, grid, parameters["gram"]) for a, v in samples), Fraction(0)) for grid in grids]
            best = found.index(min(found))
            losses.append([float(loss) for loss in found])
            chosen.append(best)
            scales.append(float(grids[best].scale))
            zeros.append(widest.zero)
    shape = (KV_HEADS, len(features))
    return {
        "losses": np.array(losses).T.reshape(-1, *shape),
        "chosen": np.array(chosen, dtype=np.int64).reshape(shape),
        "scale": np.array(scales).reshape(shape),
        "zero": np.array(zeros, dtype=np.int32).reshape(shape),
    }


def _inputs(slug: str) -> dict[str, Any]:
    """Probabilities in 64ths, causal to no one; values with an outlier that little attention goes to."""
    raw = counted(41, (SAMPLES, HEADS, TOKENS, TOKENS), 5) + 17
    a = np.floor(64 * raw / FAST.sum(raw, axis=-1, keepdims=True)) / 64
    v = counted(42, (SAMPLES, KV_HEADS, TOKENS, FEATURES), 16, 1 / 16384)
    rows = np.ones((SAMPLES, TOKENS), dtype=bool)
    v[0, :, 2, 1] *= 3
    a[0, :, :, 2] /= 8
    if slug == "unseen-head":
        a[:, :2] = 0  # nobody looks at the first kv head: all losses are 0
    if slug == "zero-values":
        v[:, 1] = 0
    if slug == "response-rows":
        rows[:, :2] = False
        a[:, :, :2, 2] *= 16  # only rows that do not count look at the outlier
    if slug == "first-sample-wide":
        v[1] /= 4
    return {"probabilities": a, "values": v, "query_rows": rows}


def cases() -> Iterator[Case]:
    """Two sequences, four heads on two value heads."""
    usual: dict[str, Any] = {"bits": 4, "scheme": "asym_minmax", "alphas": list(ALPHAS), "per": "head", "gram": "exact"}
    choices: list[tuple[str, tuple[str, ...], dict[str, Any]]] = [
        ("usual", ("ordinary", "interaction"), {}),
        ("per-feature", ("interaction", "per-feature"), {"per": "feature"}),
        ("mass", ("interaction",), {"gram": "mass"}),
        ("sym-b3", ("interaction",), {"scheme": "sym_full", "bits": 3}),
        ("incl0-b2", ("interaction",), {"scheme": "asym_incl0", "bits": 2}),
        ("few-alphas", ("interaction",), {"alphas": [1.0, 0.9, 0.8], "bits": 3}),
        ("response-rows", ("interaction", "query-rows"), {"bits": 3}),
        ("unseen-head", ("search-tie",), {}),
        ("zero-values", ("search-tie", "zero-range"), {"scheme": "asym_incl0"}),
        ("first-sample-wide", ("interaction", "calibration"), {"bits": 3}),
    ]
    for slug, flags, change in choices:
        inputs, parameters = _inputs(slug), usual | change
        yield Case(
            operation=NAME,
            slug=slug,
            parameters=parameters,
            inputs=inputs,
            expected=_expected(inputs, parameters),
            rules={"losses": scaled(1e-11), "scale": scaled(1e-13)},
            flags=flags,
            lane="bounded",
        )


OPERATION = Operation(
    name=NAME,
    level="methods",
    doc="For every value head (per head), or every feature of it (per feature): s0 and z by the scheme (uniform.quantize) from the "
    "extremes over all samples and tokens. Candidate i: scale alphas[i] s0, the same z; V_hat = values quantized and dequantized with"
    " it. Its loss, gram exact: sum over samples and over the heads that share the value head (consecutive ones) of |A (V_hat - "
    "V)|_F^2, A only the rows with query_rows; gram mass: sum over tokens j of (sum of column j of those rows) |V_hat_j - V_j|^2. "
    "Chosen is the first candidate with the least loss; scale is its scale. In float64.",
    inputs=(
        Part("probabilities", "A, softmax outputs", "float64", "[samples, heads, tokens, tokens]"),
        Part("values", "V", "float64", "[samples, kv heads, tokens, features]"),
        Part("query_rows", "rows of A that count", "bool", "[samples, tokens]"),
    ),
    outputs=(
        Part("losses", "of every candidate", "float64", "[candidates, kv heads, features or 1]"),
        Part("chosen", "index of the candidate", "int64", "[kv heads, features or 1]"),
        Part("scale", "chosen scale", "float64", "[kv heads, features or 1]"),
        Part("zero", "zero point, 0 where there is none", "int32", "[kv heads, features or 1]"),
    ),
    parameters=(
        Parameter("bits", "of the codes of V"),
        Parameter("scheme", "as of uniform.quantize"),
        Parameter("alphas", "candidates, in the order in which they are tried"),
        Parameter("per", "head or feature"),
        Parameter("gram", "exact or mass"),
    ),
    reference=reference,
    cases=cases,
)
