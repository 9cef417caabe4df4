"""A full-precision model on its way to workers: rollouts and confidences need all of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from model import AttentionProduct, DenseLinear, Linear, ScoreOperands, Transformer, build
from model.architecture import ModelConfig
from model.streaming import StreamedHead, StreamedTensors
from refquant.apply.workforce import HERE, Workforce
from refquant.numerics import Arithmetic
from refquant.numerics.arrays import Array


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class WholeModel:
    """All that a model is made of, and nothing that cannot be pickled. A streamed one travels as the names of its files.

    Parameters
    ----------
    config : ModelConfig
    parameters : StreamedTensors, or mapping of str to ndarray
    linears : mapping of str to Linear
        Those that are not dense layers of the parameters.
    products : tuple of AttentionProduct
    operands : tuple of ScoreOperands or None
    dtype : dtype
    arithmetic : Arithmetic
    """

    config: ModelConfig
    parameters: Mapping[str, Array]
    linears: Mapping[str, Linear]
    products: tuple[AttentionProduct, ...]
    operands: tuple[ScoreOperands | None, ...]
    dtype: np.dtype[Any]
    arithmetic: Arithmetic

    @classmethod
    def of(cls, m: Transformer) -> WholeModel:
        """Take a model apart."""
        streamed = isinstance(m.parameters, StreamedTensors)
        return cls(
            config=m.config,
            parameters=m.parameters if streamed else dict(m.parameters),
            linears={name: linear for name, linear in m.linears.items() if not _is_of_parameters(m, name, linear)},
            products=m.attention_products,
            operands=m.score_operands,
            dtype=m.dtype,
            arithmetic=m.arithmetic,
        )

    def model(self) -> Transformer:
        """The model again."""
        if isinstance(self.parameters, StreamedTensors):
            shape = self.config.architecture()
            head = StreamedHead(self.parameters, shape.embedding if shape.head is None else shape.head.name, self.arithmetic)
            return Transformer(self.config, self.parameters, self.linears, head, self.dtype, self.arithmetic, self.products, self.operands)
        m = build(self.config, self.parameters, self.dtype.name, self.arithmetic, self.linears)
        operands = {index: one for index, one in enumerate(self.operands) if one is not None}
        return m.replace(attention_products=dict(enumerate(self.products)), score_operands=operands)


def _is_of_parameters(m: Transformer, name: str, linear: Linear) -> bool:
    """Whether a linear is the dense layer that is made of the model's own tensors, and need not travel beside them."""
    if type(linear) is not DenseLinear or linear.arithmetic is not m.arithmetic:
        return False
    weight, bias = m.parameters.get(name + ".weight"), m.parameters.get(name + ".bias")
    if weight is None or not np.may_share_memory(linear.weight, weight):
        return False
    return linear.bias is bias is None or (linear.bias is not None and bias is not None and np.may_share_memory(linear.bias, bias))


def reached(workers: Workforce, m: Transformer) -> Workforce:
    """The workers that a whole model can be sent to.

    One that is streamed does not fit into memory: workers that do not see its files are left out, and this process works alone.
    """
    return workers if workers.shared_files or not isinstance(m.parameters, StreamedTensors) else HERE


def packed(workers: Workforce, m: Transformer) -> Transformer | WholeModel:
    """A model as workers get it."""
    return m if workers.same_memory else WholeModel.of(m)


def unpacked(source: Transformer | WholeModel) -> Transformer:
    """What :func:`packed` was given."""
    return source.model() if isinstance(source, WholeModel) else source
