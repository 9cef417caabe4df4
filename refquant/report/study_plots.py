"""The study's plots as SVG texts, the same bytes for the same numbers."""

from __future__ import annotations

import importlib
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from refquant.apply.evaluation import Estimate
from refquant.apply.outliers import CHANNEL_THRESHOLDS, ENTRY_THRESHOLDS
from refquant.apply.study.grid import STATES, Kind
from refquant.apply.study.results import Results
from refquant.errors import UsageError

TITLES: dict[Kind, str] = {"plain": "plain model", "outliers": "with injected outliers"}
BOTH: tuple[Kind, ...] = ("plain", "outliers")
STYLE = {
    "svg.hashsalt": "refquant",
    "svg.fonttype": "none",
    "font.size": 9.0,
    "font.family": "sans-serif",
    "axes.grid": True,
    "grid.alpha": 0.3,
}
Record = Mapping[str, Any]


def require_matplotlib() -> Any:
    """Return matplotlib; UsageError if it is not installed."""
    try:
        return importlib.import_module("matplotlib")
    except ImportError as error:
        raise UsageError("plots need matplotlib; install the extra: pip install 'refquant[plot]'") from error


class Canvas:
    """A row of axes that becomes an SVG text.

    Parameters
    ----------
    panels : int
    height : float
        Inches; every panel is 5 wide.
    share : bool
        One vertical axis for all.
    """

    def __init__(self, panels: int, height: float = 3.4, share: bool = True) -> None:
        self.matplotlib = require_matplotlib()
        figure = importlib.import_module("matplotlib.figure")
        with self.matplotlib.rc_context(STYLE):
            self.figure = figure.Figure(figsize=(5.0 * panels, height), layout="constrained")
            self.axes: list[Any] = list(np.ravel(self.figure.subplots(1, panels, sharey=share, squeeze=False)))

    def legend(self) -> None:
        """Name what is drawn in any of the axes, once, beside the last; nothing where nothing is drawn."""
        named: dict[str, Any] = {}
        for axis in self.axes:
            handles, labels = axis.get_legend_handles_labels()
            named |= dict(zip(labels, handles, strict=True))
        if named:
            self.axes[-1].legend(named.values(), named.keys(), fontsize=7, loc="upper left", bbox_to_anchor=(1, 1))

    def svg(self) -> str:
        """The drawing, from ``<svg`` on."""
        with self.matplotlib.rc_context(STYLE):
            file = io.StringIO()
            self.figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
        text = file.getvalue()
        return text[text.index("<svg") :]


def degradation(results: Results) -> str:
    """Damage by bit width, a line a method, intervals over texts."""
    canvas = Canvas(2)
    widths = [w for w in ("W8A8", "W4A16", "W4A8", "W3A16", "W4A4", "W2A16") if any(w in results.widths(kind) for kind in BOTH)]
    for axis, kind in zip(canvas.axes, BOTH, strict=True):
        methods = dict.fromkeys(m for w in widths for m in results.methods(kind, w))
        for number, method in enumerate(methods):
            there = [(x, results.damage(kind, w, method)) for x, w in enumerate(widths) if results.has(kind, w, method)]
            at = [x + 0.06 * (number - len(methods) / 2) for x, _ in there]
            mean = [e.mean for _, e in there]
            spread = _bars([e for _, e in there])
            axis.errorbar(at, mean, yerr=spread, marker="o", markersize=3, linestyle="none", capsize=2, label=method, **_look(number))
        axis.set_xticks(range(len(widths)), widths)
        axis.set_xlim(-0.6, len(widths) - 0.4)
        axis.set_yscale("symlog", linthresh=0.01)
        axis.set_title(TITLES[kind])
    canvas.axes[0].set_ylabel("increase of the NLL bound, nats a token")
    canvas.legend()
    return canvas.svg()


def _bars(found: Sequence[Estimate]) -> list[list[float]] | None:
    """How far intervals reach below and above their means; None where one has no interval."""
    bars: list[list[float]] = [[], []]
    for estimate in found:
        if estimate.mean is None or estimate.low is None or estimate.high is None:
            return None
        bars[0].append(estimate.mean - estimate.low)
        bars[1].append(estimate.high - estimate.mean)
    return bars


def _look(number: int) -> dict[str, Any]:
    """Colours repeat after ten, so the marker's face tells more methods apart."""
    return {"color": f"C{number % 10}", "markerfacecolor": "none" if number >= 10 else f"C{number % 10}"}


def along_trajectory(results: Results, width: str, methods: Sequence[str]) -> str:
    """Error by denoising step: free-running solid, teacher-forced dashed; mean over seeds."""
    canvas = Canvas(2)
    for axis, kind in zip(canvas.axes, BOTH, strict=True):
        for number, method in enumerate(m for m in methods if results.has(kind, width, m)):
            runs = results.record(kind, width, method)["runs"]
            for measure, line in (("free_error_by_step", "-"), ("forced_error_by_step", "--")):
                values = [_mean([run[measure][step] for run in runs]) for step in range(len(runs[0][measure]))]
                label = method if line == "-" else None
                axis.plot(range(len(values)), values, line, color=f"C{number % 10}", label=label, linewidth=1.2)
        axis.set_yscale("log")
        axis.set_xlabel("step")
        axis.set_title(f"{width}, {TITLES[kind]}")
    canvas.axes[0].set_ylabel("relative squared error of the logits")
    canvas.legend()
    return canvas.svg()


