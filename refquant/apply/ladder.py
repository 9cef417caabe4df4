"""The ladder: RTN, GPTQ, then DLLMQuant's parts one by one, over several calibration seeds, on the same held-out texts and tasks.

A seed orders the calibration lines and draws masks or states. Intervals over seeds are Student's t; every rung is also compared with the
one below it, seed by seed. What comes out is a statement about one checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.stats

from model import Tokenizer, Transformer
from refquant.apply.evaluation import Evaluation, EvaluationSet, Row, Sizes, evaluate
from refquant.apply.recipe import Recipe, find_recipe
from refquant.apply.run import Workbench
from refquant.errors import UsageError
from refquant.numerics import FAST, Arithmetic

Progress = Callable[[str, int, int], None]
LEVEL = 0.95

# What is read off an evaluation's row; smaller is better for all but the last two.
MEASURES: dict[str, Callable[[Row], float | None]] = {
    "NLL difference": lambda row: row.likelihood.difference.mean,
    "KL": lambda row: row.likelihood.kl.mean,
    "flips": lambda row: row.likelihood.flips.mean,
    "teacher-forced error": lambda row: row.trajectory.forced_error.whole.mean,
    "free-running error": lambda row: row.trajectory.free_error.whole.mean,
    "final-token agreement": lambda row: row.trajectory.final_agreement.mean,
    "exact match": lambda row: row.tasks.overall.accuracy.share,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedMean:
    """Mean over seeds with Student's interval; no interval for a single seed.

    Parameters
    ----------
    mean : float
    low, high : float or None
    values : tuple of float
        One a seed.
    """

    mean: float
    low: float | None
    high: float | None
    values: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ladder:
    """Results by rung and measure, and the evaluation they come from.

    Parameters
    ----------
    means : mapping of (rung, measure) to SeedMean
    steps : mapping of (rung, measure) to SeedMean
        Each rung minus the one below it, seed by seed.
    evaluation : Evaluation
    seeds : tuple of int
    tokens : tuple of int
        Calibration tokens by seed, the same for every rung.
    """

    means: Mapping[tuple[str, str], SeedMean]
    steps: Mapping[tuple[str, str], SeedMean]
    evaluation: Evaluation
    seeds: tuple[int, ...]
    tokens: tuple[int, ...]


def rungs() -> dict[str, Recipe]:
    """The five recipes, each differing from the one before in one part.

    Examples
    --------
    >>> list(rungs())
    ['RTN', 'GPTQ', '+ TMAS', '+ CGQ', '+ IA-AQ']
    """
    gptq = find_recipe("gptq-w4a4")
    tmas = gptq.replace(name="gptq-tmas", calibration={"states": "tmas"})
    cgq = tmas.replace(name="gptq-tmas-cgq", tokens={"weighting": "certainty"})
    ia_aq = cgq.replace(name="gptq-tmas-cgq-iaaq", values={"method": "ia_aq"})
    return {"RTN": find_recipe("rtn-w4a4"), "GPTQ": gptq, "+ TMAS": tmas, "+ CGQ": cgq, "+ IA-AQ": ia_aq}


def run_ladder(
    bench: Callable[[int], Workbench],
    seeds: Sequence[int],
    data: EvaluationSet,
    tokenizer: Tokenizer,
    sizes: Sizes,
    progress: Progress | None = None,
    workers: int = 1,
    begin: Callable[[str], None] | None = None,
) -> Ladder:
    """Quantize every rung with every seed and evaluate all of them together.

    Parameters
    ----------
    bench : callable
        Makes the workbench of a seed.
    seeds : sequence of int
    data : EvaluationSet
    tokenizer : Tokenizer
    sizes : Sizes
    progress : callable, optional
    workers : int
    begin : callable, optional
        Called with a model's name (see :func:`model_names`) before it is quantized.

    Raises
    ------
    UsageError
        If there is no seed, or one twice.
    """
    if not seeds or len(set(seeds)) < len(seeds):
        raise UsageError(f"seeds are given, each once; got {list(seeds)}")
    candidates: dict[str, Transformer] = {}
    tokens = []
    reference: Transformer | None = None
    for seed in seeds:
        one = bench(seed)
        reference = one.model
        budget = one.states(rungs()["+ TMAS"].calibration).tokens
        tokens.append(budget)
        for label, recipe in rungs().items():
            if begin is not None:
                begin(_name(label, seed))
            limit = None if recipe.calibration.states == "tmas" else budget
            candidates[_name(label, seed)] = one.quantize(recipe, limit).attach(one.model)
    if reference is None:
        raise UsageError("there is no seed")
    evaluation = evaluate(reference, candidates, tokenizer, data, sizes, 0, progress, workers=workers)
    values = {
        (label, measure): [_number(read(evaluation.row(_name(label, seed)))) for seed in seeds]
        for label in rungs()
        for measure, read in MEASURES.items()
    }
    below = dict(zip(list(rungs())[1:], list(rungs()), strict=False))
    return Ladder(
        means={key: seed_mean(numbers) for key, numbers in values.items()},
        steps={
            (label, measure): seed_mean([a - b for a, b in zip(values[label, measure], values[below[label], measure], strict=True)])
            for label in below
            for measure in MEASURES
        },
        evaluation=evaluation,
        seeds=tuple(seeds),
        tokens=tuple(tokens),
    )


def model_names(seeds: Sequence[int]) -> list[str]:
    """Names of all models in the order in which they are quantized.

    Examples
    --------
    >>> model_names([0])[:2]
    ['RTN seed 0', 'GPTQ seed 0']
    """
    return [_name(label, seed) for seed in seeds for label in rungs()]


def seed_mean(values: Sequence[float], arithmetic: Arithmetic = FAST) -> SeedMean:
    """Mean with Student's 95% interval.

    Examples
    --------
    >>> found = seed_mean([1.0, 2.0, 3.0])
    >>> found.mean, round(found.low, 3), round(found.high, 3)
    (2.0, -0.484, 4.484)
    """
    array = np.asarray(values, dtype=np.float64)
    mean = float(arithmetic.mean(array))
    if len(array) < 2:
        return SeedMean(mean=mean, low=None, high=None, values=tuple(values))
    deviation = array - mean
    error = float(np.sqrt(arithmetic.sum(deviation * deviation) / (len(array) - 1) / len(array)))
    half = float(scipy.stats.t.ppf((1 + LEVEL) / 2, len(array) - 1)) * error
    return SeedMean(mean=mean, low=mean - half, high=mean + half, values=tuple(values))


def _name(label: str, seed: int) -> str:
    return f"{label} seed {seed}"


def _number(value: float | None) -> float:
    return float("nan") if value is None else value
