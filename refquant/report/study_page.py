"""The study as one HTML page that needs nothing else: tables, intervals, plots, and what its numbers say about published findings."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from typing import Any

from refquant.apply.ladder import SeedMean
from refquant.apply.study.findings import Finding, findings
from refquant.apply.study.grid import Group, Kind
from refquant.apply.study.results import Results
from refquant.report import study_plots
from refquant.report.numbers import NOTHING, interval, number, percent_interval
from refquant.report.study_conclusions import conclusions

Record = Mapping[str, Any]
STYLE = """
:root { --line: #8886; } body { font: 15px/1.5 system-ui, sans-serif; max-width: 78rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; margin: .5rem 0 1rem; font-size: 13px; }
th, td { padding: .15rem .6rem; border-bottom: 1px solid var(--line); }
th { text-align: left; } td { font-variant-numeric: tabular-nums; } svg { max-width: 100%; height: auto; } section { margin-top: 2rem; }
.reproduced { color: #1e6e36; font-weight: 600; } .contradicted { color: #b03020; font-weight: 600; } .open { font-weight: 600; }
.printed { background: #8881; padding: .2rem 1rem; border-left: 4px solid #888; } .rule { color: #555; } ul { margin: .2rem 0; }
"""
SHOWN = ("RTN", "GPTQ", "AWQ", "SmoothQuant, 4 places", "QuaRot", "DuQuant", "DLLMQuant", "DLLMQuant++")
"""Methods in plots that all would overload."""
COLUMNS = (
    "method",
    "bits per weight",
    "increase of the NLL bound (over texts)",
    "(over seeds)",
    "KL",
    "flips",
    "frontier flips",
    "right answers",
    "final tokens agree",
    "same sequences",
    "median first divergence",
    "states",
    "seeds",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """All that the page shows.

    Parameters
    ----------
    head : mapping
        ``settings``, ``inputs``, ``tokens`` (calibration tokens by seed), ``injected``, ``root`` and the command.
    records, outliers : sequence of mapping
    left_out : sequence of str
        Labels of cells that were not run.
    """

    head: Record
    records: Sequence[Record]
    outliers: Sequence[dict[str, Any]]
    left_out: Sequence[str] = ()


def study_page(study: Study) -> str:
    """The page.

    Raises
    ------
    UsageError
        If matplotlib is missing.
    """
    return "\n".join(_parts(study)) + "\n"


def _parts(study: Study) -> Iterator[str]:
    results = Results.of(study.records, int(study.head["settings"]["evaluation_seed"]))
    yield '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    yield f"<title>Quantizing a small diffusion language model</title><style>{STYLE}</style></head><body>"
    yield "<h1>Quantizing a small masked diffusion language model: bit widths, methods, outliers</h1>"
    yield from _what(study)
    judged = findings(results, study.outliers)
    yield from conclusions(judged, results, study.head["settings"])
    yield from _findings(judged)
    yield "<section><h2>Tables</h2>" + f"<p>{escape(HOW_TO_READ)}</p>"
    for kind in study_plots.BOTH:
        for width in results.widths(kind):
            yield f"<h3>{escape(width)}, {escape(study_plots.TITLES[kind])}</h3>"
            yield table(COLUMNS, [_row(results, kind, width, method, "grid") for method in results.methods(kind, width)])
    yield from _other_group(results, "calibration", "Calibration states, GPTQ at W4A4, plain model")
    yield from _other_group(results, "shipped", "Recipes as shipped, each with its own grids, clip ratios and activations")
    yield "</section>"
    yield from _plots(results, study.outliers)
    yield from _printed()
    yield "</body></html>"


HOW_TO_READ = (
    "Rows of a width share the weight grid, what else is quantized, the calibration tokens of a seed, and the held-out masks, items and "
    "prompts. Increase of the bound: quantized minus full precision, nats a token, on the same masks; the first interval resamples texts "
    "(seeds averaged first), the second is Student's over seeds. KL, flips and the rest are means over seeds. Intervals are at 95 %. Bits "
    "per weight count codes, scales and zero points of the linears; rotations at run time are not weights and not counted."
)


def _what(study: Study) -> Iterator[str]:
    settings = study.head["settings"]
    root, command = escape(str(study.head["root"])), escape(str(study.head["command"]))
    yield f"<p>Root hash of the raw results: <code>{root}</code>. Made by <code>{command}</code>.</p>"
    yield "<p>Everything here is a statement about one checkpoint of four million parameters. Outliers of the second model are injected,"
    yield "not grown: the same function, some channels behind norms and some hidden features multiplied and divided out again.</p>"
    injection = settings["injection"]
    rows = [(name, value) for name, value in settings.items() if name != "injection"]
    rows += [(f"injection: {name}", value) for name, value in injection.items()]
    rows += [("calibration tokens by seed", study.head["tokens"])]
    rows += [(f"SHA-256 of {name}", value) for name, value in study.head["inputs"].items()]
    yield f"<details><summary>Sizes, seeds, inputs</summary>{table(('what', 'value'), rows)}</details>"
    injected = study.head["injected"].items()
    yield f"<details><summary>Injected outliers</summary>{table(('behind', 'channels or features'), list(injected))}</details>"
    linears: Sequence[str] = next((record["linears"] for record in study.records), ())
    names = "".join(f"<li>{escape(name)}</li>" for name in linears)
    yield f"<details><summary>Quantized linears: {len(linears)}</summary><ul>{names}</ul></details>"
    if study.left_out:
        items = "".join(f"<li>{escape(label)}</li>" for label in study.left_out)
        yield f"<p><b>{len(study.left_out)} cells of the grid were not run</b>; {len(study.records)} were.</p>"
        yield f"<details><summary>Not run</summary><ul>{items}</ul></details>"


def _findings(found: Sequence[Finding]) -> Iterator[str]:
    yield "<section><h2>Published findings</h2><p>Rules were fixed in code before there were numbers.</p>"
    for finding in found:
        look = finding.verdict if finding.verdict in ("reproduced", "contradicted") else "open"
        yield f'<h3>{escape(finding.claim)}: <span class="{look}">{escape(finding.verdict)}</span></h3>'
        yield f'<p class="rule">{escape(finding.source)}. Rule: {escape(finding.rule)}</p>'
        yield "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in finding.figures) + "</ul>"
    yield "</section>"


def _row(results: Results, kind: Kind, width: str, method: str, group: Group) -> tuple[object, ...]:
    record = results.record(kind, width, method, group)
    seeds = [results.over_seeds(kind, width, method, measure, group) for measure in MEASURES]
    by_seed, *means = seeds
    divergence = [run["first_divergence"] for run in record["runs"]]
    return (
        method,
        number(record["bits_per_weight"], 3),
        interval(results.damage(kind, width, method, group), 4, signed=True),
        _seed_interval(by_seed),
        *(NOTHING if mean is None else number(mean.mean) for mean in means[:3]),
        percent_interval(results.exact(kind, width, method, group)),
        *(NOTHING if mean is None else number(mean.mean, 3) for mean in means[3:]),
        ", ".join(NOTHING if step is None else str(step) for step in divergence),
        record["calibration"]["states"],
        len(record["runs"]) if len(record["runs"]) > 1 else "1, nothing is drawn",
    )


MEASURES = ("nll_difference", "kl", "flips", "frontier_flips", "final_agreement", "same_sequences")


def _seed_interval(found: SeedMean | None) -> str:
    if found is None or found.low is None or found.high is None:
        return NOTHING
    return f"[{number(found.low, signed=True)}, {number(found.high, signed=True)}]"


def _other_group(results: Results, group: Group, title: str) -> Iterator[str]:
    for kind in study_plots.BOTH:
        places = [place for place in results.records if place[0] == kind and place[1] == group]
        if places:
            yield f"<h3>{escape(title)} ({escape(study_plots.TITLES[kind])})</h3>"
            yield table(COLUMNS, [_row(results, kind, width, method, group) for _, _, width, method in places])


def _plots(results: Results, outliers: Sequence[Record]) -> Iterator[str]:
    yield "<section><h2>Degradation by bit width</h2>" + study_plots.degradation(results)
    yield "<h2>Damage by the share of masked positions</h2>" + study_plots.by_mask_ratio(results, "W4A4", SHOWN)
    yield "<h2>Error along the denoising trajectory</h2><p>Free-running solid, teacher-forced dashed, mean over seeds.</p>"
    yield study_plots.along_trajectory(results, "W4A4", SHOWN)
    yield "<h2>Error of each linear</h2><p>Propagated solid, isolated dashed, mean over seeds.</p>"
    yield study_plots.layer_errors(results, "W4A4", SHOWN)
    yield "<h2>Calibration states</h2><p>Squares: mean with its interval over texts; dots: seeds.</p>" + study_plots.calibration_ablation(
        results
    )
    yield "</section><section><h2>Outliers</h2>" + study_plots.outlier_curves(outliers)
    for record in outliers:
        yield f"<h3>{escape(study_plots.TITLES[record['kind']])}</h3>" + study_plots.outlier_maps(record)
        yield table(OUTLIER_COLUMNS, list(_outlier_rows(record)))
    yield "</section>"


OUTLIER_COLUMNS = ("input of", "largest over median, along the trajectory", "largest over root mean square", "kurtosis")


def _outlier_rows(record: Record) -> Iterator[tuple[object, ...]]:
    """One row a linear; a number each stage of the trajectory."""
    for counts in zip(*record["stages"], strict=True):
        shown = [", ".join(f"{count[what]:.3g}" for count in counts) for what in ("max_over_median", "max_over_rms", "kurtosis")]
        yield (counts[0]["linear"].split("transformer.")[-1], *shown)


def _printed() -> Iterator[str]:
    text = files("refquant.report").joinpath("qdlm_printed.toml").read_text(encoding="utf-8")
    yield '<section class="printed"><h2>As printed in the paper</h2>'
    yield "<p>Quotations from arXiv 2508.14896: models of eight billion parameters, not measured here, not comparable with the above.</p>"
    for printed in tomllib.loads(text)["tables"]:
        yield f"<h3>{escape(printed['title'])} (as printed in the paper)</h3>" + table(tuple(printed["columns"]), printed["rows"])
        if "note" in printed:
            yield f"<p>{escape(printed['note'])}</p>"
    yield "</section>"


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table.

    Examples
    --------
    >>> table(("a",), [("<",)])
    '<table><tr><th>a</th></tr><tr><td>&lt;</td></tr></table>'
    """
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    body = "".join(f"<tr>{''.join(f'<td>{escape(str(value))}</td>' for value in row)}</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"
