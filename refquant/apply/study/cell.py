"""One cell: quantize with every seed, evaluate all of them beside full precision, and keep what was measured as one JSON object."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from model import Tokenizer, Transformer, embedded_directory, load
from refquant.apply.checkpoint import input_digest
from refquant.apply.evaluation import Evaluation, EvaluationSet, Row, evaluate, read_evaluation_set
from refquant.apply.evaluation.batches import mask_id
from refquant.apply.evaluation.masks import text_masks
from refquant.apply.evaluation.record import plain
from refquant.apply.outliers import Injection, inject, linear_inputs, outlier_counts, trajectory_states
from refquant.apply.quantized import QuantizedModel
from refquant.apply.recipe import Recipe, find_recipe
from refquant.apply.run import DrawnStates, Workbench, open_workbench
from refquant.apply.states import batches
from refquant.apply.study.grid import KINDS, METHODS, WIDTHS, Cell, Kind, cell_recipes, controlled
from refquant.apply.study.layer_errors import layer_errors
from refquant.apply.study.settings import Settings
from refquant.apply.workforce import HERE, Workforce
from refquant.errors import InputError, UsageError
from refquant.numerics.arrays import Array
from refquant.storage import canonical_json, digest

REFERENCE = "full precision"
STAGES = 4
PROBES = 4
MAP_TOKENS, MAP_CHANNELS = 64, 64
Record = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Laboratory:
    """What all cells share: the models, calibration by seed, and the held-out data.

    Parameters
    ----------
    settings : Settings
    models : mapping of str to Transformer
        By kind.
    benches : mapping of (str, int) to Workbench
        By kind and seed.
    tokens : tuple of int
        Calibration tokens by seed, the same for all rows.
    data : EvaluationSet
    tokenizer : Tokenizer
    injected : mapping of str to list of int
        Which channels and features were made outliers, by module.
    inputs : mapping of str to str
        Digests of everything that is read.
    source : Path
        Where it is read.
    injected_on : int ndarray ``[B, T]``
        Sequences that the outliers were chosen on.

    Notes
    -----
    A laboratory travels to another process as the name of its folder and the states that were drawn; models are loaded there, once a
    process.
    """

    settings: Settings
    models: dict[Kind, Transformer]
    benches: dict[tuple[Kind, int], Workbench]
    tokens: tuple[int, ...]
    data: EvaluationSet
    tokenizer: Tokenizer
    injected: dict[str, list[int]]
    inputs: dict[str, str]
    source: Path
    injected_on: Array

    def __reduce__(self) -> tuple[Any, ...]:
        states = [self.benches["plain", seed].drawn() for seed in range(self.settings.seeds)]
        return reopened, (self.source, self.settings, self.tokens, self.injected_on, states, self.inputs)

    def probes(self) -> Array:
        """A few held-out texts, each masked as one of its copies in the evaluation is: int ``[B, T]``."""
        texts = self.data.first_texts(PROBES)
        shortest = min(len(text.ids) for text in texts)
        mask = mask_id(self.models["plain"])
        rows = []
        for index, text in enumerate(texts):
            masked = text_masks(self.settings.evaluation_seed, index, shortest, PROBES)[index]
            rows.append(np.where(masked, mask, np.asarray(text.ids[:shortest])))
        return np.stack(rows)

    def limit(self, recipe: Recipe, seed: int) -> int | None:
        """How many calibration tokens a recipe may take; TMAS, which the number comes from, has as many by itself."""
        return None if recipe.calibration.states == "tmas" else self.tokens[seed]


def open_laboratory(source: Path, settings: Settings, workers: Workforce = HERE) -> Laboratory:
    """Load a checkpoint, put outliers into a copy, and draw the states that say how many tokens everybody calibrates on.

    Parameters
    ----------
    source : Path
        A folder with ``calib.jsonl`` and ``eval.jsonl`` beside the model.
    settings : Settings
    workers : Workforce
        Who rolls out.

    Raises
    ------
    InputError, UsageError
        If files are missing or hold no such task.
    """
    m, data = load(source), _held_out(source, settings.tasks)
    benches = [open_workbench(source, m, source / "calib.jsonl", seed) for seed in range(settings.seeds)]
    plan = controlled(find_recipe(METHODS["DLLMQuant"].recipe), WIDTHS["W4A4"], settings, 0).calibration
    tokens = tuple(replace(bench, workers=workers).states(plan).tokens for bench in benches)
    clean = controlled(find_recipe(METHODS["GPTQ"].recipe), WIDTHS["W4A4"], settings, 0)
    states = benches[0].states(clean.calibration, tokens[0]).states
    largest = max(batches(states, 4096), key=len)
    ids = np.stack([states[i].ids for i in largest])
    loud, chosen = inject(m, settings.injection, ids)
    models: dict[Kind, Transformer] = {"plain": m, "outliers": loud}
    return Laboratory(
        settings=settings,
        models=models,
        benches=_shared(models, benches),
        tokens=tokens,
        data=data,
        tokenizer=benches[0].tokenizer,
        injected=chosen,
        inputs=_inputs(source),
        source=source,
        injected_on=ids,
    )


def _held_out(source: Path, tasks: tuple[str, ...]) -> EvaluationSet:
    whole = read_evaluation_set(source / "eval.jsonl")
    unknown = [task for task in tasks if task not in whole.tasks]
    if unknown:
        raise UsageError(f"there is no task {unknown[0]!r} in {source / 'eval.jsonl'}; known are {', '.join(whole.tasks)}")
    data = EvaluationSet(texts=whole.texts, items=tuple(item for item in whole.items if item.task in tasks))
    if not data.texts:
        raise InputError(f"{source / 'eval.jsonl'}: holds no texts; the study needs some")
    return data


def _shared(models: dict[Kind, Transformer], benches: Sequence[Workbench]) -> dict[tuple[Kind, int], Workbench]:
    """The model with outliers is the same function, so its states are the plain one's, and drawn once."""
    return {(kind, bench.seed): bench.on(models[kind]) for kind in KINDS for bench in benches}