def by_mask_ratio(results: Results, width: str, methods: Sequence[str]) -> str:
    """Damage by the share of masked positions, mean over seeds."""
    canvas = Canvas(2, share=False)
    for axis, kind in zip(canvas.axes, BOTH, strict=True):
        for number, method in enumerate(m for m in methods if results.has(kind, width, m)):
            runs = results.record(kind, width, method)["runs"]
            values = [_mean([run["nll_difference_by_ratio"][b] for run in runs]) for b in range(4)]
            axis.plot(range(4), values, "o-", markersize=3, color=f"C{number % 10}", label=method, linewidth=1.2)
        axis.set_xticks(range(4), ["up to 1/4", "1/2", "3/4", "1"])
        axis.set_xlabel("share of masked positions")
        axis.set_title(f"{width}, {TITLES[kind]}")
    canvas.axes[0].set_ylabel("increase of the cross-entropy, nats")
    canvas.legend()
    return canvas.svg()


def calibration_ablation(results: Results) -> str:
    """Damage of GPTQ at W4A4 by calibration states, intervals over texts, and every seed as a dot."""
    canvas = Canvas(1)
    axis = canvas.axes[0]
    for place, states in enumerate(STATES):
        group, method = ("grid", "GPTQ") if states == "iid" else ("calibration", states)
        if not results.has("plain", "W4A4", method, group):  # type: ignore[arg-type]
            continue
        found = results.damage("plain", "W4A4", method, group)  # type: ignore[arg-type]
        axis.errorbar([place], [found.mean], yerr=_bars([found]), marker="s", color="C0", capsize=3)
        seeds = [run["nll_difference"] for run in results.record("plain", "W4A4", method, group)["runs"]]  # type: ignore[arg-type]
        axis.plot([place + 0.15] * len(seeds), seeds, ".", color="C1")
    axis.set_xticks(range(len(STATES)), STATES)
    axis.set_ylabel("increase of the NLL bound, nats a token")
    axis.set_title("GPTQ, W4A4, plain model, equal calibration tokens")
    return canvas.svg()


def layer_errors(results: Results, width: str, methods: Sequence[str]) -> str:
    """Relative squared error of each linear's output: propagated solid, isolated dashed; mean over seeds."""
    canvas = Canvas(2, height=3.8)
    for axis, kind in zip(canvas.axes, BOTH, strict=True):
        names: list[str] = []
        for number, method in enumerate(m for m in methods if results.has(kind, width, m)):
            record = results.record(kind, width, method)
            names = [name.split("blocks.")[-1] for name in record["linears"]]
            for what, line in (("propagated", "-"), ("isolated", "--")):
                values = [_mean([run["layers"][what][i] for run in record["runs"]]) for i in range(len(names))]
                label = method if line == "-" else None
                axis.plot(range(len(names)), values, line, color=f"C{number % 10}", label=label, linewidth=1.0)
        axis.set_xticks(range(len(names)), names, rotation=90, fontsize=5)
        axis.set_yscale("log")
        axis.set_title(f"{width}, {TITLES[kind]}")
    canvas.axes[0].set_ylabel("relative squared error of the output")
    canvas.legend()
    return canvas.svg()


def outlier_maps(record: Record) -> str:
    """Magnitudes of two inputs, token by channel, before anything is denoised; decimal logarithms."""
    maps = record["maps"]
    canvas = Canvas(len(maps), height=3.0, share=False)
    colours = importlib.import_module("matplotlib.colors")
    for axis, (name, rows) in zip(canvas.axes, maps.items(), strict=True):
        values = np.maximum(np.array(rows, dtype=np.float64), 1e-4)
        image = axis.imshow(
            values, aspect="auto", interpolation="nearest", norm=colours.LogNorm(vmin=1e-2, vmax=max(1.0, float(values.max())))
        )
        axis.grid(visible=False)
        axis.set_title(f"input of {name.split('transformer.')[-1]}", fontsize=8)
        axis.set_xlabel("channels, neighbours together")
        axis.set_ylabel("token")
        canvas.figure.colorbar(image, ax=axis)
    return canvas.svg()


def outlier_curves(outliers: Sequence[Record]) -> str:
    """Normal outlier channels, and tokens with a massive entry, over thresholds: mean share over linears of a kind, at the first stage."""
    canvas = Canvas(2, share=False)
    for style, record in zip(("-", "--"), outliers, strict=False):
        kinds = dict.fromkeys(count["linear"].rpartition(".")[2] for count in record["stages"][0])
        for number, kind in enumerate(kinds):
            counts = [count for count in record["stages"][0] if count["linear"].endswith("." + kind)]
            for axis, thresholds, what, total in (
                (canvas.axes[0], CHANNEL_THRESHOLDS, "normal_channels", "channels"),
                (canvas.axes[1], ENTRY_THRESHOLDS, "massive_tokens", "tokens"),
            ):
                shares = [_mean([c[what][i] / c[total] for c in counts]) for i in range(len(thresholds))]
                axis.plot(thresholds, shares, style, marker=".", color=f"C{number}", label=f"{kind}, {record['kind']}", linewidth=1.0)
    for axis, title in zip(
        canvas.axes, ("share of channels that are normal outliers", "share of tokens with a massive entry"), strict=True
    ):
        axis.set_xscale("log")
        axis.set_xlabel("threshold")
        axis.set_title(title)
    canvas.legend()
    return canvas.svg()


def _mean(values: Sequence[float | None]) -> float:
    """Mean of what is defined; NaN, which is not drawn, where nothing is."""
    there = [value for value in values if value is not None]
    total = 0.0
    for value in there:
        total += value
    return total / len(there) if there else float("nan")
