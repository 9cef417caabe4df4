"""IA-AQ's search with one fault to choose."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np

from refquant.conformance.mutants.mutant import Mutant
from refquant.conformance.mutants.uniform_quantize import quantize
from refquant.conformance.operation import Arrays, Parameters
from refquant.numerics import FAST
from refquant.numerics.arrays import Array

FAULTS: dict[str, tuple[str, str]] = {
    "values_alone": ("interaction", "the loss is the error of V, attention is left out"),
    "one_sided": ("interaction", "errors are multiplied by A on one side only: sum of dV A dV, not (A dV)^2"),
    "transposed": ("interaction", "A enters transposed"),
    "mass_for_exact": ("interaction", "errors of tokens are weighed by their attention and do not cancel"),
    "all_rows": ("query-rows", "rows that do not count are counted"),
    "other_rows": ("query-rows", "the rows that do not count are counted, and no others"),
    "first_head": ("interaction", "only the first of the heads that share a value head counts"),
    "interleaved_heads": ("interaction", "head h is taken to use value head h modulo their number"),
    "last_sample": ("calibration", "extremes are those of the last sample"),
    "mean_extremes": ("calibration", "extremes are averaged over samples"),
    "mean_loss": ("ordinary", "losses are divided by the number of samples"),
    "root_of_loss": ("ordinary", "the loss is the norm, not its square"),
    "absolute_range": ("ordinary", "the range goes from -max|V| to max|V|"),
    "zero_refitted": ("interaction", "the zero point is computed with V's lower end and each candidate's scale"),
    "next_alpha": ("interaction", "the list of candidates is off by one"),
    "no_search": ("interaction", "the first candidate is taken"),
    "last_of_equals": ("search-tie", "of equal losses the last wins"),
    "features_together": ("per-feature", "one scale is chosen for all features of a head"),
}
"""``name: (flag that must catch it, what is wrong)``."""


def search(inputs: Arrays, parameters: Parameters, *, fault: str = "") -> Mapping[str, Array]:
    """Search, tile by tile; wrong in one way if a fault is named."""
    a, v, rows = inputs["probabilities"], inputs["values"], inputs["query_rows"]
    alphas = list(parameters["alphas"])
    if fault == "next_alpha":
        alphas = [alpha - 0.01 for alpha in alphas]
    kv_heads, features = v.shape[1], v.shape[3]
    tiles = [[i] for i in range(features)] if parameters["per"] == "feature" else [list(range(features))]
    shape = (kv_heads, len(tiles))
    losses, chosen = np.zeros((len(alphas), *shape)), np.zeros(shape, dtype=np.int64)
    scale, zero = np.zeros(shape), np.zeros(shape, dtype=np.int32)
    for head in range(kv_heads):
        for place, tile in enumerate(tiles):
            seen = v[:, head] if fault == "features_together" else v[:, head][:, :, tile]
            start, offset, lo, hi = _widest(seen, parameters, fault)
            for i, alpha in enumerate(alphas):
                z = offset
                if fault == "zero_refitted" and parameters["scheme"].startswith("asym"):
                    z = int(np.clip(np.rint(-seen.min() / (alpha * start)), lo, hi))
                delta = alpha * start * (np.clip(np.rint(seen / (alpha * start)) + z, lo, hi) - z) - seen
                for sample in range(len(v)):
                    attention = _rows_of(a[sample], rows[sample], head, kv_heads, fault)
                    losses[i, head, place] += _loss(attention, delta[sample], str(parameters["gram"]), fault)
            if fault == "mean_loss":
                losses[:, head, place] /= len(v)
            best = losses[:, head, place]
            index = int(np.argmin(best)) if fault != "last_of_equals" else len(best) - 1 - int(np.argmin(best[::-1]))
            chosen[head, place] = 0 if fault == "no_search" else index
            scale[head, place], zero[head, place] = alphas[int(chosen[head, place])] * start, offset
    return {"losses": np.sqrt(losses) if fault == "root_of_loss" else losses, "chosen": chosen, "scale": scale, "zero": zero}


def _widest(seen: Array, parameters: Parameters, fault: str) -> tuple[float, int, int, int]:
    """Scale and zero point of the extremes, lowest and highest code."""
    used = seen[-1:] if fault == "last_sample" else seen
    low, high = used.min(), used.max()
    if fault == "mean_extremes":
        low, high = FAST.mean(used.min(axis=(1, 2))), FAST.mean(used.max(axis=(1, 2)))
    if fault == "absolute_range":
        high = np.maximum(-low, high)
        low = -high
    bits = int(parameters["bits"])
    how = {"scheme": parameters["scheme"], "bits": bits, "scale_format": None, "rounding": "half_even", "granularity": "row", "group": None}
    fitted = quantize({"x": np.array([[low, high]])}, how)
    half = 1 << (bits - 1)
    lo, hi = (-half, half - 1) if fitted["codes"].dtype.kind == "i" else (0, 2 * half - 1)
    return float(fitted["scale"][0, 0]), int(fitted["zero"][0, 0]), lo, hi


def _rows_of(a: Array, rows: Array, head: int, kv_heads: int, fault: str) -> Array:
    """The rows of all heads that use a value head, one under the other."""
    shared = len(a) // kv_heads
    heads = list(range(head, len(a), kv_heads)) if fault == "interleaved_heads" else list(range(head * shared, (head + 1) * shared))
    if fault == "first_head":
        heads = heads[:1]
    counts = np.ones_like(rows) if fault == "all_rows" else ~rows if fault == "other_rows" else rows
    parts = [np.where(counts[:, None], a[h], 0) for h in heads]
    return np.concatenate([part.T if fault == "transposed" else part for part in parts], axis=0)


def _loss(attention: Array, delta: Array, gram: str, fault: str) -> float:
    if fault == "values_alone":
        return float(FAST.sum(delta * delta))
    if gram == "mass" or fault == "mass_for_exact":
        return float(FAST.sum(FAST.sum(attention, axis=0)[:, None] * delta * delta))
    moved = FAST.matmul(attention, delta)
    if fault == "one_sided":
        return float(FAST.sum(moved[: len(delta)] * delta))
    return float(FAST.sum(moved * moved))


MUTANTS = tuple(
    Mutant(name=f"ia_aq-{fault}", operation="ia_aq.search", flag=flag, what=what, run=partial(search, fault=fault))
    for fault, (flag, what) in FAULTS.items()
)
RIGHT = {"ia_aq.search": search}
