"""Published findings as statements, each with a rule that was written down before any number was seen, and the verdict on our numbers.

Three verdicts: *reproduced*, *contradicted*, *not decidable at this size*. A rule looks at intervals only; where one holds the border, or a
cell that is compared was not run, nothing is decided. Statements over many cells are judged on those that were run, which the figures list.
Nothing was tuned to come out either way. A verdict is about one small model; it neither confirms nor refutes what was measured on models of
eight billion parameters.

Levels of relative damage are the paper's: below 1 % negligible, above 4 % significant.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from refquant.apply.evaluation import Estimate
from refquant.apply.study.grid import Kind
from refquant.apply.study.results import Results

Verdict = Literal["reproduced", "contradicted", "not decidable at this size"]
UNDECIDED: Verdict = "not decidable at this size"
QDLM = "Quantization Meets dLLMs (2508.14896)"
DLLMQUANT = "DLLMQuant (2508.14090)"
NEGLIGIBLE, SIGNIFICANT = 0.01, 0.04
STUDIED = ("SmoothQuant, 4 places", "QuaRot", "DuQuant")
"""The weight-activation methods of the paper, SmoothQuant as it ran it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A statement, where it is from, the rule, and what came out.

    Parameters
    ----------
    source, claim, rule : str
    verdict : {"reproduced", "contradicted", "not decidable at this size"}
    figures : tuple of str
    """

    source: str
    claim: str
    rule: str
    verdict: Verdict
    figures: tuple[str, ...]


def findings(results: Results, outliers: Sequence[dict[str, Any]]) -> list[Finding]:
    """Judge all statements.

    Parameters
    ----------
    results : Results
    outliers : sequence of dict
        As :func:`~refquant.apply.study.cell.outlier_record` makes them.
    """
    return [
        _three_bits(results),
        *(_eight_bits(results, kind) for kind in ("plain", "outliers")),
        *(_rotations_survive(results, kind) for kind in ("outliers", "plain")),
        _recovery(results),
        *(_ordering(results, kind, "DuQuant", "QuaRot", QDLM, "DuQuant is at least as good as QuaRot at W4A4") for kind in KIND_ORDER),
        _gptq_or_awq(results),
        _generation(results),
        _instruct(),
        _massive(outliers),
        _family(),
        *(
            _ordering(results, kind, *names, DLLMQUANT, f"{names[0]} does less damage than {names[1]} at W4A4")
            for names in ADDED
            for kind in KIND_ORDER
        ),
        _states(results),
        _accumulation(results),
    ]


KIND_ORDER: tuple[Kind, ...] = ("plain", "outliers")
ADDED = (("DLLMQuant", "GPTQ"), ("DLLMQuant+", "AWQ"), ("DLLMQuant++", "QuaRot"))


def figure(estimate: Estimate, scale: float = 1.0, unit: str = "") -> str:
    """Write an estimate with its interval.

    Examples
    --------
    >>> figure(Estimate(mean=0.5, low=0.25, high=0.75, n=4), 100, " %")
    '+50 [+25, +75] %'
    """
    if estimate.mean is None:
        return "not defined"
    if estimate.low is None or estimate.high is None:
        return f"{scale * estimate.mean:+.3g}{unit}"
    return f"{scale * estimate.mean:+.3g} [{scale * estimate.low:+.3g}, {scale * estimate.high:+.3g}]{unit}"


def above(estimate: Estimate, border: float = 0.0) -> bool | None:
    """Whether an interval lies above a border (True), below it (False), or holds it (None).

    Examples
    --------
    >>> above(Estimate(mean=1.0, low=0.5, high=1.5, n=9)), above(Estimate(mean=1.0, low=-0.5, high=1.5, n=9))
    (True, None)
    """
    if estimate.low is None or estimate.high is None:
        return None
    return True if estimate.low > border else False if estimate.high < border else None


def _missing(results: Results, kind: Kind, *needed: tuple[str, str]) -> tuple[str, ...]:
    return tuple(f"not run: {width} {method}, {kind}" for width, method in needed if not results.has(kind, width, method))


def _three_bits(results: Results) -> Finding:
    both = [method for method in results.methods("plain", "W3A16") if results.has("plain", "W4A16", method)]
    excess = {method: results.paired("plain", ("W3A16", method), ("W4A16", method), 2.0) for method in both}
    signs = [above(estimate) for estimate in excess.values()]
    lines = [f"{m}: W4 {figure(results.damage('plain', 'W4A16', m))}, W3 {figure(results.damage('plain', 'W3A16', m))}" for m in both]
    lines += [f"{m}: W3 minus twice W4 {figure(e)}" for m, e in excess.items()]
    verdict: Verdict = UNDECIDED
    if signs and all(signs):
        verdict = "reproduced"
    elif 2 * sum(sign is False for sign in signs) > len(signs):
        verdict = "contradicted"
    return Finding(
        source=QDLM,
        claim="Weight-only at 4 bits is nearly free, at 3 bits it is not",
        rule="Plain model: the damage at W3A16 exceeds twice that at W4A16, interval above 0, for every method that was run; "
        "contradicted if below 0 for most.",
        verdict=verdict,
        figures=tuple(lines) or ("not run: W4A16 and W3A16 of the plain model",),
    )


def _eight_bits(results: Results, kind: Kind) -> Finding:
    needed = [(width, method) for width in ("W8A8", "W4A4") for method in STUDIED]
    lines = list(_missing(results, kind, *needed))
    verdict: Verdict = UNDECIDED
    if not lines:
        eight = {method: results.relative_damage(kind, "W8A8", method) for method in STUDIED}
        four = {method: results.damage(kind, "W4A4", method) for method in STUDIED}
        worst = max(STUDIED, key=lambda method: four[method].mean or 0.0)
        best = min(STUDIED, key=lambda method: four[method].mean or 0.0)
        gap = results.paired(kind, ("W4A4", worst), ("W4A4", best))
        nll = float(results.record(kind, "W4A4", best)["reference"]["nll"])
        safe = [above(estimate, NEGLIGIBLE) for estimate in eight.values()]
        parted = above(gap, SIGNIFICANT * nll)
        if all(sign is False for sign in safe) and parted:
            verdict = "reproduced"
        elif any(safe) or parted is False:
            verdict = "contradicted"
        lines = [f"W8A8 {method}: {figure(e, 100, ' % of the bound')}" for method, e in eight.items()]
        lines.append(f"W4A4, {worst} minus {best}: {figure(gap)} nats, {100 * SIGNIFICANT:g} % of the bound are {SIGNIFICANT * nll:.3g}")
    return Finding(
        source=QDLM,
        claim=f"W8A8 is safe for every method; W4A4 is where methods part ({kind} model)",
        rule="SmoothQuant, QuaRot, DuQuant: at W8A8 each interval below 1 % of the bound; at W4A4 worst minus best above 4 % of it. "
        "Contradicted if one is above 1 % at W8A8 or the gap is below 4 %.",
        verdict=verdict,
        figures=tuple(lines),
    )


def _rotations_survive(results: Results, kind: Kind) -> Finding:
    smooth, turned = ("W4A4", "SmoothQuant, 4 places"), ("W4A4", "QuaRot")
    lines = list(_missing(results, kind, smooth, turned))
    verdict: Verdict = UNDECIDED
    if not lines:
        gap = results.paired(kind, smooth, turned)
        lost, kept = results.exact_drop(kind, *smooth), results.exact_drop(kind, *turned)
        if above(gap) and above(lost, 0.5) and above(kept, 0.5) is False:
            verdict = "reproduced"
        elif above(gap) is False or above(lost, 0.5) is False:
            verdict = "contradicted"
        lines = [f"SmoothQuant minus QuaRot: {figure(gap)} nats", f"right answers lost, SmoothQuant: {figure(lost, 100, ' %')}"]
        lines.append(f"right answers lost, QuaRot: {figure(kept, 100, ' %')}")
        for name in ("SmoothQuant", "DuQuant"):
            if results.has(kind, "W4A4", name):
                lines.append(f"beside them, right answers lost, {name}: {figure(results.exact_drop(kind, 'W4A4', name), 100, ' %')}")
    return Finding(
        source=QDLM,
        claim=f"At W4A4 SmoothQuant collapses, rotations survive ({kind} model)",
        rule="SmoothQuant at four places, as the study ran it, does more damage than QuaRot and loses more than half of full precision's "
        "right answers, QuaRot less than half; contradicted if it does less damage or loses less than half. "
        "(Injected outliers sit where it smooths, so it can undo them.)",
        verdict=verdict,
        figures=tuple(lines),
    )


def _recovery(results: Results) -> Finding:
    plain, turned = ("W4A4", "RTN"), ("W4A4", "QuaRot, RTN")
    lines = list(_missing(results, "outliers", plain, turned))
    verdict: Verdict = UNDECIDED
    if not lines:
        left = results.paired("outliers", turned, plain, 0.5)
        lost = results.exact_drop("outliers", *plain)
        if above(left) is False and above(lost, 0.5):
            verdict = "reproduced"
        elif above(left) or above(lost, 0.5) is False:
            verdict = "contradicted"
        lines = [f"RTN: {figure(results.damage('outliers', *plain))} nats, right answers lost {figure(lost, 100, ' %')}"]
        rotated = figure(results.damage("outliers", *turned))
        lines.append(f"QuaRot, RTN: {rotated} nats, right answers lost {figure(results.exact_drop('outliers', *turned), 100, ' %')}")
    return Finding(
        source="what the test bed is for",
        claim="With outliers, RTN collapses at W4A4 and a rotation recovers most of it",
        rule="RTN loses more than half of the right answers; QuaRot with RTN does less than half of RTN's damage.",
        verdict=verdict,
        figures=tuple(lines),
    )


def _ordering(results: Results, kind: Kind, better: str, worse: str, source: str, claim: str) -> Finding:
    first, second = ("W4A4", better), ("W4A4", worse)
    lines = list(_missing(results, kind, first, second))
    verdict: Verdict = UNDECIDED
    if not lines:
        gap = results.paired(kind, first, second)
        verdict = _below(gap)
        lines = [
            f"{better} {figure(results.damage(kind, *first))}, {worse} {figure(results.damage(kind, *second))}, difference {figure(gap)}"
        ]
    return Finding(
        source=source,
        claim=f"{claim} ({kind} model)",
        rule="The paired difference of damage is below 0; contradicted if above.",
        verdict=verdict,
        figures=tuple(lines),
    )


def _gptq_or_awq(results: Results) -> Finding:
    signs, lines = [], []
    for kind in KIND_ORDER:
        for width in ("W4A16", "W3A16", "W2A16"):
            if results.has(kind, width, "GPTQ") and results.has(kind, width, "AWQ"):
                gap = results.paired(kind, (width, "GPTQ"), (width, "AWQ"))
                signs.append(above(gap))
                lines.append(f"{width}, {kind}: GPTQ minus AWQ {figure(gap)}")
    return Finding(
        source=QDLM,
        claim="GPTQ is at least as good as AWQ in most weight-only cells",
        rule="Of the cells that were run, equal sets of linears and grids: the paired difference is below 0 in most; "
        "contradicted if above 0 in most.",
        verdict=_majority([None if sign is None else not sign for sign in signs]),
        figures=tuple(lines) or ("not run",),
    )


def _generation(results: Results) -> Finding:
    signs, lines = [], []
    for width in ("W4A16", "W3A16", "W8A8", "W4A4"):
        for method in results.methods("plain", width):
            drop, rise = results.exact_drop("plain", width, method), results.relative_damage("plain", width, method)
            if None in (drop.low, drop.high, rise.low, rise.high):
                continue
            signs.append(True if drop.low > rise.high else False if drop.high < rise.low else None)  # type: ignore[operator]
            lines.append(f"{width} {method}: answers lost {figure(drop, 100, ' %')}, bound raised {figure(rise, 100, ' %')}")
    return Finding(
        source=QDLM,
        claim="Long generations (math, code) suffer more than likelihood tasks",
        rule="A stand-in. Plain model, finished cells of W4A16, W3A16, W8A8, W4A4: the relative loss of right answers (generated, one "
        "wrong token is fatal) lies above the relative increase of the bound, intervals apart, in most; contradicted if below in most.",
        verdict=_majority(signs),
        figures=tuple(lines) or ("not run",),
    )


def _below(gap: Estimate) -> Verdict:
    """Whether a difference that should be below 0 is."""
    sign = above(gap)
    return UNDECIDED if sign is None else "contradicted" if sign else "reproduced"


def _majority(signs: Sequence[bool | None]) -> Verdict:
    if 2 * sum(sign is True for sign in signs) > len(signs):
        return "reproduced"
    return "contradicted" if 2 * sum(sign is False for sign in signs) > len(signs) else UNDECIDED


def _instruct() -> Finding:
    return Finding(
        source=QDLM,
        claim="Instruction-tuned models are more robust than base models",
        rule="Needs two checkpoints, one tuned from the other.",
        verdict=UNDECIDED,
        figures=("there is one checkpoint",),
    )


def _massive(outliers: Sequence[dict[str, Any]]) -> Finding:
    lines = []
    for record in outliers:
        counts = [count for stage in record["stages"] for count in stage]
        largest = max(counts, key=lambda count: float(count["max_over_median"]))
        lines.append(f"{record['kind']}: largest magnitude over median {largest['max_over_median']:.4g} at {largest['linear']}")
    return Finding(
        source=QDLM,
        claim="Massive outliers sit at the input of the second MLP linear and cover more tokens than in autoregressive models",
        rule="Reported, not judged: its second half compares with models of another kind and size.",
        verdict=UNDECIDED,
        figures=tuple(lines) or ("not run",),
    )


def _family() -> Finding:
    return Finding(
        source=QDLM,
        claim="The trends carry over to another family of models",
        rule="Needs a trained checkpoint of another family.",
        verdict=UNDECIDED,
        figures=("there is one checkpoint",),
    )


def _states(results: Results) -> Finding:
    verdict: Verdict = UNDECIDED
    lines = []
    if results.has("plain", "W4A4", "tmas", "calibration") and results.has("plain", "W4A4", "GPTQ"):
        gap = results.paired("plain", ("W4A4", "tmas"), ("W4A4", "GPTQ"), group="calibration")
        verdict = _below(gap)
        lines.append(f"GPTQ on TMAS states minus GPTQ on independent masks: {figure(gap)}")
    return Finding(
        source=DLLMQUANT,
        claim="States of the model's own trajectory (TMAS) calibrate better than others (plain model, GPTQ, W4A4, equal tokens)",
        rule="The paired difference to independently drawn masks is below 0; contradicted if above.",
        verdict=verdict,
        figures=tuple(lines) or ("not run",),
    )


def _accumulation(results: Results) -> Finding:
    signs: list[bool | None] = []
    lines = []
    for method in results.methods("plain", "W4A4"):
        found = results.accumulation("plain", "W4A4", method)
        if found is not None and found.low is not None and found.high is not None:
            signs.append(True if found.low > 0 else False if found.high < 0 else None)
            lines.append(f"{method}: free-running minus teacher-forced {found.mean:+.3g} [{found.low:+.3g}, {found.high:+.3g}]")
    return Finding(
        source=DLLMQUANT,
        claim="Quantization errors accumulate along denoising steps (plain model, W4A4)",
        rule="The free-running error of the logits is above the teacher-forced one, Student's interval over seeds, for most "
        "methods that were run; "
        "contradicted if below for most.",
        verdict=_majority(signs),
        figures=tuple(lines) or ("not run, or too few seeds for an interval",),
    )