def _inputs(source: Path) -> dict[str, str]:
    files = {name: digest((source / name).read_bytes()) for name in ("calib.jsonl", "eval.jsonl")}
    return {"checkpoint": input_digest(source), **files}


def reopened(
    source: Path, settings: Settings, tokens: tuple[int, ...], ids: Array, states: Sequence[DrawnStates], inputs: dict[str, str]
) -> Laboratory:
    """Open a laboratory where it has travelled to; its states are drawn.

    Parameters
    ----------
    source : Path
        Where there is no such folder, the embedded model's.
    settings, tokens, ids, states, inputs
        Fields of the laboratory: `ids` are the sequences of the injection, `states` those of each seed.

    Raises
    ------
    InputError
        If the files are other ones than they were there.
    """
    source = source if source.is_dir() else embedded_directory()
    shelf = _shelf(source, settings.injection, settings.tasks, ids.shape, tuple(ids.ravel().tolist()))
    if shelf.inputs != inputs:
        odd = next(name for name in inputs if shelf.inputs[name] != inputs[name])
        raise InputError(f"{source}: the {odd} of this worker is not that of the study; give all workers the same files")
    plain = [
        Workbench(model=shelf.models["plain"], source=source, tokenizer=shelf.tokenizer, lines=[], seed=seed, _states=drawn)
        for seed, drawn in enumerate(states)
    ]
    return replace(shelf, settings=settings, benches=_shared(shelf.models, plain), tokens=tokens)


@lru_cache(maxsize=1)
def _shelf(source: Path, injection: Injection, tasks: tuple[str, ...], shape: tuple[int, int], ids: tuple[int, ...]) -> Laboratory:
    """What all cells of a study share, without states: loaded once a process."""
    m, sequences = load(source), np.array(ids, dtype=np.int64).reshape(shape)
    loud, chosen = inject(m, injection, sequences)
    return Laboratory(
        settings=Settings(injection=injection, tasks=tasks),
        models={"plain": m, "outliers": loud},
        benches={},
        tokens=(),
        data=_held_out(source, tasks),
        tokenizer=Tokenizer.from_directory(source),
        injected=chosen,
        inputs=_inputs(source),
        source=source,
        injected_on=sequences,
    )


def draw_states(lab: Laboratory, wanted: Sequence[Cell], workers: Workforce = HERE) -> None:
    """Draw all calibration states that cells need, so that cells only read them."""
    for cell in wanted:
        for seed, recipe in enumerate(cell_recipes(cell, lab.settings)):
            if recipe.needs_calibration:
                replace(lab.benches[cell.kind, seed], workers=workers).states(recipe.calibration, lab.limit(recipe, seed))


