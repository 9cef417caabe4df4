"""Quantizing a whole model: block by block in causal order, each group calibrated behind what is already quantized."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import reduce
from typing import Literal

import numpy as np

from model import AttentionContext, Transformer
from refquant.apply.block_view import BlockView
from refquant.apply.experts import check_coverage, expert_numbers, expert_weights
from refquant.apply.layers import QuantizedLinear, online_transforms
from refquant.apply.limit_search import find_limits, limited
from refquant.apply.quantized import (
    LinearRecord,
    QuantizedModel,
    attention_product,
    dense_linear,
    input_quantizer,
    is_skipped,
    score_operands,
)
from refquant.apply.recipe import Recipe
from refquant.apply.rewriter import Rewriter
from refquant.apply.rewriters import make_rewriter
from refquant.apply.rewriting import apply_changes, rewritten_parameters
from refquant.apply.rewritten import Notes, RewrittenModel
from refquant.apply.states import CalibrationState, batches
from refquant.apply.token_weights import token_weights
from refquant.apply.weight_quantizing import quantize_weight
from refquant.core import Grid, Stats
from refquant.core.metrics import output_error
from refquant.core.qtensor import Quantized
from refquant.core.transform import through
from refquant.errors import InputError, NotPositiveDefiniteError, NumericalError
from refquant.methods.activation.static import Extremes, static_grid
from refquant.methods.activation.tac import AffineCorrection, Moments, tac
from refquant.methods.diffusion.ia_aq import AttentionSample, ia_aq
from refquant.methods.grid.rtn import rtn
from refquant.methods.scale.limits import clip_to_limits
from refquant.numerics.arrays import Array

Progress = Callable[[str, int, int], None]
BATCH_TOKENS = 4096


def quantize_model(m: Transformer, recipe: Recipe, states: Sequence[CalibrationState], progress: Progress | None = None) -> QuantizedModel:
    """Quantize the linears of every block.

    Parameters
    ----------
    m : Transformer
        In full precision.
    recipe : Recipe
    states : sequence of CalibrationState
        May be empty if the recipe needs no calibration.
    progress : callable, optional
        Called with what is done, how much, of how much.

    Returns
    -------
    QuantizedModel

    Raises
    ------
    InputError
        If calibration states are missing, or a skipped name does not exist.
    NotPositiveDefiniteError
        If a Hessian cannot be factored; the message names the linear and a damping that works.
    """
    known = {name.rpartition(".")[2] for name in m.linears}
    if not set(recipe.skip) <= known:
        raise InputError(f"recipe {recipe.name} skips {sorted(set(recipe.skip) - known)}; the model's linears are {sorted(known)}")
    if recipe.needs_calibration and not states:
        raise InputError(f"recipe {recipe.name} needs calibration states; there are none")
    rewriters = [make_rewriter(part) for part in recipe.rewrites]
    prepared = m
    for rewriter in rewriters:
        prepared = rewriter.prepare(prepared)
    run = _Run(prepared, recipe, states, rewriters)
    for index in range(m.config.n_layers):
        run.quantize_block(index)
        if progress is not None:
            progress("blocks", index + 1, m.config.n_layers)
    return run.result(m)


class _Run:
    """State of one pass over the blocks: the model as quantized so far, and the calibration batches in front of the current block.

    ``original`` is the float model as rewritten so far. ``float_hidden`` are its own inputs of the current block, where somebody asks for
    them: the same arrays as ``hidden`` under ``propagate="float"``.
    """

    def __init__(self, m: Transformer, recipe: Recipe, states: Sequence[CalibrationState], rewriters: Sequence[Rewriter]) -> None:
        self.original, self.current, self.recipe, self.rewriters = m, m, recipe, rewriters
        self.notes: list[Notes] = []
        self.limits: dict[str, Array] = {}
        self.weights: dict[str, Quantized] = {}
        self.corrections: dict[int, AffineCorrection] = {}
        self.input_grids: dict[str, Grid] = {}
        self.value_grids: dict[int, Grid] = {}
        self.value_alphas: dict[int, tuple[float, ...]] = {}
        self.records: list[LinearRecord] = []
        needed = states if recipe.needs_calibration else ()
        self.batches = list(batches(needed, BATCH_TOKENS))
        self.masked = [np.stack([states[i].masked for i in batch]) for batch in self.batches]
        self.hidden = [m.embed(np.stack([states[i].ids for i in batch])) for batch in self.batches]
        self.token_weights = self._token_weights(needed)
        apart = recipe.propagate == "quantized" and (
            any(rewriter.inputs == "float" for rewriter in rewriters)
            or (recipe.weights.limits != "none" and recipe.weights.limit_inputs == "float")
            or recipe.attention_output.method != "none"
        )
        self.float_hidden = list(self.hidden) if apart else self.hidden

    def _token_weights(self, states: Sequence[CalibrationState]) -> list[Array | None]:
        weights = self.recipe.weights
        weighs = weights.looks_at_hessian or weights.limit_weighted or any(r.weighted for r in self.rewriters)
        if not weighs:
            return [None] * len(self.batches)
        return token_weights(self.original, self.recipe.tokens, states, self.batches)

    def quantize_block(self, index: int) -> None:
        """All groups of one block in causal order, V between the projections and what follows; then on to the next block."""
        self._rewrite_block(index)
        groups = self.current.linear_groups(index)
        names = limited(self.recipe, [name for group in groups for name in group], "float")
        self.limits = find_limits(self._view(index, "float"), names)
        operands = score_operands(self.recipe, self.original.score_operands[index])
        if operands is not None:
            self.current = self.current.replace(score_operands={index: operands})
        early = self.recipe.values.calibrate == "before_qkv"
        if early:
            self._quantize_values(index)
        for position, group in enumerate(groups):
            self._quantize_group(index, group)
            if position == 0:
                if not early:
                    self._quantize_values(index)
                self._correct_attention(index)
        apart = self.float_hidden is not self.hidden
        mover = self.current if self.recipe.propagate == "quantized" else self.original
        self.hidden = [mover.block(index, x, self._context(x)) for x in self.hidden]
        moved = [self.original.block(index, x, self._context(x)) for x in self.float_hidden] if apart else self.hidden
        self.float_hidden = moved

    def _rewrite_block(self, index: int) -> None:
        """Let each rewrite choose on this block, and put what it chose into the float model and the one that is being quantized."""
        for rewriter in self.rewriters:
            rewrite = rewriter.block(self._view(index, rewriter.inputs))
            if rewrite is not None:
                changed = rewritten_parameters(self.original, rewrite)
                self.original, self.current = (apply_changes(m, rewrite, changed) for m in (self.original, self.current))
                self.notes.append({"method": rewrite.method, "block": index, **rewrite.notes})

    def _view(self, index: int, inputs: str) -> BlockView:
        return BlockView(
            m=self.original,
            index=index,
            hidden=self.float_hidden if inputs == "float" else self.hidden,
            token_weights=self.token_weights,
            recipe=self.recipe,
        )

    def _context(self, x: Array) -> AttentionContext:
        return self.current.context(x.shape[0], x.shape[1])

    def _observe(self, index: int, wanted: Sequence[str], take: Callable[[int, dict[str, Array]], None]) -> None:
        """Run the block as it stands on every batch and hand over the arrays with the wanted names."""
        for number, x in enumerate(self.hidden):
            seen: dict[str, Array] = {}

            def keep(name: str, array: Array, seen: dict[str, Array] = seen) -> None:
                if name in wanted:
                    seen[name] = array

            self.current.block(index, x, self._context(x), keep)
            take(number, seen)

    def _quantize_group(self, index: int, group: Sequence[str]) -> None:
        names = [name for name in group if not is_skipped(self.recipe, name)]
        if not names:
            return
        extremes = self._input_extremes(index, names[0]) if self.recipe.activations.method == "static" else None
        if extremes is not None:
            for name in names:
                self.input_grids[name] = static_grid(extremes, self.recipe.activations.spec())
        late = limited(self.recipe, names, "quantized")
        self.limits |= find_limits(replace(self._view(index, "quantized"), m=self.current), late, shared=True)
        stats = self._statistics(index, names[0]) if self.recipe.weights.looks_at_hessian else None
        linears = {}
        for name in names:
            dense = dense_linear(self.original, name)
            weight = self._quantize_weight(name, dense.weight, stats)
            quantizer = input_quantizer(self.recipe, name, self.input_grids, self.original.arithmetic)
            values, online = dense.weight if weight is None else weight, online_transforms(dense)
            linears[name] = QuantizedLinear(values, dense.bias, quantizer, self.original.dtype, self.original.arithmetic, online)
        self.current = self.current.replace(linears)

    def _input_extremes(self, index: int, name: str) -> Extremes:
        found: list[Extremes] = []
        tokens: list[int] = []

        def take(_: int, seen: dict[str, Array]) -> None:
            rows = self._arriving(name, seen[f"{name}.input"])
            tokens.append(len(rows))
            if len(rows):  # an expert may see nothing of a batch
                found.append(Extremes.of(rows, axis=0))

        self._observe(index, [f"{name}.input"], take)
        self._check_coverage(index, name, sum(tokens))
        merged = found[0]
        for other in found[1:]:
            merged = merged.merge(other)
        return merged

    def _arriving(self, name: str, x: Array) -> Array:
        """Inputs ``[tokens, features]`` of a linear behind its online transforms: what its quantizers see."""
        online = online_transforms(dense_linear(self.original, name))
        return through(online, x.reshape(-1, x.shape[-1]), self.original.arithmetic)

    def _statistics(self, index: int, name: str) -> Stats:
        """Hessian of a group's common input over all calibration tokens."""
        quantized = self.recipe.weights.hessian_inputs == "quantized"
        quantizer = input_quantizer(self.recipe, name, self.input_grids, self.original.arithmetic) if quantized else None
        expert = expert_numbers(self.original, index).get(name)
        routing = (f"blocks.{index}.routing", f"blocks.{index}.routing_weights")
        total: list[Stats] = []

        def take(number: int, seen: dict[str, Array]) -> None:
            x, weights = seen[f"{name}.input"], self.token_weights[number]
            if expert is not None:
                weights = expert_weights(expert, seen[routing[0]], seen[routing[1]], weights, self.recipe.tokens.routing)
            rows = self._arriving(name, x)
            rows = rows if quantizer is None else quantizer(rows)
            one = Stats.of(rows, None if weights is None else weights.reshape(-1), self.original.arithmetic)
            total[:] = [one if not total else total[0].merge(one)]

        self._observe(index, [f"{name}.input", *(() if expert is None else routing)], take)
        self._check_coverage(index, name, total[0].tokens)
        return total[0]

    def _check_coverage(self, index: int, name: str, seen: int) -> None:
        if name in expert_numbers(self.original, index):
            check_coverage(name, seen, sum(x.shape[0] * x.shape[1] for x in self.hidden), self.recipe.calibration.min_expert_tokens)

    def _quantize_weight(self, name: str, weight: Array, stats: Stats | None) -> Quantized | None:
        """Quantize one weight, in float64 whatever the method, so that methods differ in nothing but themselves."""
        plan, arithmetic = self.recipe.weights, self.original.arithmetic
        if plan.method == "none":
            return None
        w = weight.astype(np.float64)
        within = clip_to_limits(w, self.limits[name], plan.spec()) if name in self.limits else w
        try:
            quantized = quantize_weight(plan, within, stats, arithmetic)
            rounded = None if stats is None else rtn(within, plan.spec(), arithmetic)
        except NotPositiveDefiniteError as error:
            raise NotPositiveDefiniteError(f"{name}: {error}", error.pivot) from error
        except (InputError, NumericalError) as error:
            raise type(error)(f"{name}: {error}") from error
        if rounded is None or stats is None:
            self._record(name, quantized)
            return quantized
        errors = [output_error(w, q.dequantize(np.dtype(np.float64)), stats.hessian, arithmetic) for q in (quantized, rounded)]
        self._record(name, quantized, stats.tokens, *errors)
        return quantized

    def _record(self, name: str, weight: Quantized, tokens: int = 0, error: float | None = None, rtn_error: float | None = None) -> None:
        self.weights[name] = weight
        self.records.append(LinearRecord(name=name, tokens=tokens, error=error, rtn_error=rtn_error))

    def _quantize_values(self, index: int) -> None:
        """Scales of V from what the block's attention sees now, and the block's quantized attention product."""
        plan = self.recipe.values
        grid = None
        if plan.method in ("minmax", "ia_aq"):
            unscaled = attention_product(self.recipe.replace(values={"method": "none"}), self.original, None)
            samples: list[AttentionSample] = []

            def take(number: int, seen: dict[str, Array]) -> None:
                a, v = seen[f"blocks.{index}.probabilities"], seen[f"blocks.{index}.v"]
                a = a if unscaled is None else unscaled.quantize_probabilities(a)
                rows = self.masked[number] if plan.rows == "masked" else [None] * len(a)
                samples.extend(AttentionSample(probabilities=p, values=u, query_rows=r) for p, u, r in zip(a, v, rows, strict=True))

            self._observe(index, [f"blocks.{index}.probabilities", f"blocks.{index}.v"], take)
            per: Literal["head", "feature"] = "feature" if plan.per == "feature" else "head"
            choice = ia_aq(samples, plan.spec(), alphas=plan.alphas, per=per, gram=plan.gram, arithmetic=self.original.arithmetic)
            grid = choice.grid
            self.value_grids[index] = grid
            self.value_alphas[index] = tuple(choice.alphas[i] for i in choice.chosen.ravel())
        product = attention_product(self.recipe, self.original, grid)
        if product is not None:
            self.current = self.current.replace(attention_products={index: product})

    def _correct_attention(self, index: int) -> None:
        """TAC, from what the float model has before the attention's projection and what arrives there."""
        plan = self.recipe.attention_output
        if plan.method == "none":
            return
        arriving, reference = self._view(index, "quantized"), self._view(index, "float")
        name = f"{self.original.architecture.blocks[index].attn_out.name}.input"
        moments: list[Moments] = []
        for view in (reference, replace(arriving, m=self.current)):
            found = [Moments.of(seen[name], plan.block, self.original.arithmetic) for seen in view.seen([name])]
            moments.append(reduce(Moments.merge, found))
        correction = tac(*moments, damping=plan.damping, shrinkage=plan.shrinkage, arithmetic=self.original.arithmetic)
        self.corrections[index] = correction
        product = attention_product(self.recipe, self.original, self.value_grids.get(index), correction)
        if product is not None:
            self.current = self.current.replace(attention_products={index: product})

    def result(self, given: Transformer) -> QuantizedModel:
        rewritten = RewrittenModel()
        if self.rewriters:
            notes = (*(note for rewriter in self.rewriters for note in rewriter.notes), *self.notes)
            rewritten = RewrittenModel.of(given, self.original, set(self.weights), notes)
        return QuantizedModel(
            rewritten=rewritten,
            recipe=self.recipe,
            weights=self.weights,
            input_grids=self.input_grids,
            value_grids=self.value_grids,
            records=tuple(self.records),
            value_alphas=self.value_alphas,
            corrections=self.corrections,
        )


__all__ = ["LinearRecord", "QuantizedModel", "attention_product", "input_quantizer", "is_skipped", "quantize_model"]
