"""What a rewrite sees of one block while a model is quantized: its float weights, and the calibration inputs in front of it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from model import DenseLinear, Transformer
from refquant.apply.experts import check_coverage, expert_numbers, expert_weights
from refquant.apply.layers import online_transforms
from refquant.apply.quantized import dense_linear
from refquant.apply.recipe import Recipe
from refquant.core.transform import through
from refquant.numerics.arrays import Array


class _Seen(Exception):
    """No error: a forward pass ends where the last array that is wanted has been shown."""


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
    masked : sequence of bool ndarray ``[B, T]``
        Where masks stand, batch by batch; empty where nobody asks.
    """

    m: Transformer
    index: int
    hidden: Sequence[Array]
    token_weights: Sequence[Array | None]
    recipe: Recipe
    masked: Sequence[Array] = ()

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

    def seen(self, wanted: Collection[str]) -> Iterator[dict[str, Array]]:
        """Run the block on every batch, as far as is needed, and yield the arrays with the wanted names, see :mod:`model.taps`."""
        for x in self.hidden:
            found: dict[str, Array] = {}

            def keep(name: str, array: Array, found: dict[str, Array] = found) -> None:
                if name in wanted:
                    found[name] = array
                    if len(found) == len(wanted):
                        raise _Seen

            with suppress(_Seen):  # what comes behind changes nothing: inputs of the queries' linear cost a norm and not a block
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
        pieces: dict[str, list[tuple[Array, Array | None]]] = {name: [] for name in names}
        for found in self._batches(names, weighted):
            for name in names:
                pieces[name].append(found[name])
        rows: dict[str, tuple[Array, Array | None]] = {}
        for name in names:
            counted = [weights for _, weights in pieces[name] if weights is not None]
            rows[name] = np.concatenate([x for x, _ in pieces[name]]), np.concatenate(counted) if counted else None
        self._check_experts({name: len(x) for name, (x, _) in rows.items()})
        return rows

    def largest(self, names: Sequence[str]) -> dict[str, Array]:
        """Largest magnitudes ``[features]`` of what :meth:`rows` would give, and its errors, without holding the tokens."""
        found: dict[str, Array] = {}
        tokens = dict.fromkeys(names, 0)
        for batch in self._batches(names, weighted=False):
            for name, (x, _) in batch.items():
                top = np.max(np.abs(x), axis=0, initial=0)
                found[name] = np.maximum(found[name], top) if name in found else top
                tokens[name] += len(x)
        self._check_experts(tokens)
        return found

    def _batches(self, names: Sequence[str], weighted: bool) -> Iterator[dict[str, tuple[Array, Array | None]]]:
        """What :meth:`rows` puts together, batch by batch."""
        experts = expert_numbers(self.m, self.index)
        routing = (f"blocks.{self.index}.routing", f"blocks.{self.index}.routing_weights")
        wanted = {*map(self.tap, names), *(routing if experts else ())}
        for number, seen in enumerate(self.seen(wanted)):
            counted, found = self.token_weights[number], dict[str, tuple[Array, Array | None]]()
            for name in names:
                x, own = seen[self.tap(name)], None
                x = x.reshape(-1, x.shape[-1])
                if name in self.m.linears:
                    x = through(online_transforms(self.linear(name)), x, self.m.arithmetic)
                if weighted and counted is not None:
                    own = counted
                    if name in experts:
                        own = expert_weights(experts[name], seen[routing[0]], seen[routing[1]], counted, "routed")
                    own = np.asarray(own).reshape(-1)
                found[name] = x, own
            yield found

    def _check_experts(self, tokens: Mapping[str, int]) -> None:
        experts, total = expert_numbers(self.m, self.index), sum(x.shape[0] * x.shape[1] for x in self.hidden)
        for name, count in tokens.items():
            if name in experts:
                check_coverage(name, count, total, self.recipe.calibration.min_expert_tokens)
