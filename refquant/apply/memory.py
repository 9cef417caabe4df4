"""How much memory a run will take at its peak, from shapes alone: what `--dry-run` prints.

What a process holds before it begins (the interpreter, libraries, an unstreamed model's parameters) is measured, not estimated. To it comes
the largest of the phases, each a sum of the arrays that are alive together; the numbers of copies below are those of the code. Worker
processes hold the interpreter and the libraries once more each, and their share of the phase; what goes to them and comes back is held
on both sides.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from model import Transformer
from model.architecture import BlockPlan
from model.streaming import StreamedTensors
from refquant.apply import rollout
from refquant.apply.executors import LOCAL, ExecutorPlan
from refquant.apply.quantize import BATCH_TOKENS
from refquant.apply.quantized import is_skipped
from refquant.apply.recipe import Recipe
from refquant.apply.states import LOGITS
from refquant.apply.workforce import processors

DOUBLE = 8
BESIDES = 24 << 20  # the process that counts resources, and what a pool needs in the first process
Shape = tuple[int, int]


def estimated_peak(m: Transformer, recipe: Recipe, tokens: int, executor: ExecutorPlan | None = None) -> int:
    """Bytes that a run by a recipe will hold at its peak on this machine, in all processes together, evaluation not counted.

    Parameters
    ----------
    m : Transformer
        Streamed or not.
    recipe : Recipe
    tokens : int
        Calibration tokens.
    executor : ExecutorPlan, optional
        Who works. Workers of a Dask scheduler that was started elsewhere are not counted.

    Examples
    --------
    >>> import model
    >>> from refquant.apply.recipe import find_recipe
    >>> m = model.embedded()
    >>> estimated_peak(m, find_recipe("gptq-w4a4"), 1000) > estimated_peak(m, find_recipe("rtn-w4a16"), 0) > 10_000_000
    True
    """
    crew = _Crew.of(executor)
    run = _Run(m, recipe, tokens if recipe.needs_calibration else 0, crew)
    parameters = 0 if run.streamed else sum(array.nbytes for array in m.parameters.values())
    before = resident()
    apart = 0 if not crew.apart else BESIDES + (crew.count * (before - parameters) if crew.counted else 0)
    return before + apart + run.held() + max(run.phases())


@dataclass(frozen=True, slots=True)
class _Crew:
    """How many work at a time, whether they are processes of their own, and whether those are on this machine."""

    count: int = 1
    apart: bool = False
    counted: bool = True

    @classmethod
    def of(cls, plan: ExecutorPlan | None) -> _Crew:
        if plan is None:
            return cls()
        counted = plan.kind != "dask" or plan.address == LOCAL
        return cls(plan.workers or processors(), plan.kind != "threads", counted)

    def together(self, main: int, sent: int, each: Sequence[int]) -> int:
        """Bytes of tasks of which the largest are worked on side by side; `main` is held once, `sent` where tasks travel."""
        working = sum(sorted(each, reverse=True)[: self.count])
        return main + (sent if self.apart else 0) + (working if self.counted else 0)


class _Run:
    """The phases of one run, in bytes over all processes beside what they begin with."""

    def __init__(self, m: Transformer, recipe: Recipe, tokens: int, crew: _Crew) -> None:
        self.m, self.recipe, self.tokens, self.crew = m, recipe, tokens, crew
        self.streamed, self.item = isinstance(m.parameters, StreamedTensors), m.dtype.itemsize
        self.length = math.ceil(tokens / recipe.calibration.samples)
        rows = max(1, BATCH_TOKENS // max(self.length, 1))
        self.batches = [min(rows * self.length, tokens - start) for start in range(0, tokens, rows * self.length or 1)]
        self.batch = max(self.batches, default=0)
        self.blocks = [[(plan.name, (plan.out, plan.into)) for plan in block.linears] for block in m.architecture.blocks]

    def held(self) -> int:
        """What the first process keeps from phase to phase: codes, and hidden states on both sides of a block."""
        sizes = [[math.prod(shape) for name, shape in block if not is_skipped(self.recipe, name)] for block in self.blocks]
        if not self.streamed:  # the model as it was given is there all the time, too
            rewritten = self.item if self.recipe.rewrites else 0
            codes = sum(map(sum, sizes)) * (1 + (self.item if self.batch else 0) + rewritten)
        else:  # of a block while calibration passes through it, else of the linear before
            codes = max(map(sum, sizes)) if self.batch else max(math.prod(shape) for block in self.blocks for _, shape in block)
        return codes + self.tokens * self.m.config.d_model * self.item * 2

    def phases(self) -> Iterator[int]:
        """Every phase of which it is not clear that another is larger."""
        sizes = [math.prod(shape) for block in self.blocks for _, shape in block]
        yield from (_reading(size, self.item) for size in sizes)
        if self.recipe.rewrites:  # changed tensors, before layers of them are made; and one that is being changed
            yield sum(sizes) * self.item + 2 * DOUBLE * max(sizes)
        for block in self.m.architecture.blocks:
            yield from self._linears(block)
            if self.batch:
                yield self._passes(block)
        yield from self._states()

    def _linears(self, block: BlockPlan) -> Iterator[int]:
        """Linears that are quantized side by side."""
        if self.recipe.weights.method == "none":
            return
        shapes = {plan.name: (plan.out, plan.into) for plan in block.linears if not is_skipped(self.recipe, plan.name)}
        groups = block.linear_groups if self.batch else [tuple(shapes)]
        for group in groups:
            linears = [shapes[name] for name in group if name in shapes]
            if linears:
                widest = max(width for _, width in linears)
                statistics = DOUBLE * widest * widest if self.recipe.weights.looks_at_hessian else 0
                shared = 0 if self.crew.apart else -statistics * (min(self.crew.count, len(linears)) - 1)
                weight = 0 if self.streamed else max(map(math.prod, linears)) * self.item
                each = [_linear(shape, self.recipe, self.item) for shape in linears]
                yield shared + self.crew.together(0, 2 * statistics + weight, each)

    def _passes(self, block: BlockPlan) -> int:
        """Calibration batches that pass through a block side by side: activations, and what is made of them."""
        shapes = [(plan.out, plan.into) for plan in block.linears]
        width, looks = max(into for _, into in shapes), self.recipe.weights.looks_at_hessian
        statistics = DOUBLE * width * width if looks else 0
        part = sum(map(math.prod, shapes)) * (1 if self.streamed else 1 + self.item)
        each = []
        for batch in self.batches:
            rows = batch * width * (self.item + (DOUBLE if looks else 0))
            scores = self._scores(batch) if self.recipe.values.method in ("minmax", "ia_aq") else 0
            back = 2 * statistics if self.crew.apart else 0
            each.append(max(self._forward(shapes, batch), scores, rows + statistics, back) + (part if self.crew.apart else 0))
        return self.crew.together(statistics, 2 * statistics + part, each)

    def _forward(self, shapes: Sequence[Shape], batch: int) -> int:
        """A block on a batch: activations, and the largest weight where weights are read or decoded when they are used."""
        widest = max(map(max, shapes))
        weight = max(map(math.prod, shapes)) * (2 * self.item + 1) if self.streamed else 0
        copies = 3 if self.recipe.probabilities.bits else 1
        scores = copies * self.m.architecture.n_heads * self.length
        return weight + batch * (3 * widest + 6 * self.m.config.d_model + scores) * self.item

    def _scores(self, batch: int) -> int:
        """V's scales look at the softmax output of a batch; what is made of it is made a sequence at a time."""
        shape = self.m.architecture
        seen = batch * (shape.n_heads * self.length + 6 * self.m.config.d_model) * self.item
        return seen + self.length * self.length * (shape.n_heads * (self.item + 2 * DOUBLE) + shape.kv_heads * DOUBLE)

    def _states(self) -> Iterator[int]:
        """Rollouts, and the confidences that tokens are weighted by: probabilities over the vocabulary, and the model where it travels."""
        rows, shape = self.m.config.embedding_rows, self.m.architecture
        sent = 0 if self.streamed else sum(array.nbytes for array in self.m.parameters.values())
        moved = 2 * sent if self.crew.apart else 0
        widest = [max((plan.out, plan.into) for block in shape.blocks for plan in block.linears)]
        if self.batch and self.recipe.calibration.states in ("rollout", "tmas"):
            together = max(min(rollout.BATCH_TOKENS, self.tokens), self.length)
            cold = not self.recipe.calibration.temperature
            each = together * rows * (3 * self.item if cold else 2 * self.item + 4 * DOUBLE)
            yield self.crew.together(0, sent, [each + moved] * self.crew.count)
        if self.batch and self.recipe.tokens.weighting != "uniform":
            each = min(max(LOGITS, self.length * rows), self.batch * rows) * (self.item + 3 * DOUBLE)
            yield self.crew.together(0, sent, [max(each, self._forward(widest, batch)) + moved for batch in self.batches])


def _reading(size: int, item: int) -> int:
    """A tensor as stored, as computed with, and the mask of its finite numbers."""
    return size * (2 + item + 1)


def _linear(shape: Shape, recipe: Recipe, item: int) -> int:
    """One linear: the weight as read, in float64, and what its method holds beside it."""
    rows, width = shape
    size = rows * width
    if not recipe.weights.looks_at_hessian:
        return size * (item + DOUBLE + 1)  # the weight, its copy, codes; tiles are fitted and codes made slab by slab
    computed = 4 if recipe.weights.working == "float32" else DOUBLE
    permuted = 1 if recipe.weights.act_order else 0
    # Statistics, and the factor in what is computed in. The weight as read and in float64, our copy of it and one in the order of the
    # sweep: the largest moment is before the factorization, or when both results are held against the weight in float64.
    deciding = (1 + permuted) * computed * width * width + size * (DOUBLE + 2 * computed)
    comparing = size * (5 * DOUBLE + 1)
    return DOUBLE * width * width + size * item + max(deciding, comparing)


def resident() -> int:
    """Bytes that this process holds now; the most it ever held, where the system does not tell."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        import resource  # not on every system

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
