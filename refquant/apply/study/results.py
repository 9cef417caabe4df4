"""Numbers of finished cells: means with intervals over texts and over seeds, and paired differences of two cells."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from refquant.apply.evaluation import Bootstrap, Estimate
from refquant.apply.ladder import SeedMean, seed_mean
from refquant.apply.study.grid import METHODS, WIDTHS, Group, Kind
from refquant.errors import UsageError
from refquant.numerics.arrays import Array

Record = Mapping[str, Any]
Place = tuple[str, str, str, str]


@dataclass(frozen=True, slots=True)
class Results:
    """Finished cells by (kind, group, width, method).

    Intervals over texts and items are bootstraps of what is averaged over seeds first: the masks and items are the same for all cells, so
    differences are paired. Intervals over seeds are Student's.
    """

    records: Mapping[Place, Record]
    bootstrap: Bootstrap

    @classmethod
    def of(cls, records: Iterable[Record], seed: int = 0) -> Results:
        """Index records; `seed` draws the resamples."""
        return cls({(r["kind"], r["group"], r["width"], r["method"]): r for r in records}, Bootstrap(seed=seed))

    def has(self, kind: Kind, width: str, method: str, group: Group = "grid") -> bool:
        """Whether the cell is finished."""
        return (kind, group, width, method) in self.records

    def record(self, kind: Kind, width: str, method: str, group: Group = "grid") -> Record:
        """The record of a cell; UsageError if it is not finished."""
        if not self.has(kind, width, method, group):
            raise UsageError(f"the cell {width} {method} of the {kind} model is not finished")
        return self.records[kind, group, width, method]

    def methods(self, kind: Kind, width: str) -> list[str]:
        """Methods of the grid whose cell of a width is finished, in the grid's order."""
        return [method for method in METHODS if self.has(kind, width, method)]

    def widths(self, kind: Kind) -> list[str]:
        """Widths of the grid with a finished cell."""
        return [width for width in WIDTHS if self.methods(kind, width)]

    def damage(self, kind: Kind, width: str, method: str, group: Group = "grid") -> Estimate:
        """Increase of the NLL bound, nats a token, with its interval over texts."""
        return self.bootstrap.mean(_per_text(self.record(kind, width, method, group)))

    def paired(self, kind: Kind, first: tuple[str, str], second: tuple[str, str], factor: float = 1.0, group: Group = "grid") -> Estimate:
        """Damage of the first cell (width, method) minus `factor` times that of the second, text by text; `group` is the first's."""
        one = _per_text(self.record(kind, *first, group))
        return self.bootstrap.mean(one - factor * _per_text(self.record(kind, *second)))

    def exact(self, kind: Kind, width: str, method: str, group: Group = "grid") -> Estimate:
        """Share of items answered right, with its interval over items."""
        return self.bootstrap.mean(_per_item([run["right"] for run in self.record(kind, width, method, group)["runs"]]))

    def exact_drop(self, kind: Kind, width: str, method: str) -> Estimate:
        """Loss of right answers relative to full precision's share, with its interval over items."""
        record = self.record(kind, width, method)
        before, after = _per_item([record["reference"]["right"]]), _per_item([run["right"] for run in record["runs"]])
        share = float(self.bootstrap.arithmetic.mean(before))
        return self.bootstrap.mean((before - after) / share) if share else Estimate(mean=None, low=None, high=None, n=0)

    def relative_damage(self, kind: Kind, width: str, method: str) -> Estimate:
        """Increase of the bound relative to full precision's bound, with its interval over texts."""
        record = self.record(kind, width, method)
        return self.bootstrap.mean(_per_text(record) / float(record["reference"]["nll"]))

    def over_seeds(self, kind: Kind, width: str, method: str, measure: str, group: Group = "grid") -> SeedMean | None:
        """A measure's mean over seeds; None where a seed does not define it."""
        values = [run[measure] for run in self.record(kind, width, method, group)["runs"]]
        return None if any(value is None for value in values) else seed_mean([float(value) for value in values])

    def accumulation(self, kind: Kind, width: str, method: str) -> SeedMean | None:
        """Free-running minus teacher-forced error along the trajectory, over seeds."""
        runs = self.record(kind, width, method)["runs"]
        pairs = [(run["free_error"], run["forced_error"]) for run in runs]
        return None if any(None in pair for pair in pairs) else seed_mean([float(free) - float(forced) for free, forced in pairs])


def _per_text(record: Record) -> Array:
    rows = np.array([run["nll_difference_per_text"] for run in record["runs"]], dtype=np.float64)
    return _average(rows)


def _per_item(answers: list[dict[str, str]]) -> Array:
    """Share of seeds that answered each item right."""
    rows = [[float(mark) for task in sorted(right) for mark in right[task]] for right in answers]
    return _average(np.array(rows, dtype=np.float64))


def _average(rows: Array) -> Array:
    """Mean over rows, one after the other."""
    total = rows[0].copy()
    for row in rows[1:]:
        total += row
    return np.asarray(total / len(rows))
