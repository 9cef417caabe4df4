"""Exact answers: greedy low-confidence decoding, one token a step, the response as one block."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from model import Tokenizer, generate
from refquant.apply.evaluation.batches import Models, Progress, alike, blaming, in_batches, rows_at_once, run_all
from refquant.apply.evaluation.data import Item
from refquant.apply.evaluation.proportions import McNemar, Proportion, mcnemar, proportion
from refquant.numerics.arrays import Array, read_only


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskScore:
    """One model's accuracy on one task, or on all items together."""

    task: str
    accuracy: Proportion
    versus_reference: McNemar


@dataclass(frozen=True, slots=True, kw_only=True)
class Tasks:
    """One model's answers."""

    by_task: tuple[TaskScore, ...]
    overall: TaskScore  # all items, each counting the same; task "all"
    right: Array  # bool [items]


def prompt_ids(item: Item, tokenizer: Tokenizer) -> tuple[int, ...]:
    """Ids of an item's prompt, after the token that starts a text where the tokenizer names one."""
    start = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    return (*start, *tokenizer.encode(item.prompt))


def response_text(ids: Sequence[int], tokenizer: Tokenizer) -> str:
    """Text of a response, cut at the first end of text."""
    ends = [position for position, i in enumerate(ids) if i == tokenizer.eos_id]
    return tokenizer.decode(ids[: ends[0]] if ends else ids)


def answers(models: Models, items: Sequence[Item], tokenizer: Tokenizer, workers: int = 1, progress: Progress | None = None) -> Array:
    """Decode every item with every model.

    Parameters
    ----------
    models : mapping of str to Transformer
    items : sequence of Item
        Prompts of equal lengths run together.
    tokenizer : Tokenizer
    workers, progress
        As in :func:`~refquant.apply.evaluation.likelihood.likelihoods`.

    Returns
    -------
    ndarray of bool [models, items]
        Whether the answer is right.

    Raises
    ------
    NumericalError
        If a model's logits are not finite.
    """
    rows = next(iter(models.values())).config.embedding_rows
    prompts = [prompt_ids(item, tokenizer) for item in items]
    jobs: list[tuple[str, Array]] = []
    groups = alike([(len(prompt), item.gen_length) for prompt, item in zip(prompts, items)])
    for name in models:
        for (length, gen_length), members in groups.items():
            jobs += [(name, batch) for batch in in_batches(members, rows_at_once(length + gen_length, rows))]

    def decode(job: tuple[str, Array]) -> list[bool]:
        name, batch = job
        chosen = [items[i] for i in batch.tolist()]
        ids = np.array([prompts[i] for i in batch.tolist()], dtype=np.int64).reshape(len(batch), -1)
        length = chosen[0].gen_length
        with blaming(name):
            done = generate(models[name], ids, gen_length=length, block_length=length, steps=length)
        return [item.is_right(response_text(row[-length:].tolist(), tokenizer)) for item, row in zip(chosen, done)]

    right = np.zeros((len(models), len(items)), dtype=bool)
    place = {name: index for index, name in enumerate(models)}
    for (name, batch), found in zip(jobs, run_all(decode, jobs, workers, "tasks", progress)):
        right[place[name], batch] = found
    return right


def score(right: Array, reference: Array, items: Sequence[Item]) -> Tasks:
    """Sum up one model's answers.

    Parameters
    ----------
    right, reference : ndarray of bool [items]
        The model's and the reference's.
    items : sequence of Item
    """
    names = tuple(dict.fromkeys(item.task for item in items))
    of_task = np.array([names.index(item.task) for item in items], dtype=np.int64)

    def on(task: str, chosen: Array) -> TaskScore:
        return TaskScore(task=task, accuracy=proportion(right[chosen]), versus_reference=mcnemar(reference[chosen], right[chosen]))

    return Tasks(
        by_task=tuple(on(name, of_task == index) for index, name in enumerate(names)),
        overall=on("all", np.ones(len(items), dtype=bool)),
        right=read_only(right),
    )
