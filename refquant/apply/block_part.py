"""Looking at a block batch by batch, through workers: what a task carries of the model is the one block."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from model import AttentionProduct, DenseLinear, Linear, ScoreOperands, Transformer
from model.architecture import ModelConfig
from model.streaming import StreamedLinear, StreamedTensors
from refquant.apply.block_view import BlockView
from refquant.apply.recipe import Recipe
from refquant.apply.workforce import Workforce
from refquant.errors import UsageError
from refquant.numerics import Arithmetic
from refquant.numerics.arrays import Array

Found = TypeVar("Found")


class Held:
    """Tensors in memory in the place of a file's, for a model that asks for them one by one."""

    def __init__(self, tensors: Mapping[str, Array]) -> None:
        self.tensors = dict(tensors)

    @property
    def names(self) -> tuple[str, ...]:
        """Every tensor."""
        return tuple(self.tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of one."""
        return self.tensors[name].shape

    def dtype(self, name: str) -> np.dtype[Any]:
        """Its dtype."""
        return self.tensors[name].dtype

    def read(self, name: str) -> Array:
        """The tensor itself."""
        return self.tensors[name]

    def read_rows(self, name: str, rows: Any) -> Array:
        """Some of its rows."""
        return np.asarray(self.tensors[name][rows])


class NoHead:
    """Stands where a model has its head."""

    def __call__(self, x: Array) -> Array:
        """UsageError: this is one block."""
        raise UsageError("one block of a model has no head")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BlockPart:
    """One block of a model: all that its forward pass touches, and nothing that cannot be pickled.

    Parameters
    ----------
    config : ModelConfig
        Of the whole model.
    index : int
    tensors : mapping of str to ndarray
        Norms and routers.
    linears : mapping of str to Linear
    product : AttentionProduct
    operands : ScoreOperands or None
    dtype : dtype
    arithmetic : Arithmetic
    """

    config: ModelConfig
    index: int
    tensors: Mapping[str, Array]
    linears: Mapping[str, Linear]
    product: AttentionProduct
    operands: ScoreOperands | None
    dtype: np.dtype[Any]
    arithmetic: Arithmetic

    @classmethod
    def of(cls, m: Transformer, index: int, shared_files: bool) -> BlockPart:
        """Take a block out of a model; linears that lie in files are read, unless whoever gets the part can read the files."""
        plan = m.architecture.blocks[index]
        weights = {name for linear in plan.linears for name, _ in linear.tensors()}
        names = [name for name, _ in (*plan.tensors(), *m.architecture.final_norm.tensors()) if name not in weights]
        linears = {linear.name: m.linears[linear.name] for linear in plan.linears}
        return cls(
            config=m.config,
            index=index,
            tensors={name: m.parameters[name] for name in names},
            linears=linears if shared_files else {name: _in_memory(linear) for name, linear in linears.items()},
            product=m.attention_products[index],
            operands=m.score_operands[index],
            dtype=m.dtype,
            arithmetic=m.arithmetic,
        )

    def model(self) -> Transformer:
        """A model with this block in its place; the others are not there."""
        tensors = StreamedTensors(Held(self.tensors), tuple(self.tensors), self.dtype, "the block")
        products, operands = [self.product] * self.config.n_layers, [self.operands] * self.config.n_layers
        return Transformer(self.config, tensors, self.linears, NoHead(), self.dtype, self.arithmetic, tuple(products), tuple(operands))


def _in_memory(linear: Linear) -> Linear:
    return DenseLinear(linear.weight, linear.bias, linear.arithmetic) if isinstance(linear, StreamedLinear) else linear


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Look:
    """A task: a function of a view of some batches and of further arguments. Fields are those of the view; `source` makes its model."""

    function: Callable[..., Any]
    source: Transformer | BlockPart
    index: int
    hidden: Sequence[Array]
    token_weights: Sequence[Array | None]
    recipe: Recipe
    masked: Sequence[Array]
    arguments: tuple[Any, ...]


def look(task: Look) -> Any:
    """Carry the task out, wherever it has come to."""
    m = task.source.model() if isinstance(task.source, BlockPart) else task.source
    view = BlockView(m=m, index=task.index, hidden=task.hidden, token_weights=task.token_weights, recipe=task.recipe, masked=task.masked)
    return task.function(view, *task.arguments)


def each_batch(
    workforce: Workforce, view: BlockView, function: Callable[..., Found], *arguments: Any, grouped: bool = False
) -> Iterator[Found]:
    """Let workers look at the batches of a view; what they found comes in the order of the batches.

    Parameters
    ----------
    workforce : Workforce
    view : BlockView
    function : callable(view, *arguments)
        Of a module; is handed views of one batch each.
    grouped : bool
        Hand each worker its share of the batches in one view instead, where that is the same to the caller: less is sent back.
    """
    source = view.m if workforce.same_memory else BlockPart.of(view.m, view.index, workforce.shared_files)
    count = len(view.hidden)
    step = max(1, -(-count // workforce.count)) if grouped else 1
    looks = (
        Look(
            function=function,
            source=source,
            index=view.index,
            hidden=view.hidden[start : start + step],
            token_weights=view.token_weights[start : start + step],
            recipe=view.recipe,
            masked=view.masked[start : start + step],
            arguments=arguments,
        )
        for start in range(0, count, step)
    )
    return workforce.map(look, looks)