def run_cell(lab: Laboratory, cell: Cell) -> Record:
    """Measure one cell.

    Parameters
    ----------
    lab : Laboratory
        With the cell's states drawn.
    cell : Cell
    """
    recipes, m = cell_recipes(cell, lab.settings), lab.models[cell.kind]
    made: list[tuple[QuantizedModel, Transformer]] = []
    for seed, recipe in enumerate(recipes):
        quantized = lab.benches[cell.kind, seed].quantize(recipe, lab.limit(recipe, seed))
        made.append((quantized, quantized.attach(m)))
    names = [f"{cell.label}, seed {seed}" for seed in range(len(recipes))]
    candidates = {name: candidate for name, (_, candidate) in zip(names, made, strict=True)}
    found = evaluate(m, candidates, lab.tokenizer, lab.data, lab.settings.sizes, lab.settings.evaluation_seed, reference_name=REFERENCE)
    probes = lab.probes()
    runs = []
    for seed, (name, (quantized, candidate)) in enumerate(zip(names, made, strict=True)):
        errors = layer_errors(m, quantized, candidate, probes)
        layers = {"isolated": [e.isolated for e in errors], "propagated": [e.propagated for e in errors]}
        runs.append({"seed": seed, **_measures(found.row(name), lab.data, lab.settings), "layers": layers})
    weights = [q for quantized, _ in made[:1] for q in quantized.weights.values()]
    count = sum(int(np.prod(q.shape)) for q in weights)
    record = {
        "kind": cell.kind,
        "group": cell.group,
        "width": cell.width,
        "method": cell.method,
        "recipe": recipes[0].to_dict(),
        "bits_per_weight": sum(int(q.total_bits) for q in weights) / count if count else None,
        "calibration": {
            "states": recipes[0].calibration.states,
            "tokens": [lab.tokens[seed] if recipe.needs_calibration else 0 for seed, recipe in enumerate(recipes)],
        },
        "linears": list(candidates[names[0]].linears),
        "reference": _reference(found, lab.data, lab.settings),
        "runs": runs,
    }
    rounded: Record = short(record)
    return rounded


def _measures(row: Row, data: EvaluationSet, settings: Settings) -> Record:
    likelihood, path = row.likelihood, row.trajectory
    return {
        "nll_difference": likelihood.difference.mean,
        "nll_difference_per_text": likelihood.difference_per_text,
        "nll_difference_by_ratio": [estimate.mean for estimate in likelihood.difference_by_ratio],
        "kl": likelihood.kl.mean,
        "flips": likelihood.flips.mean,
        "forced_error": path.forced_error.whole.mean,
        "free_error": path.free_error.whole.mean,
        "forced_error_by_step": path.forced_error.by_step,
        "free_error_by_step": path.free_error.by_step,
        "frontier_flips": path.frontier_flips.whole.mean,
        "final_agreement": path.final_agreement.mean,
        "same_sequences": path.exact_match.share,
        "first_divergence": path.divergence.median,
        "right": _right(row, data, settings),
    }


def _right(row: Row, data: EvaluationSet, settings: Settings) -> dict[str, str]:
    """Which items of each task were answered right, as a string of 0 and 1."""
    items = data.first_items(settings.items)
    return {task: "".join(str(int(r)) for r, item in zip(row.tasks.right, items) if item.task == task) for task in data.tasks}


def _reference(found: Evaluation, data: EvaluationSet, settings: Settings) -> Record:
    row = found.row(REFERENCE)
    return {"nll": row.likelihood.nll.mean, "nll_per_text": row.likelihood.nll_per_text, "right": _right(row, data, settings)}


def outlier_record(lab: Laboratory, kind: Kind) -> Record:
    """Outliers along a model's own denoising trajectory, and maps of its last MLP's and first projection's inputs."""
    m, settings = lab.models[kind], lab.settings
    texts = [text for text in lab.data.first_texts(PROBES) if len(text.ids) >= settings.prefix]
    prompts = np.array([text.ids[: settings.prefix] for text in texts], dtype=np.int64)
    stages = trajectory_states(m, prompts, settings.continuation, STAGES)
    inputs = linear_inputs(m, stages[0])
    shown = (next(iter(inputs)), list(inputs)[-1])
    record: Record = {
        "kind": kind,
        "stages": [[plain(count) for count in outlier_counts(m, ids)] for ids in stages],
        "maps": {name: _map(inputs[name]) for name in shown},
        "injected": lab.injected if kind == "outliers" else {},
    }
    rounded: Record = short(record)
    return rounded


def _map(x: Array) -> list[list[float]]:
    """Largest magnitudes in a grid of tokens and neighbouring channels."""
    magnitude = np.abs(x[:MAP_TOKENS].astype(np.float64))
    wide = -(-magnitude.shape[1] // MAP_CHANNELS)
    starts = np.arange(0, magnitude.shape[1], wide)
    found: list[list[float]] = np.maximum.reduceat(magnitude, starts, axis=1).tolist()
    return found


def short(value: Any) -> Any:
    """Round floats to six significant digits, which leaves out most of what machines differ in; null for what is not finite.

    Examples
    --------
    >>> short({"a": [0.123456789, 1, None]})
    {'a': [0.123457, 1, None]}
    """
    if isinstance(value, dict):
        return {key: short(item) for key, item in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [short(item) for item in value]
    if isinstance(value, float):  # NumPy's among them
        return float(f"{value:.6g}") if np.isfinite(value) else None
    return value


def cell_key(lab: Laboratory, cell: Cell) -> str:
    """SHA-256 over everything that decides a cell's record."""
    recipes = [recipe.digest() for recipe in cell_recipes(cell, lab.settings)]
    where = [cell.kind, cell.group, cell.width, cell.method]
    m = lab.models[cell.kind]
    return digest(canonical_json([where, recipes, plain(lab.settings), lab.inputs, m.dtype.name, m.arithmetic.name]))
