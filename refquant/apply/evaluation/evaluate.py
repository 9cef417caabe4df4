"""One reference, any number of candidates, the same texts, masks and prompts for all: one row each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from model import Tokenizer, Transformer
from refquant.apply.evaluation.batches import Models, Progress, mask_id
from refquant.apply.evaluation.curves import Trajectory, summarise
from refquant.apply.evaluation.data import EvaluationSet, Item, Text
from refquant.apply.evaluation.intervals import LEVEL, Bootstrap
from refquant.apply.evaluation.likelihood import Likelihood, likelihoods
from refquant.apply.evaluation.record import plain
from refquant.apply.evaluation.sizes import Sizes
from refquant.apply.evaluation.tasks import Tasks, answers, prompt_ids, score
from refquant.apply.evaluation.trajectory import Start, Traces, trajectories
from refquant.errors import InputError, UsageError
from refquant.storage import canonical_json

SAMPLER = "greedy, low-confidence remasking, the response as one block, ties to the lowest index"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """All that was measured of one model."""

    name: str
    likelihood: Likelihood
    trajectory: Trajectory
    tasks: Tasks


@dataclass(frozen=True, slots=True, kw_only=True)
class Used:
    """How much was used, which can be less than what was asked for."""

    texts: int
    tokens: int  # in all texts
    domains: tuple[str, ...]
    masks: int  # masked copies of each text
    items: int  # over all tasks
    items_by_task: dict[str, int]
    trajectories: int
    trajectory_texts: int
    trajectory_items: int
    prefix: int
    continuation: int
    tokens_per_step: int
    sampler: str
    resamples: int
    level: float
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """One row a model, the reference first (its differences are 0), and how much was used."""

    rows: tuple[Row, ...]
    used: Used

    def row(self, name: str) -> Row:
        """Return the row of a model; UsageError if there is none."""
        for row in self.rows:
            if row.name == name:
                return row
        raise UsageError(f"there is no row {name!r}; allowed: {', '.join(row.name for row in self.rows)}")

    def to_json(self) -> str:
        """Return everything as canonical JSON; what is not defined is null."""
        return canonical_json(plain(self))


def evaluate(
    reference: Transformer,
    candidates: Mapping[str, Transformer],
    tokenizer: Tokenizer,
    data: EvaluationSet,
    sizes: Sizes | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    *,
    reference_name: str = "full precision",
    workers: int = 1,
    take_traces: Callable[[str, Sequence[Start], Traces], None] | None = None,
) -> Evaluation:
    """Compare models with a reference.

    Parameters
    ----------
    reference : Transformer
        Its arithmetic does all that is summed up.
    candidates : mapping of str to Transformer
        With the reference's vocabulary; may be empty.
    tokenizer : Tokenizer
    data : EvaluationSet
        Held out: used neither for calibration nor to choose options.
    sizes : Sizes, optional
        ``Sizes()`` when absent.
    seed : int
        At least 0. Decides the masks and the resamples.
    progress : callable(what, done, total), optional
        Called from the calling thread.
    reference_name : str
    workers : int
        Threads. The result does not depend on their timing. More than one pays where BLAS itself uses one
        (``OPENBLAS_NUM_THREADS=1``); threads inside threads wait for each other.
    take_traces : callable(name, starts, traces), optional
        Is handed every model's trajectories, step by step, of which the result keeps means.

    Returns
    -------
    Evaluation

    Raises
    ------
    UsageError
        If an argument is not allowed or the models do not fit together.
    InputError
        If ids in the data do not fit the model.
    NumericalError
        If a model's logits are not finite; it is named.

    Examples
    --------
    >>> import model
    >>> from refquant.apply.evaluation import Sizes, evaluate, read_evaluation_set
    >>> m, tokenizer = model.embedded(), model.Tokenizer.from_directory(model.embedded_directory())
    >>> result = evaluate(m, {"itself": m}, tokenizer, read_evaluation_set(), Sizes.quick())
    >>> [row.name for row in result.rows], result.row("itself").likelihood.difference.mean
    (['full precision', 'itself'], 0.0)
    """
    sizes = Sizes() if sizes is None else sizes
    models = {reference_name: reference, **candidates}
    _check(models, candidates, reference_name, seed, workers)
    texts, items = data.first_texts(sizes.texts), data.first_items(sizes.items)
    prefixes = [text for text in data.first_texts(sizes.trajectory_texts) if len(text.ids) >= sizes.prefix]
    questions = data.first_items(sizes.trajectory_items)
    _check_data(reference, (*texts, *prefixes), (*items, *questions), tokenizer, sizes)
    bootstrap = Bootstrap(seed=seed, arithmetic=reference.arithmetic)
    starts = [Start(prompt=text.ids[: sizes.prefix], gen_length=sizes.continuation) for text in prefixes]
    starts += [Start(prompt=prompt_ids(item, tokenizer), gen_length=item.gen_length) for item in questions]
    bounds = likelihoods(models, texts, sizes.masks, seed, bootstrap, workers, progress)
    traces = trajectories(models, starts, sizes.tokens_per_step, workers, progress)
    if take_traces is not None:
        for name, found in zip(models, traces, strict=True):
            take_traces(name, starts, found)
    right = answers(models, items, tokenizer, workers, progress)
    rows = tuple(
        Row(name=name, likelihood=bounds[i], trajectory=summarise(traces[i], bootstrap), tasks=score(right[i], right[0], items))
        for i, name in enumerate(models)
    )
    return Evaluation(rows=rows, used=_used(texts, items, prefixes, questions, sizes, bootstrap))


def _used(
    texts: Sequence[Text], items: Sequence[Item], prefixes: Sequence[Text], questions: Sequence[Item], sizes: Sizes, bootstrap: Bootstrap
) -> Used:
    tasks = dict.fromkeys(item.task for item in items)
    return Used(
        texts=len(texts),
        tokens=sum(len(text.ids) for text in texts),
        domains=tuple(dict.fromkeys(text.domain for text in texts)),
        masks=sizes.masks,
        items=len(items),
        items_by_task={task: sum(item.task == task for item in items) for task in tasks},
        trajectories=len(prefixes) + len(questions),
        trajectory_texts=len(prefixes),
        trajectory_items=len(questions),
        prefix=sizes.prefix,
        continuation=sizes.continuation,
        tokens_per_step=sizes.tokens_per_step,
        sampler=SAMPLER,
        resamples=bootstrap.resamples,
        level=LEVEL,
        seed=bootstrap.seed,
    )


def _check(models: Models, candidates: Mapping[str, Transformer], reference_name: str, seed: int, workers: int) -> None:
    if reference_name in candidates:
        raise UsageError(f"a candidate is called {reference_name!r}, as the reference is; names must differ")
    reference = models[reference_name]
    mask_id(reference)
    for name, model in models.items():
        for key in ("embedding_rows", "mask_token_id"):
            found, wanted = getattr(model.config, key), getattr(reference.config, key)
            if found != wanted:
                raise UsageError(f"model {name!r} has {key} {found}; allowed: {wanted}, the reference's")
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise UsageError(f"seed is {seed!r}; allowed: an integer of at least 0")
    if isinstance(workers, bool) or not isinstance(workers, int) or workers < 1:
        raise UsageError(f"workers is {workers!r}; allowed: an integer of at least 1")


def _check_data(reference: Transformer, texts: Sequence[Text], items: Sequence[Item], tokenizer: Tokenizer, sizes: Sizes) -> None:
    for text in texts:
        _check_ids(text.ids, reference, f"{text.where}: ids")
    for item in items:
        _check_ids(prompt_ids(item, tokenizer), reference, f"{item.where}: ids of the prompt")
        if item.gen_length % sizes.tokens_per_step:
            allowed = f"a divisor of gen_length {item.gen_length} ({item.where})"
            raise UsageError(f"tokens_per_step is {sizes.tokens_per_step}; allowed: {allowed}")


def _check_ids(ids: Sequence[int], reference: Transformer, where: str) -> None:
    rows, mask = reference.config.embedding_rows, reference.config.mask_token_id
    found = np.asarray(ids, dtype=np.int64)
    bad = np.flatnonzero((found < 0) | (found >= rows) | (found == mask))
    if bad.size:
        position = int(bad[0])
        raise InputError(f"{where}[{position}] is {ids[position]}; allowed: 0 to {rows - 1} without the mask, {mask}")
