"""The ladder as Markdown."""

from __future__ import annotations

from refquant.apply.ladder import LEVEL, MEASURES, Ladder, SeedMean, rungs

NOTES = """\
NLL difference: bound in nats per token, quantized minus full precision on the same masks. KL: full precision to quantized, at masked
positions. Flips: share of masked positions with another argmax. Errors: relative squared error of the logits along denoising
trajectories, on full precision's states (teacher-forced) and on the model's own (free-running). Agreement: share of response positions
with full precision's final token. Exact match: over all tasks.

These are statements about this checkpoint. Differences whose interval holds 0 are not findings, and of the 28 differences one or two
would leave 0 out by chance alone."""


def ladder_markdown(ladder: Ladder, title: str) -> str:
    """Two tables, a row a rung: means over seeds, and differences to the rung below; then what was used and how to read it."""
    measures, labels = list(MEASURES), list(rungs())
    verdicts = [f"* {label}: {_verdict(ladder.steps[label, measures[0]])}" for label in labels[1:]]
    parts = [
        f"# {title}",
        _table("rung", labels, measures, ladder, steps=False),
        "Each rung minus the one below it, seed by seed:",
        _table("step", labels[1:], measures, ladder, steps=True),
        f"What each step does to the paired difference of the NLL bound, at {LEVEL:.0%}:",
        "\n".join(verdicts),
        _used(ladder),
        NOTES,
    ]
    return "\n\n".join(parts) + "\n"


def _used(ladder: Ladder) -> str:
    used, seeds, tokens = ladder.evaluation.used, ", ".join(map(str, ladder.seeds)), ", ".join(map(str, ladder.tokens))
    return "\n".join(
        [
            f"Mean over {len(ladder.seeds)} calibration seeds ({seeds}) with Student's {LEVEL:.0%} interval. Every",
            f"rung of a seed uses the same number of calibration tokens ({tokens}). Evaluated on {used.texts}",
            f"held-out texts x {used.masks} masks, {used.items} task items and {used.trajectories} trajectories, the same for every model",
            f"(evaluation seed {used.seed}).",
        ]
    )


def _table(head: str, labels: list[str], measures: list[str], ladder: Ladder, steps: bool) -> str:
    source = ladder.steps if steps else ladder.means
    rows = [f"| {head} | " + " | ".join(measures) + " |", "|---|" + "---|" * len(measures)]
    rows += [f"| {label} | " + " | ".join(_cell(source[label, measure], steps) for measure in measures) + " |" for label in labels]
    return "\n".join(rows)


def _cell(mean: SeedMean, signed: bool) -> str:
    sign = "+" if signed else ""
    if mean.low is None or mean.high is None:
        return f"{mean.mean:{sign}.4f}"
    return f"{mean.mean:{sign}.4f} [{mean.low:{sign}.4f}, {mean.high:{sign}.4f}]"


def _verdict(step: SeedMean) -> str:
    if step.low is None or step.high is None:
        return f"{step.mean:+.4f} nats a token; one seed decides nothing"
    if step.high < 0:
        return f"lowers it, {_cell(step, signed=True)}"
    if step.low > 0:
        return f"raises it, {_cell(step, signed=True)}"
    return f"no difference shown, {_cell(step, signed=True)}"
