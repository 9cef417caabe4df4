"""How much memory a run will take at its peak, from shapes alone: what `--dry-run` prints.

What a process holds before it begins (the interpreter, libraries, an unstreamed model's parameters) is measured, not estimated. To it comes
the largest of the phases, each a sum of the arrays that are alive together; the numbers of copies below are those of the code.
"""

from __future__ import annotations

import math
import os
import sys

from model import Transformer
from model.streaming import StreamedTensors
from refquant.apply.quantize import BATCH_TOKENS
from refquant.apply.quantized import is_skipped
from refquant.apply.recipe import Recipe
from refquant.apply.states import LOGITS

DOUBLE = 8


def estimated_peak(m: Transformer, recipe: Recipe, tokens: int) -> int:
    """Bytes that a run by a recipe will hold at its peak, evaluation not counted.

    Parameters
    ----------
    m : Transformer
        Streamed or not.
    recipe : Recipe
    tokens : int
        Calibration tokens.

    Examples
    --------
    >>> import model
    >>> from refquant.apply.recipe import find_recipe
    >>> m = model.embedded()
    >>> estimated_peak(m, find_recipe("gptq-w4a4"), 1000) > estimated_peak(m, find_recipe("rtn-w4a16"), 0) > 10_000_000
    True
    """
    streamed, item = isinstance(m.parameters, StreamedTensors), m.dtype.itemsize
    shapes = [{plan.name: (plan.out, plan.into) for plan in block.linears} for block in m.architecture.blocks]
    tokens = tokens if recipe.needs_calibration else 0
    batch, length = min(tokens, BATCH_TOKENS), math.ceil(tokens / recipe.calibration.samples)
    phases = [_reading(math.prod(shape), item) for block in shapes for shape in block.values()]
    for block in shapes:
        quantized = {name: shape for name, shape in block.items() if not is_skipped(recipe, name)}
        if recipe.weights.method != "none":
            phases += [_linear(shape, recipe, item, tokens) for shape in quantized.values()]
        if batch:
            phases.append(_forward(block, m, batch, length, streamed))
    if batch and recipe.values.method in ("minmax", "ia_aq"):  # V's scales look at the softmax output and V of all calibration tokens
        shape = m.architecture
        seen = tokens * (shape.n_heads * length + shape.kv_heads * shape.head_dim) * item
        phases.append(seen + max(_forward(block, m, batch, length, streamed) for block in shapes))
    if batch and recipe.tokens.weighting != "uniform":
        rows = max(LOGITS, 128 * m.config.embedding_rows)
        phases.append(min(rows, batch * m.config.embedding_rows) * (item + 3 * DOUBLE))
    held = [sum(math.prod(shape) for name, shape in block.items() if not is_skipped(recipe, name)) for block in shapes]
    if not streamed:
        codes = sum(held) * (1 + (item if batch else 0))
    else:  # of a block while calibration passes through it, else of the linear before
        codes = max(held) if batch else max(math.prod(shape) for block in shapes for shape in block.values())
    hidden = tokens * m.config.d_model * item * 2
    return resident() + codes + hidden + max(phases)


def _reading(size: int, item: int) -> int:
    """A tensor as stored, as computed with, and the mask of its finite numbers."""
    return size * (2 + item + 1)


def _linear(shape: tuple[int, int], recipe: Recipe, item: int, tokens: int) -> int:
    """One linear: the weight as read, in float64, and what its method holds beside it."""
    rows, width = shape
    size = rows * width
    if not recipe.weights.looks_at_hessian:
        return size * (item + DOUBLE + 1)  # the weight, its copy, codes; tiles are fitted and codes made slab by slab
    hessians = 2 if tokens <= BATCH_TOKENS else 3  # the statistics and the factor, or a batch's merged into those of others
    permuted = 1 if recipe.weights.act_order else 0
    # the weight as read and in float64, our copy of it and one in the order of the sweep: the largest moment is before the factorization
    return (hessians + permuted) * DOUBLE * width * width + size * (item + 3 * DOUBLE)


def _forward(block: dict[str, tuple[int, int]], m: Transformer, batch: int, length: int, streamed: bool) -> int:
    """A block on a batch of sequences: activations, and the largest weight where weights are read or decoded when they are used."""
    item, widest = m.dtype.itemsize, max(max(shape) for shape in block.values())
    scores = 2 * m.architecture.n_heads * length
    weight = max(math.prod(shape) for shape in block.values()) * (2 * item + 1) if streamed else 0
    return weight + batch * (3 * widest + 6 * m.config.d_model + scores) * item


def resident() -> int:
    """Bytes that this process holds now; the most it ever held, where the system does not tell."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        import resource  # not on every system

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
