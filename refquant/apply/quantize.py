"""Quantizing a whole model: block by block in causal order, each group calibrated behind what is already quantized."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import reduce

import numpy as np

from model import Transformer
from model.streaming import StreamedLinear, StreamedTensors
from refquant.apply.block_part import each_batch
from refquant.apply.block_view import BlockView
from refquant.apply.group_inputs import batch_moments, block_output, input_extremes, input_statistics
from refquant.apply.keeper import Keeper
from refquant.apply.layers import QuantizedLinear, online_transforms
from refquant.apply.limit_search import find_limits, limited
from refquant.apply.linear_task import LinearResult, LinearTask, quantize_linear
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
from refquant.apply.value_scales import find_value_scales
from refquant.apply.workforce import HERE, Results, Workforce
from refquant.core import Grid, Stats
from refquant.core.qtensor import Quantized
from refquant.errors import InputError, UsageError
from refquant.methods.activation.static import static_grid
from refquant.methods.activation.tac import AffineCorrection, Moments, tac
from refquant.numerics.arrays import Array

Progress = Callable[[str, int, int], None]
BATCH_TOKENS = 4096


def quantize_model(
    m: Transformer,
    recipe: Recipe,
    states: Sequence[CalibrationState],
    progress: Progress | None = None,
    *,
    keeper: Keeper | None = None,
    workers: Workforce = HERE,
) -> QuantizedModel:
    """Quantize the linears of every block.

    Parameters
    ----------
    m : Transformer
        In full precision. A streamed one needs a keeper and a recipe without rewrites; memory then stays near one block's.
    recipe : Recipe
    states : sequence of CalibrationState
        May be empty if the recipe needs no calibration.
    progress : callable, optional
        Called with what is done, how much, of how much.
    keeper : Keeper, optional
        Takes each linear as it is finished, and knows those that an earlier run finished.
    workers : Workforce
        Quantizes the independent linears of a group, and passes calibration batches through the model; by default this process. The
        ordered lane gives the same bytes whoever it is.

    Returns
    -------
    QuantizedModel
        Of a streamed model without the weights, which the keeper has.

    Raises
    ------
    InputError
        If calibration states are missing, or a skipped name does not exist.
    NotPositiveDefiniteError
        If a Hessian cannot be factored; the message names the linear and a damping that works.
    UsageError
        If a streamed model comes without a keeper or with rewrites, or the recipe asks for float32 in the ordered lane.
    """
    if isinstance(m.parameters, StreamedTensors):
        _check_streamable(recipe, keeper)
    recipe.weights.check_lane(m.arithmetic)
    known = {name.rpartition(".")[2] for name in m.linears}
    if not set(recipe.skip) <= known:
        raise InputError(f"recipe {recipe.name} skips {sorted(set(recipe.skip) - known)}; the model's linears are {sorted(known)}")
    if recipe.needs_calibration and not states:
        raise InputError(f"recipe {recipe.name} needs calibration states; there are none")
    rewriters = [make_rewriter(part) for part in recipe.rewrites]
    prepared = m
    for rewriter in rewriters:
        prepared = rewriter.prepare(prepared)
    told = progress or (lambda what, done, total: None)
    run = _Run(prepared, recipe, states, rewriters, keeper, workers, told)
    for index in range(m.config.n_layers):
        run.quantize_block(index)
        told("blocks", index + 1, m.config.n_layers)
    return run.result(m)


def _check_streamable(recipe: Recipe, keeper: Keeper | None) -> None:
    if recipe.rewrites:
        methods = ", ".join(part.method for part in recipe.rewrites)
        raise UsageError(f"recipe {recipe.name} rewrites the model ({methods}); a streamed model cannot be, load it into memory")
    if keeper is None:
        raise UsageError("a streamed model is quantized into a folder (refquant quantize --stream); the result does not fit into memory")


class _Run:
    """State of one pass over the blocks: the model as quantized so far, and the calibration batches in front of the current block.

    ``original`` is the float model as rewritten so far. ``float_hidden`` are its own inputs of the current block, where somebody asks for
    them: the same arrays as ``hidden`` under ``propagate="float"``.
    """

    def __init__(
        self,
        m: Transformer,
        recipe: Recipe,
        states: Sequence[CalibrationState],
        rewriters: Sequence[Rewriter],
        keeper: Keeper | None,
        workers: Workforce,
        progress: Progress,
    ) -> None:
        self.progress = progress
        self.total = sum(not is_skipped(recipe, name) for name in m.linears)
        self.keeper, self.workers, self.streamed = keeper, workers, isinstance(m.parameters, StreamedTensors)
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
        self.progress("weights of tokens", 0, self.total)
        return token_weights(self.original, self.recipe.tokens, states, self.batches, self.workers)

    def quantize_block(self, index: int) -> None:
        """All groups of one block in causal order, V between the projections and what follows; then on to the next block."""
        self._rewrite_block(index)
        groups = self.current.linear_groups(index)
        if not self.hidden:  # nothing is measured between the groups: all linears are independent
            groups = [tuple(name for group in groups for name in group)]
        names = limited(self.recipe, [name for group in groups for name in group], "float")
        self.limits = find_limits(self._view(index, "float"), names, workers=self.workers)
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
        if self.hidden:
            self._tell(index, "on to the next block")
        apart = self.float_hidden is not self.hidden
        mover = self._arriving(index) if self.recipe.propagate == "quantized" else self._view(index, "quantized")
        behind = self._view(index, "float")
        self.hidden = list(each_batch(self.workers, mover, block_output))
        self.float_hidden = list(each_batch(self.workers, behind, block_output)) if apart else self.hidden
        if self.streamed:  # the block is behind us: nothing of it is held
            self.current = self.current.replace({name: self.original.linears[name] for group in groups for name in group})

    def _rewrite_block(self, index: int) -> None:
        """Let each rewrite choose on this block, and put what it chose into the float model and the one that is being quantized."""
        for rewriter in self.rewriters:
            self._tell(index, "rewrites")
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
            masked=self.masked,
        )

    def _arriving(self, index: int) -> BlockView:
        """The block as it stands, partly quantized."""
        return replace(self._view(index, "quantized"), m=self.current)

    def _quantize_group(self, index: int, group: Sequence[str]) -> None:
        names = [name for name in group if not is_skipped(self.recipe, name)]
        if not names:
            return
        if self.recipe.activations.method == "static":
            extremes = input_extremes(self._arriving(index), names[0], self.workers)
            self.input_grids |= {name: static_grid(extremes, self.recipe.activations.spec()) for name in names}
        late = limited(self.recipe, names, "quantized")
        self.limits |= find_limits(self._arriving(index), late, shared=True, workers=self.workers)
        weights = self._quantize_linears(index, names)
        linears = {}
        for name in names if self.hidden else ():  # without calibration nothing passes through them here
            dense = dense_linear(self.original, name)
            quantizer = input_quantizer(self.recipe, name, self.input_grids, self.original.arithmetic)
            coded, online = weights.get(name), online_transforms(dense)
            values = dense.weight if coded is None else coded
            dtype, arithmetic = self.original.dtype, self.original.arithmetic
            linears[name] = QuantizedLinear(values, dense.bias, quantizer, dtype, arithmetic, online, hold=not self.streamed)
        self.current = self.current.replace(linears)

    def _quantize_linears(self, index: int, names: Sequence[str]) -> dict[str, Quantized]:
        """Linears that share an input: what an earlier run finished is taken from the keeper, the others go to the workers.

        Returns the weights that something will pass through here; of a streamed model nobody else needs them.
        """
        plan, records, weights = self.recipe.weights, dict[str, LinearRecord](), dict[str, Quantized]()
        if plan.method == "none":
            return weights

        def take(result: LinearResult) -> None:
            records[result.record.name] = result.record
            if self.hidden or not self.streamed:
                weights[result.record.name] = result.weight

        if self.keeper is not None:
            for name in names:
                early = self.keeper.find(name, dense_linear(self.original, name))
                if early is not None:
                    take(early)
        left = [name for name in names if name not in records]
        stats = self._statistics(index, left[0]) if left and plan.looks_at_hessian else None
        results = self.workers.map(quantize_linear, (self._task(name, stats) for name in left))
        for name in left:
            self._tell(index, name.rpartition(".")[2], len(records))
            result = next(results)
            take(result)
            if self.keeper is not None:
                self.keeper.put(result)
                self._stop_if_asked(self.keeper, results)
        self.records.extend(records[name] for name in names)
        if not self.streamed:
            self.weights |= weights
        return weights

    def _tell(self, index: int, step: str, beyond: int = 0) -> None:
        """Say what is begun now; `beyond` linears are finished that are not recorded yet."""
        self.progress(f"block {index + 1}/{self.original.config.n_layers}, {step}", len(self.records) + beyond, self.total)

    def _stop_if_asked(self, keeper: Keeper, results: Results[LinearTask, LinearResult]) -> None:
        """Linears that workers have begun are kept before the run ends."""
        if keeper.stopping():
            for result in results.begun():
                keeper.put(result)
            raise KeyboardInterrupt

    def _statistics(self, index: int, name: str) -> Stats:
        """Hessian of a group's common input."""
        self._tell(index, f"statistics for {name.rpartition('.')[2]}")
        quantized = self.recipe.weights.hessian_inputs == "quantized"
        quantizer = input_quantizer(self.recipe, name, self.input_grids, self.original.arithmetic) if quantized else None
        return input_statistics(self._arriving(index), name, quantizer, self.workers)

    def _task(self, name: str, stats: Stats | None) -> LinearTask:
        linear = dense_linear(self.original, name)
        return LinearTask(
            name=name,
            weight=linear if isinstance(linear, StreamedLinear) and self.workers.shared_files else linear.weight,
            plan=self.recipe.weights,
            stats=stats if stats is None else replace(stats, digits=None),  # nobody merges them any more
            limits=self.limits.get(name),
            arithmetic=self.original.arithmetic,
        )

    def _quantize_values(self, index: int) -> None:
        """Scales of V from what the block's attention sees now, and the block's quantized attention product."""
        plan = self.recipe.values
        grid = None
        if plan.method in ("minmax", "ia_aq"):
            self._tell(index, "scales of V")
            choice = find_value_scales(self._arriving(index), self.workers)
            self.value_grids[index] = grid = choice.grid
            self.value_alphas[index] = tuple(choice.alphas[i] for i in choice.chosen.ravel())
        product = attention_product(self.recipe, self.original, grid)
        if product is not None:
            self.current = self.current.replace(attention_products={index: product})

    def _correct_attention(self, index: int) -> None:
        """TAC, from what the float model has before the attention's projection and what arrives there."""
        plan = self.recipe.attention_output
        if plan.method == "none":
            return
        self._tell(index, "attention output")
        name = f"{self.original.architecture.blocks[index].attn_out.name}.input"
        moments: list[Moments] = []
        for view in (self._view(index, "float"), self._arriving(index)):
            moments.append(reduce(Moments.merge, each_batch(self.workers, view, batch_moments, name, plan.block)))
        correction = tac(*moments, damping=plan.damping, shrinkage=plan.shrinkage, arithmetic=self.original.arithmetic)
        self.corrections[index] = correction
        product = attention_product(self.recipe, self.original, self.value_grids.get(index), correction)
        if product is not None:
            self.current = self.current.replace(attention_products={index: product})

    def result(self, given: Transformer) -> QuantizedModel:
        rewritten = RewrittenModel()
        if self.rewriters:
            notes = (*(note for rewriter in self.rewriters for note in rewriter.notes), *self.notes)
            rewritten = RewrittenModel.of(given, self.original, {record.name for record in self.records}, notes)
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
