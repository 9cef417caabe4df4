"""How much is evaluated."""

from __future__ import annotations

from dataclasses import dataclass, fields

from refquant.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How much to evaluate; where the data hold less, all they hold is used, and ``Evaluation.used`` says how much that was.

    Attributes
    ----------
    texts : int
        Held-out texts that the likelihood bound is estimated on, over all domains.
    masks : int
        Masked copies of each text.
    items : int
        Items of each task.
    trajectory_texts : int
        Texts whose beginning is continued to compare trajectories.
    trajectory_items : int
        Items of each task whose trajectories are compared.
    prefix, continuation : int
        Tokens of a text that are given, and made, in a trajectory.
    tokens_per_step : int
        Tokens committed at each step of a trajectory; divides `continuation` and every item's ``gen_length``. Task accuracy is always
        measured with one.

    Raises
    ------
    UsageError
        If a number is not an integer of at least 1 (`trajectory_texts`, `trajectory_items`, `texts`, `items`: 0), or
        `tokens_per_step` does not divide `continuation`.

    Examples
    --------
    >>> Sizes().texts, Sizes.full().masks
    (64, 128)
    """

    texts: int = 64
    masks: int = 16
    items: int = 40
    trajectory_texts: int = 12
    trajectory_items: int = 2
    prefix: int = 32
    continuation: int = 32
    tokens_per_step: int = 1

    def __post_init__(self) -> None:
        for field in fields(self):
            value, least = getattr(self, field.name), 0 if field.name.endswith(("texts", "items")) else 1
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise UsageError(f"{field.name} is {value!r}; allowed: an integer of at least {least}")
        if self.continuation % self.tokens_per_step:
            raise UsageError(f"tokens_per_step is {self.tokens_per_step}; allowed: a divisor of continuation {self.continuation}")

    @classmethod
    def full(cls) -> Sizes:
        """Everything that the embedded data hold: 256 texts with 128 masks, 5 x 250 items."""
        return cls(texts=256, masks=128, items=250, trajectory_texts=64, trajectory_items=16)

    @classmethod
    def quick(cls) -> Sizes:
        """Enough to see that it runs, in seconds; no number in it means anything."""
        return cls(texts=2, masks=4, items=1, trajectory_texts=2, trajectory_items=0, prefix=8, continuation=8)
