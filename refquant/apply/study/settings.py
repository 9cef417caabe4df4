"""How much the study runs: seeds and sizes. Everything here decides numbers, so a folder of results belongs to one of these."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field, fields
from typing import Any

from refquant.apply.evaluation import Sizes
from refquant.apply.outliers import Injection
from refquant.errors import UsageError

TASKS = ("add", "sort", "reverse")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Sizes of the study.

    Parameters
    ----------
    seeds : int
        Calibration seeds, from 0. A seed orders the calibration lines, draws masks and states, and is the seed of random rotations.
        Whatever needs neither is run once.
    samples, prompts : int
        Calibration sequences, and lines (rollouts) that they are made of.
    search_tokens : int
        Tokens that DuQuant searches on.
    texts, masks, items, trajectory_texts, prefix, continuation : int
        As in :class:`~refquant.apply.evaluation.Sizes`.
    tasks : tuple of str
        Whose items are answered.
    evaluation_seed : int
        Of masks and resamples, one for all.
    injection : Injection
        What the model with outliers has that the plain one has not.
    """

    seeds: int = 5
    samples: int = 16
    prompts: int = 8
    search_tokens: int = 256
    texts: int = 12
    masks: int = 8
    items: int = 8
    trajectory_texts: int = 2
    prefix: int = 32
    continuation: int = 16
    tasks: tuple[str, ...] = TASKS
    evaluation_seed: int = 0
    injection: Injection = field(default_factory=Injection)

    def __post_init__(self) -> None:
        for entry in fields(self):
            value = getattr(self, entry.name)
            if entry.type == "int" and (isinstance(value, bool) or not isinstance(value, int) or value < (entry.name != "evaluation_seed")):
                raise UsageError(f"{entry.name} is {value!r}; allowed: an integer of at least {int(entry.name != 'evaluation_seed')}")
        if not self.tasks:
            raise UsageError("tasks is empty; allowed: at least one task of the held-out data")

    @property
    def sizes(self) -> Sizes:
        """What one evaluation takes."""
        return Sizes(
            texts=self.texts,
            masks=self.masks,
            items=self.items,
            trajectory_texts=self.trajectory_texts,
            trajectory_items=0,
            prefix=self.prefix,
            continuation=self.continuation,
        )

    def replace(self, **changes: Any) -> Settings:
        """Settings with some fields replaced."""
        return dataclasses.replace(self, **changes)

    @classmethod
    def quick(cls) -> Settings:
        """Minutes on two processors; enough to see the collapse and the recovery, nothing finer."""
        return cls(seeds=2, samples=12, prompts=4, search_tokens=128, texts=6, masks=4, items=3, trajectory_texts=2, continuation=8)

    @classmethod
    def large(cls) -> Settings:
        """Twice to three times the data of the defaults, for those who have a night."""
        return cls(samples=32, search_tokens=512, texts=24, items=16, trajectory_texts=4)
