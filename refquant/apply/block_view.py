"""What a rewrite sees of one block while a model is quantized: its float weights, and the calibration inputs in front of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from model import DenseLinear, Transformer
from refquant.apply.experts import check_coverage, expert_numbers, expert_weights
from refquant.apply.layers import online_transforms
from refquant.apply.quantized import dense_linear
from refquant.apply.recipe import Recipe
from refquant.core.transform import through
from refquant.numerics.arrays import Array


@dataclass(frozen=True, kw_only=True, eq=False)
class BlockView:
    """One block.

    Parameters
    ----------
    m : Transformer
        As rewritten so far, its linears of this block in full precision.
    index : int
    hidden : sequence of ndarray ``[B, T, d]``
        Residual stream in front of the block, batch by batch.
    token_weights : sequence of ndarray ``[B, T]`` or None
        What each token counts, as the recipe says.
    recipe : Recipe
    """

    m: Transformer
    index: int
    hidden: Sequence[Array]
    token_weights: Sequence[Array | None]
    recipe: Recipe

    def linear(self, name: str) -> DenseLinear:
        """A linear of the block in full precision."""
        return dense_linear(self.m, name)

    @property
    def mixture(self) -> str:
        """What a mixture's input is called, which its router and experts share."""
        return f"blocks.{self.index}.mixture"

    def tap(self, name: str) -> str:
        """The name that the input of a linear, or of the mixture, is observed under."""
        return name if name == self.mixture else f"{name}.input"

    def seen(self, wanted: Sequence[str]) -> Iterator[dict[str, Array]]:
        """Run the block on every batch and yield the arrays with the wanted names, see :mod:`model.taps`."""
        for x in self.hidden:
            found: dict[str, Array] = {}

            def keep(name: str, array: Array, found: dict[str, Array] = found) -> None:
                if name in wanted:
                    found[name] = array

            self.m.block(self.index, x, self.m.context(x.shape[0], x.shape[1]), keep)
            yield found

    def rows(self, names: Sequence[str], weighted: bool = False) -> dict[str, tuple[Array, Array | None]]:
        """Inputs ``[tokens, features]`` over all batches, of linears behind their online transforms, and what the tokens count.

        Parameters
        ----------
        names : sequence of str
            Linears of the block, or :attr:`mixture`.
        weighted : bool
            Without it every token counts 1, and None stands in the place of the weights.

        Raises
        ------
        InputError
            If too few calibration tokens reach an expert.
        """
        experts = expert_numbers(self.m, self.index)
        routing = (f"blocks.{self.index}.routing", f"blocks.{self.index}.routing_weights")
        pieces: dict[str, list[Array]] = {name: [] for name in names}
        weights: dict[str, list[Array]] = {name: [] for name in names}
        for number, seen in enumerate(self.seen([*map(self.tap, names), *routing])):
            counted = self.token_weights[number]
            for name in names:
                x = seen[self.tap(name)]
                x = x.reshape(-1, x.shape[-1])
                pieces[name].append(through(online_transforms(self.linear(name)), x, self.m.arithmetic) if name in self.m.linears else x)
                if weighted and counted is not None:
                    own = (
                        expert_weights(experts[name], seen[routing[0]], seen[routing[1]], counted, "routed") if name in experts else counted
                    )
                    weights[name].append(np.asarray(own).reshape(-1))
        found, total = {}, sum(x.shape[0] * x.shape[1] for x in self.hidden)
        for name in names:
            x = np.concatenate(pieces[name])
            if name in experts:
                check_coverage(name, len(x), total, self.recipe.calibration.min_expert_tokens)
            found[name] = (x, np.concatenate(weights[name]) if weights[name] else None)
        return found
